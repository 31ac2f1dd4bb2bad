"""Equal calls at once: one of them calls, and how it ends decides what the others do."""

from __future__ import annotations

import contextvars
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.flights import flights_of, followers
from support.scenes import Scene
from support.worlds import THREADS, WORLDS, Count, Gate, World, in_threads, settled

import mneme
from mneme import MemoryStore, semantic_cache
from mneme.testing import HashEmbedder

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)
ON_EACH_LOOP = pytest.mark.parametrize("world", [w for w in WORLDS if w.is_async], ids=str)


class Abandoned(BaseException):
    """What ends a call as cancellation does: no `Exception`."""


@IN_EACH_WORLD
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_fifty_equal_calls_at_once_are_one(world: World, kind: Any, tmp_path: Path) -> None:
    """Fifty callers of one prompt make one call and one embedding; each gets its own answer."""
    calls: list[str] = []

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            with followers(cache.cache) as waiting:

                async def ask(prompt: str) -> Any:
                    calls.append(prompt)
                    await waiting.reached(49)
                    return {"answer": []}

                function = semantic_cache(cache=cache.cache)(world.written(ask))
                answers = await world.together(*[lambda: s.call(function, "q")] * 50)
            assert calls == s.embedder.texts == ["q"]
            assert answers == [{"answer": []}] * 50
            assert len({id(answer["answer"]) for answer in answers}) == 50
            stats = await cache.stats()
            assert (stats.hits_exact, stats.misses, stats.entries) == (49, 1, 1)
            assert function.cache_info() == (49, 1, None, 1)

    world.run(scenario, Scene(world, kind, tmp_path))


@IN_EACH_WORLD
def test_other_questions_do_not_wait(world: World, tmp_path: Path) -> None:
    """Calls with another prompt, argument or namespace run beside each other."""
    inside = Count()

    async def ask(prompt: str, model: str = "m") -> str:
        await inside.meet(4)
        return prompt

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache)(world.written(ask))

            async def elsewhere() -> Any:
                with mneme.namespace("n"):
                    return await s.call(function, "red")

            await world.together(
                lambda: s.call(function, "red"),
                lambda: s.call(function, "blue"),
                lambda: s.call(function, "red", model="n"),
                elsewhere,
            )
            assert function.cache_info().currsize == 4

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
def test_without_single_flight_all_call(world: World, tmp_path: Path) -> None:
    """With single_flight=False equal calls at once run beside each other."""
    inside = Count()

    async def ask(prompt: str) -> str:
        await inside.meet(5)
        return "r"

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache, single_flight=False)(world.written(ask))
            assert await world.together(*[lambda: s.call(function, "q")] * 5) == ["r"] * 5
            assert (await cache.stats()).entries == 1

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
@pytest.mark.parametrize("mode", ["bypass", "refresh"])
def test_bypass_and_refresh_wait_for_nobody(world: World, mode: str, tmp_path: Path) -> None:
    """Under bypass and refresh a call runs at once, although an equal one is on its way."""
    inside = Count()

    async def ask(prompt: str) -> int:
        await inside.meet(2)
        return inside.value

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache)(world.written(ask))

            async def other() -> Any:
                await inside.reached(1)
                with getattr(mneme, mode)():
                    return await s.call(function, "q")

            assert await world.together(lambda: s.call(function, "q"), other) == [2, 2]

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
def test_a_failed_leader_sets_its_followers_free(world: World, tmp_path: Path) -> None:
    """When the leader raises, the error is its own; all followers call, beside each other."""
    inside = Count()
    error = ConnectionError("the leader's own")

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            with followers(cache.cache) as waiting:

                async def ask(prompt: str) -> str:
                    if inside.add() == 1:
                        await waiting.reached(5)
                        raise error
                    # Nobody gets past here before all five are inside.
                    await inside.reached(6)
                    return "r"

                function = semantic_cache(cache=cache.cache)(world.written(ask))

                async def call() -> Any:
                    try:
                        return await settled(function("q"))
                    except ConnectionError as exc:
                        return exc

                answers = await world.together(*[call] * 6)
            assert answers.count("r") == 5
            assert error in answers
            assert inside.value == 6
            # The leader's vector served all of them.
            assert s.embedder.texts == ["q"]
            assert await s.call(function, "q") == "r"

    world.run(scenario, Scene(world, "memory", tmp_path))


