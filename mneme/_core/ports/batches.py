"""
Searches that many tasks of one loop ask for at once, made together.

The first to come waits until all that are ready to run have asked as well, and searches for
all of them in one worker thread. Who comes meanwhile waits for the next batch: so the busier
the loop, the larger the batches, and the less each search costs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np

from mneme._core.core import Core
from mneme._core.ports.waiting import deadline, in_worker_thread
from mneme.records import Candidate, Partition, Vector

__all__ = ["near_in_batch"]


class _Search:
    """One that waits; ``found`` once it was made, or ``failed``."""

    def __init__(self, core: Core, partition: Partition, vector: Vector, at_least: float) -> None:
        self.core = core
        self.partition = partition
        self.vector = vector
        self.at_least = at_least
        self.found: Sequence[Candidate] | None = None
        self.failed: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.found is not None or self.failed is not None


class _Batches:
    """The searches that wait on one loop."""

    def __init__(self) -> None:
        self._waiting: list[_Search] = []
        self._done = anyio.Event()
        self._is_led = False

    async def make(self, search: _Search) -> None:
        """Return when `search` was made, in the next batch."""
        self._waiting.append(search)
        while not search.is_done:
            if self._is_led:
                await self._done.wait()
            else:
                await self._lead()

    async def _lead(self) -> None:
        self._is_led = True
        batch: list[_Search] = []
        try:
            # Shielded: others wait for this one, and it takes no longer than a search.
            with deadline(None, shield=True):
                await anyio.lowlevel.checkpoint()
                batch, self._waiting = self._waiting, []
                await in_worker_thread(_make, batch)
        finally:
            # Those of a leader that was cancelled all the same, as asyncio can, go on waiting.
            self._waiting = [one for one in batch if not one.is_done] + self._waiting
            self._is_led = False
            done, self._done = self._done, anyio.Event()
            done.set()


def _make(batch: Sequence[_Search]) -> None:
    alike: defaultdict[Any, list[_Search]] = defaultdict(list)
    for one in batch:
        alike[one.core, one.partition, one.at_least].append(one)
    for (core, partition, at_least), own in alike.items():
        try:
            found = core.near_many(partition, np.stack([one.vector for one in own]), at_least)
        except Exception as exc:
            for one in own:
                one.failed = exc
            continue
        for one, its in zip(own, found, strict=True):
            one.found = its


_batches: anyio.lowlevel.RunVar[_Batches] = anyio.lowlevel.RunVar("mneme_batches")


async def near_in_batch(
    core: Core, partition: Partition, vector: Vector, at_least: float
) -> Sequence[Candidate]:
    """What `Core.near` gives, from a worker thread that searches for others as well."""
    try:
        batches = _batches.get()
    except LookupError:
        batches = _Batches()
        _batches.set(batches)
    search = _Search(core, partition, vector, at_least)
    await batches.make(search)
    if search.failed is not None:
        raise search.failed
    return search.found or ()
