"""Which requests the ASGI middleware takes on, and what it passes through untouched."""

from __future__ import annotations

import json
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.asgi import (
    ASKED,
    REWORDED,
    ROUTES,
    TEXT,
    ByHand,
    Counting,
    Message,
    in_bytes,
    mounted,
    read_all,
    say,
    scope_of,
    start,
)

import mneme
from mneme import MemoryStore
from mneme.asgi import SemanticCacheMiddleware
from mneme.prompts import Asked, Route, StoredResponse, json_field, openai_chat
from mneme.testing import HashEmbedder, ManualClock

pytestmark = pytest.mark.anyio


async def test_an_equal_and_a_reworded_request_are_answered_from_the_cache(cache: Any) -> None:
    """The application is asked once, and the layer that answered is told."""
    app = Counting()
    client = mounted(app, cache)
    first = await client.post("/ask", ASKED)
    assert (first.body, first.cache_status) == (b'{"answer": 1}', "mneme; fwd=miss")
    exact, near = await client.post("/ask", ASKED), await client.post("/ask", REWORDED)
    assert (exact.layer, near.layer) == ("exact", "semantic")
    assert exact.body == near.body == first.body
    other = await client.post("/ask", {"prompt": "where is the nearest bakery"})
    assert (other.body, other.layer) == (b'{"answer": 2}', None)


async def test_a_query_parameter_may_be_the_prompt(cache: Any) -> None:
    """A GET route works as a POST route does; the other parameters stay apart."""
    client = mounted(Counting(), cache)
    path = "/find?lang=en&q=how+do+i+reset+my+password"
    assert (await client.get(path)).layer is None
    assert (await client.get(path)).layer == "exact"
    assert (await client.get(f"{path}+please")).layer == "semantic"
    assert (await client.get(path.replace("=en", "=de"))).layer is None
    # Some servers leave the query string in the raw path.
    raw = {"raw_path": b"/find?lang=en&q=how"}
    assert (await client.get(f"{path}+thanks", **raw)).layer == "semantic"


async def test_routes_have_terms_of_their_own(cache: Any, clock: ManualClock) -> None:
    """A route's TTL and threshold hold for it; `ttl=` and `threshold=` for the others."""
    routes = {"/ask": Route(json_field("prompt"), ttl=10), "/b": json_field("prompt")}
    client = mounted(Counting(), cache, routes=routes, ttl=100, threshold=0.99)
    for path in routes:
        await client.post(path, ASKED)
    clock.advance(5)
    answers = [await client.post(path, ASKED) for path in routes]
    assert [a.cache_status for a in answers] == [
        "mneme; hit; ttl=5; detail=exact",
        "mneme; hit; ttl=95; detail=exact",
    ]
    assert (await client.post("/b", REWORDED)).layer is None
    clock.advance(5)
    assert (await client.post("/ask", ASKED)).layer is None


async def test_routes_have_limits_and_admission_of_their_own(cache: Any) -> None:
    """What is read of a request, what is kept of a response, and whether it is kept at all."""

    def picky(response: StoredResponse) -> bool:
        return b"2" in response.body

    def broken(response: StoredResponse) -> bool:
        raise RuntimeError("no")

    routes = {
        "/small": Route(json_field("prompt"), max_request_bytes=20),
        "/short": Route(json_field("prompt"), max_response_bytes=5),
        "/picky": Route(json_field("prompt"), cache_if=picky),
        "/broken": Route(json_field("prompt"), cache_if=broken),
    }
    for path, told in (
        ("/small", ["bypass", "bypass", "bypass"]),
        ("/short", ["miss", "miss", "miss"]),
        ("/picky", ["miss", "miss", "hit"]),
        ("/broken", ["miss", "miss", "miss"]),
    ):
        client = mounted(Counting(), cache, routes=routes)
        answers = [await client.post(path, ASKED) for _ in told]
        assert [a.body for a in answers][:2] == [b'{"answer": 1}', b'{"answer": 2}']
        assert ["hit" if a.layer else str(a.cache_status)[11:] for a in answers] == told
    assert cache.stats().failed_open == 3


async def test_both_faces_serve(anyio_backend: str) -> None:
    """An async cache with an async embedder, and its sync face's entries."""

    class Embedder(HashEmbedder):
        async def embed(self, text: str, /) -> Any:  # type: ignore[override]
            await anyio.lowlevel.checkpoint()
            return super().embed(text)

    async with mneme.AsyncSemanticCache(store=MemoryStore(), embedder=Embedder()) as cache:
        client = mounted(Counting(), cache)
        await client.post("/ask", ASKED)
        assert (await client.post("/ask", ASKED)).layer == "exact"
        assert cache.stats().hits_exact == 1


