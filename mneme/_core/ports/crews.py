"""The task group of an open cache, in which its background work runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from mneme._core.core import Core

__all__ = ["Job", "task_crew"]

Job = Callable[[], Coroutine[Any, Any, object]]


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
