"""The transports over real sockets: what is cached, what passes, and what leaves nothing behind."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from support.clients import ON_LOOPS, WAYS, Way, asked
from support.flights import flights_of
from support.upstream import Upstream
from support.worlds import PATIENCE, Gate

import mneme
from mneme import MemoryStore, SemanticCache
from mneme.prompts import json_field
from mneme.testing import HashEmbedder
from mneme.transports import SemanticCacheTransport

ASKED = asked("how do i reset my old password")
REWORDED = asked("how do i reset my old password please")
STREAMED = {**ASKED, "stream": True}

# The libraries leave a generator of their own behind when a response is closed early.
pytestmark = [
    pytest.mark.needs("httpx", "httpx2"),
    pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning"),
]


def test_item_32_a_miss_a_hit_and_a_rewording(way: Way, up: Upstream, cache: Any) -> None:
    """The head of each says what happened; the body is the same."""

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            first = await client.post(json=ASKED)
            again = await client.post(json=ASKED)
            other = await client.post(json=REWORDED)
        assert first.headers["cache-status"] == "mneme; fwd=miss; stored"
        assert again.headers["cache-status"] == "mneme; hit; detail=exact"
        assert other.headers["cache-status"] == "mneme; hit; detail=semantic"
        assert first.json() == again.json() == other.json()
        assert again.headers["age"] == "0"
        assert up.calls.value == 1

    way.world.run(scenario)


def test_item_21_a_miss_tells_that_its_answer_is_stored_where_that_is_known(
    way: Way, up: Upstream, cache: Any
) -> None:
    """A value is read whole first; the head of a stream is there before its end."""

    async def scenario() -> None:
        async with way.client(up.url, cache, debug=True) as client:
            value = await client.post(json=ASKED)
            stream = await client.post(json={**asked("where is a bakery"), "stream": True})
            again = await client.post(json=ASKED)
            up.status = 500
            failed = await client.post(json=asked("another one"))
        said = [one.headers["cache-status"] for one in (value, stream, again, failed)]
        starts = ("mneme; fwd=miss; stored; key=", "mneme; fwd=miss; key=", "mneme; hit; key=")
        assert all(one.startswith(start) for one, start in zip(said, starts, strict=False))
        assert "stored" not in said[3]
        assert cache.stats().entries == 2

    way.world.run(scenario)


def test_item_32_other_paths_pass_untouched(way: Way, up: Upstream, cache: Any) -> None:
    """What no route names is sent as it is, and comes back as it is."""

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            for _ in range(2):
                answer = await client.post("/v1/embeddings", json=ASKED)
                assert "cache-status" not in answer.headers
        assert "identity" not in up.fields[0]["accept-encoding"]
        assert up.calls.value == 2

    way.world.run(scenario)


@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/openai/deployments/m/chat/completions", "/api/v1/chat/completions",
     "/v1/messages"],
)  # fmt: skip
def test_item_32_known_endpoints_need_no_routes(up: Upstream, cache: Any, path: str) -> None:
    """Under any prefix, as proxies and clouds have them."""

    async def scenario() -> None:
        async with WAYS[0].client(up.url, cache) as client:
            for _ in range(2):
                await client.post(path, json=ASKED)
        assert up.calls.value == 1

    WAYS[0].world.run(scenario)


def test_item_32_routes_of_your_own(way: Way, up: Upstream, cache: Any) -> None:
    """They replace the known ones."""

    async def scenario() -> None:
        routes = {"/ask": json_field("prompt")}
        async with way.client(up.url, cache, routes=routes) as client:
            for _ in range(2):
                await client.post("/ask", json={"prompt": "hello there"})
            assert up.calls.value == 1
            assert "cache-status" not in (await client.post(json=ASKED)).headers

    way.world.run(scenario)


def test_item_32_hosts_are_kept_apart(up: Upstream, cache: Any) -> None:
    """Unless they have the same answers."""

    async def scenario() -> None:
        other = up.url.replace("127.0.0.1", "localhost")
        for by_host, calls in ((True, 2), (False, 3)):
            for url in (up.url, other):
                async with WAYS[0].client(url, cache, by_host=by_host) as client:
                    await client.post(json=ASKED, headers={"host": "same"})
            assert up.calls.value == calls

    WAYS[0].world.run(scenario)


def test_item_32_a_body_that_is_compressed_all_the_same_is_stored_plain(
    way: Way, up: Upstream, cache: Any
) -> None:
    """The upstream is asked for plain bodies; a stored body and its fields agree in any case."""
    up.coding = "gzip"

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            # The second is another question: a stream of the first would be made of its value.
            for body in (ASKED, {**asked("where is the bakery"), "stream": True}):
                first = await client.post(json=body)
                again = await client.post(json=body)
                assert first.headers["content-encoding"] == "gzip"
                assert "content-encoding" not in again.headers
                assert again.content == first.content
                assert again.headers["cache-status"] == "mneme; hit; detail=exact"
        assert {fields["accept-encoding"] for fields in up.fields} == {"identity"}

    way.world.run(scenario)


@pytest.mark.parametrize("spoil", [lambda raw: raw[:-4], lambda raw: raw + b"x", lambda raw: b"x"])
def test_item_32_a_body_that_is_badly_compressed_is_not_stored(
    up: Upstream, cache: Any, monkeypatch: pytest.MonkeyPatch, spoil: Any
) -> None:
    """Cut, followed by something, or no gzip at all: the client's affair alone."""
    up.coding = "gzip"
    compress = gzip.compress
    monkeypatch.setattr(gzip, "compress", lambda raw: spoil(compress(raw)))

    async def scenario() -> None:
        async with WAYS[0].client(up.url, cache) as client:
            answer = await client.send(json=ASKED)
            await answer.rest()

    WAYS[0].world.run(scenario)
    assert cache.stats().entries == 0


