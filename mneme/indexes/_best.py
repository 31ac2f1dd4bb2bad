"""The best rows of a search so far."""

from __future__ import annotations

import numpy as np

from mneme.indexes._sketch import Rows
from mneme.records import Vector

__all__ = ["Best", "leading"]

GROUP = 16
"""Values of which the greatest is looked at first."""

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

    def meet_all(self, cosines: Vector) -> None:
        """Meet all rows there are, one for each of `cosines`, and no others before or after."""
        good = self._good(cosines)
        self._rows, self._cosines = good, cosines[good]

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
        cosines = self._cosines.tolist()
        pairs = sorted(zip(cosines, self._rows.tolist(), strict=True), reverse=True)
        # Rounding may carry the cosine of two unit vectors just past 1.
        if pairs and (pairs[0][0] > 1.0 or pairs[-1][0] < -1.0):
            return [(row, min(1.0, max(-1.0, cosine))) for cosine, row in pairs]
        return [(row, cosine) for cosine, row in pairs]

    def _good(self, cosines: Vector) -> Rows:
        """The places of those that may belong to the best."""
        if self.floor > -np.inf:
            good = (cosines >= self.floor).nonzero()[0]
            return good[_top(cosines[good], self.k)] if len(good) > self.k else good
        if len(cosines) < 2 * self.k * GROUP:
            return _top(cosines, self.k) if len(cosines) > self.k else np.arange(len(cosines))
        good = leading(cosines, self.k)
        return good[_top(cosines[good], self.k)] if len(good) > self.k else good

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

    Parting all of them takes longer than it took to compute them. So they are looked at in
    groups: as many groups as are wanted have a greatest value of no less than the one that
    ranks so among the greatest values of groups, and nothing under that is wanted.
    """
    groups = len(values) // GROUP
    if groups < 2 * wanted:
        return np.arange(len(values)) if len(values) <= wanted else np.sort(_top(values, wanted))
    greatest = np.maximum.reduce(values[: groups * GROUP].reshape(GROUP, groups), axis=0)
    least = np.partition(greatest, groups - wanted)[groups - wanted]
    rows: Rows = (values >= least).nonzero()[0]
    if len(rows) > 4 * wanted:
        rows = rows[_top(values[rows], wanted)]
        rows.sort()
    return rows
