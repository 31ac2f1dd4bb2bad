"""A decorated function as users hold it: the original under a proxy that asks the cache first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import wrapt

from mneme import context
from mneme._core.calls import AsyncCalls, Calls
from mneme.cache import AnyCache
from mneme.records import CacheInfo

__all__ = ["Cached"]

if TYPE_CHECKING:
    _Wrapper = wrapt.FunctionWrapper[Any, Any]
    _BoundWrapper = wrapt.BoundFunctionWrapper[Any, Any]
else:
    _Wrapper, _BoundWrapper = wrapt.FunctionWrapper, wrapt.BoundFunctionWrapper


class _Methods:
    """What a decorated function has beside being called, bound to an instance or not."""

    # No annotated attributes here: a class's own annotations hide those of the function.

    def _given(self, args: tuple[Any, ...]) -> tuple[Cached, tuple[Any, ...]]:
        """The decorated function, and `args` with the ``self`` or ``cls`` that is bound."""
        raise NotImplementedError

    @property
    def cache(self) -> AnyCache:
        return self._given(())[0]._self_cache

    def lookup(self, *args: Any, **kwargs: Any) -> Any:
        cached, given = self._given(args)
        return cached._self_calls.lookup(given, kwargs)

    def explain(self, *args: Any, **kwargs: Any) -> Any:
        cached, given = self._given(args)
        return cached._self_calls.explain(given, kwargs)

    def invalidate(self, *args: Any, **kwargs: Any) -> Any:
        cached, given = self._given(args)
        return cached._self_calls.invalidate(given, kwargs)

    def refresh(self, *args: Any, **kwargs: Any) -> Any:
        cached, _ = self._given(())
        if isinstance(cached._self_calls, Calls) or cached._self_streams:
            with context.refresh():
                return self(*args, **kwargs)  # type: ignore[operator]
        return _refreshed(self, args, kwargs)

    def cache_info(self) -> CacheInfo:
        calls = self._given(())[0]._self_calls
        counts, limit = calls.counts, calls.core.settings.max_entries
        return CacheInfo(counts.hits, counts.misses, limit, calls.size())

    def cache_clear(self) -> None:
        self._given(())[0]._self_calls.clear()


async def _refreshed(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with context.refresh():
        return await function(*args, **kwargs)


class _BoundCached(_Methods, _BoundWrapper):
    def _given(self, args: tuple[Any, ...]) -> tuple[Cached, tuple[Any, ...]]:
        # A static method, or a method taken from its class, is bound to nothing.
        owner = getattr(self.__wrapped__, "__self__", None)
        return self._self_parent, args if owner is None else (owner, *args)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        cached, given = self._given(args)
        return cached._self_run(self.__wrapped__, len(given) - len(args), given, kwargs)


class Cached(_Methods, _Wrapper):
    """The function as wrapt proxies it, so that `inspect` and type checkers see the original."""

    __bound_function_wrapper__ = _BoundCached

    def __init__(
        self, function: Any, cache: AnyCache, calls: Calls | AsyncCalls, *, streams: bool
    ) -> None:
        super().__init__(function, Cached._never)
        self._self_cache = cache
        self._self_calls = calls
        self._self_streams = streams
        self._self_run: Callable[..., Any] = calls.stream if streams else calls.run

    @staticmethod
    def _never(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        """What wrapt would call; `__call__` goes the shorter way."""
        return wrapped(*args, **kwargs)

    def _given(self, args: tuple[Any, ...]) -> tuple[Cached, tuple[Any, ...]]:
        return self, args

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._self_run(self.__wrapped__, 0, args, kwargs)
