"""How far the guards' word counts here: as far as it has turned out true."""

from __future__ import annotations

__all__ = ["Vetoes"]

BELIEVED_WRONG, BELIEVED_SEEN = 3.0, 10.0
"""Before any label, a refusal is worth 3 errors among 10 answers."""


class Vetoes:
    """
    For each guard, how often the answers that it refused would have been wrong.

    A refused answer is not served, so the function is called and its answer is a label for
    free: a guard that refuses right answers loses its say where that is shown.
    """

    def __init__(self) -> None:
        self.counts: dict[str, list[float]] = {}
        """By guard: wrong answers, and all, as far as they are known."""

    def chance_wrong(self, guard: str) -> float:
        """The chance that what `guard` refuses is wrong: the mean of a beta posterior."""
        wrong, seen = self.counts.get(guard, (0.0, 0.0))
        return (BELIEVED_WRONG + wrong) / (BELIEVED_SEEN + seen)

    def learn(self, guard: str, *, wrong: bool) -> None:
        counted = self.counts.setdefault(guard, [0.0, 0.0])
        counted[0] += wrong
        counted[1] += 1.0
