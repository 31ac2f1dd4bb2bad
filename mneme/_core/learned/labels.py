"""Which answer group a new answer belongs to, when comparing answers may itself be wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Comparisons", "Opinion"]

MOST_WRONG = 0.2
"""A share of wrong comparisons above this is not believed: then the groups are wrong."""

FIRM = 6.5
"""The most that one answer can say, as log odds, for two groups being one."""

TRUST = 0.5
"""The power to which the score's odds count beside the comparisons: it is no witness."""

UNSCORED = 0.05
"""Odds of a group that had no score."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """
    ``chances`` that the new answer is that of each group; ``group``: the most likely, ``None``
    where it rather has one of its own; ``evidence`` of one agreeing answer, as log odds.
    """

    chances: Mapping[int, float]
    group: int | None
    evidence: float

    def is_same(self, group: int) -> bool:
        return self.chances[group] > 0.5


class Comparisons:
    """
    How often `same_answer` is wrong, learned from answers that it finds both equal and unequal
    to members of one group; until then it is believed.
    """

    def __init__(self) -> None:
        self.made = 100.0
        self.outvoted = 0.1

    @property
    def wrong(self) -> float:
        return min(self.outvoted / self.made, MOST_WRONG)

    def weigh(
        self, groups: Sequence[int], same: Sequence[bool], scores: Mapping[int, float]
    ) -> Opinion:
        """
        The opinion after comparing a new answer with one of each of `groups`, the groups of
        the neighbours; `scores` are the logits of those that had one.
        """
        agreed: dict[int, list[int]] = {}
        for group, is_same in zip(groups, same, strict=True):
            votes = agreed.setdefault(group, [0, 0])
            votes[0] += is_same
            votes[1] += 1
        for yes, votes_cast in agreed.values():
            if votes_cast > 1:
                self.made += votes_cast
                self.outvoted += min(yes, votes_cast - yes)
        vote = math.log((1.0 - self.wrong) / self.wrong)
        odds = {
            group: self._prior(scores.get(group)) + (2 * yes - votes_cast) * vote
            for group, (yes, votes_cast) in agreed.items()
        }
        best = max(odds, key=odds.__getitem__, default=None)
        chances = {group: 1.0 / (1.0 + math.exp(-_bounded(x))) for group, x in odds.items()}
        return Opinion(
            chances,
            best if best is not None and odds[best] > 0.0 else None,
            min(vote, FIRM),
        )

    @staticmethod
    def _prior(score: float | None) -> float:
        if score is None:
            return math.log(UNSCORED)
        return TRUST * min(max(score, -6.0), 6.0)


def _bounded(logit: float) -> float:
    return min(max(logit, -30.0), 30.0)
