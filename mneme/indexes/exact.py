"""
Exact search by cosine with numpy alone.

Rows live in blocks of 16,384, so growing never copies what is there (the first block starts
small). A removed row is overwritten by the last one: no tombstones, no compaction.

Searches take no lock. Every change makes the version odd while it lasts and even again when
it is done; a search that sees the version move repeats itself, the second time under the
lock. So a search never holds up a writer for long, and never mixes two states.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from mneme.records import Key, Vector

__all__ = ["ExactIndex"]

BLOCK = 16_384
FIRST = 16


class ExactIndex:
    """The unit vectors of one partition, shape ``(dim,)`` each."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._blocks: list[Vector] = []
        self._keys: list[Key] = []
        self._rows: dict[Key, int] = {}
        self._version = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def memory_bytes(self) -> int:
        return sum(block.nbytes for block in self._blocks)

    def add(self, key: Key, vector: Vector) -> None:
        with self._lock:
            self._version += 1
            row = self._rows.get(key)
            if row is None:
                row = len(self._keys)
                self._make_room(row)
                self._keys.append(key)
                self._rows[key] = row
            self._blocks[row // BLOCK][row % BLOCK] = vector
            self._version += 1

    def remove(self, key: Key) -> None:
        with self._lock:
            row = self._rows.pop(key, None)
            if row is None:
                return
            self._version += 1
            last = len(self._keys) - 1
            if row != last:
                self._blocks[row // BLOCK][row % BLOCK] = self._blocks[last // BLOCK][last % BLOCK]
                moved = self._keys[row] = self._keys[last]
                self._rows[moved] = row
            self._keys.pop()
            if last % BLOCK == 0:
                self._blocks.pop()
            self._version += 1

    def search(
        self, vector: Vector, *, k: int, at_least: float = -1.0
    ) -> Sequence[tuple[Key, float]]:
        """At most `k` keys with a cosine of `at_least`, best first; equal ones in any order."""
        version = self._version
        if version % 2 == 0:
            # A row may move while it is read: what comes of that is thrown away below.
            found = self._search(vector, k, at_least)
            if self._version == version:
                return found
        with self._lock:
            return self._search(vector, k, at_least)

    def _make_room(self, row: int) -> None:
        at, inside = divmod(row, BLOCK)
        if at == len(self._blocks):
            self._blocks.append(np.empty((FIRST if at == 0 else BLOCK, self._dim), np.float32))
        elif inside == len(self._blocks[at]):
            larger = np.empty((min(BLOCK, 2 * inside), self._dim), np.float32)
            larger[:inside] = self._blocks[at]
            self._blocks[at] = larger

    def _search(self, vector: Vector, k: int, at_least: float) -> list[tuple[Key, float]]:
        keys = self._keys
        count = len(keys)
        found: list[tuple[Key, float]] = []
        for at, block in enumerate(list(self._blocks)):
            start = at * BLOCK
            rows = block[: max(0, count - start)]
            if not len(rows):
                break
            cosines = rows @ vector
            best = (
                np.argpartition(cosines, len(cosines) - k)[-k:]
                if len(cosines) > k
                else np.arange(len(cosines))
            )
            for row in best.tolist():
                cosine = float(cosines[row])
                # Rows may be gone by now if a removal runs beside this search.
                if cosine >= at_least and start + row < len(keys):
                    # Rounding may carry the cosine of two unit vectors just past 1.
                    found.append((keys[start + row], min(1.0, max(-1.0, cosine))))
        found.sort(key=lambda pair: -pair[1])
        return found[:k]
