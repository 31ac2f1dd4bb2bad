"""`semantic_cache`: answer repeated and reworded calls of a function from memory."""

from __future__ import annotations

import collections.abc
import inspect
import os
import typing
from collections.abc import Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import (
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    overload,
)

from mneme._core.across import check_locks
from mneme._core.binder import make_binder
from mneme._core.calls import AsyncCalls, Calls
from mneme._core.core import Core, core_of
from mneme._core.face import terms_of
from mneme._core.freshness import as_seconds
from mneme._core.keys import check_namespace
from mneme._core.manner import Manner, Mode, PolicyName
from mneme._core.manner import is_async as awaits
from mneme._core.ports import BlockingPort, LoopPort, embeds_async
from mneme._core.settings import check_threshold
from mneme._wrapped import Cached
from mneme.cache import AnyCache, AsyncSemanticCache, SemanticCache
from mneme.codecs import AutoCodec, codec_for
from mneme.records import CacheInfo, Explanation, Hit, Miss, Terms
from mneme.stores.memory import MemoryStore
from mneme.types import AnyEmbedder, Codec, Rewrite, SameAnswer, Store, Verifier

__all__ = [
    "AsyncCachedFunction",
    "CacheInfo",
    "CachedFunction",
    "Decorate",
    "semantic_cache",
]

P = ParamSpec("P")
Q = ParamSpec("Q")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T")


class CachedFunction(Protocol[P, R_co]):
    """A decorated function: called as before; its other methods take the same arguments."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    @overload
    def __get__(
        self, instance: None, owner: type[Any] | None = None
    ) -> CachedFunction[P, R_co]: ...
    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R_co], instance: S, owner: type[Any] | None = None
    ) -> CachedFunction[Q, R_co]: ...

    @property
    def cache(self) -> AnyCache:
        """The cache behind the function."""
        ...

    def lookup(self, *args: P.args, **kwargs: P.kwargs) -> Hit | Miss:
        """What the cache has for this call; the function is not called."""
        ...

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        """What `lookup` would find and why; counts nothing."""
        ...

    def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function and overwrite what the cache has."""
        ...

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Remove what the cache has for this very call; 0 or 1."""
        ...

    def cache_info(self) -> CacheInfo:
        """Hits and misses since the function was decorated, and its live entries."""
        ...

    def cache_clear(self) -> None:
        """Remove every answer of this function, in all namespaces; its counts too."""
        ...


class AsyncCachedFunction(Protocol[P, R_co]):
    """As `CachedFunction`, awaited; `cache_info` and `cache_clear` are plain and never wait."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...

    @overload
    def __get__(
        self, instance: None, owner: type[Any] | None = None
    ) -> AsyncCachedFunction[P, R_co]: ...
    @overload
    def __get__(
        self: AsyncCachedFunction[Concatenate[S, Q], R_co],
        instance: S,
        owner: type[Any] | None = None,
    ) -> AsyncCachedFunction[Q, R_co]: ...

    @property
    def cache(self) -> AnyCache: ...

    async def lookup(self, *args: P.args, **kwargs: P.kwargs) -> Hit | Miss: ...

    async def explain(self, *args: P.args, **kwargs: P.kwargs) -> Explanation: ...

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int: ...

    def cache_info(self) -> CacheInfo: ...

    def cache_clear(self) -> None: ...


class Decorate(Protocol):
    """What `semantic_cache` gives: the decorator itself."""

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> AsyncCachedFunction[P, T]: ...
    @overload
    def __call__(self, function: Callable[P, T], /) -> CachedFunction[P, T]: ...


