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
    """
    At most `k` rows with a cosine of `at_least`, best first.

    Where the cosines met may be off by `slack`, all rows that may be among those are kept.
    ``floor`` is the least that a cosine must be to matter; it rises once there are `k`.
    """

    def __init__(self, k: int, at_least: float, slack: float = 0.0) -> None:
        self.k = k
        self._slack = slack
        # Rounding may carry the cosine of opposite vectors just past -1.
        self.has_floor = at_least > -1.0
        self.floor = _at_least(at_least - slack) if self.has_floor else -np.inf
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
        """Rows with their cosines, best first; more than `k` where they may be off."""
        if not len(self._rows):
            return []
        cosines = self._cosines.tolist()
        pairs = sorted(zip(cosines, self._rows.tolist(), strict=True), reverse=True)
        # Rounding may carry the cosine of two unit vectors just past 1.
        if pairs and (pairs[0][0] > 1.0 or pairs[-1][0] < -1.0):
            return [(row, min(1.0, max(-1.0, cosine))) for cosine, row in pairs]
        return [(row, cosine) for cosine, row in pairs]

    def _good(self, cosines: Vector) -> Rows:
        """The places of those that may belong to the best."""
        if self.floor > -np.inf:
            good: Rows = (cosines >= self.floor).nonzero()[0]
        elif len(cosines) < 2 * self.k * GROUP:
            good = np.arange(len(cosines))
        else:
            good = leading(cosines, self.k)
            if self._slack and len(good) >= self.k:
                return (cosines >= self._closest(cosines[good])).nonzero()[0]
        return good[self._kept(cosines[good])] if len(good) > self.k else good

    def _merge(self, rows: Rows, cosines: Vector) -> None:
        if len(self._rows):
            rows = np.concatenate([self._rows, rows])
            cosines = np.concatenate([self._cosines, cosines])
            if len(rows) > self.k:
                best = self._kept(cosines)
                rows, cosines = rows[best], cosines[best]
        self._rows, self._cosines = rows, cosines
        if self._slack and len(rows) >= self.k:
            self.floor = max(self.floor, self._closest(cosines))
        elif len(rows) == self.k:
            self.floor = max(self.floor, float(np.minimum.reduce(cosines)))

    def _kept(self, cosines: Vector) -> Rows:
        """Of more than `k`, the places of the best; of those that may be among them."""
        if self._slack:
            return (cosines >= self._closest(cosines)).nonzero()[0]
        return _top(cosines, self.k)

    def _closest(self, cosines: Vector) -> float:
        """What a cosine must be to be among the best, however far each of `cosines` is off."""
        place = len(cosines) - self.k
        return float(np.partition(cosines, place)[place]) - 2.0 * self._slack


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
