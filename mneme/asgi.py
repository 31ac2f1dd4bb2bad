"""
The cache and the namespace as ASGI middleware.

Plain ASGI, with nothing between the application and its server but a few messages looked at
in passing: context variables reach the application, and nothing is buffered.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from functools import lru_cache
from typing import TypeAlias

from mneme._core.core import core_of
from mneme._core.http.exchange import (
    Forward,
    Refused,
    cache_status,
    hit_fields,
    is_objected_to,
)
from mneme._core.http.fields import Fields
from mneme._core.http.gateway import Gateway, Outcome
from mneme._core.http.namespaces import check_namespace_setting, log_failure, opened
from mneme._core.http.recorded import Followed, Recorded
from mneme._core.http.responses import StoredResponse
from mneme._core.http.routes import Extractor, Route
from mneme._core.http.scope import (
    PAST_THE_BODY,
    Message,
    Receive,
    Scope,
    Send,
    caller_of,
    fields_of,
    path_of,
    plain,
    read_body,
    replayed,
    request_of,
    says_nothing,
)
from mneme._core.ports import LoopPort, deadline
from mneme.cache import AnyCache
from mneme.records import Hit

__all__ = ["NamespaceMiddleware", "SemanticCacheMiddleware"]

App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Namespace: TypeAlias = str | Callable[[Scope], str | Awaitable[str | None] | None]

MARK = "mneme.cache"
"""In a scope whose request some cache further out has taken on."""


class SemanticCacheMiddleware:
    """
    Answers the requests of some routes from a cache, and leaves the others alone.

    Mount it inside authentication, CORS and rate limits: a hit does not reach what is inside.
    A hit and a miss say so in ``Cache-Status``.
    """

    def __init__(
        self,
        app: App,
        *,
        cache: AnyCache,
        routes: Mapping[str | tuple[str, str], Extractor | Route],
        namespace: Namespace | None = None,
        shared: bool = False,
        ttl: float | timedelta | None = None,
        threshold: float | None = None,
        by_host: bool = True,
        max_request_bytes: int = 1_048_576,
        max_response_bytes: int | None = None,
        debug: bool = False,
    ) -> None:
        """
        Args:
            app: the application.
            cache: either face of a cache.
            routes: ``{"/ask": json_field("prompt")}``; a path may end in ``*``, a key may be
                ``(method, path)``, and a value may be a `Route` with terms of its own.
            namespace: the namespace of every request, or who tells it from the scope, sync or
                async. It is open while the application runs. A request for which there is
                none, or for which this fails, is answered without any cache.
            shared: True: answers are public. The default keeps apart whoever sends different
                credentials: ``Authorization``, ``Cookie``, API keys and the like.
            ttl: seconds an answer lives; None: the cache's default.
            threshold: least cosine at which an answer is served; None: the cache's.
            by_host: whether requests to different hosts have different answers.
            max_request_bytes: bodies over this pass by the cache.
            max_response_bytes: bodies over this are not stored; None: the cache's limit.
            debug: True: ``Cache-Status`` tells keys, similarities and reasons, which speak of
                other people's questions.

        Raises:
            ValueError: a setting that makes no sense; the message names it.
        """
        self.app = app
        core = core_of(cache)
        self._port = LoopPort(core)
        self._gateway = Gateway(
            core,
            routes,
            namespace=namespace,
            shared=shared,
            ttl=ttl,
            threshold=threshold,
            by_host=by_host,
            max_request_bytes=max_request_bytes,
            max_response_bytes=max_response_bytes,
            debug=debug,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if self._gateway.namespace is None:
            await self._within(scope, receive, send, None)
            return
        with ExitStack() as around:
            why = await opened(around, self._gateway.namespace, scope)
            await self._within(scope, receive, send, why)

    async def _within(
        self, scope: Scope, receive: Receive, send: Send, why: Exception | None
    ) -> None:
        """The request in its namespace, or `why` it has none."""
        gateway = self._gateway
        found: Route | Forward | None = None
        if scope["type"] == "http" and MARK not in scope:
            found = gateway.find(scope["method"], path_of(scope))
        if why is not None:
            gateway.left_out(why, is_routed=found is not None)
        if found is None:
            await self.app(scope, receive, send)
        elif isinstance(found, Route) and why is None:
            await self._answer(found, scope, receive, send)
        else:
            told = "bypass" if isinstance(found, Route) else found
            await self.app({**scope, MARK: True}, receive, _telling(cache_status(told), send))

    async def _answer(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stored answer, or have the application answer, with a recording beside."""
        gateway = self._gateway
        body: bytes | None = None
        replay: list[Message] = []
        heeds = route.heeds_client
        if says_nothing(scope) or not is_objected_to(
            fields_of(scope["headers"]), heeds_client=heeds
        ):
            body, replay = await read_body(receive, gateway.request_limit(route))
        outcome: Outcome
        if body is None:
            outcome = gateway.passed_by()
        else:
            # Where a namespace is configured, it is open by now.
            outcome = await self._look(route, scope, body)
        if isinstance(outcome, Hit | Refused):
            is_head = scope["method"] == "HEAD"
            await _send_hit(outcome, send, is_head=is_head, debug=gateway.debug)
        elif isinstance(outcome, Recorded):
            teed = _Teed(gateway, self._port, outcome, replayed(replay, receive), send)
            with outcome.leading():
                await self.app({**plain(scope), MARK: True}, teed.receive, teed.send)
        elif isinstance(outcome, Followed):
            await self._pass_on(outcome, send)
        else:
            scope = {**scope, MARK: True}
            await self.app(scope, replayed(replay, receive), _telling(cache_status(outcome), send))

    async def _look(self, route: Route, scope: Scope, body: bytes) -> Outcome:
        gateway = self._gateway
        fingerprint = gateway.fingerprint(
            route,
            scope["method"],
            scope["path"],
            scope.get("raw_path"),
            scope.get("query_string"),
            scope["headers"],
            body,
            caller_of(scope),
        )
        if fingerprint is not None and scope["method"] != "HEAD":
            hit = gateway.recall(fingerprint)
            if hit is not None:
                return hit
        return await gateway.look(
            self._port, request_of(scope, body), route, fingerprint=fingerprint
        )

    async def _pass_on(self, followed: Followed, send: Send) -> None:
        """Send another request's answer, as it comes."""
        headers = _raw(followed.headers)
        try:
            await send(
                {"type": "http.response.start", "status": followed.status, "headers": headers}
            )
            while (chunk := await self._gateway.next_chunk(self._port, followed)) is not None:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            followed.leave()


