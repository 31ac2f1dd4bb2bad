"""
No response ever reaches somebody it was not made for, whatever came before it.

The application writes into each answer whom it was made for and which request fields it went
by. Who reads it must be the same in all of that: with any credentials, in any namespace, with
any `Vary`, in any order, under ASGI, WSGI and in the transports.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from support.raw import Case, Got, over_asgi, over_wsgi
from support.raw import environ_of as raw_environ

from mneme import MemoryStore, SemanticCache
from mneme._core.http.fields import tells_who
from mneme.asgi import NamespaceMiddleware, SemanticCacheMiddleware
from mneme.prompts import json_field
from mneme.testing import HashEmbedder
from mneme.transports import AsyncSemanticCacheTransport, SemanticCacheTransport
from mneme.wsgi import NamespaceMiddleware as WSGINamespaceMiddleware
from mneme.wsgi import SemanticCacheMiddleware as WSGISemanticCacheMiddleware

Fields = dict[str, str]
"""The fields of a request, names in lower case."""

# What servers, proxies and SDKs call whoever asks.
CREDENTIALS = (
    "api-key", "authorization", "cf-access-jwt-assertion", "cookie", "ocp-apim-subscription-key",
    "openai-organization", "private-token", "proxy-authorization", "remote-user", "sessionid",
    "x-access-token", "x-amz-security-token", "x-amzn-oidc-data", "x-api-key", "x-apitoken",
    "x-auth-request-email", "x-auth-token", "x-authenticated-userid", "x-authtoken",
    "x-consumer-username", "x-csrf-token", "x-forwarded-client-cert", "x-forwarded-user",
    "x-goog-iap-jwt-assertion", "x-ms-client-principal", "x-org-id", "x-session-id", "x-sid",
    "x-user-id", "x-userinfo", "x-webauth-user",
)  # fmt: skip
NEUTRAL = ("x-plan", "x-experiment", "accept-language", "user-agent", "x-request-id")
TENANTS = ("acme", "zenith", "broken", "")
PROMPTS = ("how do i reset my old password", "how do i reset my old password please")

values = st.sampled_from(("a", "b", "A", "a, b", "a=1; b=2", ""))
credentials = st.dictionaries(st.sampled_from(CREDENTIALS), values, max_size=2)
neutral = st.dictionaries(st.sampled_from(NEUTRAL), values, max_size=2)
vary = st.sets(st.sampled_from((*NEUTRAL, *CREDENTIALS[:4], "accept-encoding")), max_size=2)


class Application:
    """Answers with all that it went by; what it goes by may change from one answer to another."""

    def __init__(self) -> None:
        self.goes_by_credentials = True
        self.vary: tuple[str, ...] = ()
        self.calls = 0

    def answer(self, fields: Fields) -> tuple[list[tuple[str, str]], bytes]:
        self.calls += 1
        names = (*CREDENTIALS, *self.vary) if self.goes_by_credentials else self.vary
        seen = {name: fields.get(name) for name in names if name != "accept-encoding"}
        made = {"for": seen, "tenant": fields.get("x-tenant"), "call": self.calls}
        headers = [("content-type", "application/json")]
        headers += [("vary", ", ".join(self.vary))] if self.vary else []
        return headers, json.dumps(made).encode()

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        fields = {name.decode(): value.decode() for name, value in scope["headers"]}
        headers, body = self.answer(fields)
        raw = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        headers, body = self.answer(fields_in(environ))
        start_response("200 OK", headers)
        return [body]


def fields_in(environ: dict[str, Any]) -> Fields:
    return {
        key.removeprefix("HTTP_").replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_")
    }


def resolved(name: str | None) -> str | None:
    if name == "broken":
        raise LookupError("no such tenant")
    return name or None


# The ways in: (application, cache, settings) to something that takes a case.

Ask = Callable[[Case], Got]
ROUTES: Any = {"/ask": json_field("prompt")}


def asgi(backend: str, apart: bool, app: Application, cache: Any, **options: Any) -> Ask:
    def tenant_of(scope: Any) -> str | None:
        return resolved(dict(scope["headers"]).get(b"x-tenant", b"").decode())

    where = {} if apart else {"namespace": tenant_of}
    wrapped: Any = SemanticCacheMiddleware(app.asgi, cache=cache, routes=ROUTES, **where, **options)
    if apart:
        wrapped = NamespaceMiddleware(wrapped, namespace=tenant_of)
    return lambda case: anyio.run(over_asgi, wrapped, case, backend=backend)


def wsgi(apart: bool, app: Application, cache: Any, **options: Any) -> Ask:
    def tenant_of(environ: Any) -> str | None:
        return resolved(environ.get("HTTP_X_TENANT"))

    where = {} if apart else {"namespace": tenant_of}
    wrapped: Any = WSGISemanticCacheMiddleware(
        app.wsgi, cache=cache, routes=ROUTES, **where, **options
    )
    if apart:
        wrapped = WSGINamespaceMiddleware(wrapped, namespace=tenant_of)
    return lambda case: over_wsgi(wrapped, raw_environ(case))


def transport(backend: str | None, app: Application, cache: Any, **options: Any) -> Ask:
    import httpx

    def responds(request: httpx.Request) -> httpx.Response:
        fields = dict(request.headers.items())
        headers, body = app.answer(fields)
        return httpx.Response(200, headers=headers, content=body)

    options |= {"routes": ROUTES, "namespace": lambda r: resolved(r.headers.get("x-tenant"))}
    inner = httpx.MockTransport(responds)

    def got(response: httpx.Response) -> Got:
        return Got(response.status_code, list(response.headers.items()), response.content)

    def request_of(case: Case) -> httpx.Request:
        url = f"http://a.example{case.path}"
        return httpx.Request(case.method, url, headers=list(case.headers), content=case.body)

    def ask(case: Case) -> Got:
        with httpx.Client(transport=SemanticCacheTransport(inner, cache=cache, **options)) as http:
            return got(http.send(request_of(case)))

    async def ask_async(case: Case) -> Got:
        cached = AsyncSemanticCacheTransport(inner, cache=cache, **options)
        async with httpx.AsyncClient(transport=cached) as http:
            return got(await http.send(request_of(case)))

    if backend is None:
        return ask
    return lambda case: anyio.run(ask_async, case, backend=backend)


class Traffic(RuleBasedStateMachine):
    """Requests in any order, while application and middleware change."""

    def __init__(self, mount: Callable[..., Ask]) -> None:
        super().__init__()
        self._mount = mount
        self.app = Application()
        self.cache = SemanticCache(
            store=MemoryStore(), embedder=HashEmbedder(), similarity_threshold=0.7
        )

    @initialize(shared=st.booleans())
    def begins(self, shared: bool) -> None:
        # Who says that answers are public has an application that makes them for everybody.
        self.app.goes_by_credentials = not shared
        self.shared = shared
        self.restarts()

    @rule()
    def restarts(self) -> None:
        """Another process: it has the entries, and knows nothing of what was named before."""
        self.ask = self._mount(self.app, self.cache, shared=self.shared)

    @rule(names=vary)
    def goes_by(self, names: set[str]) -> None:
        self.app.vary = tuple(sorted(names))

    @rule(
        prompt=st.sampled_from(PROMPTS),
        tenant=st.sampled_from(TENANTS),
        who=credentials,
        how=neutral,
        wish=st.sampled_from(("", "", "", "no-cache", "no-store")),
    )
    def somebody_asks(self, prompt: str, tenant: str, who: Fields, how: Fields, wish: str) -> None:
        fields = {**who, **how, "content-type": "application/json"}
        fields |= {"x-tenant": tenant} if tenant else {}
        fields |= {"cache-control": wish} if wish else {}
        body = json.dumps({"prompt": prompt}).encode()
        raw = tuple((name.encode(), value.encode()) for name, value in fields.items())
        calls = self.app.calls
        got = self.ask(Case(path="/ask", headers=raw, body=body, length=b"%d" % len(body)))
        made = json.loads(got.body)
        assert got.status == 200
        assert made["tenant"] == fields.get("x-tenant")
        assert made["for"] == {name: fields.get(name) for name in made["for"]}
        is_hit = "; hit;" in str(got.told)
        assert self.app.calls == calls + (not is_hit)
        assert not (is_hit and (wish or tenant in ("", "broken")))


WAYS = [
    pytest.param(lambda *a, **o: asgi("asyncio", False, *a, **o), id="asgi-asyncio"),
    pytest.param(
        lambda *a, **o: asgi("trio", True, *a, **o),
        id="asgi-trio",
        marks=pytest.mark.needs("trio"),
    ),
    pytest.param(lambda *a, **o: wsgi(False, *a, **o), id="wsgi"),
    pytest.param(lambda *a, **o: wsgi(True, *a, **o), id="wsgi-apart"),
    pytest.param(
        lambda *a, **o: transport(None, *a, **o),
        id="transport",
        marks=pytest.mark.needs("httpx"),
    ),
    pytest.param(
        lambda *a, **o: transport("asyncio", *a, **o),
        id="transport-asyncio",
        marks=pytest.mark.needs("httpx"),
    ),
]


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_field_that_says_who_asks_is_known_for_one(name: str) -> None:
    """With hyphens or underscores: what only its value tells apart is kept apart."""
    assert tells_who(name)
    assert tells_who(name.replace("-", "_"))


@pytest.mark.parametrize("mount", WAYS)
def test_no_answer_reaches_somebody_else(mount: Callable[..., Ask]) -> None:
    """Any credentials, any namespace, any `Vary`, in any order."""
    traffic = settings(max_examples=40, stateful_step_count=30)
    run_state_machine_as_test(lambda: Traffic(mount), settings=traffic)
