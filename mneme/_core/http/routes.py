"""Which requests may be answered from the cache, and on what terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal, TypeAlias

from mneme._core.freshness import as_seconds
from mneme._core.http.answers import is_whole_answer
from mneme._core.http.request import Request
from mneme._core.http.responses import StoredResponse
from mneme._core.messages import Asked
from mneme._core.settings import check_count, check_threshold
from mneme.types import Rewrite

__all__ = ["Extractor", "Route", "Routes"]

Extractor: TypeAlias = Callable[[Request], Asked | str | None]
"""
Where the prompt sits in a request: ``request -> Asked``, the prompt's text, or None for "not
a call to cache".

From an `Asked` the answer depends on nothing but its ``prompt`` and its ``rest``: the rest has
to say all else in body and query string that matters. From mere text, everything in body and
query string but this text is the rest.
"""

CACHEABLE_METHODS = ("GET", "POST", "QUERY")
BODY_METHODS = ("POST", "QUERY")
CONTENT_TYPES = ("application/json", "application/*+json", "application/x-ndjson", "text/*")


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """
    One route that may be answered from the cache, and on what terms.

    Args:
        extract: where the prompt sits: one of `mneme.prompts`, or a callable of your own.
        methods: of GET, POST and QUERY; None: those that fit `extract`. GET brings HEAD.
        ttl: seconds an answer lives; None: the middleware's, else the cache's default. The
            application's own ``max-age`` shortens it.
        threshold: least cosine at which an answer is served; None: the cache's.
        shared: True: answers are public, so who asks does not matter; None: as the
            middleware says.
        vary: names of further request fields that the answer depends on.
        max_request_bytes: bodies over this pass by the cache; None: the middleware's limit.
        max_response_bytes: bodies over this are not stored; never more than the middleware's
            limit.
        statuses: response statuses that are stored.
        content_types: media types that are stored; ``*`` stands for any part.
        ignore_no_cache: store in spite of ``Cache-Control: no-cache`` in the response, which
            servers of event streams send by habit.
        private_namespace: True: the namespace of each request is its requester's own, so that
            answers with ``Cache-Control: private`` are stored there; never where answers are
            shared. Where a request has credentials they are stored in any case.
        heeds_client: False: what a request's ``Cache-Control`` and ``Pragma`` say is ignored.
        cache_if: ``(response) -> bool``: whether a whole answer is to be stored. An error in it
            is counted, and stores nothing.
        rewrite: ``messages -> question``: words the last turn of a conversation so that it
            stands alone and may meet other conversations; None: follow-ups only meet their own.
        is_whole: ``(content type, body) -> bool``: whether a body that ended cleanly is a
            whole answer. The default knows the formats of OpenAI, Anthropic and Ollama.

    Raises:
        ValueError: a setting that makes no sense; the message names it.
    """

    extract: Extractor
    methods: tuple[str, ...] | None = None
    ttl: float | timedelta | None = None
    threshold: float | None = None
    shared: bool | None = None
    vary: tuple[str, ...] = ()
    max_request_bytes: int | None = None
    max_response_bytes: int | None = None
    statuses: tuple[int, ...] = (200,)
    content_types: tuple[str, ...] = CONTENT_TYPES
    ignore_no_cache: bool = False
    private_namespace: bool = False
    heeds_client: bool = True
    cache_if: Callable[[StoredResponse], bool] | None = None
    rewrite: Rewrite | None = None
    is_whole: Callable[[str, bytes], bool] = is_whole_answer

    def __post_init__(self) -> None:
        if not callable(self.extract):
            raise ValueError(f"extract must be callable, got {self.extract!r}.")
        as_seconds(self.ttl, "ttl")
        if self.threshold is not None:
            check_threshold(self.threshold, "threshold")
        for limit in ("max_request_bytes", "max_response_bytes"):
            if getattr(self, limit) is not None:
                check_count(getattr(self, limit), limit)
        if unknown := set(self.allowed) - set(CACHEABLE_METHODS):
            raise ValueError(
                f"methods {sorted(unknown)} are never answered from a cache. "
                f"Use some of {', '.join(CACHEABLE_METHODS)}."
            )
        for name in ("vary", "statuses", "content_types"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a tuple, got one text.")
        if not all(isinstance(status, int) and 200 <= status < 300 for status in self.statuses):
            raise ValueError(
                f"statuses must be of success (200 to 299), got {self.statuses!r}. "
                "A stored error would be everybody's."
            )

    @property
    def allowed(self) -> tuple[str, ...]:
        """The methods that this route answers."""
        if self.methods is not None:
            return tuple(self.methods)
        return tuple(getattr(self.extract, "methods", BODY_METHODS))


class Routes:
    """The route of a request: an exact path before a pattern, a longer one before a shorter."""

    def __init__(
        self,
        routes: Mapping[str | tuple[str, str], Extractor | Route],
        *,
        ttl: float | timedelta | None = None,
        threshold: float | None = None,
        shared: bool = False,
    ) -> None:
        """
        Paths like ``"/ask"``, ``"/v1/*"`` or ``("POST", "/ask")``, each with its extractor.

        Raises:
            ValueError: a path that could never match, or a setting that makes no sense.
        """
        self._exact: dict[str, list[Route]] = {}
        self._prefixes: list[tuple[str, list[Route]]] = []
        found: dict[str, list[Route]] = {}
        for key, given in routes.items():
            methods, path = ((key[0],), key[1]) if isinstance(key, tuple) else (None, key)
            route = given if isinstance(given, Route) else Route(given)
            found.setdefault(_checked_path(path), []).append(
                replace(
                    route,
                    methods=methods or route.methods,
                    ttl=ttl if route.ttl is None else route.ttl,
                    threshold=threshold if route.threshold is None else route.threshold,
                    shared=shared if route.shared is None else route.shared,
                )
            )
        for path, ways in found.items():
            if path.endswith("*"):
                self._prefixes.append((path[:-1], ways))
            else:
                self._exact[path] = ways
        self._ways = {
            (method, path): route
            for path, ways in self._exact.items()
            for route in reversed(ways)
            for method in route.allowed
        }
        self._prefixes.sort(key=lambda pair: -len(pair[0]))

    def find(self, method: str, path: str) -> Route | Literal["method"] | None:
        """The route; ``"method"`` for a path that is only open to others; None for no route."""
        if (route := self._ways.get((method, path))) is not None:
            return route
        ways = self._exact.get(path)
        if ways is None:
            ways = next((ways for start, ways in self._prefixes if path.startswith(start)), None)
        if ways is None:
            return None
        wanted = "GET" if method == "HEAD" else method
        return next((route for route in ways if wanted in route.allowed), "method")


def _checked_path(path: str) -> str:
    if not path.startswith("/") or "*" in path[:-1]:
        raise ValueError(
            f"{path!r} is no path of a route: it starts with '/', and '*' may only end it."
        )
    return path
