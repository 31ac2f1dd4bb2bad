"""Whether searches with a sketch are faster than those without one, by the clock."""

from __future__ import annotations

from collections import deque
from statistics import median

__all__ = ["Pace"]

KEPT = 15
"""Times remembered of each way; of these the median counts."""

ENOUGH = 7
"""Times of each way from which the slower one is given up."""

CLOSE = 0.7
"""Where a sketch takes less of the time than this, comparing with all is not tried again."""

TRIED = 4
"""Otherwise one search in so many compares with all."""


class Pace:
    """
    Times of searches of one sort, in nanoseconds a row.

    Threads that use it at once may lose a time: that touches only when it decides.
    """

    def __init__(self) -> None:
        self._all: deque[float] = deque(maxlen=KEPT)
        self._likely: deque[float] = deque(maxlen=KEPT)
        self._searches = 0
        self._is_close = True
        self.is_lossy = False
        """Whether searches with the sketch have taken longer than those without."""
        self.share: float | None = None
        """The time of a search with the sketch, as a share of one without."""
        self.least: float | None = None
        """
        Nanoseconds a row that the fastest of the last searches took; None: too few were made.
        A busy machine makes others slow, and not all of them at once.
        """

    @property
    def is_used(self) -> bool:
        return self._searches > 0

    def begin(self) -> None:
        """Hear of a new sketch."""
        self._likely.clear()
        self._is_close = len(self._all) < ENOUGH
        self.is_lossy = False
        self.share = self.least = None

    def compares_all(self) -> bool:
        """Whether the next search should do without the sketch there is."""
        if self.is_lossy:
            return True
        return self._is_close and len(self._likely) > 1 and self._searches % TRIED == 0

    def took(self, nanoseconds: float, *, sketched: bool) -> None:
        self._searches += 1
        (self._likely if sketched else self._all).append(nanoseconds)
        if self._searches % TRIED:
            return
        if len(self._likely) >= ENOUGH and self._all:
            self._decide()
        times = self._all if self.is_lossy or not self._likely else self._likely
        self.least = min(times) if len(times) == KEPT else None

    def _decide(self) -> None:
        plain = median(self._all)
        self.share = median(self._likely) / plain
        self._is_close = self.share > CLOSE
        if self._is_close and len(self._all) >= ENOUGH:
            self.is_lossy = self.share > 1.0
