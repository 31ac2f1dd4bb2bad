"""
The cache and the namespace as WSGI middleware (PEP 3333).

The application, each step of its iterable and its ``close`` run in one context, so that the
namespace of a request holds until its last byte. Nothing is buffered.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context, copy_context
from datetime import timedelta
from threading import get_ident
from typing import TypeAlias

from mneme import context
from mneme._core.core import core_of
from mneme._core.http.environ import fields_of, path_of, read_body, request_of
from mneme._core.http.exchange import (
    Forward,
    Refused,
    cache_status,
    hit_fields,
    is_objected_to,
)
from mneme._core.http.gateway import Gateway, Outcome
from mneme._core.http.iterables import (
    FILES,
    App,
    Environ,
    Passed,
    StartResponse,
    Steps,
    Tee,
    status_line,
    telling,
)
from mneme._core.http.namespaces import check_namespace_setting, log_failure, namespace_for
from mneme._core.http.recorded import Followed, Recorded
from mneme._core.http.responses import StoredResponse
from mneme._core.http.routes import Extractor, Route
from mneme._core.ports import BlockingPort, drive, embeds_async
from mneme.cache import AnyCache
from mneme.records import Hit

__all__ = ["NamespaceMiddleware", "SemanticCacheMiddleware"]

Namespace: TypeAlias = str | Callable[[Environ], str | None]

MARK = "mneme.cache"
"""In an environ whose request some cache further out has taken on."""


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
            debug: True: ``Cache-Status`` tells keys, similarities and reasons, which speak of
                other people's questions.

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
            debug=debug,
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
        return _run(within, self.app, environ, telling(cache_status(told), start_response))

    def _answer(
        self,
        route: Route,
        within: Context | None,
        environ: Environ,
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        """The stored answer, or the application's, with a recording beside."""
        gateway = self._gateway
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
            is_head = environ["REQUEST_METHOD"] == "HEAD"
            return _send_hit(outcome, start_response, is_head=is_head, debug=gateway.debug)
        if isinstance(outcome, Recorded):
            tee = Tee(self._gateway, self._port, outcome, within)
            return tee.answer(self.app, environ, start_response)
        if isinstance(outcome, Followed):
            return Passed(self._gateway, self._port, outcome, start_response)
        return _run(within, self.app, environ, telling(cache_status(outcome), start_response))


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
    return Steps(within, body)


def _refuse_async(namespace: object) -> None:
    if inspect.iscoroutinefunction(namespace):
        raise TypeError(
            f"the resolver {namespace!r} is async and WSGI is not. Nothing was mounted. "
            "Pass a plain function of the environ."
        )


def _send_hit(
    hit: Hit | Refused, start_response: StartResponse, *, is_head: bool, debug: bool
) -> Iterable[bytes]:
    response: StoredResponse = hit.response
    start_response(status_line(response.status), [*response.headers, *hit_fields(hit, debug=debug)])
    return [] if is_head else list(response.chunks)
