"""When a sketch no longer suits the searches that are made."""

from __future__ import annotations

from collections import deque

from mneme.indexes._fit import Past
from mneme.records import Vector

__all__ = ["Watch"]

FIRST_FIT = 16
"""Searches from which there is something to fit a sketch to."""

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
        self._searches = 0
        self._patience = FIRST_FIT
        self._rows = 0
        self._floor = 0.0
        self._is_floor_known = True
        self._expected: float | None = None
        self._share = 0.0

    def saw(self, vector: Vector, floor: float, share: float) -> None:
        """Hear of a search; its `floor` is the one that would have sufficed."""
        self.past.append(Past(vector.copy(), floor))
        self._searches += 1
        self._share += (share - self._share) * MEMORY

    def adopted(self, rows: int) -> None:
        """Hear that a sketch of `rows` rows is there, of which nothing else is known."""
        self._rows = rows
        self._patience = LEAST
        self._expected = 1.0
        self._is_floor_known = False

    def fitted(self, rows: int, expected: float | None) -> None:
        """Hear of a fit, and of the share that searches are expected to cost with it."""
        self._patience = min(MOST, max(LEAST, 2 * self._patience))
        self._searches = 0
        self._rows = rows
        self._floor = self._usual_floor()
        self._expected = expected
        self._share = expected or 1.0

    def is_due(self, rows: int) -> bool:
        """Whether a fit to the `rows` there are now is likely to pay."""
        if self._searches < min(self._patience, LEAST) or self._searches % FIRST_FIT:
            return False
        if not self._is_floor_known:
            self._floor, self._is_floor_known = self._usual_floor(), True
        if rows >= GROWTH * self._rows or abs(self._usual_floor() - self._floor) > DRIFT:
            return True
        has_failed = self._expected is None or self._share > 1.5 * self._expected + 0.02
        return has_failed and self._searches >= self._patience

    @property
    def is_lossy(self) -> bool:
        """Whether searches with a sketch cost more than without one."""
        return self._share > 1.0

    def _usual_floor(self) -> float:
        floors = [one.floor for one in tuple(self.past)]
        return sum(floors) / len(floors) if floors else 0.0