NOT_ADMITTED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cache_if": ({}, {"cache_if": lambda result: False}),
    "ttl": ({}, {"ttl": 0}),
    "validator": ({"validator": lambda response: False}, {}),
    "size": ({"max_response_bytes": 1}, {}),
    "quota": ({"namespace_quotas": {"default": 0}}, {}),
}


@IN_EACH_WORLD
@pytest.mark.parametrize("why", NOT_ADMITTED)
def test_an_answer_that_is_not_kept_sets_followers_free(
    world: World, why: str, tmp_path: Path
) -> None:
    """When the leader's answer is not kept, its followers all call, and beside each other."""
    of_cache, of_function = NOT_ADMITTED[why]
    inside = Count()

    async def scenario(s: Scene) -> None:
        async with s.cache(**of_cache) as cache:
            with followers(cache.cache) as waiting:

                async def ask(prompt: str) -> str:
                    if inside.add() == 1:
                        await waiting.reached(4)
                        return "not kept"
                    await inside.reached(5)
                    return "not kept"

                function = semantic_cache(cache=cache.cache, **of_function)(world.written(ask))
                answers = await world.together(*[lambda: s.call(function, "q")] * 5)
            assert answers == ["not kept"] * 5
            assert (await cache.stats()).entries == 0

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
def test_after_an_abandoned_leader_one_follower_leads(world: World, tmp_path: Path) -> None:
    """When the leader is cancelled or interrupted, one follower calls and the others wait on."""
    inside = Count()

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            with followers(cache.cache) as waiting:

                async def ask(prompt: str) -> str:
                    if inside.add() == 1:
                        await waiting.reached(5)
                        raise Abandoned
                    # The other four came back to wait.
                    await waiting.reached(5 + 4)
                    return "r"

                function = semantic_cache(cache=cache.cache)(world.written(ask))

                async def call() -> Any:
                    try:
                        return await settled(function("q"))
                    except Abandoned:
                        return "abandoned"

                answers = await world.together(*[call] * 6)
            assert sorted(answers) == ["abandoned", *["r"] * 5]
            assert inside.value == 2

    world.run(scenario, Scene(world, "memory", tmp_path))


@ON_EACH_LOOP
@pytest.mark.parametrize("where", ["function", "embedder"])
def test_a_cancelled_leader_hands_over(world: World, where: str, tmp_path: Path) -> None:
    """Cancelling the leader's task, embedding or calling, lets one follower lead."""
    inside = Count()

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            scope = anyio.CancelScope()
            with followers(cache.cache) as waiting:
                embed = s.embedder.embed

                async def hold(place: str) -> None:
                    if place == where and inside.add() == 1:
                        await waiting.reached(3)
                        scope.cancel()
                        await anyio.sleep_forever()

                async def embed_or_hang(text: str) -> Any:
                    await hold("embedder")
                    return await embed(text)

                async def ask(prompt: str) -> str:
                    await hold("function")
                    return "r"

                s.embedder.embed = embed_or_hang  # type: ignore[method-assign]
                function = semantic_cache(cache=cache.cache)(ask)

                async def leader() -> str:
                    with scope:
                        return await function("q")
                    return "cancelled"

                async def follower() -> str:
                    await inside.reached(1)
                    return await function("q")

                answers = await world.together(leader, *[follower] * 3)
            assert answers == ["cancelled", "r", "r", "r"]
            assert inside.value == 2

    world.run(scenario, Scene(world, "memory", tmp_path))


