"""Equal requests that run at once share one call (http.md, item 24), in ASGI applications."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.asgi import ASKED, Answer, Message, mounted, read_all, say, start
from support.flights import flights_of, followers
from support.worlds import PATIENCE

from mneme import AsyncSemanticCache, MemoryStore
from mneme._core.http.relay import CutOff
from mneme.testing import HashEmbedder

pytestmark = pytest.mark.anyio

COLLAPSED = "mneme; fwd=miss; collapsed"
JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream")


class Embedder(HashEmbedder):
    """Awaited, so that no task is ever in a thread where the test could not see it wait."""

    async def embed(self, text: str, /) -> Any:  # type: ignore[override]
        return super().embed(text)


@pytest.fixture
def cache() -> AsyncSemanticCache:
    return AsyncSemanticCache(store=MemoryStore(), embedder=Embedder())


class Gated:
    """An application that says ``data: <n>`` events; each waits until it is let through."""

    def __init__(self, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        self.headers = headers or (EVENTS,)
        self.status = status
        self.calls = 0
        self.chunks = [b"data: 1\n\n", b"data: 2\n\n"]
        self.error: Exception | None = None
        self.has_begun = anyio.Event()
        self.gates = [anyio.Event() for _ in self.chunks]
        self.ends = anyio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        self.calls += 1
        self.has_begun.set()
        for at, (chunk, gate) in enumerate(zip(self.chunks, self.gates, strict=True)):
            await gate.wait()
            if at == 0:
                await start(send, *self.headers, status=self.status)
            await say(send, chunk)
        await self.ends.wait()
        if self.error is not None and self.calls == 1:
            raise self.error
        await say(send, b"", more=False)

    def go(self) -> None:
        for gate in (*self.gates, self.ends):
            gate.set()


class Client:
    """Requests that run beside the test."""

    def __init__(self, app: Any, cache: Any, group: Any, **options: Any) -> None:
        self._client = mounted(app, cache, **options)
        self._group = group
        self.errors: list[Exception] = []

    def ask(self, body: Any = ASKED, **more: Any) -> Answer:
        answer = Answer()

        async def run() -> None:
            try:
                await self._client.post("/ask", body, answer=answer, **more)
            except Exception as exc:
                self.errors.append(exc)

        self._group.start_soon(run)
        return answer


@asynccontextmanager
async def asking(app: Gated, cache: Any, **options: Any) -> AsyncIterator[Client]:
    with anyio.fail_after(PATIENCE), followers(cache):
        async with anyio.create_task_group() as group:
            yield Client(app, cache, group, **options)
            app.go()


async def led(app: Gated, client: Client, **more: Any) -> Answer:
    """The answer of a request that has reached the application."""
    answer = client.ask(**more)
    await app.has_begun.wait()
    return answer


async def waits() -> None:
    await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize("kind", [JSON, EVENTS, (b"content-length", b"18")])
async def test_item_24_equal_requests_at_once_are_one_call(cache: Any, kind: Any) -> None:
    """Each gets all of the one answer, and is told where it came from."""
    app = Gated((b"content-type", b"text/plain"), kind) if kind[0] != JSON[0] else Gated(kind)
    if kind is JSON:
        app.chunks = [b'{"a": ', b"1}"]
    async with asking(app, cache) as client:
        first = await led(app, client)
        others = [client.ask() for _ in range(5)]
        await waits()
    assert app.calls == 1
    assert not client.errors
    assert first.cache_status == "mneme; fwd=miss"
    for other in others:
        assert other.cache_status == COLLAPSED
        assert (other.status, other.body) == (200, first.body)
    assert cache.stats().misses == 1
    assert cache.stats().hits_exact == 5


async def test_item_24_a_follower_of_a_stream_gets_each_chunk_as_it_comes(cache: Any) -> None:
    """And one that comes in the middle gets what has gone by at once."""
    app = Gated()
    async with asking(app, cache) as client:
        first = await led(app, client)
        early = client.ask()
        await waits()
        app.gates[0].set()
        await waits()
        late = client.ask()
        await waits()
        assert first.chunks == early.chunks == late.chunks == app.chunks[:1]
        app.gates[1].set()
        await waits()
        assert first.chunks == early.chunks == late.chunks == app.chunks
    assert app.calls == 1


async def test_item_24_a_slow_follower_delays_nobody(cache: Any) -> None:
    """Neither the leader nor another follower waits for one whose client does not read."""
    app = Gated()
    reads_again = anyio.Event()

    async def stuck(message: Message) -> None:
        await reads_again.wait()

    async with asking(app, cache) as client:
        first = await led(app, client)
        slow, quick = client.ask(on_send=stuck), client.ask()
        await waits()
        app.go()
        await waits()
        assert first.body == quick.body == b"".join(app.chunks)
        assert first.messages[-1] == quick.messages[-1]
        assert slow.messages == []
        reads_again.set()
    assert slow.body == first.body


async def test_item_24_a_follower_that_leaves_does_not_matter(cache: Any) -> None:
    """The leader and the others get all; the answer is stored."""
    app = Gated()

    async def gone(message: Message) -> None:
        raise OSError("connection lost")

    async with asking(app, cache) as client:
        first = await led(app, client)
        client.ask(on_send=gone)
        other = client.ask()
        await waits()
    assert first.body == other.body == b"".join(app.chunks)
    assert cache.stats().entries == 1
    assert len(client.errors) == 1


@pytest.mark.parametrize("says", ["error", "disconnect"])
async def test_item_24_followers_outlive_the_client_of_their_leader(cache: Any, says: str) -> None:
    """They get all of it although the one who asked first has left; nothing is stored."""
    app = Gated()
    leaves = anyio.Event()

    async def listening(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as group:
            body = await receive()

            async def listen() -> None:
                await receive()
                group.cancel_scope.cancel()

            async def again() -> Message:
                return body  # type: ignore[no-any-return]

            group.start_soon(listen)
            await app(scope, again, send)
            group.cancel_scope.cancel()

    async def gone(message: Message) -> None:
        if leaves.is_set() and says == "error":
            raise OSError("connection lost")

    async with asking(app, cache) as client:
        client._client = mounted(listening if says == "disconnect" else app, cache)
        messages = None
        if says == "disconnect":
            raw = b'{"prompt": "how do i reset my old password"}'
            messages = [{"type": "http.request", "body": raw}]
        more: Any = {} if says == "error" else {"messages": messages, "leaves": leaves}
        first = client.ask(on_send=gone, **more)
        await app.has_begun.wait()
        other = client.ask()
        app.gates[0].set()
        await waits()
        leaves.set()
        await waits()
    assert other.body == b"".join(app.chunks)
    assert not other.messages[-1].get("more_body")
    assert cache.stats().entries == 0
    assert app.calls == 1
    assert first.status == 200


@pytest.mark.parametrize(
    ("status", "field"),
    [
        (500, None),
        (404, None),
        (200, (b"set-cookie", b"sid=1")),
        (200, (b"cache-control", b"private")),
        (200, (b"cache-control", b"no-store")),
        (200, (b"vary", b"*")),
        (200, (b"vary", b"x-plan")),
        (200, (b"content-range", b"bytes 0-1/2")),
    ],
)
async def test_item_24_what_may_not_be_stored_is_not_shared_either(
    cache: Any, status: int, field: Any
) -> None:
    """Whoever waited calls for himself, all at once, as soon as the first byte tells."""
    app = Gated(EVENTS, *([field] if field else []), status=status)
    async with asking(app, cache) as client:
        first = await led(app, client)
        others = [client.ask() for _ in range(3)]
        await waits()
        app.gates[0].set()
        await waits()
        assert app.calls == 4
        # Not even all of the leader's own answer has gone out by then.
        assert first.messages[-1]["more_body"] is True
    assert [other.cache_status for other in others] == ["mneme; fwd=miss"] * 3


@pytest.mark.parametrize("name", ["authorization", "cookie", "x-api-key"])
async def test_item_24_other_callers_never_wait_for_each_other(cache: Any, name: str) -> None:
    """Two credentials are two calls, whatever runs."""
    app = Gated()
    async with asking(app, cache) as client:
        one = client.ask(headers=[("content-type", "application/json"), (name, "a")])
        two = client.ask(headers=[("content-type", "application/json"), (name, "b")])
        await waits()
        assert app.calls == 2
    assert one.cache_status == two.cache_status == "mneme; fwd=miss"


async def test_item_24_a_leader_that_fails_before_it_answers_holds_nobody_up(cache: Any) -> None:
    """Its exception is its own; the others call for themselves."""

    class Failing(Gated):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            self.calls += 1
            if self.calls == 1:
                self.has_begun.set()
                await self.gates[0].wait()
                raise LookupError("mine")
            self.calls -= 1
            await super().__call__(scope, receive, send)

    app = Failing()
    async with asking(app, cache) as client:
        await led(app, client)
        other = client.ask()
        await waits()
        app.go()
    assert [type(error) for error in client.errors] == [LookupError]
    assert other.body == b"".join(app.chunks)


async def test_item_24_a_leader_that_breaks_off_breaks_off_his_followers(cache: Any) -> None:
    """What came so far is not passed off as a whole answer."""
    app = Gated()
    app.error = LookupError("mine")
    async with asking(app, cache) as client:
        await led(app, client)
        other = client.ask()
        await waits()
    assert {type(error) for error in client.errors} == {LookupError, CutOff}
    assert other.messages[-1]["more_body"] is True
    assert cache.stats().entries == 0


async def test_item_24_of_the_followers_of_a_cancelled_leader_one_leads(cache: Any) -> None:
    """A server that gives up a request gives up nobody else's."""
    app = Gated()
    async with asking(app, cache) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(mounted(app, cache).post, "/ask", ASKED)
            await app.has_begun.wait()
            others = [client.ask() for _ in range(3)]
            await waits()
            group.cancel_scope.cancel()
        await waits()
        assert app.calls == 2
    assert {other.body for other in others} == {b"".join(app.chunks)}
    assert sorted(str(other.cache_status) for other in others) == [
        "mneme; fwd=miss", COLLAPSED, COLLAPSED
    ]  # fmt: skip


