"""How far the guards' word counts here: as far as it has turned out true."""

from __future__ import annotations

__all__ = ["Vetoes"]

BELIEVED = 20.0
"""Times as likely to be wrong, than the score says, is what a guard refuses; before labels."""

FIRMLY, ALIKE = 0.1, 0.3
"""Errors that the score must have led to expect for labels to weigh as much as that belief, and
as much as what all guards together have shown."""

SUREST = 0.95


class Vetoes:
    """
    For each guard, how many of the answers that it refused would have been wrong, and how many
    the score alone expected to be.

    A refused answer is not served, so the function is called and its answer is a label for
    free: a guard that refuses right answers loses its say where that is shown. What one guard
    shows is a hint about the others (means of gamma posteriors, the second around the first).
    """

    def __init__(self) -> None:
        self.counts: dict[str, list[float]] = {}
        """By guard: wrong answers, and those that were expected."""

    def chance_wrong(self, guard: str, said: float) -> float:
        """The chance that what `guard` refuses is wrong, where the score alone `said` one."""
        wrong, expected = self.counts.get(guard, (0.0, 0.0))
        lift = (ALIKE * self._of_all() + wrong) / (ALIKE + expected)
        return max(min(lift * said, SUREST), said)

    def learn(self, guard: str, said: float, wrong: float) -> None:
        """Hear how `wrong` the answer was, from 0 to 1, of which the score alone `said` so."""
        counted = self.counts.setdefault(guard, [0.0, 0.0])
        counted[0] += wrong
        counted[1] += said

    def _of_all(self) -> float:
        wrong = sum([count[0] for count in self.counts.values()])
        expected = sum([count[1] for count in self.counts.values()])
        return (FIRMLY * BELIEVED + wrong) / (FIRMLY + expected)
