"""When to ask again what did not answer: after a while that doubles with each failure."""

from __future__ import annotations

__all__ = ["LONGEST", "SHORTEST", "Breaker"]

SHORTEST = 0.5
"""Seconds that are waited after the first failure."""

LONGEST = 10.0
"""Seconds that are waited at most, and so the most that a return may go unnoticed."""


class Breaker:
    """
    Who asks begins a turn, and says how it ended; after a failure there is a pause, and after
    the pause one trial, on which it depends whether all may ask again.

    Times are seconds of any clock; one that is set back ends a pause. Callers take turns: it
    has no lock of its own.
    """

    def __init__(self) -> None:
        self._turn = 0
        """Changes with each pause: who asked before it says nothing about what is now."""
        self._pause = 0.0
        self._since = 0.0
        self._is_tried = False

    def left(self, now: float) -> float:
        """Seconds until somebody may try; 0.0 where that is now."""
        passed = now - self._since
        return self._pause - passed if 0.0 <= passed < self._pause else 0.0

    def begin(self, now: float) -> int | None:
        """A turn, of which to tell how it ended; ``None``: do not ask."""
        if self._pause:
            if self._is_tried or self.left(now):
                return None
            self._is_tried = True
        return self._turn

    def failed(self, turn: int, now: float) -> None:
        """There was no answer in `turn`."""
        if turn == self._turn:
            self._turn += 1
            self._pause = min(max(SHORTEST, 2 * self._pause), LONGEST)
            self._since = now
            self._is_tried = False

    def late(self, now: float) -> None:
        """Somebody has stopped waiting for an answer, and cannot say in which turn."""
        if self._is_tried or not self._pause:
            self.failed(self._turn, now)

    def answered(self) -> None:
        """There was an answer, in whichever turn."""
        if self._pause:
            self._turn += 1
            self._pause = 0.0
            self._is_tried = False

    def ended(self, turn: int) -> None:
        """`turn` is over, and says nothing."""
        if turn == self._turn:
            self._is_tried = False
