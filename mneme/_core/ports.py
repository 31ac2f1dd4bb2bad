"""
Doing: the two ways in which a flow's steps happen, and `drive`. The only file that knows loops.

`BlockingPort` never suspends, so `drive` runs a flow to its end with one ``send``: sync code
needs no event loop. `LoopPort` awaits async embedders and sends blocking work to worker
threads, on asyncio and trio alike.
"""

from __future__ import annotations

import contextvars
import inspect
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskGroup

from mneme import _forks
from mneme._core.core import Core
from mneme._core.flights import Flight
from mneme._core.keys import Ask
from mneme.errors import EmbeddingError, MnemeError, StoreBackendError
from mneme.records import Candidate, Entry, Hit, Identity, Partition, Vector

__all__ = [
    "BlockingPort",
    "LoopPort",
    "Turnstile",
    "drive",
    "embeds_async",
    "here",
    "in_worker_thread",
    "run_loop_once",
    "task_crew",
    "to_its_end",
]

T = TypeVar("T")
Job = Callable[[], Coroutine[Any, Any, object]]
Join = Callable[[Callable[[], object]], bool]
Leave = Callable[[Callable[[], object]], object]

INLINE_FLOATS = 1_000_000
"""A search that reads more than this (about 100 µs of memory traffic) leaves the loop."""

WORKER_THREADS = 40
"""At most so many blocking embedder and store calls of one loop run at once."""

MAX_LATE = 64
"""At most so many sync calls that were given up on may still be running."""


def drive(coro: Coroutine[Any, Any, T]) -> T:
    """The result of a flow over a `BlockingPort`, without an event loop."""
    try:
        coro.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        coro.close()
    raise RuntimeError("a BlockingPort method suspended; only a LoopPort may")


def embeds_async(embedder: object) -> bool:
    """Whether `embedder` is the kind whose ``embed`` is awaited."""
    return inspect.iscoroutinefunction(getattr(embedder, "embed", None))


class BlockingPort:
    """Steps that block the calling thread."""

    def __init__(self, core: Core) -> None:
        self.core = core

    @property
    def may_wait(self) -> bool:
        """
        False on the thread of a running loop: the leader waited for may need that very loop.
        """
        return not _on_a_loop()

    async def ready(self) -> None:
        self.core.open()

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
        said = _within(seconds, function, *args)
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

    @property
    def has_crew(self) -> bool:
        return self.core.thread_crew is not None

    def start(self, job: Job) -> None:
        """Run `job` in a thread of the open cache."""
        if (crew := self.core.thread_crew) is not None:
            crew.submit(contextvars.copy_context().run, lambda: drive(job()))

    def _embed(self, embed: Callable[[Any], Any], given: Any) -> Any:
        with _embedder_errors():
            raw = _within(self.core.settings.embed_timeout, embed, given)
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
            return _within(timeout, work, *args)
        except TimeoutError as exc:
            raise _late_store(self.core) from exc


class LoopPort:
    """Steps that suspend the calling task; blocking ones run in worker threads."""

    may_wait = True

    def __init__(self, core: Core) -> None:
        self.core = core
        self._embeds_async = embeds_async(core.embedder)

    async def ready(self) -> None:
        if self.core.is_open:
            return
        if self.core.store.blocking:
            await in_worker_thread(self.core.open)
        else:
            self.core.open()

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
        if self.core.engine is not None:
            return await self._store(self.core.near, partition, vector, at_least)
        if self.core.live.search_size(partition) <= INLINE_FLOATS:
            return self.core.near(partition, vector, at_least)
        return await in_worker_thread(self.core.near, partition, vector, at_least)

    async def commit(self, puts: Sequence[Entry], removed: Sequence[Identity] = ()) -> int:
        # Shielded: the answer is paid for, and a caller who leaves does not make it worthless.
        return await self._store(self.core.commit, puts, removed, shield=True)

    async def run(self, work: Callable[..., T], *args: Any, shield: bool = False) -> T:
        """Long work of the core, in a worker thread and without a deadline."""
        with _deadline(None, shield=shield):
            return await in_worker_thread(work, *args)

    async def consult(
        self, function: Callable[..., Any], args: tuple[Any, ...], seconds: float | None
    ) -> Any:
        """What a function of the user's says, awaited or in a worker thread, within `seconds`."""
        with _deadline(seconds):
            if inspect.iscoroutinefunction(function):
                return await function(*args)
            said = await in_worker_thread(function, *args)
            return await said if inspect.isawaitable(said) else said

    async def follow(self, flight: Flight) -> None:
        flights = self.core.flights
        await self.woken(partial(flights.join, flight), partial(flights.leave, flight))

    async def woken(self, join: Join, leave: Leave) -> None:
        """Suspend until the waker that `join` took is called; then `leave`."""
        await _woken(join, leave)

    @property
    def has_crew(self) -> bool:
        crew = self.core.task_crew
        return crew is not None and crew.is_here()

    def start(self, job: Job) -> None:
        """Run `job` in the task group of the open cache."""
        if (crew := self.core.task_crew) is not None:
            crew.start(job)

    async def _embed(self, embed: Callable[[Any], Any], given: Any) -> Any:
        with _embedder_errors(), _deadline(self.core.settings.embed_timeout):
            if self._embeds_async and inspect.iscoroutinefunction(embed):
                return await embed(given)
            raw = await in_worker_thread(embed, given)
            return await raw if inspect.isawaitable(raw) else raw

    async def _store(self, work: Callable[..., T], *args: Any, shield: bool = False) -> T:
        if not self.core.store.blocking:
            return work(*args)
        try:
            with _deadline(self.core.settings.store_timeout, shield=shield):
                return await in_worker_thread(work, *args)
        except TimeoutError as exc:
            raise _late_store(self.core) from exc


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
            await _woken(join)
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


