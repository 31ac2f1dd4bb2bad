"""
The cache as a transport of httpx2 and httpx clients, and so of every SDK built on them.

It sits under a client's retries and hooks, patches nothing, and answers what it knows without
a connection. Neither library is imported here: a request says whose it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from mneme import _forks
from mneme._core.core import core_of
from mneme._core.http.exchange import (
    Forward,
    Refused,
    cache_status,
    is_objected_to,
)
from mneme._core.http.fetching import AsyncChunks, AsyncFetching, Chunks, Fetching
from mneme._core.http.gateway import Gateway, Outcome
from mneme._core.http.incoming import followed, made, stored, told
from mneme._core.http.namespaces import opened
from mneme._core.http.outgoing import fields_of, library_of, plain, request_of
from mneme._core.http.recorded import Followed, Recorded
from mneme._core.http.routes import Extractor, Route
from mneme._core.ports import BlockingPort, LoopPort, drive, embeds_async, here
from mneme.cache import AnyCache
from mneme.prompts import (
    anthropic_messages,
    ollama_chat,
    ollama_generate,
    openai_chat,
    openai_responses,
)
from mneme.records import Hit

if TYPE_CHECKING:
    import httpx
    import httpx2

    class _Transport(httpx2.BaseTransport, httpx.BaseTransport):
        def handle_request(self, request: Any) -> Any: ...

    class _AsyncTransport(httpx2.AsyncBaseTransport, httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: Any) -> Any: ...

else:
    # The clients ask for no base class, and anthropic refuses what has one of httpx's.
    _Transport = _AsyncTransport = object

__all__ = ["AsyncSemanticCacheTransport", "SemanticCacheTransport"]

Namespace: TypeAlias = str | Callable[[Any], str | None]
AsyncNamespace: TypeAlias = str | Callable[[Any], str | Awaitable[str | None] | None]

MARK = "mneme.cache"
"""In the extensions of a request that some cache further out has taken on."""

KNOWN: Mapping[str, Route] = {
    # Servers of event streams send `no-cache` by habit, and this is about their answers alone.
    ending: Route(extract, ignore_no_cache=True)
    for ending, extract in {
        "/chat/completions": openai_chat,
        "/v1/responses": openai_responses,
        "/v1/messages": anthropic_messages,
        "/api/chat": ollama_chat,
        "/api/generate": ollama_generate,
    }.items()
}
"""What is cached where no routes are given, by the end of the path: the rest is the host's."""


class _Settings:
    """What both transports share: which requests are theirs, and what becomes of them."""

    _port: BlockingPort | LoopPort

    def __init__(
        self,
        inner: Any,
        cache: AnyCache,
        routes: Mapping[str | tuple[str, str], Extractor | Route] | None,
        *,
        namespace: Any,
        shared: bool,
        ttl: float | timedelta | None,
        threshold: float | None,
        by_host: bool,
        max_request_bytes: int,
        max_response_bytes: int | None,
        debug: bool,
    ) -> None:
        self._inner = inner
        self._making = _forks.lock()
        self._by_host = by_host
        self._by_ending = routes is None
        self._gateway = Gateway(
            core_of(cache),
            KNOWN if routes is None else routes,
            namespace=namespace,
            shared=shared,
            ttl=ttl,
            threshold=threshold,
            by_host=by_host,
            max_request_bytes=max_request_bytes,
            max_response_bytes=max_response_bytes,
            debug=debug,
        )

    def _transport(self, request: Any, kind: str) -> Any:
        """The inner transport; the library's own where none was given."""
        if self._inner is None:
            with self._making:
                if self._inner is None:
                    self._inner = getattr(library_of(request), kind)()
        return self._inner

    def _find(self, request: Any) -> Route | Forward | None:
        if MARK in request.extensions:
            return None
        path = request.url.path
        if self._by_ending:
            path = next((ending for ending in KNOWN if path.endswith(ending)), path)
        return self._gateway.find(request.method, path)

    async def _look(self, request: Any, found: Route | Forward, place: object) -> Outcome:
        gateway = self._gateway
        if not isinstance(found, Route):
            return found
        with ExitStack() as around:
            why = await opened(around, gateway.namespace, request)
            if why is not None:
                gateway.left_out(why, is_routed=True)
                return "bypass"
            asked = request_of(request, gateway.request_limit(found), by_host=self._by_host)
            if asked is None or is_objected_to(asked.headers, heeds_client=found.heeds_client):
                return gateway.passed_by()
            return await gateway.look(
                self._port, asked, found, place=place, may_follow=lambda other: other == place
            )

    def _records(self, recorded: Recorded, response: Any) -> None:
        now = self._gateway.core.clock()
        recorded.start(response.status_code, fields_of(response.headers), now=now)


