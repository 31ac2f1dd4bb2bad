"""
Exact search by cosine with numpy alone.

Rows live in blocks, so growing never copies what is there (the first block starts small). A
removed row is overwritten by the last one: no tombstones, no compaction.

In a large partition a sketch rules out nearly all rows at a fraction of the cost of comparing
with them (see `mneme.indexes._sketch`). It is fitted to the searches that were made, in the
background, and taken into use in one step; where none is worth its cost, there is none.

Searches take no lock. A change of a row makes the version odd while it lasts and even again
when it is done; a search that sees the version move repeats itself, the second time under the
lock. A new row touches nothing that is read, and leaves the version alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from mneme import _forks
from mneme.indexes._best import Best
from mneme.indexes._compare import compare_all, compare_likely
from mneme.indexes._fit import SAMPLE, fitted
from mneme.indexes._names import Names
from mneme.indexes._parts import Parts, sketch_parts, taken
from mneme.indexes._sketch import BLOCK, Sketch
from mneme.indexes._watch import Watch
from mneme.records import Key, Vector

__all__ = ["ExactIndex"]

FIRST = 16

SKETCH_FROM = 4_096
"""Rows under which comparing with all of them is as cheap."""

STEP = 2**25
"""Multiplications for which a fit holds the lock at a time: about a millisecond."""

PAUSE_SECONDS = 0.0005
"""Between two steps of a fit; a lock that is let go of only to be taken again starves others."""


def in_background(work: Callable[[], None]) -> None:
    """Do `work` in a thread of its own."""
    threading.Thread(target=work, name="mneme-fit", daemon=True).start()


class ExactIndex:
    """
    The unit vectors of one partition, shape ``(dim,)`` each.

    `start` is given the work of a fit and has it done, at once or later.
    """

    def __init__(
        self, dim: int, *, start: Callable[[Callable[[], None]], object] = in_background
    ) -> None:
        self._dim = dim
        self._start = start
        self._blocks: list[Vector] = []
        self._names = Names()
        self._version = 0
        self._lock = _forks.lock(_forks.INDEX)
        self._watch = Watch()
        self._sketch: Sketch | None = None
        self._coming: tuple[Sketch, int] | None = None
        """A sketch that a fit is filling, and how many rows it knows."""
        self._fitting = _forks.lock(_forks.NEVER)

    @classmethod
    def from_parts(
        cls, parts: Parts, *, start: Callable[[Callable[[], None]], object] = in_background
    ) -> ExactIndex:
        """
        An index on arrays that `parts` gave, which may be mapped from a file; none is copied.

        It searches at once. What is changed later is written into arrays that may be written
        to (a copy-on-write mapping), and into copies of others.
        """
        index = cls(parts.dim, start=start)
        index._names = Names(parts.keys)
        index._blocks = list(parts.blocks)
        if (kept := parts.sketch) is not None:
            sketch = Sketch(kept.directions, kept.first)
            sketch.heads, sketch.tails = list(kept.heads), list(kept.tails)
            index._sketch = sketch
            index._watch.adopted(len(parts.keys))
        return index

    def parts(self, *, copy: bool = True) -> Parts:
        """
        The arrays it is made of, as they are now; adding and removing wait meanwhile.

        Without a copy they are those that the next change is written into.

        Raises:
            ValueError: a key has not 16 bytes.
        """
        with self._lock:
            count = len(self._names)
            sizes = [min(BLOCK, count - at) for at in range(0, count, BLOCK)]
            return Parts(
                self._dim,
                self._names.packed(),
                taken(self._blocks, sizes, copy=copy),
                None if self._sketch is None else sketch_parts(self._sketch, sizes, copy=copy),
            )

    def __len__(self) -> int:
        return len(self._names)

    @property
    def memory_bytes(self) -> int:
        sketch = self._sketch
        extra = 0 if sketch is None else sketch.memory_bytes
        return extra + sum(block.nbytes for block in self._blocks)

    def add(self, key: Key, vector: Vector) -> None:
        with self._lock:
            row = self._names.row(key)
            if row is None:
                row = len(self._names)
                self._make_room(row)
                self._write(row, vector)
                self._names.append(key)
            else:
                self._version += 1
                self._write(row, vector)
                self._version += 1

    def remove(self, key: Key) -> None:
        with self._lock:
            row = self._names.row(key)
            if row is None:
                return
            self._version += 1
            last = len(self._names) - 1
            if row != last:
                self._write(row, self._blocks[last // BLOCK][last % BLOCK])
            self._names.drop(key)
            if last % BLOCK == 0:
                self._blocks.pop()
            if self._sketch is not None:
                self._sketch.shrink(last)
            if self._coming is not None:
                sketch, known = self._coming
                sketch.shrink(last)
                self._coming = sketch, min(known, last)
            self._version += 1

    def search(
        self, vector: Vector, *, k: int, at_least: float = -1.0
    ) -> Sequence[tuple[Key, float]]:
        """At most `k` keys with a cosine of `at_least`, best first; equal ones in any order."""
        found, share = self._consistent(vector, k, at_least)
        if share is not None:
            self._learn(vector, found[-1][1] if len(found) == k else at_least, share)
        return found

    def fit(self) -> None:
        """Fit the sketch to the rows there are and the searches that were made."""
        with self._fitting:
            self._fit()

    def adopt(self, sketch: Sketch) -> None:
        """Tell `sketch`, which is empty, of every row, a few at a time, and use it from then on."""
        with self._fitting:
            self._adopt(sketch)

    # -- searching ----------------------------------------------------------------------------

    def _consistent(
        self, vector: Vector, k: int, at_least: float
    ) -> tuple[list[tuple[Key, float]], float | None]:
        """As `_search`, and of one state of the index."""
        version = self._version
        if version % 2 == 0:
            # A row may move while it is read: what comes of that is thrown away.
            try:
                found = self._search(vector, k, at_least)
            except IndexError:
                found = None
            if found is not None and self._version == version:
                return found
        with self._lock:
            return self._search(vector, k, at_least)

    def _search(
        self, vector: Vector, k: int, at_least: float
    ) -> tuple[list[tuple[Key, float]], float | None]:
        """What is found, and its cost as a share of comparing with all; None: not worth a note."""
        # In this order: rows are added to the sketch and the blocks before they are counted.
        count, sketch, blocks = len(self._names), self._sketch, list(self._blocks)
        best = Best(k, at_least)
        share = 1.0
        if sketch is None or not count:
            compare_all(blocks, count, vector, best)
        else:
            share = compare_likely(sketch, blocks, count, vector, best)
        name = self._names.of
        # Rounding may carry the cosine of two unit vectors just past 1.
        pairs = [(name(row), min(1.0, max(-1.0, cosine))) for row, cosine in best.pairs()]
        return pairs, share if count >= SKETCH_FROM else None

    # -- writing ------------------------------------------------------------------------------

    def _make_room(self, row: int) -> None:
        at, inside = divmod(row, BLOCK)
        if at == len(self._blocks):
            self._blocks.append(np.empty((FIRST if at == 0 else BLOCK, self._dim), np.float32))
        elif inside == len(self._blocks[at]):
            self._copy_block(at, min(BLOCK, 2 * inside))

    def _copy_block(self, at: int, size: int) -> None:
        block = self._blocks[at]
        larger = np.empty((size, self._dim), np.float32)
        larger[: len(block)] = block
        self._blocks[at] = larger

    def _write(self, row: int, vector: Vector) -> None:
        at, inside = divmod(row, BLOCK)
        if not self._blocks[at].flags.writeable:
            self._copy_block(at, len(self._blocks[at]))
        mine = self._blocks[at][inside]
        mine[:] = vector
        if self._sketch is not None:
            self._sketch.write(row, mine[None])
        if self._coming is not None and row < self._coming[1]:
            self._coming[0].write(row, mine[None])

    # -- fitting ------------------------------------------------------------------------------

    def _learn(self, vector: Vector, floor: float, share: float) -> None:
        watch = self._watch
        watch.saw(vector, floor, share)
        if self._sketch is not None and watch.is_lossy:
            with self._lock:
                self._sketch = None
        if watch.is_due(len(self._names)) and self._fitting.acquire(blocking=False):
            try:
                self._start(self._fit_and_release)
            except RuntimeError:
                # No more threads: searches go on as they are.
                self._fitting.release()

    def _fit_and_release(self) -> None:
        try:
            self._fit()
        finally:
            self._fitting.release()

    def _fit(self) -> None:
        count, past = len(self._names), tuple(self._watch.past)
        plan = fitted(self._sample(count), past, seed=count) if past else None
        if plan is not None:
            self._adopt(plan[0])
        else:
            with self._lock:
                self._sketch = None
        self._watch.fitted(count, None if plan is None else plan[1])

    def _sample(self, count: int) -> Vector:
        """Some of the rows; one that changes meanwhile makes the sketch a little worse."""
        blocks = list(self._blocks)
        picks = np.random.default_rng(count).permutation(count)[:SAMPLE]
        return np.stack([blocks[row // BLOCK][row % BLOCK] for row in picks.tolist()])

    def _adopt(self, sketch: Sketch) -> None:
        step = max(1, STEP // (self._dim * sketch.depth))
        with self._lock:
            self._coming = sketch, 0
        while not self._told_more(sketch, step):
            time.sleep(PAUSE_SECONDS)

    def _told_more(self, sketch: Sketch, step: int) -> bool:
        """Tell `sketch` of the next rows; whether it knows them all and is in use."""
        with self._lock:
            count = len(self._names)
            known = 0 if self._coming is None else self._coming[1]
            if known >= count:
                self._sketch, self._coming = sketch, None
                return True
            at, inside = divmod(known, BLOCK)
            end = min(inside + step, count - at * BLOCK, BLOCK)
            sketch.write(known, self._blocks[at][inside:end])
            self._coming = sketch, at * BLOCK + end
            return False