@ON_EACH_LOOP
def test_a_cancelled_follower_touches_only_itself(world: World, tmp_path: Path) -> None:
    """Cancelling a follower changes nothing for the leader and the other followers."""
    calls: list[str] = []

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            led, gone = Gate(), Gate()
            with followers(cache.cache) as waiting:

                async def ask(prompt: str) -> str:
                    calls.append(prompt)
                    led.open()
                    await waiting.reached(3)
                    await gone.passed()
                    return "r"

                function = semantic_cache(cache=cache.cache)(ask)

                async def patient() -> str:
                    await led.passed()
                    return await function("q")

                async def impatient() -> str:
                    await led.passed()
                    with anyio.CancelScope() as scope:
                        async with anyio.create_task_group() as group:
                            group.start_soon(function, "q")
                            await waiting.reached(3)
                            scope.cancel()
                    (flight,) = flights_of(cache.cache)._open.values()
                    assert len(flight.wakers) == 2
                    gone.open()
                    return "left"

                answers = await world.together(lambda: function("q"), *[patient] * 2, impatient)
            assert answers == ["r", "r", "r", "left"]
            assert calls == ["q"]

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
def test_a_leaders_semantic_hit_is_shared(world: World, tmp_path: Path) -> None:
    """Followers take the hit that the leader found: one embedding, no call, a copy for each."""

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:

            async def ask(prompt: str) -> list[str]:
                assert prompt == "capital of france"
                return ["Paris"]

            function = semantic_cache(cache=cache.cache)(world.written(ask))
            await s.call(function, "capital of france")
            embed = s.embedder.embed
            with followers(cache.cache) as waiting:
                if world.is_async:

                    async def slowly(text: str) -> Any:
                        await waiting.reached(9)
                        return await embed(text)

                    s.embedder.embed = slowly  # type: ignore[method-assign]
                else:

                    def slowly_here(text: str) -> Any:
                        waiting.wait(9)
                        return embed(text)

                    s.embedder.embed = slowly_here  # type: ignore[method-assign]
                answers = await world.together(
                    *[lambda: s.call(function, "france capital of")] * 10
                )
            assert answers == [["Paris"]] * 10
            assert len({id(answer) for answer in answers}) == 10
            assert s.embedder.texts == ["capital of france", "france capital of"]
            assert (await cache.stats()).hits_semantic == 10

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
def test_a_function_that_asks_itself_the_same(world: World, tmp_path: Path) -> None:
    """Recursion with the same key calls through instead of waiting for itself."""
    depth = Count()

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:

            async def ask(prompt: str) -> str:
                if depth.add() == 3:
                    return "bottom"
                return await s.call(function, prompt)

            function = semantic_cache(cache=cache.cache)(world.written(ask))
            with followers(cache.cache) as waiting:
                assert await world.together(lambda: s.call(function, "q")) == ["bottom"]
            assert (depth.value, waiting.value) == (3, 0)

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
def test_a_child_of_the_leader_does_not_wait_for_it(world: World, tmp_path: Path) -> None:
    """A worker thread or task that the leader waits for may ask the leader's question."""
    depth = Count()

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:

            async def ask(prompt: str) -> str:
                if depth.add() > 1:
                    return "inner"
                if world.is_async:
                    return (await world.together(lambda: function(prompt)))[0]
                context = contextvars.copy_context()
                return in_threads(lambda: context.run(function, prompt))[0]

            function: Any = semantic_cache(cache=cache.cache)(world.written(ask))
            assert await world.together(lambda: s.call(function, "q")) == ["inner"]

    world.run(scenario, Scene(world, "memory", tmp_path))
    assert depth.value == 2


@ON_EACH_LOOP
@pytest.mark.parametrize("how", ["in place", "worker thread"])
def test_an_async_leader_asks_its_sync_twin(world: World, how: str) -> None:
    """A sync function with its leader's key, called on the loop or in a thread, calls through."""
    depth = Count()
    cache = mneme.SemanticCache(store=MemoryStore(), embedder=HashEmbedder())

    async def ask(prompt: str) -> str:
        if depth.add() > 1:
            return "inner"
        if how == "in place":
            return twin(prompt)  # type: ignore[no-any-return]
        return await anyio.to_thread.run_sync(twin, prompt)

    decorate = semantic_cache(cache=cache)
    function, twin = decorate(ask), decorate(THREADS.written(ask))
    with followers(cache) as waiting:
        assert world.run(lambda: world.together(lambda: function("q"))) == ["inner"]
    assert (depth.value, waiting.value) == (2, 0)


@ON_EACH_LOOP
def test_a_sync_call_on_a_loop_never_waits(world: World) -> None:
    """A task that calls a sync function cannot hold up the loop that the leader needs."""
    asked = Count()
    cache = mneme.SemanticCache(store=MemoryStore(), embedder=HashEmbedder())

    async def ask(prompt: str) -> int:
        if asked.add() == 1:
            # Only this very loop can bring the leader on.
            await asked.reached(2)
        return asked.value

    decorate = semantic_cache(cache=cache)
    function, twin = decorate(ask), decorate(THREADS.written(ask))

    async def scenario() -> list[Any]:
        async def other() -> Any:
            await asked.reached(1)
            return twin("q")

        return await world.together(lambda: function("q"), other)

    with followers(cache) as waiting:
        assert world.run(scenario) == [2, 2]
    assert waiting.value == 0


