"""Whom the WSGI middleware lets share an answer, and what it opens for the application."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any
from wsgiref.validate import validator

import pytest
from support.wsgi import ASKED, TEXT, ByHand, Counting, bare, environ_of, mounted

import mneme
from mneme import MemoryStore, SemanticCache, semantic_cache
from mneme.context import current_mode, current_namespace
from mneme.prompts import json_field
from mneme.testing import HashEmbedder
from mneme.wsgi import NamespaceMiddleware, SemanticCacheMiddleware


def tenant(environ: dict[str, Any]) -> str | None:
    name = environ.get("HTTP_X_TENANT")
    if name == "broken":
        raise KeyError("no such tenant")
    return name


@pytest.mark.parametrize("name", ["authorization", "cookie", "x-api-key"])
def test_item_16_callers_with_other_credentials_never_share(cache: Any, name: str) -> None:
    """Each caller has answers of its own, unless the developer says they are public."""
    callers = [[(name, "a")], [(name, "b")], []]
    client = mounted(Counting(), cache)
    answers = [client.post("/ask", ASKED, headers=caller) for caller in callers * 2]
    assert [answer.layer for answer in answers] == [None] * 3 + ["exact"] * 3
    public = mounted(Counting(), cache, shared=True)
    answers = [public.post("/ask", ASKED, headers=caller) for caller in callers]
    assert [answer.layer for answer in answers] == [None, "exact", "exact"]


def test_item_16_whom_the_server_has_identified_shares_with_nobody(cache: Any) -> None:
    """`REMOTE_USER` counts as a credential: such servers keep the header to themselves."""
    client = mounted(Counting(), cache)
    layers = [client.post("/ask", ASKED, REMOTE_USER=who).layer for who in ("a", "b", None, "a")]
    assert layers == [None, None, None, "exact"]


def test_item_15_paths_that_differ_as_they_were_sent_never_meet(cache: Any) -> None:
    """Where the server tells the raw path it counts, without the query that holds the prompt."""
    client = mounted(Counting(), cache)
    uris = ["/find?q=opening+hours", "/%66ind?q=opening+hours", "/find?q=opening+hours+today"]
    layers = [client.get(f"/find?{uri.split('?')[1]}", REQUEST_URI=uri).layer for uri in uris]
    assert layers == [None, None, "semantic"]


def test_item_12_a_namespace_holds_until_the_last_byte(cache: Any) -> None:
    """Application, each step and close see it, whichever threads they run in."""
    seen: list[Any] = []

    class Steps:
        def __iter__(self) -> Iterator[bytes]:
            for _ in range(2):
                seen.append(current_namespace.get())
                yield b"x"

        def close(self) -> None:
            seen.append(current_namespace.get())

    def app(environ: Any, start_response: Any) -> Steps:
        seen.append(current_namespace.get())
        start_response("200 OK", [TEXT])
        return Steps()

    def elsewhere(work: Any) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    for wrapped in (
        SemanticCacheMiddleware(app, cache=cache, routes={}, namespace=tenant),
        SemanticCacheMiddleware(
            app, cache=cache, routes={"/ask": json_field("prompt")}, namespace=tenant
        ),
        NamespaceMiddleware(app, namespace=tenant),
    ):
        seen.clear()
        environ = environ_of("POST", "/ask", b'{"prompt": "hi"}', [("x-tenant", "a")])
        body: Any = wrapped(environ, lambda *args: print)
        steps = iter(body)
        assert next(steps) == b"x"
        elsewhere(lambda steps=steps: next(steps))
        elsewhere(lambda steps=steps: list(steps))
        elsewhere(body.close)
        assert seen == ["a"] * 4
        assert current_namespace.get() is None


def test_item_12_tenants_share_nothing(cache: Any) -> None:
    """Neither responses nor what decorated functions keep, in a lazily made body too."""
    calls: list[Any] = []

    @semantic_cache(cache=cache)
    def model(prompt: str) -> str:
        calls.append(current_namespace.get())
        return f"for {current_namespace.get()}"

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield model("hello").encode()

    client = mounted(app, cache, namespace=tenant)
    for path in ("/ask", "/other"):
        for name in ("a", "b", "a"):
            answer = client.post(path, ASKED, headers=[("x-tenant", name)])
            assert answer.body == f"for {name}".encode()
    assert calls == ["a", "b"]
    assert cache.list_namespaces() == ["a", "b"]


@pytest.mark.parametrize("headers", [[], [("x-tenant", "broken")], [("x-tenant", "")]])
def test_item_12_without_a_namespace_there_is_no_cache(
    cache: Any, headers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A resolver that gives None, a bad name, or fails: counted, logged, and nothing shared."""

    @semantic_cache(cache=cache)
    def model(prompt: str) -> str:
        return prompt

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield model("hello").encode()

    client = mounted(app, cache, namespace=tenant)
    for n in (1, 2):
        answer = client.post("/ask", ASKED, headers=headers)
        assert answer.cache_status == "mneme; fwd=bypass"
        assert cache.stats().failed_open == n
    assert cache.stats().entries == 0
    assert caplog.text.count("the namespace resolver failed") == 1
    assert client.get("/health").cache_status is None
    assert current_mode.get() == "serve"


def test_the_namespace_middleware_only_opens_it(caplog: pytest.LogCaptureFixture) -> None:
    """Without a namespace every cache is bypassed; wsgiref is content on both sides."""
    cache = SemanticCache(store=MemoryStore(), embedder=HashEmbedder())
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        cache.put("what is open", "a question")
        seen.append((current_namespace.get(), cache.get("what is open") is not None))
        start_response("200 OK", [TEXT])
        return [b"x"]

    client = ByHand(validator(NamespaceMiddleware(validator(app), namespace=tenant)))  # type: ignore[arg-type]
    for headers in ([("x-tenant", "a")], [], [("x-tenant", "broken")]):
        assert client.get("/", headers=headers).body == b"x"
    assert seen == [("a", True), (None, False), (None, False)]
    assert caplog.text.count("the namespace resolver failed") == 1


def test_an_async_resolver_is_refused_when_it_is_mounted(cache: Any) -> None:
    """WSGI could not await it."""

    async def resolve(environ: Any) -> str:
        return "a"

    for mount in (
        lambda: bare(Counting(), cache, namespace=resolve),
        lambda: NamespaceMiddleware(Counting(), namespace=resolve),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match="Pass a plain function"):
            mount()


def test_item_13_of_two_copies_the_inner_one_passes_through(cache: Any) -> None:
    """One header, one lookup, one entry."""
    inner: Any = SemanticCacheMiddleware(
        Counting(), cache=cache, routes={"/ask": json_field("prompt")}
    )
    client = mounted(inner, cache)
    for status in ("mneme; fwd=miss", "mneme; hit; detail=exact"):
        assert client.post("/ask", ASKED).cache_status == status
    assert (cache.stats().misses, cache.stats().entries) == (1, 1)


def test_item_14_context_variables_reach_the_application(cache: Any) -> None:
    """What is set around the middleware holds inside, in each step."""
    variable: ContextVar[str] = ContextVar("variable")

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [TEXT])
        yield variable.get().encode()

    variable.set("outside")
    client = mounted(app, cache, namespace="n")
    assert client.post("/ask", ASKED).body == client.post("/other").body == b"outside"
    with mneme.bypass():
        assert client.post("/ask", ASKED).cache_status == "mneme; fwd=bypass"
    with mneme.refresh(), mneme.observe() as seen:
        assert client.post("/ask", ASKED).cache_status == "mneme; fwd=request"
    assert [outcome.reason for outcome in seen if not outcome] == ["refresh"]
