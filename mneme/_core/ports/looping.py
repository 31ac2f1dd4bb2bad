"""Steps that suspend the calling task, on asyncio and trio alike."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from mneme._core.core import Core
from mneme._core.flights import Flight
from mneme._core.keys import Ask
from mneme._core.ports.batches import near_in_batch
from mneme._core.ports.crews import Job
from mneme._core.ports.failing import embedder_errors, embeds_async, late_store
from mneme._core.ports.waiting import Join, Leave, deadline, in_worker_thread, insisted, woken_by
from mneme.records import Candidate, Entry, Hit, Identity, Partition, Vector
from mneme.types import FlightLock

__all__ = ["LoopPort"]

T = TypeVar("T")

INLINE_FLOATS = 1_000_000
"""A search that reads more than this (about 100 µs of memory traffic) leaves the loop."""


class LoopPort:
    """Steps that suspend the calling task; blocking ones run in worker threads."""

    may_wait = True

    def __init__(self, core: Core) -> None:
        self.core = core
        self._embeds_async = embeds_async(core.embedder)

    @property
    def _may_batch(self) -> bool:
        """Whether searches that read the store may wait for each other: they have no deadline."""
        return self.core.settings.store_timeout is None

    async def ready(self, *, asking: bool = False) -> None:
        if self.core.is_open:
            return
        if self.core.engine is not None:
            # A file takes the time it takes to be read; a server just answers, or does not.
            await self._store(self.core.open_to_ask if asking else self.core.open)
        elif self.core.store.blocking:
            await in_worker_thread(self._open)
        else:
            self.core.open()

    def _open(self) -> None:
        self.core.open()
        # Counted here, if they must be: who asks for them later asks on the loop.
        self.core.sizes()

    async def catch_up(self) -> None:
        await self._store(self.core.catch_up)

    async def fetch(self, ask: Ask) -> Hit | None:
        return await self._store(self.core.fetched, ask)

    async def embed(self, text: str) -> Any:
        return await self._embed(self.core.embedder.embed, text)

    async def embed_many(self, texts: Sequence[str]) -> Any:
        embed_batch = getattr(self.core.embedder, "embed_batch", None)
        if embed_batch is not None:
            return await self._embed(embed_batch, texts)
        return [await self.embed(text) for text in texts]

    async def near(
        self, partition: Partition, vector: Vector, at_least: float = -1.0
    ) -> Sequence[Candidate]:
        core = self.core
        if core.engine is not None and not (core.searches_itself and self._may_batch):
            return await self._store(core.near, partition, vector, at_least)
        if core.engine is None and core.live.search_size(partition) <= INLINE_FLOATS:
            return core.near(partition, vector, at_least)
        return await near_in_batch(core, partition, vector, at_least)

    async def commit(self, puts: Sequence[Entry], removed: Sequence[Identity] = ()) -> int:
        # Shielded: the answer is paid for, and a caller who leaves does not make it worthless.
        return await self._store(self.core.commit, puts, removed, shield=True)

    async def run(self, work: Callable[..., T], *args: Any, shield: bool = False) -> T:
        """Long work of the core, in a worker thread and without a deadline."""
        with deadline(None, shield=shield):
            return await in_worker_thread(work, *args)

    async def consult(
        self, function: Callable[..., Any], args: tuple[Any, ...], seconds: float | None
    ) -> Any:
        """What a function of the user's says, awaited or in a worker thread, within `seconds`."""
        with deadline(seconds):
            if inspect.iscoroutinefunction(function):
                return await function(*args)
            said = await in_worker_thread(function, *args)
            return await said if inspect.isawaitable(said) else said

    async def follow(self, flight: Flight) -> None:
        flights = self.core.flights
        await self.woken(partial(flights.join, flight), partial(flights.leave, flight))

    async def woken(self, join: Join, leave: Leave) -> None:
        """Suspend until the waker that `join` took is called; then `leave`."""
        await woken_by(join, leave)

    async def take(self, lock: FlightLock, seconds: float) -> bool:
        """Whether `lock` could be had within `seconds`; where not, it may yet be: release it."""
        return await insisted(lock.acquire, seconds)

    async def settle(self, lock: FlightLock) -> None:
        await self._store(lock.settle)

    @property
    def has_crew(self) -> bool:
        crew = self.core.task_crew
        return crew is not None and crew.is_here()

    def start(self, job: Job) -> None:
        """Run `job` in the task group of the open cache."""
        if (crew := self.core.task_crew) is not None:
            crew.start(job)

    async def _embed(self, embed: Callable[[Any], Any], given: Any) -> Any:
        with embedder_errors(), deadline(self.core.settings.embed_timeout):
            if self._embeds_async and inspect.iscoroutinefunction(embed):
                return await embed(given)
            raw = await in_worker_thread(embed, given)
            return await raw if inspect.isawaitable(raw) else raw

    async def _store(self, work: Callable[..., T], *args: Any, shield: bool = False) -> T:
        if not self.core.store.blocking:
            return work(*args)
        try:
            with deadline(self.core.settings.store_timeout, shield=shield):
                return await in_worker_thread(work, *args)
        except TimeoutError as exc:
            raise late_store(self.core) from exc