async def test_item_24_a_request_that_wants_a_new_answer_waits_for_nobody(cache: Any) -> None:
    """``no-cache`` asks for an answer made for this request."""
    app = Gated()
    async with asking(app, cache) as client:
        await led(app, client)
        fields = [("content-type", "application/json"), ("cache-control", "no-cache")]
        client.ask(headers=fields)
        await waits()
        assert app.calls == 2


async def test_item_24_an_answer_over_the_limit_is_followed_to_its_end(cache: Any) -> None:
    """Who follows already gets it all; nothing is stored, and who comes later calls."""
    app = Gated()
    async with asking(app, cache, max_response_bytes=12) as client:
        first = await led(app, client)
        early = client.ask()
        await waits()
        app.gates[0].set()
        await waits()
        app.gates[1].set()
        await waits()
        late = client.ask()
        await waits()
        assert app.calls == 2
    assert first.body == early.body == late.body == b"".join(app.chunks)
    assert cache.stats().entries == 0


async def test_item_24_no_flight_is_left_when_the_application_never_ends_its_answer(
    cache: Any,
) -> None:
    """An application that returns too early has not answered; its followers do not hang."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        await start(send, EVENTS)
        await say(send, b"data: 1\n\n")

    await mounted(app, cache).post("/ask", ASKED)
    assert len(flights_of(cache)) == 0
