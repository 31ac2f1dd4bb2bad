"""Steps that block the calling thread: sync code needs no event loop."""

from __future__ import annotations

import contextvars
import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from mneme._core.core import Core
from mneme._core.flights import Flight
from mneme._core.keys import Ask
from mneme._core.ports.crews import Job
from mneme._core.ports.failing import embedder_errors, late_store, within
from mneme._core.ports.waiting import Join, Leave, on_a_loop, pauses
from mneme.records import Candidate, Entry, Hit, Identity, Partition, Vector
from mneme.types import FlightLock

__all__ = ["BlockingPort", "drive"]

T = TypeVar("T")


def drive(coro: Coroutine[Any, Any, T]) -> T:
    """The result of a flow over a `BlockingPort`, without an event loop."""
    try:
        coro.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        coro.close()
    raise RuntimeError("a BlockingPort method suspended; only a LoopPort may")


class BlockingPort:
    """Steps that block the calling thread."""

    def __init__(self, core: Core) -> None:
        self.core = core

    @property
    def may_wait(self) -> bool:
        """
        False on the thread of a running loop: the leader waited for may need that very loop.
        """
        return not on_a_loop()

    async def ready(self, *, asking: bool = False) -> None:
        if self.core.is_open or self.core.engine is None:
            self.core.open()
        else:
            # A file takes the time it takes to be read; a server just answers, or does not.
            self._store(self.core.open_to_ask if asking else self.core.open)

    async def catch_up(self) -> None:
        self._store(self.core.catch_up)

    async def fetch(self, ask: Ask) -> Hit | None:
        return self._store(self.core.fetched, ask)

    async def embed(self, text: str) -> Any:
        return self._embed(self.core.embedder.embed, text)

    async def embed_many(self, texts: Sequence[str]) -> Any:
        embed_batch = getattr(self.core.embedder, "embed_batch", None)
        if embed_batch is not None:
            return self._embed(embed_batch, texts)
        return [await self.embed(text) for text in texts]

    async def near(
        self, partition: Partition, vector: Vector, at_least: float = -1.0
    ) -> Sequence[Candidate]:
        if self.core.engine is not None:
            return self._store(self.core.near, partition, vector, at_least)
        return self.core.near(partition, vector, at_least)

    async def commit(self, puts: Sequence[Entry], removed: Sequence[Identity] = ()) -> int:
        return self._store(self.core.commit, puts, removed)

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Long work of the core, in this thread and without a deadline."""
        return work(*args)

    async def consult(
        self, function: Callable[..., Any], args: tuple[Any, ...], seconds: float | None
    ) -> Any:
        """What a function of the user's says, given up on after `seconds`."""
        said = within(seconds, function, *args)
        if inspect.iscoroutine(said):
            said.close()
            raise TypeError(f"{function!r} is async, and the caller is not")
        return said

    async def follow(self, flight: Flight) -> None:
        flights = self.core.flights
        await self.woken(partial(flights.join, flight), partial(flights.leave, flight))

    async def woken(self, join: Join, leave: Leave) -> None:
        """Wait until the waker that `join` took is called; then `leave`."""
        woken = threading.Event()
        wake = woken.set
        if join(wake):
            try:
                woken.wait()
            finally:
                leave(wake)

    async def take(self, lock: FlightLock, seconds: float) -> bool:
        """Whether `lock` could be had within `seconds`."""
        return _insisted(lock.acquire, seconds)

    async def settle(self, lock: FlightLock) -> None:
        self._store(lock.settle)

    @property
    def has_crew(self) -> bool:
        return self.core.thread_crew is not None

    def start(self, job: Job) -> None:
        """Run `job` in a thread of the open cache."""
        if (crew := self.core.thread_crew) is not None:
            crew.submit(contextvars.copy_context().run, lambda: drive(job()))

    def _embed(self, embed: Callable[[Any], Any], given: Any) -> Any:
        with embedder_errors():
            raw = within(self.core.settings.embed_timeout, embed, given)
        if inspect.isawaitable(raw):
            if inspect.iscoroutine(raw):
                raw.close()
            raise TypeError(
                "the embedder is async and the caller is not. Nothing was looked up. "
                "Wrap it with mneme.to_sync_embedder, or use AsyncSemanticCache."
            )
        return raw

    def _store(self, work: Callable[..., T], *args: Any) -> T:
        timeout = self.core.settings.store_timeout if self.core.store.blocking else None
        try:
            return within(timeout, work, *args)
        except TimeoutError as exc:
            raise late_store(self.core) from exc


def _insisted(attempt: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    for pause in pauses():
        if attempt():
            return True
        left = until - time.monotonic()
        if left <= 0.0:
            break
        time.sleep(min(pause, left))
    return False