def test_item_32_a_stream_comes_without_delay_and_is_replayed(
    way: Way, up: Upstream, cache: Any
) -> None:
    """The first chunk is there before the provider makes the second; a hit has the same bytes."""
    up.gate = Gate()

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            stream = await client.send(json=STREAMED)
            first = await stream.next()
            assert first is not None
            await up.chunks_sent.reached(1)
            assert up.chunks_sent.value == 1
            up.gate.open()
            whole = first + await stream.rest()
            again = await client.send(json=STREAMED)
            assert again.cache_status == "mneme; hit; detail=exact"
            assert await again.next() == first
            assert first + await again.rest() == whole
        assert up.calls.value == 1

    way.world.run(scenario)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_item_32_a_connection_that_is_cut_leaves_nothing(
    way: Way, up: Upstream, cache: Any, after: int
) -> None:
    """The client gets its library's own error; the next one a whole answer."""
    up.cut_after = after

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            with pytest.raises(way.module.TransportError):
                await (await client.send(json=STREAMED)).rest()
            assert cache.stats().entries == len(flights_of(cache)) == 0
            up.cut_after = None
            assert (await client.post(json=STREAMED)).content.endswith(b"[DONE]\n\n")

    way.world.run(scenario)


def test_item_32_a_client_that_closes_early_leaves_nothing(
    way: Way, up: Upstream, cache: Any
) -> None:
    """A part of an answer is never stored."""
    up.gate = Gate()

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            stream = await client.send(json=STREAMED)
            assert await stream.next()
            await stream.close()
            assert cache.stats().entries == len(flights_of(cache)) == 0
            up.gate.open()
            assert (await client.post(json=STREAMED)).headers["cache-status"] == "mneme; fwd=miss"

    way.world.run(scenario)


def test_item_32_a_client_that_closes_after_the_last_event_has_had_it_all(
    way: Way, up: Upstream, cache: Any
) -> None:
    """As openai does: ``[DONE]`` is the end, whatever the connection says."""

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            stream = await client.send(json=STREAMED)
            seen = b""
            while not seen.endswith(b"[DONE]\n\n"):
                seen += await stream.next() or b""
            await stream.close()
            again = await client.post(json=STREAMED)
            assert again.headers["cache-status"] == "mneme; hit; detail=exact"
            assert again.content == seen

    way.world.run(scenario)


