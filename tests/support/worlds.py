"""
One scenario, every world: threads, asyncio and trio.

A scenario is written once, as an ``async def``. In the threads world it never suspends and a
`drive` of our own runs it; on a loop it is awaited.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from support.profiles import PROFILES, VARIABLE

from mneme import AsyncSemanticCache, SemanticCache

T = TypeVar("T")
Job = Callable[[], Awaitable[Any]]

PATIENCE = 20.0
"""Seconds after which something that should have happened is a deadlock."""

LOOPS = PROFILES[os.environ.get(VARIABLE) or "full"].backends


def drive(coro: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never suspends."""
    try:
        coro.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    finally:
        coro.close()
    raise AssertionError(f"{coro!r} suspended in the threads world")


def on_a_loop() -> bool:
    try:
        anyio.lowlevel.current_token()
    except RuntimeError:
        return False
    return True


async def pause() -> None:
    """Let others run: a checkpoint on a loop."""
    if on_a_loop():
        await anyio.lowlevel.checkpoint()


async def settled(outcome: Any) -> Any:
    """`outcome`, awaited where it is something to await."""
    return await outcome if inspect.isawaitable(outcome) else outcome


async def drained(stream: Any) -> list[Any]:
    """All items of a generator of either kind."""
    if hasattr(stream, "__aiter__"):
        return [item async for item in stream]
    return list(stream)


@dataclass(frozen=True)
class World:
    """Where code runs: ``threads``, or a loop of the named backend."""

    name: str

    @property
    def is_async(self) -> bool:
        return self.name != "threads"

    def __str__(self) -> str:
        return self.name

    def run(self, scenario: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """The result of `scenario`, run from a thread that runs no loop."""
        try:
            if self.is_async:
                return anyio.run(self._in_time, scenario, *args, backend=self.name)
            return drive(scenario(*args))
        except BaseException as exc:
            exc.add_note(f"in the world of {self}")
            raise

    @staticmethod
    async def _in_time(scenario: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        with anyio.fail_after(2 * PATIENCE):
            return await scenario(*args)

    def written(self, function: Any) -> Any:
        """
        `function` as users of this world write it.

        It is given as an ``async def`` (or an async generator) whose awaits are at home in
        every world; threads get a ``def`` (or a generator) of the same name and signature.
        """
        if self.is_async:
            return function
        if inspect.isasyncgenfunction(function):

            @wraps(function)
            def stream(*args: Any, **kwargs: Any) -> Any:
                items = function(*args, **kwargs)
                try:
                    while True:
                        try:
                            item = drive(items.__anext__())
                        except StopAsyncIteration:
                            return
                        yield item
                finally:
                    drive(items.aclose())

            return stream

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return drive(function(*args, **kwargs))

        return call

    def open(self, *args: Any, **settings: Any) -> SemanticCache | AsyncSemanticCache:
        """A cache with the face of this world."""
        kind = AsyncSemanticCache if self.is_async else SemanticCache
        return kind(*args, **settings)

    async def together(self, *jobs: Job) -> list[Any]:
        """
        The results of `jobs`, run at once: in threads of their own, or in tasks.

        What one raises is raised here; one that does not end is a deadlock and fails.
        """
        if self.is_async:
            return await _in_tasks(jobs)
        return in_threads(*[lambda job=job: drive(job()) for job in jobs])


THREADS = World("threads")
WORLDS = (THREADS, *map(World, LOOPS))


async def _in_tasks(jobs: tuple[Job, ...]) -> list[Any]:
    outcomes: list[Any] = [None] * len(jobs)
    failures: list[Exception] = []

    async def run(at: int) -> None:
        try:
            outcomes[at] = await jobs[at]()
        except Exception as exc:
            failures.append(exc)

    try:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for at in range(len(jobs)):
                    group.start_soon(run, at)
    except TimeoutError:
        failures.append(AssertionError("deadlock: tasks did not end"))
    if failures:
        raise failures[0]
    return outcomes


def in_threads(*works: Callable[[], Any]) -> list[Any]:
    """
    The results of `works`, each run at once in a thread of its own.

    What one raises is raised here; one that does not end is a deadlock and fails.
    """
    outcomes: list[Any] = [None] * len(works)
    failures: list[BaseException] = []

    def run(at: int) -> None:
        try:
            outcomes[at] = works[at]()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(at,), daemon=True) for at in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    stuck = sum(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]
    assert not stuck, f"deadlock: {stuck} of {len(threads)} threads did not end"
    return outcomes


class Gate:
    """Closed until `open`; waited for in any world, by threads and tasks alike."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def open(self) -> None:
        self._event.set()

    def wait(self) -> None:
        """
        Return once it is open.

        Raises:
            AssertionError: it stays closed.
        """
        assert self._event.wait(PATIENCE), "deadlock: the gate stayed closed"

    async def passed(self) -> None:
        """As `wait`, without blocking a loop."""
        await without_blocking(self.wait)


class Count:
    """A number that only grows; waited for in any world, by threads and tasks alike."""

    def __init__(self) -> None:
        self.value = 0
        self._grown = threading.Condition()

    def add(self) -> int:
        with self._grown:
            self.value += 1
            self._grown.notify_all()
            return self.value

    def wait(self, least: int) -> None:
        """
        Return once it is `least`.

        Raises:
            AssertionError: it stays below.
        """
        with self._grown:
            grown = self._grown.wait_for(lambda: self.value >= least, PATIENCE)
        assert grown, f"deadlock: {self.value} of {least} arrived"

    async def reached(self, least: int) -> None:
        """As `wait`, without blocking a loop."""
        await without_blocking(self.wait, least)

    async def meet(self, number: int) -> None:
        """Be counted, and wait until `number` are: nobody passes before all are there."""
        self.add()
        await self.reached(number)


async def without_blocking(work: Callable[..., T], *args: Any) -> T:
    """``work(*args)``, in a thread of its own if the caller is on a loop."""
    if not on_a_loop():
        return work(*args)
    # A limiter each: as many as like may wait at once.
    return await anyio.to_thread.run_sync(
        work, *args, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
    )