async def test_a_file_that_nobody_opened_yet_is_opened_by_the_first_request(tmp_path: Any) -> None:
    """The constructor of an async cache on a file touches nothing; a request does."""
    path, embedder = tmp_path / "a.db", HashEmbedder()
    cache = mneme.AsyncSemanticCache(path, embedder=embedder, similarity_threshold=0.7)
    client = mounted(Counting(), cache)
    await client.post("/ask", ASKED)
    assert (await client.post("/ask", REWORDED)).layer == "semantic"
    await cache.close()
    again = mneme.AsyncSemanticCache(path, embedder=embedder)
    assert (await mounted(Counting(), again).post("/ask", ASKED)).layer == "exact"
    await again.close()


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_item_01_other_protocols_pass_untouched(cache: Any, kind: str) -> None:
    """The application is called once, with the very scope, receive and send of the server."""
    calls: list[tuple[Any, ...]] = []

    async def app(*call: Any) -> None:
        calls.append(call)

    async def receive() -> Message:
        raise AssertionError("nobody asked")

    async def send(message: Message) -> None: ...

    scope = {**scope_of("GET", "/ask"), "type": kind}
    await SemanticCacheMiddleware(app, cache=cache, routes=ROUTES)(scope, receive, send)
    ((seen, *channels),) = calls
    assert seen is scope
    assert channels == [receive, send]


async def test_other_routes_pass_untouched(cache: Any) -> None:
    """Without a route there is neither a header nor a look at the body; the scope is the same."""
    scope = scope_of("POST", "/other")
    seen: list[Any] = []

    async def app(*call: Any) -> None:
        seen.extend(call)

    async def receive() -> Message:
        raise AssertionError("nobody asked")

    async def send(message: Message) -> None: ...

    await SemanticCacheMiddleware(app, cache=cache, routes=ROUTES)(scope, receive, send)
    assert seen[0] is scope
    assert seen[1:] == [receive, send]


async def test_item_11_other_methods_pass_and_are_told_so(cache: Any) -> None:
    """OPTIONS, DELETE and the like on a route: `fwd=method`."""
    client = mounted(Counting(), cache)
    for method in ("OPTIONS", "DELETE", "PUT", "GET"):
        answer = await client.request(method, "/ask", ASKED)
        assert answer.cache_status == "mneme; fwd=method"


async def test_routes_are_relative_to_the_mount(cache: Any) -> None:
    """Under a root path the routes stay those that the application knows."""
    client = mounted(Counting(), cache)
    for _ in range(2):
        answer = await client.post("/api/ask", ASKED, root_path="/api")
    assert answer.layer == "exact"
    assert (await client.post("/apis/ask", ASKED, root_path="/api")).cache_status is None


async def test_item_02_a_body_may_come_byte_by_byte(cache: Any) -> None:
    """The same question, however it is cut; the application gets it whole."""
    app = Counting()
    client = mounted(app, cache)
    raw = json.dumps(ASKED).encode()
    await client.post("/ask", messages=in_bytes(raw))
    assert app.asked == [raw]
    assert (await client.post("/ask", raw)).layer == "exact"


@pytest.mark.parametrize("messages", [1, 2, 50])
async def test_item_02_a_body_over_the_cap_passes_byte_for_byte(cache: Any, messages: int) -> None:
    """Nothing is looked up or stored, and the application gets every byte."""
    app = Counting()
    client = mounted(app, cache, max_request_bytes=40)
    raw = json.dumps({"prompt": "long " * 20}).encode()
    size = -(-len(raw) // messages)
    pieces: list[Message] = [
        {"type": "http.request", "body": raw[at : at + size], "more_body": at + size < len(raw)}
        for at in range(0, len(raw), size)
    ]
    for _ in range(2):
        answer = await client.post("/ask", messages=pieces)
        assert answer.cache_status == "mneme; fwd=bypass"
    assert app.asked == [raw, raw]
    assert cache.stats().entries == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"\xff\xfe\x00",
        b'{"prompt":"a","prompt":"b"}',
        b'{"prompt": 5}',
        b'{"prompt": "  "}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt":"' + b"x" * 40_000 + b'"}',
    ],
    ids=lambda body: repr(body[:16]),
)
async def test_bodies_that_are_no_question_pass_byte_for_byte(cache: Any, body: bytes) -> None:
    """What cannot be read, or asks nothing, goes through as it came, with `fwd=bypass`."""
    app = Counting()
    answer = await mounted(app, cache).post("/ask", body)
    assert (app.asked, answer.status) == ([body], 200)
    assert answer.cache_status == "mneme; fwd=bypass"
    assert cache.stats().failed_open == 0