def test_item_32_a_response_that_is_thrown_away_leaves_nothing(up: Upstream, cache: Any) -> None:
    """Neither an entry nor a flight that others would wait for."""
    up.gate = Gate()

    async def scenario() -> None:
        async with WAYS[0].client(up.url, cache) as client:
            stream: Any = await client.send(json=STREAMED)
            assert len(flights_of(cache)) == 1
            del stream
            assert cache.stats().entries == len(flights_of(cache)) == 0

    WAYS[0].world.run(scenario)


def test_item_32_a_timeout_leaves_nothing(way: Way, up: Upstream, cache: Any) -> None:
    """Before the first byte and in the middle, it is the client's own error."""
    up.gate = Gate()

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            # Connecting may take as long as this machine needs.
            timeout = way.module.Timeout(PATIENCE, read=0.05)
            for body in (ASKED, STREAMED):
                with pytest.raises(way.module.ReadTimeout):
                    await client.post(json=body, timeout=timeout)
                assert cache.stats().entries == len(flights_of(cache)) == 0

    way.world.run(scenario)


@ON_LOOPS
def test_item_32_a_cancelled_call_leaves_nothing(way: Way, up: Upstream, cache: Any) -> None:
    """Before the first byte and in the middle."""
    up.gate = Gate()

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            for calls, body in enumerate((ASKED, STREAMED), 1):
                async with anyio.create_task_group() as group:

                    async def call(body: Any = body) -> None:
                        await client.post(json=body)

                    group.start_soon(call)
                    await up.calls.reached(calls)
                    group.cancel_scope.cancel()
                assert cache.stats().entries == len(flights_of(cache)) == 0

    way.world.run(scenario)


class Down(HashEmbedder):
    def embed(self, text: str, /) -> Any:
        raise OSError("no route to host")


@pytest.mark.parametrize("part", ["embedder", "closed", "extractor", "namespace", "validator"])
def test_item_32_whatever_fails_in_the_cache_the_provider_answers(
    way: Way, up: Upstream, part: str
) -> None:
    """A failure of the cache is counted, and never the caller's."""

    def fails(given: Any) -> Any:
        raise TypeError("what is this")

    cache = SemanticCache(
        store=MemoryStore(),
        embedder=Down() if part == "embedder" else HashEmbedder(),
        validator=fails if part == "validator" else None,
    )
    if part == "closed":
        cache.close()
    options: dict[str, Any] = {}
    if part == "extractor":
        options = {"routes": {"/v1/chat/completions": fails}}
    if part == "namespace":
        options = {"namespace": fails}

    async def scenario() -> None:
        async with way.client(up.url, cache, **options) as client:
            for _ in range(2):
                assert (await client.post(json=ASKED)).status_code == 200

    way.world.run(scenario)
    assert up.calls.value == 2
    assert cache._core.tally.total("failed_open") >= 2


def test_item_32_a_namespace_around_the_call_or_from_a_resolver(
    way: Way, up: Upstream, cache: Any
) -> None:
    """Tenants are kept apart; a request without one is sent without any cache."""

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            for tenant in ("a", "b", "a"):
                with mneme.namespace(tenant):
                    await client.post(json=ASKED)
        assert up.calls.value == 2
        async with way.client(
            up.url, cache, namespace=lambda request: request.headers.get("x-tenant")
        ) as client:
            for tenant in ("a", "c", "c"):
                await client.post(json=ASKED, headers={"x-tenant": tenant})
            assert up.calls.value == 4
            bypassed = await client.post(json=ASKED)
            assert bypassed.headers["cache-status"] == "mneme; fwd=bypass"

    way.world.run(scenario)


