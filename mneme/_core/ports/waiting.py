"""Waiting on a loop: worker threads, wakers from other threads, turns, deadlines."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import chain, repeat
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from mneme import _forks

__all__ = [
    "Join",
    "Leave",
    "Turnstile",
    "deadline",
    "here",
    "in_worker_thread",
    "insisted",
    "on_a_loop",
    "pauses",
    "run_loop_once",
    "to_its_end",
    "woken_by",
]

T = TypeVar("T")
Join = Callable[[Callable[[], object]], bool]
Leave = Callable[[Callable[[], object]], object]

WORKER_THREADS = 40
"""At most so many blocking embedder and store calls of one loop run at once."""


def here() -> object:
    """What stands for the running loop."""
    return anyio.lowlevel.current_token()


def on_a_loop() -> bool:
    try:
        anyio.lowlevel.current_token()
    except RuntimeError:
        return False
    return True


async def in_worker_thread(work: Callable[..., T], *args: Any) -> T:
    """`work` in a worker thread; a cancelled caller does not wait for it."""
    return await anyio.to_thread.run_sync(
        work, *args, abandon_on_cancel=True, limiter=_worker_limiter()
    )


async def to_its_end(work: Callable[..., T], *args: Any) -> T:
    """`work` in a worker thread; a cancelled caller waits for it, too."""
    with deadline(None, shield=True):
        return await in_worker_thread(work, *args)


_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("mneme_limiter")


def _worker_limiter() -> anyio.CapacityLimiter:
    # Our own, so that a busy application's worker threads cannot hold up its cache.
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(WORKER_THREADS)
        _limiter.set(limiter)
        return limiter


def run_loop_once(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """
    The result of an async function, on an event loop of its own.

    Raises:
        RuntimeError: the calling thread is already running one.
    """
    if on_a_loop():
        raise RuntimeError(
            "an async embedder made sync was called on a running event loop, which it would "
            "block. Await it: use AsyncSemanticCache with the async embedder itself."
        )
    return anyio.run(function, *args)


def deadline(seconds: float | None, *, shield: bool = False) -> Any:
    return anyio.fail_after(seconds, shield=shield)


async def woken_by(
    join: Callable[[Callable[[], object]], bool],
    leave: Callable[[Callable[[], object]], object] | None = None,
) -> None:
    """Suspend until the waker that `join` took is called, from whatever thread; then `leave`."""
    event = anyio.Event()
    native: Any = anyio.lowlevel.current_token().native_token
    schedule = getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon

    def wake() -> None:
        # A follower's loop may have ended since, and with it whoever waited there.
        with suppress(RuntimeError):
            schedule(event.set)

    if join(wake):
        try:
            await event.wait()
        finally:
            if leave is not None:
                leave(wake)


def pauses() -> Iterator[float]:
    """
    Seconds between looks at what another process has: there is no waking by it that could be
    given up on, as a thread inside F_OFD_SETLKW cannot.
    """
    return chain((0.001, 0.002, 0.004, 0.008, 0.016), repeat(0.02))


async def insisted(attempt: Callable[[], bool], seconds: float) -> bool:
    """Whether `attempt`, made in worker threads once or more, was true within `seconds`."""
    if await in_worker_thread(attempt):
        return True
    with anyio.move_on_after(seconds):
        for pause in pauses():
            await anyio.sleep(pause)
            if await in_worker_thread(attempt):
                return True
    return False


class Turnstile(_forks.Forked):
    """One at a time, first come first served, for threads and for tasks of any loop."""

    def __init__(self) -> None:
        self._lock = _forks.lock()
        self._taken = False
        self._waiting: deque[Callable[[], object]] = deque()
        _forks.watch(self)

    def in_child(self) -> None:
        """Whoever had the turn is not here."""
        self._taken = False
        self._waiting.clear()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The block runs while nobody else's does."""
        mine: list[Callable[[], object]] = []

        def join(wake: Callable[[], object]) -> bool:
            with self._lock:
                if not self._taken:
                    self._taken = True
                    return False
                mine.append(wake)
                self._waiting.append(wake)
                return True

        try:
            await woken_by(join)
        except BaseException:
            # Cancelled while in the queue, or just after the turn had come: then it goes on.
            with self._lock:
                waits = bool(mine) and mine[0] in self._waiting
                if waits:
                    self._waiting.remove(mine[0])
            if mine and not waits:
                self._release()
            raise
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        with self._lock:
            if not self._waiting:
                self._taken = False
                return
            wake = self._waiting.popleft()
        wake()