async def test_item_03_after_the_body_the_application_waits_for_the_server(cache: Any) -> None:
    """Told of a disconnect at once, applications that listen for one cut their streams short."""
    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        received.append(message["body"].decode())

        async def listen(scope: anyio.CancelScope) -> None:
            received.append((await receive())["type"])
            scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(listen, group.cancel_scope)
            await start(send)
            for n in range(5):
                await anyio.lowlevel.checkpoint()
                await say(send, b"%d" % n, more=n < 4)

    client = mounted(app, cache)
    for layer in (None, "exact"):
        answer = await client.post("/ask", ASKED)
        assert (answer.chunks, answer.layer) == ([b"0", b"1", b"2", b"3", b"4"], layer)
    assert received == [json.dumps(ASKED), "http.disconnect"]


async def test_item_04_a_client_that_leaves_with_its_body_is_forwarded(cache: Any) -> None:
    """Nothing is looked up; the application hears what was said, and that the client left."""
    heard: list[Message] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.extend([await receive(), await receive()])

    gone = {"type": "http.disconnect"}
    part = {"type": "http.request", "body": b'{"prompt": "a', "more_body": True}
    await mounted(app, cache).post("/ask", messages=[part, gone])
    assert heard == [part, gone]
    await mounted(app, cache).post("/ask", messages=[gone, gone])
    assert heard[2:] == [gone, gone]
    assert (cache.stats().misses, cache.stats().entries) == (0, 0)


async def test_item_10_bodies_that_cannot_be_recorded_are_not_offered(cache: Any) -> None:
    """The application is told of no such way; if it takes one, it passes and is not stored."""
    offered: list[Any] = []
    messages = ["http.response.pathsend", "http.response.zerocopysend"]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        offered.append(scope["extensions"])
        await send({"type": "http.response.early_hint", "links": []})
        await start(send)
        await send({"type": messages[len(offered) - 1], "path": "/etc/hostname"})
        await say(send, b"", more=False)

    extensions = {"http.response.pathsend": {}, "http.response.zerocopysend": {}, "tls": {}}
    for kind in messages:
        answer = await mounted(app, cache).post("/ask", ASKED, extensions=extensions)
        kinds = [message["type"] for message in answer.messages]
        assert kinds[0] == "http.response.early_hint"
        assert kinds[2] == kind
    assert offered == [{"tls": {}}, {"tls": {}}]
    assert len(extensions) == 3
    assert cache.stats().entries == 0


async def test_item_11_head_is_answered_without_a_body_and_never_stores(cache: Any) -> None:
    """It may use what a GET has stored."""
    app = Counting(headers=[TEXT, ("content-length", "1")], chunks=[b"x"])
    client = mounted(app, cache)
    path = "/find?q=reset+my+password"
    assert (await client.request("HEAD", path)).cache_status == "mneme; fwd=miss"
    assert cache.stats().entries == 0
    await client.get(path)
    answer = await client.request("HEAD", path)
    assert (answer.layer, answer.body) == ("exact", b"")
    assert ("content-length", "1") in answer.headers
    assert answer.messages[-1] == {
        "type": "http.response.body",
        "body": b"",
        "more_body": False,
    }


async def test_item_19_directives_of_the_client(cache: Any) -> None:
    """`no-store` neither reads nor writes; `no-cache` is answered anew, and stored."""
    app = Counting()
    client = mounted(app, cache)

    async def asks(directive: str) -> tuple[str | None, bytes]:
        answer = await client.post("/ask", ASKED, headers=[("cache-control", directive)])
        return answer.cache_status, answer.body

    assert await asks("no-store") == ("mneme; fwd=bypass", b'{"answer": 1}')
    assert await asks("x") == ("mneme; fwd=miss", b'{"answer": 2}')
    assert await asks("no-store") == ("mneme; fwd=bypass", b'{"answer": 3}')
    assert await asks("no-cache") == ("mneme; fwd=request", b'{"answer": 4}')
    assert await asks("x") == ("mneme; hit; detail=exact", b'{"answer": 4}')


