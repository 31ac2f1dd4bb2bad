"""Bad input, one table: the application answers it as it would without the cache, visibly so."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import anyio
import pytest
from support.raw import Case, Got, all_of, environ_of, over_asgi, over_wsgi

from mneme.asgi import SemanticCacheMiddleware
from mneme.prompts import json_field
from mneme.wsgi import SemanticCacheMiddleware as WSGISemanticCacheMiddleware

ROUTES: Any = {"/ask": json_field("prompt")}
LIMIT = 100_000
JSON = (b"content-type", b"application/json")
TENANT = (b"x-tenant", b"acme")
GOOD = b'{"prompt": "how do i reset my password"}'


@dataclass(frozen=True)
class Bad:
    """
    A request, what ``Cache-Status`` says of it, the event that tells of it and the reason or
    the part in that. `headers` stand beside the content type and the tenant.
    """

    name: str
    body: bytes = GOOD
    headers: tuple[tuple[bytes, bytes], ...] = (JSON, TENANT)
    pieces: tuple[int, ...] = ()
    is_cut: bool = False
    length: bytes | None = b"right"
    told: str = "bypass"
    counted: tuple[str, str] = ("miss", "uncacheable")

    @property
    def case(self) -> Case:
        length = b"%d" % len(self.body) if self.length == b"right" else self.length
        return Case(
            path="/ask",
            headers=self.headers,
            body=self.body,
            pieces=self.pieces,
            cut=self.is_cut,
            length=length,
        )

    def __str__(self) -> str:
        return self.name


PASSED = ("miss", "bypass")
BROKEN = (JSON, (b"x-tenant", b"broken"))

TABLE = (
    Bad("oversized", json.dumps({"prompt": "x" * LIMIT}).encode(), counted=PASSED),
    Bad("oversized in pieces", b'"' + b"x" * LIMIT, pieces=(9, 50_000), length=None,
        counted=PASSED),
    Bad("gzip", gzip.compress(GOOD), (JSON, TENANT, (b"content-encoding", b"gzip")),
        counted=PASSED),
    Bad("gzip that nobody told of", gzip.compress(GOOD)),
    Bad("plain that is told to be gzip", GOOD, (JSON, TENANT, (b"content-encoding", b"gzip")),
        counted=PASSED),
    Bad("chunked bad JSON", GOOD[:-1], pieces=(1, 0, 5), length=None),
    Bad("chunked", pieces=(1, 0, 5), length=None, told="miss", counted=("miss", "absent")),
    Bad("truncated JSON", GOOD[:-1]),
    Bad("cut off", GOOD, pieces=(10,), is_cut=True, counted=PASSED),
    Bad("no UTF-8", b'{"prompt": "caf\xe9"}'),
    Bad("UTF-16", GOOD.decode().encode("utf-16")),
    Bad("lone surrogate", b'{"prompt": "\\ud800"}'),
    Bad("deeply nested", b'{"prompt": "a", "x": ' + b"[" * 100 + b"]" * 100 + b"}"),
    Bad("nested without end", b"[" * 90_000),
    Bad("duplicate keys", b'{"prompt": "a", "prompt": "b"}'),
    Bad("duplicate keys within", b'{"prompt": "a", "x": [{"y": 1, "y": 2}]}'),
    Bad("NaN", b'{"prompt": "a", "x": NaN}'),
    Bad("a number of 5,000 digits", b'{"prompt": "a", "x": ' + b"9" * 5_000 + b"}"),
    Bad("text in the place of JSON", b"prompt=hello", ((b"content-type", b"text/plain"), TENANT)),
    Bad("another type for JSON", GOOD, ((b"content-type", b"image/png"), TENANT), told="miss",
        counted=("miss", "absent")),
    Bad("no prompt", b'{"prompt": 5}'),
    Bad("nothing", b""),
    Bad("headers that are no text", GOOD, (JSON, TENANT, (b"x-a", bytes(range(128, 256)))),
        told="miss", counted=("miss", "absent")),
    Bad("a thousand headers", GOOD, (JSON, TENANT, *((b"x-%d" % n, b"") for n in range(1_000))),
        told="miss", counted=("miss", "absent")),
    Bad("a header of a megabyte", GOOD, (JSON, TENANT, (b"cookie", b"a" * 1_000_000)),
        told="miss", counted=("miss", "absent")),
    Bad("a wish that cannot be read", GOOD, (JSON, TENANT, (b"cache-control", b'no="')),
        counted=PASSED),
    Bad("a range", GOOD, (JSON, TENANT, (b"range", b"bytes=0-")), counted=PASSED),
    Bad("a resolver that raises", GOOD, BROKEN, counted=("failed_open", "namespace resolver")),
    Bad("no tenant", GOOD, (JSON,), counted=("failed_open", "namespace resolver")),
    Bad("a tenant that is none", GOOD, (JSON, (b"x-tenant", b"")),
        counted=("failed_open", "namespace resolver")),
)  # fmt: skip


def answer(body: bytes) -> tuple[int, bytes]:
    """What the application says: 400 for what it does not understand."""
    try:
        return 200, json.dumps({"asked": json.loads(body)["prompt"]}).encode()
    except (ValueError, RecursionError, TypeError, KeyError) as exc:
        return 400, type(exc).__name__.encode()


def resolved(name: str | None) -> str | None:
    if name == "broken":
        raise LookupError("no such tenant")
    return name


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    body = await all_of(receive)
    status, said = answer(body)
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": said})


def wsgi_app(environ: Any, start_response: Any) -> Iterator[bytes]:
    stream = environ["wsgi.input"]
    length = environ.get("CONTENT_LENGTH")
    try:
        status, said = answer(stream.read(int(length)) if length else stream.read())
    except ConnectionResetError:
        status, said = 400, b"gone"
    start_response(f"{status} Said", [("content-type", "application/json")])
    yield said


def under_asgi(cache: Any, case: Case) -> tuple[Got, Got]:
    def tenant_of(scope: Any) -> str | None:
        name = dict(scope["headers"]).get(b"x-tenant")
        return resolved(None if name is None else name.decode())

    async def both() -> tuple[Got, Got]:
        app = SemanticCacheMiddleware(
            asgi_app, cache=cache, routes=ROUTES, namespace=tenant_of, max_request_bytes=LIMIT
        )
        return await over_asgi(asgi_app, case), await over_asgi(app, case)

    return anyio.run(both)


def under_wsgi(cache: Any, case: Case) -> tuple[Got, Got]:
    app = WSGISemanticCacheMiddleware(
        wsgi_app,
        cache=cache,
        routes=ROUTES,
        namespace=lambda environ: resolved(environ.get("HTTP_X_TENANT")),
        max_request_bytes=LIMIT,
    )
    return over_wsgi(wsgi_app, environ_of(case)), over_wsgi(app, environ_of(case))


@pytest.mark.parametrize("under", [under_asgi, under_wsgi])
@pytest.mark.parametrize("bad", TABLE, ids=str)
def test_bad_input_is_the_applications_and_is_counted(
    cache: Any, events: Any, under: Any, bad: Bad
) -> None:
    """Status and body are those of the bare application; header and hook tell what was done."""
    bare, got = under(cache, bad.case)
    if got.headers is None:
        # The client has left: there is nobody to tell but the hook.
        assert bad.is_cut
        assert got == bare
    else:
        assert got.headers[-1][1] == f"mneme; fwd={bad.told}"
        assert got.headers[-1][0].lower() == "cache-status"
        assert replace(got, headers=got.headers[:-1]) == bare
    event, why = bad.counted
    (told,) = events.named(event)
    assert told["part" if event == "failed_open" else "reason"] == why
    assert cache.stats().failed_open == (event == "failed_open")
    assert cache.stats().entries == (bad.told == "miss")