def semantic_cache(
    *,
    cache: AnyCache | None = None,
    embedder: AnyEmbedder | None = None,
    path: str | os.PathLike[str] | None = None,
    store: Store | None = None,
    threshold: float | None = None,
    policy: PolicyName | None = None,
    max_error: float | None = None,
    same_answer: SameAnswer | None = None,
    mode: Mode | None = None,
    audit_rate: float | None = None,
    verify: Verifier | None = None,
    verify_band: tuple[float, float] | None = None,
    verify_timeout: float | timedelta | None = 2.0,
    prompt: str | Callable[..., Any] | None = None,
    ignore: Collection[str] = (),
    rewrite: Rewrite | None = None,
    version: str | int = "",
    namespace: str | Callable[..., str] | None = None,
    ttl: float | timedelta | None = None,
    stale_for: float | timedelta = 0.0,
    stale_if_error: float | timedelta = 0.0,
    cache_if: Callable[[Any], bool] | None = None,
    tags: Iterable[str] = (),
    codec: Codec | None = None,
    single_flight: bool | Literal["machine"] = True,
    flight_timeout: float | timedelta = 30.0,
) -> Decorate:
    """
    Cache a function by the meaning of its prompt; everything else it is given must be equal.

    Works on ``def``, ``async def``, generators of both kinds, and methods of every kind,
    under threads, asyncio and trio. An exception of the function passes and stores nothing.

    Args:
        cache: shared with other functions, middleware and worlds; or else
        embedder: of a cache of this function's own, in `path` or `store` (default: memory).
        threshold: least cosine of a hit; default: the cache's.
        policy, max_error, same_answer, mode, audit_rate, verify, verify_band, verify_timeout:
            as of `SemanticCache`, for this function alone: with any of them it is judged in
            a manner of its own (and what it learns is kept under its name), else the cache's.
        prompt: the parameter's name, or a callable that picks the prompt out of the
            arguments it names. Default: ``prompt``, else the only parameter.
        ignore: parameters that do not matter to the answer (clients, loggers).
        rewrite: ``messages -> question``, for prompts that are chat messages: words the last
            turn as a question that stands alone, which is then compared with those of all
            conversations; None where it cannot. Without it, or where it raises or takes
            longer than `verify_timeout`, a follow-up only meets its own conversation.
        version: change it to leave all earlier answers behind.
        namespace: text, or a callable over the arguments it names; default: the open one.
        ttl: seconds an answer lives; default: the cache's.
        stale_for: seconds past that in which the old answer is served while one call
            renews it in the background (in a cache that was opened by ``with``).
        stale_if_error: seconds past that in which the old answer stands in when the
            function raises.
        cache_if: ``result -> bool``: whether to keep it.
        tags: to invalidate by.
        codec: how results are stored; default: by the function's return annotation.
        single_flight: equal calls that run at once share one; with ``"machine"`` those of all
            processes that have the cache's file open (`SQLiteStore`, on Linux).
        flight_timeout: seconds for which a call then waits for one of another process; after
            that it calls for itself.

    Raises:
        TypeError: when decorating: no cache and no embedder, an async embedder under a sync
            function, an unclear prompt, an unknown parameter name, ``"machine"`` without
            a store for it. When calling: an argument that has no stable form.
        CodecError: when decorating: the annotated results cannot be stored. When calling:
            this result cannot; the function has run by then.
        ValueError: a setting that makes no sense.
    """
    if (cache is None) == (embedder is None):
        raise TypeError("semantic_cache needs cache= or embedder=, and not both.")
    if cache is not None and (path is not None or store is not None):
        raise TypeError("path= and store= make a cache; a given cache= has its own.")
    if threshold is not None:
        check_threshold(threshold, "threshold")
    asked_for = {
        "policy": policy,
        "max_error": max_error,
        "same_answer": same_answer,
        "mode": mode,
        "audit_rate": audit_rate,
        "verify": verify,
        "verify_band": verify_band,
    }
    own: dict[str, Any] = {name: value for name, value in asked_for.items() if value is not None}
    manner = Manner.checked(**own, verify_timeout=verify_timeout) if own else None
    if isinstance(namespace, str):
        check_namespace(namespace)
    terms = replace(
        terms_of(None, ttl, tags),
        stale_for=as_seconds(stale_for, "stale_for") or 0.0,
        stale_if_error=as_seconds(stale_if_error, "stale_if_error") or 0.0,
    )

    if single_flight not in (True, False, "machine"):
        raise ValueError(f"single_flight must be True, False or 'machine', got {single_flight!r}.")
    seconds = as_seconds(flight_timeout, "flight_timeout") or 0.0
    patience = seconds if single_flight == "machine" else None

    return cast(
        Decorate,
        _Decorator(
            cache=cache,
            embedder=embedder,
            path=path,
            store=store,
            threshold=threshold,
            manner=manner,
            prompt=prompt,
            ignore=ignore,
            rewrite=rewrite,
            version=version,
            namespace=namespace,
            terms=terms,
            cache_if=cache_if,
            codec=codec,
            single_flight=bool(single_flight),
            patience=patience,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Decorator:
    """What `semantic_cache` was asked for, checked; what concerns the function is still to be."""

    cache: AnyCache | None
    embedder: AnyEmbedder | None
    path: str | os.PathLike[str] | None
    store: Store | None
    threshold: float | None
    manner: Manner | None
    prompt: str | Callable[..., Any] | None
    ignore: Collection[str]
    rewrite: Rewrite | None
    version: str | int
    namespace: str | Callable[..., str] | None
    terms: Terms
    cache_if: Callable[[Any], bool] | None
    codec: Codec | None
    single_flight: bool
    patience: float | None

    def __call__(self, function: Any, /) -> Any:
        plain = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
        is_async = inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain)
        streams = inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)
        name = plain.__qualname__
        binder = make_binder(
            plain,
            prompt=self.prompt,
            ignore=self.ignore,
            namespace=None if isinstance(self.namespace, str) else self.namespace,
        )
        codec = self.codec or _codec_of(plain, streams=streams)
        face = self._face(name, is_async=is_async)
        core = core_of(face)
        self._check(name, core, is_async=is_async, streams=streams)
        tag = f"function:{plain.__module__}.{name}"
        judge = None
        if self.manner is not None:
            judge = core.judges.named(tag, self.manner, self.threshold)
        common: dict[str, Any] = {
            "core": core,
            "name": name,
            "identity": ("function", plain.__module__, name, self.version),
            "binder": binder,
            "codec": codec,
            "namespace": self.namespace,
            "threshold": self.threshold,
            "rewrite": self.rewrite,
            "judge": judge,
            "terms": replace(self.terms, tags=(*self.terms.tags, tag)),
            "cache_if": self.cache_if,
            "single_flight": self.single_flight,
            "patience": self.patience,
            "tag": tag,
        }
        calls = (
            AsyncCalls(port=LoopPort(core), **common)
            if is_async
            else Calls(port=BlockingPort(core), **common)
        )
        return Cached(function, face, calls, streams=streams)

    def _face(self, name: str, *, is_async: bool) -> AnyCache:
        """The cache given, or one of the function's own."""
        embedder = core_of(self.cache).embedder if self.cache is not None else self.embedder
        assert embedder is not None
        if not is_async and embeds_async(embedder):
            raise TypeError(
                f"{name} is sync and its embedder is async. "
                "Wrap the embedder with mneme.to_sync_embedder, or make the function async."
            )
        if self.cache is not None:
            return self.cache
        kind = AsyncSemanticCache if is_async else SemanticCache
        store = MemoryStore() if self.path is None and self.store is None else self.store
        # Decorating is importing: no embedder is called then.
        return kind(self.path, store=store, embedder=embedder, self_check="later")

    def _check(self, name: str, core: Core, *, is_async: bool, streams: bool) -> None:
        """Refuse what a function of this kind, or a cache like this, cannot have."""
        if self.patience is not None:
            if streams:
                raise TypeError(
                    f"{name} is a generator, and their calls are not shared. "
                    "Leave out single_flight='machine'."
                )
            check_locks(core.store, name)
        if self.manner is not None and not is_async:
            self.manner.refuse_async()
        if self.rewrite is not None and not is_async and awaits(self.rewrite):
            raise TypeError(f"rewrite is async and {name} is not. Pass a plain function.")


_STREAMS = (
    collections.abc.Iterator,
    collections.abc.Iterable,
    collections.abc.Generator,
    collections.abc.AsyncIterator,
    collections.abc.AsyncIterable,
    collections.abc.AsyncGenerator,
)


def _codec_of(function: Any, *, streams: bool) -> Codec:
    """The codec that the return annotation asks for; by value where there is none."""
    try:
        returns = typing.get_type_hints(function, include_extras=True).get("return", Any)
    except Exception:  # an annotation that only a type checker can resolve says nothing here
        return AutoCodec()
    if streams:
        inner = typing.get_args(returns)
        item = inner[0] if inner and typing.get_origin(returns) in _STREAMS else Any
        return codec_for(list[item])  # type: ignore[valid-type]
    return codec_for(returns)
