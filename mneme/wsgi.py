"""
The cache and the namespace as WSGI middleware (PEP 3333).

The application, each step of its iterable and its ``close`` run in one context, so that the
namespace of a request holds until its last byte. Nothing is buffered.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from contextvars import Context, copy_context
from datetime import timedelta
from http import HTTPStatus
from threading import get_ident
from types import TracebackType
from typing import Any, TypeAlias

from mneme import context
from mneme._core.core import core_of
from mneme._core.http.environ import fields_of, path_of, read_body, request_of
from mneme._core.http.exchange import (
    Forward,
    Refused,
    cache_status,
    forward_of,
    hit_fields,
    is_objected_to,
)
from mneme._core.http.gateway import (
    Gateway,
    Outcome,
    check_namespace_setting,
    log_failure,
    namespace_for,
)
from mneme._core.http.recorded import Followed, Recorded
from mneme._core.http.responses import StoredResponse
from mneme._core.http.routes import Extractor, Route
from mneme._core.ports import BlockingPort, drive, embeds_async
from mneme.cache import AnyCache
from mneme.records import Hit

__all__ = ["NamespaceMiddleware", "SemanticCacheMiddleware"]

Environ: TypeAlias = dict[str, Any]
Headers: TypeAlias = list[tuple[str, str]]
ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
)
Write: TypeAlias = Callable[[bytes], object]
StartResponse: TypeAlias = Callable[..., Write]
App: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]
Namespace: TypeAlias = str | Callable[[Environ], str | None]

MARK = "mneme.cache"
"""In an environ whose request some cache further out has taken on."""

FILES = "wsgi.file_wrapper"


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
    ) -> None:
        """
        Args:
            app: the application.
            cache: either face of a cache whose embedder is sync.
            routes: ``{"/ask": json_field("prompt")}``; a path may end in ``*``, a key may be
                ``(method, path)``, and a value may be a `Route` with terms of its own.
            namespace: the namespace of every request, or who tells it from the environ. It is
                open while the application runs. A request for which there is none, or for
                which this fails, is answered without any cache.
            shared: True: answers are public. The default keeps apart whoever sends different
                credentials: ``Authorization``, ``Cookie``, API keys and the like.
            ttl: seconds an answer lives; None: the cache's default.
            threshold: least cosine at which an answer is served; None: the cache's.
            by_host: whether requests to different hosts have different answers.
            max_request_bytes: bodies over this pass by the cache.
            max_response_bytes: bodies over this are not stored; None: the cache's limit.

        Raises:
            ValueError: a setting that makes no sense; the message names it.
            TypeError: the embedder or the resolver is async.
        """
        core = core_of(cache)
        if embeds_async(core.embedder):
            raise TypeError(
                f"{type(core.embedder).__name__} is async and WSGI is not. Nothing was mounted. "
                "Wrap it with mneme.to_sync_embedder."
            )
        _refuse_async(namespace)
        self.app = app
        self._port = BlockingPort(core)
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
        )

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        gateway = self._gateway
        within, why = _opened(gateway.namespace, environ)
        found: Route | Forward | None = None
        if MARK not in environ:
            found = gateway.find(environ["REQUEST_METHOD"], path_of(environ))
        if why is not None:
            gateway.left_out(why, is_routed=found is not None)
        if found is None:
            return _run(within, self.app, environ, start_response)
        # A copy: what is changed below must not reach those further out.
        environ = {**environ, MARK: True}
        if isinstance(found, Route) and why is None:
            return self._answer(found, within, environ, start_response)
        told = "bypass" if isinstance(found, Route) else found
        return _run(within, self.app, environ, _telling(told, start_response))

    def _answer(
        self,
        route: Route,
        within: Context | None,
        environ: Environ,
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        """The stored answer, or the application's, with a recording beside."""
        # An empty context is falsy.
        within = copy_context() if within is None else within
        outcome: Outcome
        body = None
        if not is_objected_to(fields_of(environ), heeds_client=route.heeds_client):
            body = read_body(environ, self._gateway.request_limit(route))
        if body is None:
            outcome = within.run(self._gateway.passed_by)
        else:
            asked = self._gateway.look(
                self._port,
                request_of(environ, body),
                route,
                place=get_ident(),
                # A thread that answers two requests by turns would wait for itself.
                may_follow=lambda place: place != get_ident(),
            )
            outcome = within.run(drive, asked)
        if isinstance(outcome, Hit | Refused):
            return _send_hit(outcome, start_response, is_head=environ["REQUEST_METHOD"] == "HEAD")
        if isinstance(outcome, Recorded):
            tee = _Tee(self._gateway, self._port, outcome, within)
            return tee.answer(self.app, environ, start_response)
        if isinstance(outcome, Followed):
            return _Passed(self._gateway, self._port, outcome, start_response)
        return _run(within, self.app, environ, _telling(outcome, start_response))


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
            namespace: the namespace, or who tells it from the environ.

        Raises:
            ValueError: the name is none.
            TypeError: `namespace` is neither text nor callable, or is async.
        """
        check_namespace_setting(namespace)
        _refuse_async(namespace)
        self.app = app
        self._namespace = namespace

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        within, why = _opened(self._namespace, environ)
        if why is not None:
            log_failure(why)
        return _run(within, self.app, environ, start_response)


class _Steps:
    """An application's iterable: each of its steps, and its close, in one context."""

    def __init__(self, within: Context, body: Iterable[bytes]) -> None:
        self._within = within
        self._body = body
        self._steps: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._steps is None:
            self._steps = self._within.run(iter, self._body)
        return self._within.run(next, self._steps)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            self._within.run(close)


