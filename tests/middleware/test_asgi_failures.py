"""What the ASGI middleware does when client, application or cache fail."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.asgi import (
    ASKED,
    Counting,
    Message,
    mounted,
    read_all,
    say,
    start,
)

import mneme
from mneme import MemoryStore, SemanticCache
from mneme.testing import HashEmbedder

pytestmark = pytest.mark.anyio


class Watched(MemoryStore):
    """A store whose commits take until they are told to go on, or fail."""

    blocking = True

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.begun = anyio.Event()
        self.goes_on = anyio.Event()
        self.is_watched = False

    def commit(self, changes: Any) -> int:
        if self.is_watched and changes.puts:
            if self.error is not None:
                raise self.error
            anyio.from_thread.run_sync(self.begun.set)
            anyio.from_thread.run(self.goes_on.wait)
        return super().commit(changes)


async def test_item_07_storing_is_shielded_from_cancellation(anyio_backend: str) -> None:
    """The answer is paid for: a request that is cancelled while it is stored still stores it."""
    store = Watched()
    cache = SemanticCache(store=store, embedder=HashEmbedder())
    store.is_watched = True
    client = mounted(Counting(), cache)
    async with anyio.create_task_group() as group:
        group.start_soon(client.post, "/ask", ASKED)
        await store.begun.wait()
        group.cancel_scope.cancel()
        store.goes_on.set()
    store.is_watched = False
    assert (await client.post("/ask", ASKED)).layer == "exact"


async def test_item_07_cancelled_with_its_last_message_an_answer_is_stored(tmp_path: Any) -> None:
    """
    Servers tell of the end while the last message is under way, and applications that listen
    for it cancel themselves there; the answer is whole, and kept in a file all the same.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        async with anyio.create_task_group() as group:

            async def listen() -> None:
                await receive()
                group.cancel_scope.cancel()

            group.start_soon(listen)
            await start(send)
            await say(send, b"all", more=False)
            await anyio.sleep_forever()

    async def on_send(message: Message) -> None:
        if not message.get("more_body", message["type"] == "http.response.start"):
            await anyio.sleep_forever()

    async with mneme.AsyncSemanticCache(tmp_path / "a.db", embedder=HashEmbedder()) as cache:
        client = mounted(app, cache)
        await client.post("/ask", ASKED, on_send=on_send)
        assert (await client.post("/ask", ASKED)).body == b"all"