class SemanticCacheTransport(_Settings, _Transport):
    """
    Answers requests to language models from a cache, for `httpx2.Client` and `httpx.Client`.

    A hit, a miss and all that is passed on because the cache has no say in it tell so in
    ``Cache-Status``. Requests on other paths pass untouched.
    """

    _port: BlockingPort

    def __init__(
        self,
        inner: httpx2.BaseTransport | httpx.BaseTransport | None = None,
        *,
        cache: AnyCache,
        routes: Mapping[str | tuple[str, str], Extractor | Route] | None = None,
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
            inner: what sends the requests that the cache does not answer, with its pool,
                proxies and limits; None: the library's ``HTTPTransport()``. It is closed
                with this one.
            cache: either face of a cache whose embedder is sync.
            routes: as of the middleware, by path; None: the endpoints of the large providers,
                at any host and under any prefix.
            namespace: the namespace of every request, or who tells it from the request. A
                request for which there is none, or for which this fails, is sent without any
                cache. None: the one open around the call.
            shared: True: answers are the same for whoever asks. The default keeps apart
                different credentials: API keys, cookies and the like.
            ttl: seconds an answer lives; None: the cache's default.
            threshold: least cosine at which an answer is served; None: the cache's.
            by_host: whether different hosts have different answers.
            max_request_bytes: bodies over this pass by the cache.
            max_response_bytes: bodies over this are not stored; None: the cache's limit.
            debug: True: ``Cache-Status`` tells keys, similarities and reasons, which speak of
                other people's questions.

        Raises:
            ValueError: a setting that makes no sense; the message names it.
            TypeError: the embedder is async.
        """
        core = core_of(cache)
        if embeds_async(core.embedder):
            raise TypeError(
                f"{type(core.embedder).__name__} is async and this transport is not. Nothing was "
                "mounted. Wrap it with mneme.to_sync_embedder, or use AsyncSemanticCacheTransport."
            )
        self._port = BlockingPort(core)
        super().__init__(
            inner,
            cache,
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

    def handle_request(self, request: Any) -> Any:
        transport = self._transport(request, "HTTPTransport")
        found = self._find(request)
        if found is None:
            return transport.handle_request(request)
        outcome = drive(self._look(request, found, "threads"))
        if isinstance(outcome, Recorded):
            return self._fetch(transport, request, outcome)
        if isinstance(outcome, Hit | Refused):
            return stored(request, outcome, debug=self._gateway.debug)
        if isinstance(outcome, Followed):
            return followed(request, outcome, Chunks)
        return told(transport.handle_request(request), cache_status(outcome))

    def _fetch(self, transport: Any, request: Any, recorded: Recorded) -> Any:
        library = library_of(request)
        try:
            response = transport.handle_request(plain(request, MARK))
            self._records(recorded, response)
            fetching = Fetching(self._gateway, self._port, recorded, response.stream)
            recorded.begin()
        except BaseException as exc:
            recorded.give_up(exc)
            raise
        stream = made(library, Chunks, fetching, fetching.leader, library.ReadError)
        response.stream = stream
        try:
            fetching.read_whole()
        except BaseException:
            stream.close()
            raise
        return told(response, recorded.cache_status)

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()

    def __enter__(self) -> Self:
        if self._inner is not None:
            self._inner.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._inner is not None:
            self._inner.__exit__(exc_type, exc_value, traceback)


class AsyncSemanticCacheTransport(_Settings, _AsyncTransport):
    """As `SemanticCacheTransport`, for the async clients, on asyncio and trio."""

    _port: LoopPort

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport | httpx.AsyncBaseTransport | None = None,
        *,
        cache: AnyCache,
        routes: Mapping[str | tuple[str, str], Extractor | Route] | None = None,
        namespace: AsyncNamespace | None = None,
        shared: bool = False,
        ttl: float | timedelta | None = None,
        threshold: float | None = None,
        by_host: bool = True,
        max_request_bytes: int = 1_048_576,
        max_response_bytes: int | None = None,
        debug: bool = False,
    ) -> None:
        """
        As `SemanticCacheTransport`; embedder and resolver may be async, and None for `inner`
        means the library's ``AsyncHTTPTransport()``.

        Raises:
            ValueError: a setting that makes no sense; the message names it.
        """
        self._port = LoopPort(core_of(cache))
        super().__init__(
            inner,
            cache,
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

    async def handle_async_request(self, request: Any) -> Any:
        transport = self._transport(request, "AsyncHTTPTransport")
        found = self._find(request)
        if found is None:
            return await transport.handle_async_request(request)
        outcome = await self._look(request, found, here())
        if isinstance(outcome, Recorded):
            return await self._fetch(transport, request, outcome)
        if isinstance(outcome, Hit | Refused):
            return stored(request, outcome, debug=self._gateway.debug)
        if isinstance(outcome, Followed):
            return followed(request, outcome, AsyncChunks)
        return told(await transport.handle_async_request(request), cache_status(outcome))

    async def _fetch(self, transport: Any, request: Any, recorded: Recorded) -> Any:
        library = library_of(request)
        try:
            response = await transport.handle_async_request(plain(request, MARK))
            self._records(recorded, response)
            fetching = AsyncFetching(self._gateway, self._port, recorded, response.stream)
            recorded.begin()
        except BaseException as exc:
            recorded.give_up(exc)
            raise
        stream = made(library, AsyncChunks, fetching, fetching.leader, library.ReadError)
        response.stream = stream
        try:
            await fetching.read_whole()
        except BaseException:
            await stream.aclose()
            raise
        return told(response, recorded.cache_status)

    async def aclose(self) -> None:
        if self._inner is not None:
            await self._inner.aclose()

    async def __aenter__(self) -> Self:
        if self._inner is not None:
            await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if self._inner is not None:
            await self._inner.__aexit__(exc_type, exc_value, traceback)