async def in_worker_thread(work: Callable[..., T], *args: Any) -> T:
    """`work` in a worker thread; a cancelled caller does not wait for it."""
    return await anyio.to_thread.run_sync(
        work, *args, abandon_on_cancel=True, limiter=_worker_limiter()
    )


async def to_its_end(work: Callable[..., T], *args: Any) -> T:
    """`work` in a worker thread; a cancelled caller waits for it, too."""
    with _deadline(None, shield=True):
        return await in_worker_thread(work, *args)


def run_loop_once(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """
    The result of an async function, on an event loop of its own.

    Raises:
        RuntimeError: the calling thread is already running one.
    """
    if _on_a_loop():
        raise RuntimeError(
            "an async embedder made sync was called on a running event loop, which it would "
            "block. Await it: use AsyncSemanticCache with the async embedder itself."
        )
    return anyio.run(function, *args)


@asynccontextmanager
async def task_crew(core: Core) -> AsyncIterator[None]:
    """Background tasks of `core` run in this block's task group, and end with it."""
    # Errors of the block must leave as they are, not in a group: the block runs outside it.
    group = anyio.create_task_group()
    await group.__aenter__()
    try:
        core.task_crew = _Crew(group)
        yield
    finally:
        core.task_crew = None
        await group.__aexit__(None, None, None)


class _Crew:
    """A task group, for callers on its own loop and no other."""

    def __init__(self, group: TaskGroup) -> None:
        self._group = group
        self._token = anyio.lowlevel.current_token()
        self._owner = anyio.get_current_task().id
        self._running = 0
        self._idle = anyio.Event()

    def is_here(self) -> bool:
        return anyio.lowlevel.current_token() == self._token

    def is_mine(self) -> bool:
        """Whether the calling task is the one that may end the group: it has entered it."""
        return self.is_here() and anyio.get_current_task().id == self._owner

    def start(self, job: Job) -> None:
        self._running += 1
        self._group.start_soon(self._run, job)

    async def _run(self, job: Job) -> None:
        try:
            await job()
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def at_rest(self) -> None:
        """Return once nothing runs that was started here; on another loop, at once."""
        while self._running and self.is_here():
            self._idle = anyio.Event()
            await self._idle.wait()


_limiter: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("mneme_limiter")


def _worker_limiter() -> anyio.CapacityLimiter:
    # Our own, so that a busy application's worker threads cannot hold up its cache.
    try:
        return _limiter.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(WORKER_THREADS)
        _limiter.set(limiter)
        return limiter


def here() -> object:
    """What stands for the running loop."""
    return anyio.lowlevel.current_token()


def _on_a_loop() -> bool:
    try:
        anyio.lowlevel.current_token()
    except RuntimeError:
        return False
    return True


async def _woken(
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


def _deadline(seconds: float | None, *, shield: bool = False) -> Any:
    return anyio.fail_after(seconds, shield=shield)


class _embedder_errors:
    """Whatever an embedder raises is an `EmbeddingError` from here on."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, Exception) and not isinstance(exc, MnemeError):
            what = "was late" if isinstance(exc, TimeoutError) else "failed"
            raise EmbeddingError(
                f"the embedder {what}: {type(exc).__name__}: {str(exc).rstrip('.')}. "
                "Nothing was stored. Check the embedder, or raise embed_timeout if it is slow."
            ) from exc


def _late_store(core: Core) -> StoreBackendError:
    return StoreBackendError(
        f"{core.store.description} took longer than store_timeout "
        f"({core.settings.store_timeout} s). What it was doing may still happen. "
        "Check the store, or raise store_timeout."
    )


class _Late(_forks.Forked):
    """How many more calls may be given up on while they run."""

    def __init__(self) -> None:
        self.room = threading.BoundedSemaphore(MAX_LATE)
        _forks.watch(self)

    def in_child(self) -> None:
        # None of those that run in the parent runs here.
        self.room = threading.BoundedSemaphore(MAX_LATE)


_late = _Late()


def _within(seconds: float | None, work: Callable[..., T], *args: Any) -> T:
    """
    ``work(*args)``, given up on after `seconds`; a thread of its own runs it then.

    Raises:
        TimeoutError: it took longer, or too many that did are still running.
    """
    if seconds is None:
        return work(*args)
    room = _late.room
    if not room.acquire(blocking=False):
        raise TimeoutError(f"{MAX_LATE} calls that were given up on are still running")
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work(*args))
        except BaseException as exc:
            outcome.set_exception(exc)
        finally:
            room.release()

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="mneme-deadline", daemon=True).start()
    return outcome.result(seconds)