class _Tee:
    """What an application answers, on its way out, with a recording beside."""

    def __init__(
        self, gateway: Gateway, port: BlockingPort, recorded: Recorded, within: Context
    ) -> None:
        self.recorded = recorded
        self._gateway = gateway
        self._port = port
        self._within = within
        self._file: object = None
        self._leading = recorded.leading()

    def answer(self, app: App, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen = {key: value for key, value in environ.items() if key != "HTTP_ACCEPT_ENCODING"}
        if FILES in seen:
            seen[FILES] = self._wrapping(seen[FILES])
        self._within.run(self._leading.__enter__)
        try:
            body = self._within.run(app, seen, self._starting(start_response))
        except BaseException as exc:
            self.end(exc)
            raise
        if body is self._file:
            # The server may have a faster way with its own files than to iterate over them.
            self.end()
            return body
        return _TeedSteps(self, self._within, body)

    def keep(self) -> None:
        """Store what was recorded, now that it has gone out."""
        self._within.run(drive, self._gateway.keep(self._port, self.recorded))

    def end(self, exc: BaseException | None = None) -> None:
        """Nothing more will come; an answer that has not ended by now has broken off."""
        if exc is not None:
            self.recorded.drop()
        with suppress(Exception):
            self._within.run(self._leading.__exit__, None if exc is None else type(exc), exc, None)

    def _starting(self, start_response: StartResponse) -> StartResponse:
        telling = _telling(forward_of(self.recorded.miss), start_response)

        def start(status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Write:
            number = int(status[:3]) if status[:3].isdigit() else 0
            self.recorded.start(number, headers, now=self._gateway.core.clock())
            if exc_info is None:
                write = telling(status, headers)
            else:
                self.recorded.drop()
                write = telling(status, headers, exc_info)

            def recorded_write(chunk: bytes) -> object:
                self.recorded.add(chunk)
                return write(chunk)

            return recorded_write

        return start

    def _wrapping(self, wrapper: Callable[..., Any]) -> Callable[..., Any]:
        def wrap(*args: Any) -> Any:
            self.recorded.drop()
            self._file = wrapper(*args)
            return self._file

        return wrap


class _TeedSteps(_Steps):
    """An application's iterable whose chunks are recorded as they go out."""

    def __init__(self, tee: _Tee, within: Context, body: Iterable[bytes]) -> None:
        super().__init__(within, body)
        self._tee = tee
        self._is_over = False

    def __next__(self) -> bytes:
        try:
            chunk = super().__next__()
        except StopIteration:
            # The server asks for more, so it has sent all there was. In `close` it would be
            # known as well, but test clients often leave that out.
            if not self._is_over:
                self._is_over = True
                self._tee.keep()
                self._tee.end()
            raise
        except BaseException as exc:
            self._is_over = True
            self._tee.end(exc)
            raise
        self._tee.recorded.add(chunk)
        return chunk

    def close(self) -> None:
        if not self._is_over:
            self._tee.recorded.drop()
            self._go_on_for_followers()
            self._is_over = True
            self._tee.end()
        super().close()

    def _go_on_for_followers(self) -> None:
        # The client has left. This thread is the only one in which the application can go on.
        with suppress(Exception):
            while self._tee.recorded.has_followers and not self._is_over:
                next(self, None)

    def __del__(self) -> None:
        # A server that closes nothing must not leave others waiting.
        if not self._is_over:
            self._tee.recorded.cut()


class _Passed:
    """Another request's answer, as it comes."""

    def __init__(
        self,
        gateway: Gateway,
        port: BlockingPort,
        followed: Followed,
        start_response: StartResponse,
    ) -> None:
        self._gateway = gateway
        self._port = port
        self._followed = followed
        start_response(_status_line(followed.status), list(followed.headers))

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = drive(self._gateway.next_chunk(self._port, self._followed))
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        self._followed.leave()

    __del__ = close


def _opened(
    namespace: Namespace | None, environ: Environ
) -> tuple[Context | None, Exception | None]:
    """
    The context in which the request runs, its namespace open; None where it needs none of its
    own. Where there is no namespace, one in which every cache is bypassed, and why.
    """
    if namespace is None:
        return None, None
    within = copy_context()
    try:
        name = drive(namespace_for(namespace, environ))
    except Exception as exc:
        within.run(context.current_mode.set, "bypass")
        return within, exc
    within.run(context.current_namespace.set, name)
    return within, None


def _run(
    within: Context | None, app: App, environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    if within is None:
        return app(environ, start_response)
    body = within.run(app, environ, start_response)
    files = environ.get(FILES)
    if isinstance(files, type) and isinstance(body, files):
        return body
    return _Steps(within, body)


def _refuse_async(namespace: object) -> None:
    if inspect.iscoroutinefunction(namespace):
        raise TypeError(
            f"the resolver {namespace!r} is async and WSGI is not. Nothing was mounted. "
            "Pass a plain function of the environ."
        )


def _telling(why: Forward, start_response: StartResponse) -> StartResponse:
    """`start_response`, with the cache's word on why it did not answer."""

    def start(status: str, headers: Headers, *exc_info: Any) -> Write:
        # The list belongs to the application.
        return start_response(status, [*headers, ("Cache-Status", cache_status(why))], *exc_info)

    return start


def _send_hit(
    hit: Hit | Refused, start_response: StartResponse, *, is_head: bool
) -> Iterable[bytes]:
    response: StoredResponse = hit.response
    start_response(_status_line(response.status), [*response.headers, *hit_fields(hit)])
    return [] if is_head else list(response.chunks)


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Stored"
