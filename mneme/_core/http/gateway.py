"""
What both middlewares do between a request and its response: ask, tell why not, keep.

The steps are the flow's, over a port: the ASGI shell awaits them, the WSGI shell drives them.
Nothing here may turn a request that the application would answer into an error.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mneme import context
from mneme._core import flow
from mneme._core.core import DEFAULT_NAMESPACE, Core
from mneme._core.freshness import as_seconds
from mneme._core.http.exchange import (
    Forward,
    forward_of,
    question,
    unkeyed,
    wants_fresh,
)
from mneme._core.http.recording import Recording, ResponseCodec
from mneme._core.http.request import Request
from mneme._core.http.routes import Route, Routes
from mneme._core.keys import Ask, NoStableForm, Unaskable, check_namespace
from mneme._core.settings import check_count
from mneme.errors import NamespaceRequiredError
from mneme.records import Hit, Miss, Terms

__all__ = ["Gateway", "Namespace", "Recorded", "check_namespace_setting", "log_failure",
           "namespace_for"]  # fmt: skip

log = logging.getLogger("mneme")

Namespace = str | Callable[[Any], Any] | None
"""A namespace, or who tells it from an ASGI scope or a WSGI environ."""

MAX_LEARNED_FIELDS = 16

NOT_RECORDED = ("bypass", "embedder_failed")
"""Misses that are not filled: an embedder that is down would be waited for a second time."""


async def namespace_for(namespace: Namespace, where: Any) -> str | None:
    """
    The namespace of the request at `where`; None if none is configured.

    Raises:
        NamespaceRequiredError: the resolver gave none. What is cached for others must not be
            seen, and nothing be stored where others see it.
        Exception: whatever the resolver raises, or a name that is none.
    """
    if not callable(namespace):
        return namespace
    name = namespace(where)
    if inspect.isawaitable(name):
        name = await name
    if name is None:
        raise NamespaceRequiredError(
            "the resolver gave no namespace for a request. The cache was left out of it. "
            "Return a name for every request that is to be cached."
        )
    return check_namespace(name)


def check_namespace_setting(namespace: Namespace) -> None:
    """
    Nothing, if `namespace` is a name or a resolver.

    Raises:
        TypeError, ValueError: it is neither, or no good name.
    """
    if not callable(namespace):
        check_namespace(namespace)


def log_failure(why: Exception) -> None:
    """For requests without a namespace where there is no cache that could count them."""
    # None is how a resolver says that a request (a health check, a login) has no tenant.
    level = logging.DEBUG if isinstance(why, NamespaceRequiredError) else logging.WARNING
    log.log(level, "the namespace resolver failed, going on without any cache: %s", why)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request that missed, and the recording of the response that it gets instead."""

    miss: Miss
    request: Request
    route: Route
    fields: frozenset[str]
    recording: Recording


class Gateway:
    """One mounted cache: its routes, and which request fields their responses vary by."""

    def __init__(
        self,
        core: Core,
        routes: Mapping[Any, Any],
        *,
        namespace: Namespace,
        shared: bool,
        ttl: Any,
        threshold: float | None,
        by_host: bool,
        max_request_bytes: int,
        max_response_bytes: int | None,
    ) -> None:
        """
        Raises:
            ValueError: a setting that makes no sense; the message names it.
        """
        if namespace is not None:
            check_namespace_setting(namespace)
        limit = core.settings.max_response_bytes
        if max_response_bytes is not None:
            limit = min(limit, check_count(max_response_bytes, "max_response_bytes"))
        self.core = core
        self.namespace = namespace
        self.max_request_bytes = check_count(max_request_bytes, "max_request_bytes")
        self._max_response_bytes = limit
        self._by_host = by_host
        self._routes = Routes(routes, ttl=ttl, threshold=threshold, shared=shared)
        self._codec = ResponseCodec()
        # Grows to what the responses of a route have named, and is lost with the process:
        # then the first response names it again. Assigned whole, so it needs no lock.
        self._learned: dict[Route, frozenset[str]] = {}

    def find(self, method: str, path: str) -> Route | Forward | None:
        """The route, why not, or None for a path that is not the cache's affair."""
        return self._routes.find(method, path)

    def left_out(self, why: Exception, *, is_routed: bool) -> None:
        """Count a request that has no namespace, unless it had no use for one."""
        if is_routed or not isinstance(why, NamespaceRequiredError):
            self.failed("namespace resolver", why)

    def failed(self, part: str, why: BaseException) -> None:
        """Count and log what went wrong, and go on without the cache."""
        name = context.current_namespace.get() or DEFAULT_NAMESPACE
        self.core.tally.failed_open(part, name, why, self.core.clock())

    async def look(
        self, port: flow.Port, request: Request, route: Route
    ) -> Hit | Recorded | Forward:
        """The stored answer, a recording to fill, or why the cache stays out of it."""
        fields = self._learned.get(route, frozenset())
        try:
            ask = self._ask(request, route, fields)
        except (Unaskable, NoStableForm):
            return "bypass"
        except Exception as exc:
            # The developer's extractor, or no namespace where one is required.
            self.failed("extraction of the prompt", exc)
            return "bypass"
        if ask is None:
            return "bypass"
        try:
            if wants_fresh(request.headers) and context.current_mode.get() == "serve":
                with context.refresh():
                    outcome = await flow.look(port, ask)
            else:
                outcome = await flow.look(port, ask)
        except Exception as exc:
            self.failed("lookup", exc)
            return "bypass"
        if isinstance(outcome, Hit):
            return outcome
        if outcome.reason in NOT_RECORDED or request.method == "HEAD":
            return forward_of(outcome)
        recording = Recording(route, max_bytes=self._max_response_bytes)
        return Recorded(outcome, request, route, fields, recording)

    async def keep(self, port: flow.Port, recorded: Recorded) -> bool:
        """Store the response that was recorded, if it may be; never an error of the client's."""
        try:
            response = recorded.recording.finish()
            if response is None or (miss := self._addressed(recorded)) is None:
                return False
            return await flow.fill(port, miss, response, Terms(ttl=self._ttl(recorded)))
        except Exception as exc:
            self.failed("storing of a response", exc)
            return False

    def _ask(
        self, request: Request, route: Route, fields: frozenset[str], namespace: str | None = None
    ) -> Ask | None:
        # The one that the shell has opened for this request, or that was open around it.
        name = self.core.namespace(namespace)
        found = question(request, route, name, fields=fields, by_host=self._by_host)
        if found is None:
            return None
        return self.core.ask(
            found.prompt,
            name,
            partition=found.partition,
            codec=self._codec,
            threshold=route.threshold,
            semantic=found.semantic,
        )

    def _addressed(self, recorded: Recorded) -> Miss | None:
        """The miss to fill, its question told apart by all that the response varies by."""
        request, route = recorded.request, recorded.route
        named = unkeyed(recorded.recording.vary, request, route, recorded.fields)
        if not named:
            return recorded.miss
        learned = self._learned.get(route, frozenset()) | named
        if len(learned) > MAX_LEARNED_FIELDS:
            return None
        self._learned[route] = learned
        ask = self._ask(request, route, learned, recorded.miss.namespace)
        return None if ask is None else replace(recorded.miss, ask=ask)

    def _ttl(self, recorded: Recorded) -> float | None:
        ttl = as_seconds(recorded.route.ttl, "ttl")
        if ttl is None:
            ttl = self.core.settings.default_ttl
        spans = [span for span in (ttl, recorded.recording.ttl) if span is not None]
        return min(spans) if spans else None