@IN_EACH_WORLD
@pytest.mark.parametrize("size", [2, 3])
def test_callers_that_need_each_others_answers(world: World, size: int, tmp_path: Path) -> None:
    """A asks B while B asks A, or a longer ring: somebody calls through, and all get answers."""
    begun = Count()
    functions: list[Any] = []

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:

            async def ask(prompt: str, at: int) -> str:
                if begun.add() <= size:
                    await begun.reached(size)
                    return await s.call(functions[0], "q", (at + 1) % size)
                return "end"

            functions.append(semantic_cache(cache=cache.cache)(world.written(ask)))
            jobs = [lambda at=at: s.call(functions[0], "q", at) for at in range(size)]
            with followers(cache.cache):
                assert await world.together(*jobs) == ["end"] * size

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
def test_a_ring_that_closes_in_the_last_moment(world: World, tmp_path: Path) -> None:
    """Two callers that each saw no ring, and then begin to wait at once, are not both let to."""
    begun, boarded = Count(), Count()
    functions: list[Any] = []

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            flights: Any = flights_of(cache.cache)

            async def ask(prompt: str, at: int) -> str:
                if begun.add() <= 2:
                    await begun.reached(2)
                    return await s.call(functions[0], "q", 1 - at)
                return "end"

            functions.append(semantic_cache(cache=cache.cache)(world.written(ask)))
            port = functions[0]._self_calls.port
            follow = port.follow

            async def after_both_boarded(flight: Any) -> None:
                if boarded.value < 2:
                    await boarded.meet(2)
                await follow(flight)

            port.follow = after_both_boarded
            jobs = [lambda at=at: s.call(functions[0], "q", at) for at in range(2)]
            assert await world.together(*jobs) == ["end"] * 2
            assert boarded.value == 2
            assert len(flights) == 0

    world.run(scenario, Scene(world, "memory", tmp_path))


@types.coroutine
def _suspended() -> Iterator[None]:
    yield


def test_a_leader_that_is_thrown_away_hands_over() -> None:
    """A coroutine that nobody goes on with lands its flight when it is collected."""
    calls = Count()
    cache = mneme.SemanticCache(store=MemoryStore(), embedder=HashEmbedder())
    semantic = semantic_cache(cache=cache)

    async def ask(prompt: str) -> str:
        if calls.add() == 1:
            await _suspended()
        return "r"

    # Without a vector to compute it needs no loop before it suspends.
    cache._core.max_chars = 0
    leader = semantic(ask)("q")
    leader.send(None)
    with followers(cache) as waiting:

        def end_the_leader() -> None:
            waiting.wait(2)
            leader.close()

        twin = semantic(THREADS.written(ask))
        answers = in_threads(lambda: twin("q"), lambda: twin("q"), end_the_leader)
    assert answers == ["r", "r", None]
    assert calls.value == 2


@ON_EACH_LOOP
def test_waking_a_follower_whose_loop_has_ended(world: World) -> None:
    """A leader that lands after a follower's loop is gone does not hear of it."""
    cache = mneme.SemanticCache(store=MemoryStore(), embedder=HashEmbedder())
    function = semantic_cache(cache=cache)(_never)
    flights: Any = flights_of(cache)
    wakers: list[Any] = []
    join = flights.join

    def joined(flight: Any, wake: Any) -> bool:
        wakers.append(wake)
        return bool(join(flight, wake))

    flights.join = joined
    ask = function._self_calls.ask(("q",), {})
    flight, leads = flights.board(ask.identity)
    assert leads

    async def give_up() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(function, "q")
            while not wakers:
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    with flights.leading(flight):
        in_threads(lambda: world.run(give_up))
        # It came just before the follower's task was cancelled, and too late for its loop.
        flight.wakers += wakers
    assert flight.ending == "failed"
    assert len(flights) == 0


async def _never(prompt: str) -> str:
    raise AssertionError("the function was called")
