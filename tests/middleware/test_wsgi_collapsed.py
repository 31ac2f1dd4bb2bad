"""Equal requests that run at once share one call (http.md, item 24), in WSGI applications."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import anyio
import pytest
from support.asgi import mounted as mounted_asgi
from support.flights import flights_of, followers
from support.worlds import PATIENCE, Count, Gate
from support.wsgi import ASKED, ROUTES, Answer, ByHand, Counting, mounted, read_all

from mneme._core.http.relay import CutOff
from mneme.wsgi import SemanticCacheMiddleware

COLLAPSED = "mneme; fwd=miss; collapsed"
JSON = ("Content-Type", "application/json")
EVENTS = ("Content-Type", "text/event-stream")
CHUNKS = [b"data: 1\n\n", b"data: 2\n\n"]
WHOLE = b"".join(CHUNKS)


class Gated:
    """An application whose chunks wait until each is let through."""

    def __init__(self, *headers: tuple[str, str], status: str = "200 OK") -> None:
        self.headers = headers or (EVENTS,)
        self.status = status
        self.calls = Count()
        self.gates = [Gate() for _ in CHUNKS]
        self.ends = Gate()
        self.error: Exception | None = None
        self.closed = Count()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        read_all(environ)
        number = self.calls.add()
        return self.answer(number, start_response)

    def answer(self, number: int, start_response: Any) -> Iterator[bytes]:
        try:
            for at, (chunk, gate) in enumerate(zip(CHUNKS, self.gates, strict=True)):
                gate.wait()
                if at == 0:
                    start_response(self.status, list(self.headers))
                yield chunk
            self.ends.wait()
            if self.error is not None and number == 1:
                raise self.error
        finally:
            self.closed.add()

    def go(self) -> None:
        for gate in (*self.gates, self.ends):
            gate.open()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


Ask = Callable[..., "Future[Answer]"]


def asker(pool: ThreadPoolExecutor, client: ByHand) -> Ask:
    return lambda **more: pool.submit(client.post, "/ask", ASKED, **more)


def test_item_24_equal_requests_at_once_are_one_call(cache: Any, pool: ThreadPoolExecutor) -> None:
    """Each gets all of the one answer, and is told where it came from."""
    for kind in (JSON, EVENTS):
        cache.clear()
        app = Gated(kind)
        client = mounted(app, cache)
        if kind is JSON:
            # A whole one: who waits for JSON waits for its end.
            client = mounted(Whole(app), cache)
        ask = asker(pool, client)
        with followers(cache) as count:
            first = ask()
            app.calls.wait(1)
            others = [ask() for _ in range(4)]
            count.wait(4)
            app.go()
            body = first.result(PATIENCE).body
            for other in others:
                answer = other.result(PATIENCE)
                assert (answer.body, answer.cache_status) == (body, COLLAPSED)
        assert app.calls.value == 1


class Whole:
    """The application, with a body that is JSON."""

    def __init__(self, app: Gated) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = self.app(environ, start_response)
        for _ in body:
            pass
        yield b'{"answer": 1}'


def test_item_24_a_follower_of_a_stream_gets_each_chunk_as_it_comes(
    cache: Any, pool: ThreadPoolExecutor
) -> None:
    """And one that comes in the middle gets what has gone by at once."""
    app = Gated()
    client = mounted(app, cache)
    arrived = {name: Count() for name in ("first", "early", "late")}

    def ask(name: str) -> bytes:
        answer = Answer()
        seen = arrived[name]

        class Seen(list[bytes]):
            def append(self, chunk: bytes) -> None:
                super().append(chunk)
                seen.add()

        answer.chunks = Seen()
        return client.post("/ask", ASKED, answer=answer).body

    with followers(cache) as count:
        found = [pool.submit(ask, "first")]
        app.calls.wait(1)
        found.append(pool.submit(ask, "early"))
        count.wait(1)
        app.gates[0].open()
        arrived["early"].wait(1)
        found.append(pool.submit(ask, "late"))
        arrived["late"].wait(1)
        app.go()
        assert [one.result(PATIENCE) for one in found] == [WHOLE] * 3
    assert app.calls.value == 1


@pytest.mark.parametrize(
    ("status", "field"),
    [
        ("500 Internal Server Error", None),
        ("200 OK", ("Set-Cookie", "sid=1")),
        ("200 OK", ("Cache-Control", "private")),
        ("200 OK", ("Vary", "X-Plan")),
    ],
)
def test_item_24_what_may_not_be_stored_is_not_shared_either(
    cache: Any, pool: ThreadPoolExecutor, status: str, field: Any
) -> None:
    """Whoever waited calls for himself, all at once, as soon as the first byte tells."""
    app = Gated(EVENTS, *([field] if field else []), status=status)
    ask = asker(pool, mounted(app, cache))
    with followers(cache) as count:
        answers = [ask()]
        app.calls.wait(1)
        answers += [ask() for _ in range(3)]
        count.wait(3)
        app.gates[0].open()
        app.calls.wait(4)
        app.go()
        found = [answer.result(PATIENCE).cache_status for answer in answers]
    assert found == ["mneme; fwd=miss"] * 4


def test_item_24_followers_outlive_the_client_of_their_leader(
    cache: Any, pool: ThreadPoolExecutor
) -> None:
    """The server closes the leader's answer; its thread makes it whole for the others."""
    app = Gated()
    ask = asker(pool, mounted(app, cache))
    with followers(cache) as count:
        first = ask(leave_after=1)
        app.calls.wait(1)
        other = ask()
        count.wait(1)
        app.go()
        assert other.result(PATIENCE).body == WHOLE
        assert first.result(PATIENCE).chunks == CHUNKS[:1]
    assert (app.calls.value, app.closed.value) == (1, 1)
    assert cache.stats().entries == 0


