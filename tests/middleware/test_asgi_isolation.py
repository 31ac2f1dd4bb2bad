"""Whom the ASGI middleware lets share an answer, and what it opens for the application."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.asgi import (
    ASKED,
    ROUTES,
    TEXT,
    Counting,
    mounted,
    read_all,
    say,
    scope_of,
    start,
)

import mneme
from mneme import MemoryStore, SemanticCache, semantic_cache
from mneme.asgi import NamespaceMiddleware, SemanticCacheMiddleware
from mneme.context import current_namespace
from mneme.prompts import json_field
from mneme.testing import HashEmbedder

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", ["authorization", "cookie", "x-api-key"])
async def test_item_16_callers_with_other_credentials_never_share(cache: Any, name: str) -> None:
    """Each caller has answers of its own, unless the developer says they are public."""
    callers = [[(name, "a")], [(name, "b")], []]
    client = mounted(Counting(), cache)
    answers = [await client.post("/ask", ASKED, headers=caller) for caller in callers * 2]
    assert [answer.layer for answer in answers] == [None] * 3 + ["exact"] * 3
    assert [a.body for a in answers[:3]] == [a.body for a in answers[3:]]
    public = mounted(Counting(), cache, shared=True)
    answers = [await public.post("/ask", ASKED, headers=caller) for caller in callers]
    assert [answer.layer for answer in answers] == [None, "exact", "exact"]


async def test_item_16_credentials_are_not_stored(cache: Any) -> None:
    """Neither the entry nor its metadata holds one; the digest does."""
    headers = [("authorization", "Bearer hush-hush"), ("cookie", "sid=hush-hush")]
    await mounted(Counting(), cache).post("/ask", ASKED, headers=headers)
    (entry,) = cache._core.store.scan()
    assert "hush" not in repr(entry)


async def test_item_15_what_a_response_varies_by_is_learned(cache: Any) -> None:
    """A field that `Vary` names tells requests apart from the first response on."""
    app = Counting(headers=[TEXT, ("vary", "X-Plan, Accept-Encoding")])
    client = mounted(app, cache)

    async def asks(plan: str) -> tuple[bytes, str | None]:
        answer = await client.post("/ask", ASKED, headers=[("x-plan", plan)])
        return answer.body, answer.layer

    assert await asks("free") == (b'{"answer": 1}', None)
    assert await asks("paid") == (b'{"answer": 2}', None)
    assert await asks("free") == (b'{"answer": 1}', "exact")
    assert await asks("paid") == (b'{"answer": 2}', "exact")
    # Another process has not learned it yet, and must not serve the wrong one.
    client = mounted(app, cache)
    assert await asks("paid") == (b'{"answer": 3}', None)
    assert await asks("free") == (b'{"answer": 1}', "exact")


async def test_item_18_an_absent_field_matches_only_an_absent_one(cache: Any) -> None:
    """Also for a process that has not learned yet that responses vary by it."""
    app = Counting(headers=[TEXT, ("vary", "X-Plan")])
    await mounted(app, cache).post("/ask", ASKED, headers=[])
    client = mounted(app, cache)
    answer = await client.post("/ask", ASKED, headers=[("x-plan", "paid")])
    assert (answer.body, answer.layer) == (b'{"answer": 2}', None)
    assert (await client.post("/ask", ASKED, headers=[])).body == b'{"answer": 1}'


async def test_item_15_what_always_tells_callers_apart_need_not_be_learned(cache: Any) -> None:
    """`Vary: Cookie, Origin` costs another process no hit: both are in the digest anyway."""
    app = Counting(headers=[TEXT, ("vary", "Cookie, Origin")])
    headers = [("cookie", "sid=1")]
    await mounted(app, cache).post("/ask", ASKED, headers=headers)
    assert (await mounted(app, cache).post("/ask", ASKED, headers=headers)).layer == "exact"


async def test_item_15_a_response_that_varies_by_everything_is_not_stored(cache: Any) -> None:
    """More fields than anybody means would make the digest a list of strangers' wishes."""
    app = Counting(headers=[TEXT, ("vary", ", ".join(f"x-{n}" for n in range(20)))])
    await mounted(app, cache).post("/ask", ASKED)
    assert cache.stats().entries == 0


async def tenant(scope: Any) -> str | None:
    await anyio.lowlevel.checkpoint()
    name = dict(scope["headers"]).get(b"x-tenant")
    if name == b"broken":
        raise KeyError("no such tenant")
    return name.decode() if name is not None else None


async def test_item_12_a_namespace_is_open_while_the_application_runs(cache: Any) -> None:
    """Tenants share nothing, neither responses nor what decorated functions keep."""
    calls: list[str] = []

    @semantic_cache(cache=cache)
    async def model(prompt: str) -> str:
        calls.append(str(current_namespace.get()))
        return f"for {current_namespace.get()}"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        await start(send)
        await say(send, (await model("hello")).encode(), more=False)

    client = mounted(app, cache, namespace=tenant)
    for path in ("/ask", "/other"):
        for name in ("a", "b", "a"):
            answer = await client.post(path, ASKED, headers=[("x-tenant", name)])
            assert answer.body == f"for {name}".encode()
    assert calls == ["a", "b"]
    assert cache.list_namespaces() == ["a", "b"]
    assert current_namespace.get() is None


