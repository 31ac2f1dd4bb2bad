"""
Whatever a client sends, an application behind the cache answers as it would without it.

Twenty-four thousand requests a run, each sent to the bare application and to the same behind
the middleware. The seed is new on each run and told on failure; ``MNEME_TEST_FUZZ_SEED``
repeats a run, and ``MNEME_TEST_FUZZ`` multiplies the number of requests.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.fuzz import PASSING, Seen, again, kind_of, marks, reply_to, structured, torn
from support.raw import Case, Got, all_of, environ_of, over_asgi, over_wsgi

from mneme import MemoryStore, SemanticCache
from mneme.asgi import SemanticCacheMiddleware
from mneme.prompts import (
    anthropic_messages,
    json_field,
    ollama_chat,
    ollama_generate,
    openai_chat,
    openai_responses,
    query_param,
)
from mneme.testing import HashEmbedder
from mneme.wsgi import SemanticCacheMiddleware as WSGISemanticCacheMiddleware

REQUESTS = 4_000 * int(os.environ.get("MNEME_TEST_FUZZ") or 1)
SEED = int(os.environ.get("MNEME_TEST_FUZZ_SEED") or random.SystemRandom().randrange(2**32))

LIMIT = 4_000
"""Bytes of a body; some of those that are generated are longer."""

GENERATORS = pytest.mark.parametrize("make", [structured, torn])


def custom(request: Any) -> str | None:
    """An extractor as a developer writes one: it trusts the client."""
    return str(request.json()["prompt"]) if request.query != b"?" else None


ROUTES: dict[Any, Any] = {
    "/field/*": json_field("prompt"),
    "/find/*": query_param("q"),
    "/chat/*": openai_chat,
    "/responses/*": openai_responses,
    "/messages/*": anthropic_messages,
    "/ollama/*": ollama_chat,
    "/generate/*": ollama_generate,
    "/custom/*": custom,
}
TOLD = re.compile(
    r"mneme; (hit; (ttl=\d+; )?detail=(exact|semantic)"
    r"|fwd=(miss|vary-miss|bypass|request|method|stale)|detail=only-if-cached)"
)


class Judge:
    """Compares what the bare application says with what came through the cache."""

    def __init__(self) -> None:
        self.cache = SemanticCache(
            store=MemoryStore(), embedder=HashEmbedder(), similarity_threshold=0.7
        )
        self.seen: Counter[str] = Counter()

    def compare(self, case: Case, owner: str, bare: Got, got: Got) -> None:
        is_routed = case.path.startswith(tuple(path[:-1] for path in ROUTES))
        told = got.told
        if got.headers is None or not is_routed:
            assert got == bare
            return
        assert told is not None
        assert TOLD.fullmatch(told)
        self.seen[told.partition("=")[2] if "fwd" in told else told[7:10]] += 1
        if "; hit;" in told:
            assert (got.status, got.error) == (bare.status, None)
            assert kind_of(case.path) not in PASSING
            assert case.method == "HEAD" or not got.body or marks(got.body) == {owner}
        elif "only-if-cached" in told:
            assert (got.status, got.body) == (504, b"")
            assert any(b"only-if-cached" in value for _, value in case.headers)
        else:
            assert got.without_word() == bare

    def sum_up(self) -> None:
        """That the run has seen all there is, and that what was told was counted."""
        assert {"hit", "miss", "bypass", "method", "request"} <= self.seen.keys()
        stats = self.cache.stats()
        assert stats.hits == self.seen["hit"] > REQUESTS / 400, self.seen
        assert len(self.cache.list_namespaces()) > 2


def cases(make: Callable[[random.Random], Case], world: str) -> Iterator[tuple[str, Case]]:
    """Each request, and where it stands; about half of them are earlier ones with a change."""
    r = random.Random(f"{SEED} {make.__name__} {world}")
    earlier: list[Case] = []
    for number in range(REQUESTS):
        case = again(r, r.choice(earlier)) if earlier and r.random() < 0.5 else make(r)
        earlier = [*earlier[-40:], case]
        yield f"MNEME_TEST_FUZZ_SEED={SEED}, request {number} of {REQUESTS}", case


@contextmanager
def on_failure(place: str, case: Case) -> Iterator[None]:
    """Tells how to meet the request again that fails in the block."""
    try:
        yield
    except BaseException as exc:
        exc.add_note(f"{place}: {case!r}")
        raise


# ASGI


def tenant_of(scope: Any) -> str | None:
    names = [value for name, value in scope["headers"] if name == b"x-tenant"]
    return resolved([name.decode("latin-1") for name in names])


def resolved(names: list[str]) -> str | None:
    if "broken" in names:
        raise LookupError("no such tenant")
    return names[-1] if names else None


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    body = await all_of(receive)
    seen = Seen(
        scope["method"],
        scope["path"],
        scope["query_string"],
        tuple((bytes(name), bytes(value)) for name, value in scope["headers"]),
        body,
    )
    reply = reply_to(seen)
    if reply.status:
        headers = [(name.encode(), value.encode()) for name, value in reply.headers]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        for chunk in reply.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    if reply.error is not None:
        raise LookupError(reply.error)
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.anyio
@GENERATORS
async def test_whatever_comes_over_asgi_the_application_answers(
    make: Callable[[random.Random], Case], anyio_backend: str
) -> None:
    """Bare and behind the cache: the same; and what is a hit is one's own."""
    judge = Judge()
    app = SemanticCacheMiddleware(
        asgi_app, cache=judge.cache, routes=ROUTES, namespace=tenant_of, max_request_bytes=LIMIT
    )
    for place, case in cases(make, anyio_backend):
        with on_failure(place, case):
            seen = Seen(case.method, case.path, case.query, case.headers, case.body)
            bare, got = await over_asgi(asgi_app, case), await over_asgi(app, case)
            judge.compare(case, seen.owner, bare, got)
    judge.sum_up()


