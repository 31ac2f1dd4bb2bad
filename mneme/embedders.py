"""Fit an embedder to where it is used: sync to async, async to sync, one call at a time."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast, overload

from mneme import _forks
from mneme._core.ports import Turnstile, embeds_async, in_worker_thread, run_loop_once
from mneme.types import AnyEmbedder, AsyncEmbedder, Embedder

__all__ = ["embedder_from", "serialized", "to_async_embedder", "to_sync_embedder"]

E = TypeVar("E", bound=AnyEmbedder)


Function = Callable[[Any], Any]


class _Adapted:
    """An embedder whose functions went through `adapt`; everything else it has is passed on."""

    def __init__(self, embedder: Any, adapt: Callable[[Function], Function]) -> None:
        self._embedder = embedder
        self._adapt = adapt
        self.dim: int = embedder.dim
        self.fingerprint: str = embedder.fingerprint
        self.embed = adapt(embedder.embed)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        found = getattr(self._embedder, name)
        return self._adapt(found) if name == "embed_batch" else found

    def __repr__(self) -> str:
        return f"{self._adapt.__name__.lstrip('_')}({self._embedder!r})"


def _threaded(function: Function) -> Function:
    async def embed(given: Any) -> Any:
        return await in_worker_thread(function, given)

    return embed


def _spun(function: Function) -> Function:
    def embed(given: Any) -> Any:
        return run_loop_once(function, given)

    return embed


def _one_at_a_time() -> Callable[[Function], Function]:
    lock = _forks.lock(_forks.NEVER)

    def _serialized(function: Function) -> Function:
        def embed(given: Any) -> Any:
            with lock:
                return function(given)

        return embed

    return _serialized


def _one_at_a_time_async() -> Callable[[Function], Function]:
    turnstile = Turnstile()

    def _serialized(function: Function) -> Function:
        async def embed(given: Any) -> Any:
            async with turnstile.turn():
                return await function(given)

        return embed

    return _serialized


def to_async_embedder(embedder: Embedder) -> AsyncEmbedder:
    """
    A sync embedder as an async one: each call runs in a worker thread, on asyncio and trio.

    Raises:
        TypeError: it is async already.
    """
    if embeds_async(embedder):
        raise TypeError(f"{embedder!r} is async already. Use it as it is.")
    return cast(AsyncEmbedder, _Adapted(embedder, _threaded))


def to_sync_embedder(embedder: AsyncEmbedder) -> Embedder:
    """
    An async embedder as a sync one: each call runs on an event loop made for it.

    A client that keeps connections open between calls must not tie them to a loop. Calling
    it on a running loop is a `RuntimeError`.

    Raises:
        TypeError: it is sync already.
    """
    if not embeds_async(embedder):
        raise TypeError(f"{embedder!r} is sync already. Use it as it is.")
    return cast(Embedder, _Adapted(embedder, _spun))


def serialized(embedder: E) -> E:
    """The same embedder, never called twice at once: for models unsafe under concurrency."""
    adapt = _one_at_a_time_async() if embeds_async(embedder) else _one_at_a_time()
    return cast(E, _Adapted(embedder, adapt))


class _FromFunction:
    def __init__(self, function: Callable[[str], Any], dim: int, fingerprint: str) -> None:
        self._function = function
        self.dim = dim
        self.fingerprint = fingerprint

    def __repr__(self) -> str:
        return f"embedder_from({self._function!r}, dim={self.dim})"


class _FromSync(_FromFunction):
    def embed(self, text: str, /) -> Any:
        return self._function(text)


class _FromAsync(_FromFunction):
    async def embed(self, text: str, /) -> Any:
        return await self._function(text)


@overload
def embedder_from(
    function: Callable[[str], Awaitable[Any]], *, dim: int, fingerprint: str
) -> AsyncEmbedder: ...
@overload
def embedder_from(function: Callable[[str], Any], *, dim: int, fingerprint: str) -> Embedder: ...
def embedder_from(function: Callable[[str], Any], *, dim: int, fingerprint: str) -> AnyEmbedder:
    """
    An embedder from a plain function, sync or async, that gives shape ``(dim,)``.

    Raises:
        ValueError: `dim` is not a whole number of at least 1, or `fingerprint` is empty.
    """
    if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
        raise ValueError(f"dim must be a whole number of at least 1, got {dim!r}.")
    if not isinstance(fingerprint, str) or not fingerprint:
        raise ValueError("fingerprint must name the model: provider, model, dim, normalization.")
    if inspect.iscoroutinefunction(function):
        return _FromAsync(function, dim, fingerprint)
    return _FromSync(function, dim, fingerprint)
