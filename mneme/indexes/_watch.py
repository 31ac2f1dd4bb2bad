"""When a sketch no longer suits the searches that are made."""

from __future__ import annotations

from collections import deque

from mneme.indexes._fit import Past
from mneme.indexes._pace import Pace
from mneme.records import Vector

__all__ = ["Watch"]

FIRST_FIT, EARLY_FIT = 16, 4
"""Searches from which there is something to fit a sketch to; fewer where they name a floor."""

LEAST, MOST = 64, 16_384
"""Searches between two fits; without a change twice as many each time."""

REMEMBERED = 64

GROWTH = 4
"""How many times the rows it was fitted to make a sketch old."""

DRIFT = 0.06
"""By how much the floors may move, a cosine."""

MEMORY = 1 / 16
"""The weight of the last search in what searches cost on average."""


class Watch:
    """
    What searches were made, and what share of comparing with all they cost.

    Threads that use it at once may lose a count: that touches only when a fit begins.
    """

    def __init__(self) -> None:
        self.past: deque[Past] = deque(maxlen=REMEMBERED)
        self.floored, self.open = Pace(), Pace()
        self._searches = 0
        self._patience = FIRST_FIT
        self._rows = 0
        self._floor: float | None = None
        self._expected: float | None = None
        self._share = 1.0

    @property
    def share(self) -> float:
        """What the last searches cost, of comparing with all: measured, or else reckoned."""
        measured = [pace.share for pace in (self.floored, self.open) if pace.share is not None]
        return min(1.0, max(measured) if measured else self._share)

    @property
    def least(self) -> float | None:
        """See `Pace`; of the slower sort of searches, once a sketch was looked for."""
        if not self._rows:
            return None
        return max(self.floored.least or 0.0, self.open.least or 0.0) or None

    def pace(self, at_least: float) -> Pace:
        """Of searches from `at_least` on: those without a floor are another matter."""
        return self.floored if at_least > -1.0 else self.open

    def saw(self, vector: Vector, floor: float, share: float | None = None) -> None:
        """
        Hear of a search; its `floor` is the one that would have sufficed, and `share` what the
        sketch cost, if it was used.
        """
        self._searches += 1
        if share is not None:
            self._share += (share - self._share) * MEMORY
        # All of the first ones, and of many later ones enough to see them change.
        if len(self.past) < FIRST_FIT or self._searches % 4 == 0:
            self.past.append(Past(vector.copy(), floor))

    def adopted(self, rows: int, expected: float | None = 1.0) -> None:
        """Hear of a sketch of `rows` rows, and of the share that searches should cost with it."""
        self._searches = 0
        self._patience = max(LEAST, self._patience)
        self._rows = rows
        self._floor = None
        self._expected = expected
        self._share = expected or 1.0
        self.floored.begin()
        self.open.begin()

    def fitted(self, rows: int, expected: float | None) -> None:
        """Hear of a fit; without a share it found no sketch worth its cost."""
        self._patience = min(MOST, max(LEAST, 2 * self._patience))
        self.adopted(rows, expected)
        self._floor = self._usual_floor()

    def is_due(self, rows: int) -> bool:
        """Whether a fit to the `rows` there are now is likely to pay."""
        if not self._rows:
            wanted = EARLY_FIT if self.floored.is_used else FIRST_FIT
            return self._searches >= wanted and self._searches % EARLY_FIT == 0
        if self._searches < LEAST or self._searches % FIRST_FIT:
            return False
        floor = self._usual_floor()
        if self._floor is None:
            self._floor = floor
        if rows >= GROWTH * self._rows or abs(floor - self._floor) > DRIFT:
            return True
        return self._has_failed and self._searches >= self._patience

    @property
    def is_lossy(self) -> bool:
        """Whether searches with a sketch cost more than without one."""
        if self._share > 1.0:
            return True
        if not (self.floored.is_lossy or self.open.is_lossy):
            return False
        paces = [pace for pace in (self.floored, self.open) if pace.share is not None]
        return all(pace.is_lossy for pace in paces)

    @property
    def _has_failed(self) -> bool:
        if self._expected is None or self._share > 1.5 * self._expected + 0.02:
            return True
        return self.floored.is_lossy or self.open.is_lossy

    def _usual_floor(self) -> float:
        floors = [one.floor for one in tuple(self.past)]
        return sum(floors) / len(floors) if floors else 0.0
