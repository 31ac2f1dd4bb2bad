"""Equal requests of clients that run at once are one call of the provider."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from support.clients import ON_LOOPS, WAYS, Client, Way, asked
from support.flights import flights_of, followers
from support.upstream import Upstream
from support.worlds import Gate, World

ASKED = asked("how do i reset my old password")
STREAMED = {**ASKED, "stream": True}
COLLAPSED = "mneme; fwd=miss; collapsed"

pytestmark = [
    pytest.mark.needs("httpx", "httpx2"),
    pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning"),
]


async def together(way: Way, up: Upstream, count: Any, client: Client, body: Any) -> list[Any]:
    """The answers of four equal requests, three of which came while the first was on its way."""

    async def first() -> Any:
        return await client.post(json=body)

    async def later() -> Any:
        await up.calls.reached(1)
        return await client.post(json=body)

    async def opens() -> None:
        await count.reached(3)
        up.gate.open()

    *answers, _ = await way.world.together(first, later, later, later, opens)
    return answers


@pytest.mark.parametrize("body", [ASKED, STREAMED], ids=["plain", "stream"])
def test_item_24_32_equal_requests_at_once_are_one_call(
    way: Way, up: Upstream, cache: Any, body: Any
) -> None:
    """Each gets all of the one answer, and is told where it came from."""
    if body is ASKED:
        up.gate = Gate()

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            if body is ASKED:
                with followers(cache) as count:
                    answers = await together(way, up, count, client, body)
            else:
                leader = await client.send(json=body)
                others = [await client.send(json=body) for _ in range(3)]
                assert [other.cache_status for other in others] == [COLLAPSED] * 3
                answers = [await one.rest() for one in (leader, *others)]
                assert len(set(answers)) == 1
        if body is ASKED:
            assert len({answer.text for answer in answers}) == 1
            found = sorted(answer.headers["cache-status"] for answer in answers)
            assert found == [*[COLLAPSED] * 3, "mneme; fwd=miss; stored"]
        assert up.calls.value == 1
        assert cache.stats().entries == 1
        assert len(flights_of(cache)) == 0

    way.world.run(scenario)


def test_item_24_32_a_client_that_stops_reading_holds_up_nobody(
    way: Way, up: Upstream, cache: Any
) -> None:
    """A follower fetches for himself what the leader has not asked for, to the end."""

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            leader = await client.send(json=STREAMED)
            follower = await client.send(json=STREAMED)
            whole = await follower.rest()
            assert whole.endswith(b"[DONE]\n\n")
            assert cache.stats().entries == 1
            assert await leader.rest() == whole
        assert up.calls.value == 1

    way.world.run(scenario)


def test_item_24_32_followers_outlive_a_leader_that_closes(
    way: Way, up: Upstream, cache: Any
) -> None:
    """They read on over his connection; what he left early is not stored."""

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            leader = await client.send(json=STREAMED)
            seen = await leader.next()
            follower = await client.send(json=STREAMED)
            await leader.close()
            whole = await follower.rest()
            assert seen is not None
            assert whole.startswith(seen)
            assert whole.endswith(b"[DONE]\n\n")
        assert (up.calls.value, cache.stats().entries) == (1, 0)
        assert len(flights_of(cache)) == 0

    way.world.run(scenario)


def test_item_24_32_a_follower_that_closes_does_not_matter(
    way: Way, up: Upstream, cache: Any
) -> None:
    """The leader gets all, and it is stored."""

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            leader = await client.send(json=STREAMED)
            await leader.next()
            follower = await client.send(json=STREAMED)
            await follower.next()
            await follower.close()
            assert (await leader.rest()).endswith(b"[DONE]\n\n")
        assert (up.calls.value, cache.stats().entries) == (1, 1)

    way.world.run(scenario)


def test_item_24_32_a_connection_that_is_cut_is_cut_for_all(
    way: Way, up: Upstream, cache: Any
) -> None:
    """Nobody takes a part for the whole; whoever follows gets his library's error."""
    up.cut_after = 2

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            leader = await client.send(json=STREAMED)
            await leader.next()
            follower = await client.send(json=STREAMED)
            for one in (leader, follower):
                with pytest.raises(way.module.TransportError):
                    await one.rest()
                await one.close()
        assert cache.stats().entries == len(flights_of(cache)) == 0

    way.world.run(scenario)