@pytest.mark.parametrize("status", ["no-store", "no-cache"])
def test_item_32_the_caller_may_say_how_it_wants_it(
    way: Way, up: Upstream, cache: Any, status: str
) -> None:
    """``Cache-Control`` of the request, and `mneme.bypass` around it."""

    async def scenario() -> None:
        async with way.client(up.url, cache) as client:
            await client.post(json=ASKED)
            answer = await client.post(json=ASKED, headers={"cache-control": status})
            why = {"no-store": "bypass", "no-cache": "request"}[status]
            assert answer.headers["cache-status"] == f"mneme; fwd={why}"
            with mneme.bypass():
                answer = await client.post(json=ASKED)
            assert answer.headers["cache-status"] == "mneme; fwd=bypass"
        assert up.calls.value == 3

    way.world.run(scenario)


def test_item_32_a_body_that_can_be_read_once_is_passed_on(up: Upstream, cache: Any) -> None:
    """An upload from a generator is not taken from the provider."""
    raw = json.dumps(ASKED).encode()

    def parts() -> Iterator[bytes]:
        yield raw

    async def scenario() -> None:
        async with WAYS[0].client(up.url, cache) as client:
            for _ in range(2):
                fields = {"content-length": str(len(raw)), "content-type": "application/json"}
                answer = await client.post(content=parts(), headers=fields)
                assert answer.headers["cache-status"] == "mneme; fwd=bypass"
        assert up.asked == [ASKED] * 2

    WAYS[0].world.run(scenario)


def test_item_32_bodies_over_the_limits_pass(way: Way, up: Upstream, cache: Any) -> None:
    """A request too large is not read, an answer too large not stored."""

    async def scenario() -> None:
        for limit in ("max_request_bytes", "max_response_bytes"):
            async with way.client(up.url, cache, **{limit: 10}) as client:
                for body in (ASKED, STREAMED):
                    assert (await client.post(json=body)).status_code == 200

    way.world.run(scenario)
    assert up.calls.value == 4
    assert cache.stats().entries == len(flights_of(cache)) == 0


def test_item_32_the_inner_transport_and_its_pool_live_as_long_as_the_client(
    way: Way, up: Upstream, cache: Any
) -> None:
    """One connection for all misses; entered and closed with the client, once."""
    kind = way.module.AsyncHTTPTransport if way.world.is_async else way.module.HTTPTransport
    inner = kind(retries=1)
    closed: list[int] = []
    close = inner.aclose if way.world.is_async else inner.close

    async def counted() -> None:
        closed.append(1)
        await close()

    def counted_sync() -> None:
        closed.append(1)
        close()

    if way.world.is_async:
        inner.aclose = counted
    else:
        inner.close = counted_sync

    async def scenario() -> None:
        async with way.client(up.url, cache, inner) as client:
            for number in range(3):
                await client.post(json=asked(f"{number} is a number"))
            assert closed == []
        assert closed == [1]
        assert (up.calls.value, up.connections.value) == (3, 1)

    way.world.run(scenario)


def test_item_32_of_two_caches_in_one_stack_the_inner_one_passes(up: Upstream, cache: Any) -> None:
    """An answer is stored once."""

    async def scenario() -> None:
        inner = SemanticCacheTransport(cache=cache)
        async with WAYS[0].client(up.url, cache, inner) as client:
            answer = await client.post(json=ASKED)
            assert answer.headers["cache-status"] == "mneme; fwd=miss; stored"
        assert cache.stats().entries == 1

    WAYS[0].world.run(scenario)


def test_item_32_an_async_embedder_needs_the_async_transport() -> None:
    """The remedy is in the message."""

    class Awaited(HashEmbedder):
        async def embed(self, text: str, /) -> Any:  # type: ignore[override]
            return super().embed(text)

    cache = mneme.AsyncSemanticCache(store=MemoryStore(), embedder=Awaited())
    with pytest.raises(TypeError, match=r"to_sync_embedder, or use AsyncSemanticCacheTransport"):
        SemanticCacheTransport(cache=cache)


def test_item_32_what_is_no_request_of_a_known_library_is_refused(cache: Any) -> None:
    """The remedy is in the message."""
    with pytest.raises(TypeError, match="Give the transport to a client"):
        SemanticCacheTransport(cache=cache).handle_request(object())