async def test_item_07_a_store_that_fails_is_no_error_of_the_client(
    anyio_backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is the normal one, the failure is counted and logged."""
    store = Watched(OSError("disk full"))
    cache = SemanticCache(store=store, embedder=HashEmbedder())
    store.is_watched = True
    for n in (1, 2):
        answer = await mounted(Counting(), cache).post("/ask", ASKED)
        assert (answer.status, answer.body) == (200, b'{"answer": 1}')
        assert answer.cache_status == "mneme; fwd=miss"
        assert cache.stats().failed_open == n
    assert caplog.text.count("disk full") == 1


class Down(HashEmbedder):
    def embed(self, text: str, /) -> Any:
        raise OSError("no route to host")


class Gone(MemoryStore):
    is_gone = False

    def mark(self) -> int:
        if self.is_gone:
            raise OSError("gone")
        return super().mark()


def fails(response: Any) -> bool:
    raise TypeError("what is this")


@pytest.mark.parametrize("part", ["embedder", "validator", "closed", "store"])
async def test_item_07_whatever_fails_in_the_cache_the_application_answers(part: str) -> None:
    """An embedder, a validator or a store that fails leaves the response as it is."""
    store = Gone()
    cache = SemanticCache(
        store=store,
        embedder=Down() if part == "embedder" else HashEmbedder(),
        validator=fails if part == "validator" else None,
    )
    store.is_gone = part == "store"
    if part == "closed":
        cache.close()
    app = Counting()
    for n in (1, 2):
        answer = await mounted(app, cache).post("/ask", ASKED)
        assert (answer.status, answer.body) == (200, b'{"answer": %d}' % n)
    assert cache._core.tally.total("failed_open") >= 2


async def test_item_07_an_embedder_that_is_down_is_asked_once(anyio_backend: str) -> None:
    """Filling would ask it again, and a request wait for it twice."""
    asked: list[str] = []

    class Counted(Down):
        def embed(self, text: str, /) -> Any:
            asked.append(text)
            return super().embed(text)

    cache = SemanticCache(store=MemoryStore(), embedder=Counted(), self_check=False)
    assert (await mounted(Counting(), cache).post("/ask", ASKED)).cache_status == "mneme; fwd=miss"
    assert len(asked) == cache.stats().failed_open == 1


@pytest.mark.parametrize("when", ["before", "after", "between"])
async def test_item_09_an_application_that_raises_stores_nothing(cache: Any, when: str) -> None:
    """Its exception comes out unchanged."""
    error = LookupError("mine")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        if when != "before":
            await start(send)
        if when == "between":
            await say(send, b"half")
        raise error

    for _ in range(2):
        with pytest.raises(LookupError) as raised:
            await mounted(app, cache).post("/ask", ASKED)
        assert raised.value is error
    assert cache.stats().entries == 0


async def test_item_09_a_response_that_never_ends_is_not_stored(cache: Any) -> None:
    """An application that returns without its last message has not answered."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        await start(send)
        await say(send, b"half")

    await mounted(app, cache).post("/ask", ASKED)
    assert cache.stats().entries == 0


@pytest.mark.parametrize("says", ["error", "disconnect", "cancel"])
async def test_item_05_a_client_that_leaves_mid_stream_stores_nothing(
    cache: Any, says: str
) -> None:
    """Whether the server raises, tells of it, or cancels; and even if the application ends."""
    gone = OSError("connection lost")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        await start(send)
        await say(send, b"a")
        if says == "disconnect":
            assert (await receive())["type"] == "http.disconnect"
        try:
            await say(send, b"b")
        except OSError:
            await say(send, b"c", more=False)
            raise
        await say(send, b"c", more=False)

    async def on_send(message: Message) -> None:
        if message.get("body") == b"b":
            if says == "error":
                raise gone
            if says == "cancel":
                group.cancel_scope.cancel()
                await anyio.lowlevel.checkpoint()

    body = {"type": "http.request", "body": json.dumps(ASKED).encode()}
    leaves = [body, {"type": "http.disconnect"}]
    client = mounted(app, cache)
    async with anyio.create_task_group() as group:
        with pytest.raises(OSError, match="lost") if says == "error" else nullcontext():
            await client.post("/ask", messages=leaves, on_send=on_send)
    assert cache.stats().entries == 0


async def test_item_05_a_disconnect_after_the_end_is_none(cache: Any) -> None:
    """Servers say that the client has left once all is sent; the answer is whole by then."""
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)

        async def listen() -> None:
            heard.append((await receive())["type"])

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            await start(send)
            await say(send, b"all", more=False)

    async def on_send(message: Message) -> None:
        # The listener hears of it while the last message is still on its way.
        await anyio.wait_all_tasks_blocked()

    client = mounted(app, cache)
    await client.post("/ask", ASKED, on_send=on_send)
    assert heard == ["http.disconnect"]
    assert (await client.post("/ask", ASKED)).layer == "exact"


async def test_item_28_a_torso_that_ends_cleanly_is_not_stored(cache: Any) -> None:
    """A model's stream without its terminal event is passed on, and asked for again."""
    chunk = b'data: {"object": "chat.completion.chunk", "choices": []}\n\n'
    events = [("content-type", "text/event-stream")]
    torso = Counting(headers=events, chunks=[chunk, chunk])
    whole = Counting(headers=events, chunks=[chunk, b"data: [DONE]\n\n"])
    for app, entries in ((torso, 0), (whole, 1)):
        assert (await mounted(app, cache).post("/ask", ASKED)).chunks == app.chunks
        assert cache.stats().entries == entries
