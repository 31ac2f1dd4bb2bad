"""What the ASGI middleware sends on, stores and sends again."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.asgi import (
    ASKED,
    TEXT,
    Answer,
    Counting,
    mounted,
    read_all,
    say,
    start,
)

from mneme.prompts import Route, json_field
from mneme.testing import ManualClock

pytestmark = pytest.mark.anyio


async def test_item_06_each_chunk_goes_out_before_the_next_is_made(cache: Any) -> None:
    """Nothing is held back, neither the header nor a chunk."""
    answer = Answer()
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        await start(send)
        for n in range(3):
            await say(send, b"x", more=n < 2)
            seen.append(len(answer.messages))

    await mounted(app, cache).post("/ask", ASKED, answer=answer)
    assert seen == [2, 3, 4]


async def test_item_07_the_answer_is_stored_before_background_work_ends(cache: Any) -> None:
    """The last body message ends the response, not the application's return."""
    said, goes_on = anyio.Event(), anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        await start(send)
        await say(send, b"done", more=False)
        said.set()
        await goes_on.wait()

    client = mounted(app, cache)
    async with anyio.create_task_group() as group:
        group.start_soon(client.post, "/ask", ASKED)
        await said.wait()
        assert (await client.post("/ask", ASKED)).body == b"done"
        goes_on.set()


async def test_item_08_the_applications_messages_stay_its_own(cache: Any) -> None:
    """Header lists and messages that an application reuses are not written to."""
    headers = [(b"content-type", b"text/plain")]
    first = {"type": "http.response.start", "status": 200, "headers": headers}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        await send(first)
        await send({"type": "http.response.body", "body": b"x"})

    client = mounted(app, cache)
    for body in (ASKED, b"no question", ASKED):
        await client.post("/ask", body)
    assert first == {"type": "http.response.start", "status": 200, "headers": headers}
    assert headers == [(b"content-type", b"text/plain")]


async def test_item_08_messages_may_be_as_bare_as_the_protocol_allows(cache: Any) -> None:
    """No header list, an iterator for one, a bytearray for a body, no body at all."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        headers = iter([(bytearray(b"Content-Type"), b"text/plain")])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytearray(b"x"), "more_body": True})
        await send({"type": "http.response.body"})

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    client = mounted(app, cache)
    assert [(await client.post("/ask", ASKED)).layer for _ in "ab"] == [None, "exact"]
    assert (await client.post("/ask", ASKED)).chunks == [b"x"]
    answer = await mounted(bare, cache).post("/ask", {"prompt": "quite another one"})
    assert (answer.headers, answer.body) == ([("cache-status", "mneme; fwd=miss")], b"")


@pytest.mark.parametrize(
    ("status", "header"),
    [
        (500, TEXT),
        (429, TEXT),
        (404, TEXT),
        (200, ("set-cookie", "a=1")),
        (200, ("cache-control", "no-store")),
        (200, ("cache-control", "private")),
        (200, ("vary", "*")),
        (200, ("content-encoding", "gzip")),
        (200, ("content-length", "99")),
        (200, ("cache-control", "max-age=0")),
    ],
)
async def test_item_09_17_31_what_may_not_be_stored_is_not(
    cache: Any, status: int, header: tuple[str, str]
) -> None:
    """Errors, cookies, what the application forbids: the next request is a miss again."""
    app = Counting(status=status, headers=[TEXT, header])
    client = mounted(app, cache)
    for n in (1, 2):
        answer = await client.post("/ask", ASKED)
        assert (answer.status, answer.cache_status) == (status, "mneme; fwd=miss")
        assert len(app.asked) == n
    assert cache.stats().entries == 0


async def test_item_09_a_body_over_the_cap_passes_and_is_not_stored(cache: Any) -> None:
    """The client gets all of it."""
    app = Counting(headers=[TEXT], chunks=[b"x" * 60, b"y" * 60])
    client = mounted(app, cache, max_response_bytes=100)
    for _ in range(2):
        assert (await client.post("/ask", ASKED)).body == b"x" * 60 + b"y" * 60
    assert (len(app.asked), cache.stats().failed_open) == (2, 0)


async def test_item_10_responses_with_trailers_are_not_stored(cache: Any) -> None:
    """A replay could not send them."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        headers = [(b"content-type", b"text/plain")]
        message = {"type": "http.response.start", "status": 200, "headers": headers}
        await send({**message, "trailers": True})
        await say(send, b"x", more=False)
        await send({"type": "http.response.trailers", "headers": []})

    answer = await mounted(app, cache).post("/ask", ASKED)
    assert answer.messages[-1]["type"] == "http.response.trailers"
    assert cache.stats().entries == 0


async def test_item_20_the_application_shortens_the_lifetime(
    cache: Any, clock: ManualClock
) -> None:
    """`max-age` caps the TTL, and never prolongs it."""
    app = Counting(headers=[TEXT, ("cache-control", "max-age=60")])
    for ttl, left in ((300, 60), (30, 30), (None, 60)):
        routes = {f"/{ttl}": Route(json_field("prompt"), ttl=ttl)}
        client = mounted(app, cache, routes=routes)
        await client.post(f"/{ttl}", ASKED)
        answer = await client.post(f"/{ttl}", ASKED)
        assert answer.cache_status == f"mneme; hit; ttl={left}; detail=exact"


async def test_item_21_a_hit_tells_its_age_after_what_others_said(
    cache: Any, clock: ManualClock
) -> None:
    """Stored fields first, in order, duplicates kept; mneme's own word last."""
    app = Counting(
        headers=[
            TEXT,
            ("cache-status", "inner; hit"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("date", "today"),
            ("etag", '"1"'),
            ("x-request-id", "7"),
        ]
    )
    client = mounted(app, cache)
    first = await client.post("/ask", ASKED)
    assert first.headers == [*app.headers, ("cache-status", "mneme; fwd=miss")]
    clock.advance(12.5)
    assert (await client.post("/ask", ASKED)).headers == [
        TEXT,
        ("cache-status", "inner; hit"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("age", "12"),
        ("cache-status", "mneme; hit; detail=exact"),
    ]


async def test_item_23_the_application_is_not_asked_to_compress(cache: Any) -> None:
    """Answers are stored plain; those further out may still see what the client accepts."""
    app = Counting()
    headers = [("accept-encoding", "gzip"), ("x-a", "1")]
    client = mounted(app, cache)
    await client.post("/ask", ASKED, headers=headers)
    assert app.scopes[0]["headers"] == [(b"x-a", b"1")]
    await client.post("/ask", b"no question", headers=headers)
    assert (b"accept-encoding", b"gzip") in app.scopes[1]["headers"]
    assert (await client.post("/ask", ASKED, headers=[("x-a", "1")])).layer == "exact"


async def test_item_30_a_hit_replays_chunk_by_chunk(cache: Any) -> None:
    """The very bytes, in the pieces in which they came, split characters included."""
    chunks = [b"data: caf\xc3", b"\xa9\n\n", b"data: \x00\n\n"]
    app = Counting(headers=[("content-type", "text/event-stream")], chunks=chunks)
    client = mounted(app, cache)
    for layer in (None, "exact"):
        answer = await client.post("/ask", ASKED)
        assert (answer.layer, answer.chunks) == (layer, chunks)
    assert [m.get("more_body") for m in answer.messages[1:]] == [True, True, False]