def test_item_24_a_client_that_leaves_alone_ends_its_answer(cache: Any) -> None:
    """Nobody follows, so the application is not made to go on."""
    app = Gated()
    app.gates[0].open()
    mounted(app, cache).post("/ask", ASKED, leave_after=1)
    assert app.closed.value == 1
    assert len(flights_of(cache)) == cache.stats().entries == 0


def test_item_24_a_leader_that_breaks_off_breaks_off_his_followers(
    cache: Any, pool: ThreadPoolExecutor
) -> None:
    """What came so far is not passed off as a whole answer."""
    app = Gated()
    app.error = LookupError("mine")
    ask = asker(pool, mounted(app, cache))
    with followers(cache) as count:
        first = ask()
        app.calls.wait(1)
        other = ask()
        count.wait(1)
        app.go()
        with pytest.raises(LookupError, match="mine"):
            first.result(PATIENCE)
        with pytest.raises(CutOff, match="Ask again"):
            other.result(PATIENCE)
    assert cache.stats().entries == 0


def test_item_24_an_application_that_raises_at_once_holds_nobody_up(
    cache: Any, pool: ThreadPoolExecutor
) -> None:
    """Its exception is its own; the other calls for himself."""
    goes_on, calls = Gate(), Count()
    fine = Counting()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if calls.add() == 1:
            goes_on.wait()
            raise LookupError("mine")
        return fine(environ, start_response)

    ask = asker(pool, mounted(app, cache))
    with followers(cache) as count:
        first = ask()
        calls.wait(1)
        other = ask()
        count.wait(1)
        goes_on.open()
        with pytest.raises(LookupError):
            first.result(PATIENCE)
        assert other.result(PATIENCE).body == b'{"answer": 1}'


def test_item_24_a_thread_never_waits_for_itself(cache: Any) -> None:
    """One thread that answers two requests by turns calls the application for both."""
    app = Counting(headers=(EVENTS,), chunks=CHUNKS)
    client = mounted(app, cache)
    inner: list[Answer] = []

    def in_between(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        for chunk in app(environ, start_response):
            if not inner:
                inner.append(Answer())
                inner[0] = client.post("/ask", ASKED)
            yield chunk

    client.app = mounted(in_between, cache).app
    assert client.post("/ask", ASKED).body == inner[0].body == WHOLE


def test_item_24_an_answer_that_nobody_closes_leaves_nobody_waiting(cache: Any) -> None:
    """A server that drops an iterable without closing it breaks the protocol, not the cache."""
    middleware: Any = SemanticCacheMiddleware(
        Counting(headers=(EVENTS,), chunks=CHUNKS),
        cache=cache,
        routes=ROUTES,
    )
    client = ByHand(middleware)
    held: list[Any] = []

    def keeping(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        held.append(middleware(environ, start_response))
        return [next(iter(held[0]))]

    client.app = keeping
    client.post("/ask", ASKED)
    assert len(flights_of(cache)) == 1
    held.clear()
    assert len(flights_of(cache)) == 0


def test_item_24_a_thread_follows_a_task(cache: Any, pool: ThreadPoolExecutor) -> None:
    """One cache behind an ASGI and a WSGI application: the two worlds share their calls."""
    goes_on, calls = Gate(), Count()

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        calls.add()
        await goes_on.passed()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in CHUNKS:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    never = Gated()
    fields = [("content-type", "application/json"), ("host", "t")]
    with followers(cache) as count:
        leader = pool.submit(
            anyio.run, lambda: mounted_asgi(asgi_app, cache).post("/ask", ASKED, headers=fields)
        )
        calls.wait(1)
        follower = pool.submit(
            mounted(never, cache).post, "/ask", ASKED, headers=[("host", "t")], HTTP_HOST="t"
        )
        count.wait(1)
        goes_on.open()
        assert follower.result(PATIENCE).body == leader.result(PATIENCE).body == WHOLE
    assert never.calls.value == 0