class NamespaceMiddleware:
    """
    Opens the namespace of each request, for the cached functions inside the application.

    A request for which there is no namespace, or for which the resolver fails, runs under
    `mneme.bypass`: it neither sees what others have stored nor leaves anything to them.
    """

    def __init__(self, app: App, *, namespace: Namespace) -> None:
        """
        Args:
            app: the application.
            namespace: the namespace, or who tells it from the scope, sync or async.

        Raises:
            ValueError: `namespace` is neither.
        """
        check_namespace_setting(namespace)
        self.app = app
        self._namespace = namespace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as around:
            if scope["type"] in ("http", "websocket"):
                why = await opened(around, self._namespace, scope)
                if why is not None:
                    log_failure(why)
            await self.app(scope, receive, send)


class _Teed:
    """A request's two channels to the application, with a recording of what goes out."""

    def __init__(
        self, gateway: Gateway, port: LoopPort, recorded: Recorded, receive: Receive, send: Send
    ) -> None:
        self._gateway = gateway
        self._port = port
        self._recorded = recorded
        self._receive = receive
        self._send = send
        self._has_ended = False
        self._gone: Exception | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        # Servers also say it once all is sent; then it means nothing.
        if message["type"] == "http.disconnect" and not self._has_ended:
            self._recorded.drop()
            if self._recorded.lead is not None:
                # Others still listen to this answer: its client is not missed before they go.
                relay = self._recorded.lead.relay
                await self._port.woken(relay.join_idle, relay.leave_idle)
        return message

    async def send(self, message: Message) -> None:
        kind, recorded = message["type"], self._recorded
        if kind == "http.response.start":
            message = _told(message, recorded.cache_status)
            now = self._gateway.core.clock()
            recorded.start(message["status"], fields_of(message["headers"][:-1]), now=now)
            if message.get("trailers"):
                recorded.drop()
        elif kind == "http.response.body":
            recorded.add(message.get("body", b""))
            self._has_ended = not message.get("more_body", False)
            if self._has_ended:
                recorded.end()
        elif kind in PAST_THE_BODY:
            recorded.drop()
        try:
            await self._send_on(message)
        except BaseException as exc:
            # The server said that the client has gone; or the answer was cut off within. With
            # its last message under way it is whole: some servers tell of the end before they
            # return, and applications that listen for it cancel themselves there.
            is_cancelled = not isinstance(exc, Exception | GeneratorExit)
            if not (self._has_ended and is_cancelled):
                recorded.drop()
            raise
        finally:
            # Not when the application returns: its background tasks may take long.
            if self._has_ended:
                with deadline(None, shield=True):
                    await self._gateway.keep(self._port, recorded)

    async def _send_on(self, message: Message) -> None:
        """To the server; once the client has left, to those alone who follow."""
        try:
            if self._gone is None:
                await self._send(message)
        except Exception as exc:
            self._recorded.drop()
            self._gone = exc
        if self._gone is not None and (self._has_ended or not self._recorded.has_followers):
            raise self._gone


def _telling(status: str, send: Send) -> Send:
    """`send`, with the cache's word on why it did not answer."""

    async def forward(message: Message) -> None:
        is_start = message["type"] == "http.response.start"
        await send(_told(message, status) if is_start else message)

    return forward


def _told(start: Message, status: str) -> Message:
    # The message and its list belong to the application, which may send them again.
    return {**start, "headers": [*start.get("headers", ()), (b"cache-status", status.encode())]}


async def _send_hit(hit: Hit | Refused, send: Send, *, is_head: bool, debug: bool) -> None:
    response: StoredResponse = hit.response
    headers = _stored_raw(response.headers) + [
        (name.encode(), value.encode()) for name, value in hit_fields(hit, debug=debug)
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    chunks = () if is_head else response.chunks
    for chunk in chunks[:-1]:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    last = chunks[-1] if chunks else b""
    await send({"type": "http.response.body", "body": last, "more_body": False})


def _raw(headers: Fields) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


# Each hit sends the fields of its answer again.
_stored_raw = lru_cache(maxsize=256)(_raw)
