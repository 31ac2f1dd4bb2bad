"""The best rows of a search so far."""

from __future__ import annotations

import numpy as np

from mneme.indexes._sketch import Rows
from mneme.records import Vector

__all__ = ["Best", "leading"]

SAMPLED = 2_048

NONE: Rows = np.empty(0, np.intp)
NO_COSINES: Vector = np.empty(0, np.float32)


class Best:
    """At most `k` rows with a cosine of ``floor``, which rises once there are so many."""

    def __init__(self, k: int, at_least: float) -> None:
        self.k = k
        # Rounding may carry the cosine of opposite vectors just past -1.
        self.has_floor = at_least > -1.0
        self.floor = _at_least(at_least) if self.has_floor else -np.inf
        self._rows: Rows = NONE
        self._cosines: Vector = NO_COSINES

    def add_run(self, start: int, cosines: Vector) -> None:
        """Meet the rows from `start` on, one for each of `cosines`."""
        good = self._good(cosines)
        if len(good):
            self._merge(good + start, cosines[good])

    def add(self, rows: Rows, cosines: Vector) -> None:
        """Meet `rows`, none of them a second time."""
        good = self._good(cosines)
        if len(good):
            self._merge(rows[good], cosines[good])

    def pairs(self) -> list[tuple[int, float]]:
        """Rows with their cosines, best first."""
        pairs = list(zip(self._rows.tolist(), self._cosines.tolist(), strict=True))
        pairs.sort(key=lambda pair: -pair[1])
        return pairs

    def _good(self, cosines: Vector) -> Rows:
        """The places of those that may belong to the best."""
        if self.floor > -np.inf:
            good = (cosines >= self.floor).nonzero()[0]
            return good[_top(cosines[good], self.k)] if len(good) > self.k else good
        if len(cosines) <= self.k:
            return np.arange(len(cosines))
        if len(cosines) <= SAMPLED:
            return _top(cosines, self.k)
        good = leading(cosines, self.k)
        return good[_top(cosines[good], self.k)]

    def _merge(self, rows: Rows, cosines: Vector) -> None:
        if len(self._rows):
            rows = np.concatenate([self._rows, rows])
            cosines = np.concatenate([self._cosines, cosines])
            if len(rows) > self.k:
                best = _top(cosines, self.k)
                rows, cosines = rows[best], cosines[best]
        self._rows, self._cosines = rows, cosines
        if len(rows) == self.k:
            self.floor = max(self.floor, float(np.minimum.reduce(cosines)))


def _at_least(floor: float) -> float:
    """The least float32 that is not under `floor`: cosines are compared as float32."""
    rounded = np.float32(floor)
    if float(rounded) < floor:
        rounded = np.nextafter(rounded, np.float32(np.inf))
    return float(rounded)


def _top(cosines: Vector, k: int) -> Rows:
    return cosines.argpartition(len(cosines) - k)[-k:]


def leading(values: Vector, wanted: int) -> Rows:
    """
    Where the `wanted` greatest of `values` are, ascending, and some others perhaps.

    From a sample, since parting all of them takes longer than it took to compute them.
    """
    sample = values[:: max(1, len(values) // SAMPLED)]
    rank = max(2, wanted * len(sample) // len(values) + 1)
    while rank < len(sample):
        guess = np.partition(sample, len(sample) - rank)[len(sample) - rank]
        rows: Rows = (values >= guess).nonzero()[0]
        if len(rows) > 4 * wanted:
            rows = rows[_top(values[rows], wanted)]
            rows.sort()
        if len(rows) >= wanted:
            return rows
        rank *= 4
    return np.arange(len(values))
