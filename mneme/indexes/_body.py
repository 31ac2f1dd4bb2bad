"""
What an index is made of, changed together.

Searches take no lock. A change of a row makes the version odd while it lasts and even again
when it is done; a search that sees the version move repeats itself, the second time under the
lock. A new row touches nothing that is read, and leaves the version alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mneme import _forks
from mneme.indexes._names import Names
from mneme.indexes._quantised import AnyTable
from mneme.indexes._sketch import BLOCK, Sketch
from mneme.records import Key, Vector

__all__ = ["Body"]

T = TypeVar("T")


class Body:
    """Keys, rows, and the sketch of them if there is one."""

    def __init__(self, table: AnyTable, names: Names, sketch: Sketch | None = None) -> None:
        self.table = table
        self.names = names
        self.sketch = sketch
        self.lock = _forks.lock(_forks.INDEX)
        self._version = 0
        self._coming: tuple[Sketch, int] | None = None
        """A sketch that is being filled, and how many rows it knows."""

    def add(self, key: Key, vector: Vector) -> None:
        with self.lock:
            row = self.names.row(key)
            if row is None:
                self._write(len(self.names), vector)
                self.names.append(key)
            else:
                self._version += 1
                self._write(row, vector)
                self._version += 1

    def remove(self, key: Key) -> None:
        """The last row takes the place of the one that goes: no tombstones, no compaction."""
        with self.lock:
            row = self.names.row(key)
            if row is None:
                return
            self._version += 1
            last = len(self.names) - 1
            if row != last:
                self._move(last, row)
            self.names.drop(key)
            self.table.shrink(last)
            if self.sketch is not None:
                self.sketch.shrink(last)
            if self._coming is not None:
                sketch, known = self._coming
                sketch.shrink(last)
                self._coming = sketch, min(known, last)
            self._version += 1

    def consistent(self, read: Callable[[], T]) -> T:
        """What `read` gives, of one state; it may be called twice."""
        version = self._version
        if version % 2 == 0:
            # A row may move while it is read: what comes of that is thrown away.
            try:
                found = read()
            except (IndexError, ValueError):
                if self._version == version:
                    raise
            else:
                if self._version == version:
                    return found
        with self.lock:
            return read()

    def forget_sketch(self) -> None:
        with self.lock:
            self.sketch = None

    def begin(self, sketch: Sketch) -> None:
        """Take in `sketch`, which is empty: from here on it hears of changes, as far as told."""
        with self.lock:
            self._coming = sketch, 0

    def tell_more(self, step: int) -> bool:
        """Tell the coming sketch of `step` rows more; True: it knew them all, and is in use."""
        with self.lock:
            if self._coming is None:
                return True
            (sketch, known), count = self._coming, len(self.names)
            if known >= count:
                self.sketch, self._coming = sketch, None
                return True
            at, inside = divmod(known, BLOCK)
            end = min(inside + step, count - at * BLOCK, BLOCK)
            sketch.write(known, self.table.slab(at, inside, end))
            self._coming = sketch, at * BLOCK + end
            return False

    def _write(self, row: int, vector: Vector) -> None:
        self.table.write(row, vector)
        coming = self._coming
        if self.sketch is None and coming is None:
            return
        at, inside = divmod(row, BLOCK)
        kept = self.table.slab(at, inside, inside + 1)
        if self.sketch is not None:
            self.sketch.write(row, kept)
        if coming is not None and row < coming[1]:
            coming[0].write(row, kept)

    def _move(self, source: int, target: int) -> None:
        self.table.move(source, target)
        if self.sketch is not None:
            self.sketch.move(source, target)
        if self._coming is not None:
            sketch, known = self._coming
            if source < known:
                sketch.move(source, target)
            elif target < known:
                at, inside = divmod(target, BLOCK)
                sketch.write(target, self.table.slab(at, inside, inside + 1))