@pytest.mark.parametrize(
    ("status", "field"),
    [
        (500, None),
        (200, ("Set-Cookie", "sid=1")),
        (200, ("Cache-Control", "private")),
        (200, ("Vary", "*")),
    ],
)
def test_item_24_32_what_may_not_be_stored_is_not_shared_either(
    way: Way, up: Upstream, cache: Any, status: int, field: Any
) -> None:
    """Whoever waited calls for himself."""
    up.gate = Gate()
    up.status = status
    up.headers = [field] if field else []

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            with followers(cache) as count:
                answers = await together(way, up, count, client, ASKED)
        assert up.calls.value == 4
        assert {answer.headers["cache-status"] for answer in answers} == {"mneme; fwd=miss"}

    way.world.run(scenario)


def test_item_24_32_other_keys_do_not_wait_for_each_other(
    way: Way, up: Upstream, cache: Any
) -> None:
    """Two callers, two calls."""

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            one = await client.send(json=STREAMED, headers={"authorization": "a"})
            two = await client.send(json=STREAMED, headers={"authorization": "b"})
            assert await one.rest() != await two.rest()
        assert up.calls.value == 2

    way.world.run(scenario)


@ON_LOOPS
def test_item_24_32_a_follower_that_is_cancelled_while_he_fetches_breaks_off_nothing(
    way: Way, up: Upstream, cache: Any
) -> None:
    """He waits for the chunk that he is fetching for all, and then he goes."""
    up.gate = Gate()

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            leader = await client.send(json=STREAMED)
            follower = await client.send(json=STREAMED)
            async with anyio.create_task_group() as group:
                group.start_soon(follower.rest)
                await up.chunks_sent.reached(1)
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
                up.gate.open()
            assert (await leader.rest()).endswith(b"[DONE]\n\n")
            await follower.close()
        assert cache.stats().entries == 1

    way.world.run(scenario)


@ON_LOOPS
def test_item_24_32_of_the_followers_of_a_cancelled_leader_one_leads(
    way: Way, up: Upstream, cache: Any
) -> None:
    """What one caller gives up, he gives up for himself."""
    up.gate = Gate()

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            found: list[Any] = []

            async def follow() -> None:
                found.append(await client.post(json=ASKED))

            with followers(cache) as count:
                async with anyio.create_task_group() as all_of_them:
                    async with anyio.create_task_group() as group:

                        async def lead() -> None:
                            await client.post(json=ASKED)

                        group.start_soon(lead)
                        await up.calls.reached(1)
                        for _ in range(2):
                            all_of_them.start_soon(follow)
                        await count.reached(2)
                        group.cancel_scope.cancel()
                    await up.calls.reached(2)
                    up.gate.open()
        assert sorted(one.headers["cache-status"] for one in found) == [
            COLLAPSED, "mneme; fwd=miss; stored"
        ]  # fmt: skip

    way.world.run(scenario)


def test_item_24_32_worlds_that_cannot_fetch_for_each_other_call_for_themselves(
    up: Upstream, cache: Any
) -> None:
    """A connection belongs to its loop; nobody waits for a caller who may never read on."""

    async def inner() -> None:
        async with Way("httpx2", World("asyncio")).client(up.url, cache) as client:
            assert (await (await client.send(json=STREAMED)).rest()).endswith(b"[DONE]\n\n")

    async def outer() -> None:
        async with WAYS[0].client(up.url, cache) as client:
            leader = await client.send(json=STREAMED)
            World("asyncio").run(inner)
            await leader.rest()

    WAYS[0].world.run(outer)
    assert up.calls.value == 2