async def test_an_extractor_that_fails_is_no_error_of_the_client(
    cache: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is answered by the application; the failure is counted and logged."""

    def extract(request: Any) -> str:
        return str(request.json()["nowhere"])

    answer = await mounted(Counting(), cache, routes={"/ask": extract}).post("/ask", ASKED)
    assert (answer.status, answer.cache_status) == (200, "mneme; fwd=bypass")
    assert cache.stats().failed_open == 1
    assert "extraction of the prompt failed" in caplog.text


async def test_tools_and_ends_without_a_users_words_are_exact_only(cache: Any) -> None:
    """A request that offers tools is answered from an equal one, not from a similar one."""
    client = mounted(Counting(), cache, routes={"/chat": openai_chat})

    async def asks(text: str) -> str | None:
        body = {"messages": [{"role": "user", "content": text}], "tools": [{"type": "function"}]}
        return (await client.post("/chat", body)).layer

    assert await asks(ASKED["prompt"]) is None
    assert await asks(REWORDED["prompt"]) is None
    assert await asks(ASKED["prompt"]) == "exact"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"namespace": ""}, ValueError),
        ({"namespace": 5}, TypeError),
        ({"max_request_bytes": 0}, ValueError),
        ({"max_response_bytes": -1}, ValueError),
        ({"threshold": 85}, ValueError),
        ({"ttl": -1}, ValueError),
        ({"routes": {"ask": json_field("p")}}, ValueError),
    ],
)
async def test_settings_are_checked_when_it_is_mounted(
    cache: Any, options: Any, error: type[Exception]
) -> None:
    """A wrong setting is an error of the program's start, not of a request."""
    with pytest.raises(error):
        mounted(Counting(), cache, **options)


async def test_a_request_in_the_same_bytes_is_known_again_but_not_too_well(cache: Any) -> None:
    """The short way to an exact hit leads past nothing that would have mattered."""
    app = Counting()
    client = mounted(app, cache)
    for _ in range(3):
        answer = await client.post("/ask", ASKED)
    assert (len(app.asked), answer.layer) == (1, "exact")
    assert cache.stats().hits_exact == 2
    with mneme.namespace("another"):
        assert (await client.post("/ask", ASKED)).layer is None
    with mneme.bypass():
        assert (await client.post("/ask", ASKED)).cache_status == "mneme; fwd=bypass"
    fields = [("content-type", "application/json")]
    for more in (("authorization", "a"), ("accept", "text/plain")):
        assert (await client.post("/ask", ASKED, headers=[*fields, more])).layer is None
    assert (await client.post("/ask", ASKED, host="x", raw_path=b"/other")).layer is None
    cache.clear()
    assert (await client.post("/ask", ASKED)).layer is None
    cache.close()
    assert (await client.post("/ask", ASKED)).cache_status == "mneme; fwd=bypass"


async def test_an_extractor_of_your_own_is_asked_each_time(cache: Any) -> None:
    """It may look at more than the request."""
    tenants = iter("aabb")

    def extract(request: Any) -> Asked:
        return Asked("how do i reset my old password", [next(tenants)])

    app = Counting()
    client = mounted(app, cache, routes={"/ask": extract})
    for _ in range(4):
        await client.post("/ask", ASKED)
    assert len(app.asked) == 2


async def test_a_name_in_vary_that_is_learned_later_counts_for_known_requests(cache: Any) -> None:
    """What a route learns of its answers changes what its requests ask."""
    app = Counting()
    client = mounted(app, cache)
    for _ in range(3):
        await client.post("/ask", ASKED)
    app.headers = [*app.headers, ("vary", "x-plan")]
    fields = [("content-type", "application/json"), ("x-plan", "gold")]
    await client.post("/ask", {"prompt": "where is a bakery"}, headers=fields)
    assert (await client.post("/ask", ASKED, headers=fields)).layer is None
    assert len(app.asked) == 3


async def test_a_known_request_is_not_read_again(
    cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its answer has but one form, and is kept beside those that have two."""
    client = mounted(Counting(), cache, routes={"/ask": openai_chat})
    body = {"model": "m", "messages": [{"role": "user", "content": "how do you do"}]}
    assert [(await client.post("/ask", body)).layer for _ in "ab"] == [None, "exact"]

    def read(*args: Any, **more: Any) -> None:
        raise AssertionError("the request was read again")

    monkeypatch.setattr("mneme._core.http.questions.question", read)
    assert (await client.post("/ask", body)).layer == "exact"


async def test_a_server_may_have_lists_of_its_own(cache: Any) -> None:
    """Fields that no digest can be made of are read each time."""

    class Fields(list[Any]):
        pass

    inner = SemanticCacheMiddleware(Counting(), cache=cache, routes=ROUTES)

    async def server(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "headers": Fields(scope["headers"])}, receive, send)

    client = ByHand(server)
    for layer in (None, "exact", "exact"):
        assert (await client.post("/ask", ASKED)).layer == layer