@pytest.mark.parametrize("headers", [[], [("x-tenant", "broken")], [("x-tenant", "")]])
async def test_item_12_without_a_namespace_there_is_no_cache(
    cache: Any, headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A resolver that gives None, a bad name, or fails: counted, logged, and nothing shared."""

    @semantic_cache(cache=cache)
    async def model(prompt: str) -> str:
        return prompt

    app = Counting()

    async def asking(scope: Any, receive: Any, send: Any) -> None:
        await model("hello")
        await app(scope, receive, send)

    client = mounted(asking, cache, namespace=tenant)
    for n in (1, 2):
        answer = await client.post("/ask", ASKED, headers=headers)
        assert answer.cache_status == "mneme; fwd=bypass"
        assert (len(app.asked), cache.stats().failed_open) == (n, n)
    assert cache.stats().entries == 0
    assert caplog.text.count("the namespace resolver failed") == 1
    # A health check without a tenant is no failure.
    assert (await client.get("/health", headers=[])).cache_status is None
    assert cache.stats().failed_open == 2


async def test_item_12_a_websocket_has_its_namespace_too(cache: Any) -> None:
    """Decorated functions behind it are as isolated as behind a request."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(current_namespace.get())

    for wrapped in (
        SemanticCacheMiddleware(app, cache=cache, routes=ROUTES, namespace=tenant),
        NamespaceMiddleware(app, namespace=tenant),
    ):
        scope = {**scope_of("GET", "/ask", [("x-tenant", "a")]), "type": "websocket"}
        await wrapped(scope, None, None)  # type: ignore[arg-type]
    assert seen == ["a", "a"]


async def test_a_required_namespace_that_is_missing_bypasses(anyio_backend: str) -> None:
    """A cache that refuses calls outside any namespace is left out, and the request answered."""
    cache = SemanticCache(store=MemoryStore(), embedder=HashEmbedder(), require_namespace=True)
    client = mounted(Counting(), cache)
    assert (await client.post("/ask", ASKED)).cache_status == "mneme; fwd=bypass"
    with mneme.namespace("around"):
        assert (await client.post("/ask", ASKED)).cache_status == "mneme; fwd=miss"
    assert cache.list_namespaces() == ["around"]


async def test_the_namespace_middleware_only_opens_it(caplog: pytest.LogCaptureFixture) -> None:
    """Scope, channels and exceptions pass; without a namespace every cache is bypassed."""
    cache = SemanticCache(store=MemoryStore(), embedder=HashEmbedder())
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        cache.put("what is open", "a question")
        found = cache.get("what is open")
        seen.append((current_namespace.get(), found is not None))
        if scope["type"] == "lifespan":
            raise LookupError("mine")

    wrapped: Any = NamespaceMiddleware(app, namespace=tenant)
    for headers in ([("x-tenant", "a")], [], [("x-tenant", "broken")]):
        await wrapped(scope_of("GET", "/", headers), None, None)
    with pytest.raises(LookupError, match="mine"):
        await wrapped({"type": "lifespan"}, None, None)
    assert seen == [("a", True), (None, False), (None, False), (None, True)]
    assert caplog.text.count("the namespace resolver failed") == 1
    await NamespaceMiddleware(app, namespace="fixed")(scope_of("GET", "/"), None, None)  # type: ignore[arg-type]
    assert seen[-1] == ("fixed", True)


async def test_item_13_of_two_copies_the_inner_one_passes_through(cache: Any) -> None:
    """One header, one lookup, one entry; and an inner copy serves the routes it alone has."""
    inner = SemanticCacheMiddleware(
        Counting(), cache=cache, routes={**ROUTES, "/inner": json_field("prompt")}
    )
    client = mounted(inner, cache)
    for status in ("mneme; fwd=miss", "mneme; hit; detail=exact"):
        assert (await client.post("/ask", ASKED)).cache_status == status
        assert (await client.post("/inner", ASKED)).cache_status == status
    assert (cache.stats().misses, cache.stats().entries) == (2, 2)


async def test_item_14_context_variables_reach_the_application_and_back(cache: Any) -> None:
    """What is set around the middleware holds inside, and what the application sets, outside."""
    with mneme.bypass():
        app = Counting()
        client = mounted(app, cache)
        for _ in range(2):
            assert (await client.post("/ask", ASKED)).cache_status == "mneme; fwd=bypass"
        headers = [("cache-control", "no-cache")]
        answer = await client.post("/ask", ASKED, headers=headers)
        assert answer.cache_status == "mneme; fwd=bypass"
    with mneme.refresh(), mneme.observe() as seen:
        assert (await client.post("/ask", ASKED)).cache_status == "mneme; fwd=request"
    with mneme.observe() as seen:
        assert (await client.post("/ask", ASKED)).body == b'{"answer": 4}'
    assert [hit.layer for hit in seen] == ["exact"]