# WSGI


def tenant_in(environ: dict[str, Any]) -> str | None:
    return resolved([environ["HTTP_X_TENANT"]] if "HTTP_X_TENANT" in environ else [])


def seen_in(environ: dict[str, Any], body: bytes) -> Seen:
    headers = tuple(
        (key.removeprefix("HTTP_").replace("_", "-").lower().encode(), value.encode("latin-1"))
        for key, value in environ.items()
        if key.startswith("HTTP_") or key == "CONTENT_TYPE"
    )
    query = environ["QUERY_STRING"].encode("latin-1")
    return Seen(environ["REQUEST_METHOD"], environ["PATH_INFO"], query, headers, body)


def read_in(environ: dict[str, Any]) -> bytes:
    """The body as frameworks read it: to its end if that is known, else as long as it is told."""
    told = environ.get("CONTENT_LENGTH", "")
    stream = environ["wsgi.input"]
    if environ.get("wsgi.input_terminated"):
        return bytes(stream.read())
    if not (told.isascii() and told.isdigit() and len(told) < 20):
        return b""
    found, size = b"", int(told)
    while chunk := stream.read(size - len(found)):
        found += chunk
    return found


def wsgi_app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    try:
        body = read_in(environ)
    except OSError:
        start_response("400 Bad Request", [("content-type", "text/plain")])
        yield b"the client has left"
        return
    reply = reply_to(seen_in(environ, body))
    if reply.status:
        start_response(f"{reply.status} Said", list(reply.headers))
        yield from reply.chunks
    if reply.error is not None:
        raise LookupError(reply.error)


@GENERATORS
def test_whatever_comes_over_wsgi_the_application_answers(
    make: Callable[[random.Random], Case],
) -> None:
    """Bare and behind the cache: the same; and what is a hit is one's own."""
    judge = Judge()
    app = WSGISemanticCacheMiddleware(
        wsgi_app, cache=judge.cache, routes=ROUTES, namespace=tenant_in, max_request_bytes=LIMIT
    )
    for place, case in cases(make, "wsgi"):
        with on_failure(place, case):
            owner = seen_in(environ_of(case), b"").owner
            bare, got = over_wsgi(wsgi_app, environ_of(case)), over_wsgi(app, environ_of(case))
            judge.compare(case, owner, bare, got)
    judge.sum_up()
