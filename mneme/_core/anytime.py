"""
What audited hits say about the share of wrong ones, at every moment and not only at the end.

A bound for a fixed number of labels is broken by whoever looks after each of them. These hold
for all moments at once: with e wrong among n hits,

    M(m) = mean over k of exp(k * e) / (1 + m * (exp(k) - 1)) ** n

is a mixture of non-negative supermartingales where m is the mean of the probabilities with
which the hits were wrong, so it passes 1 / (1 - confidence) ever with at most the probability
1 - confidence (Ville 1939; Robbins 1970; Howard, Ramdas, McAuliffe & Sekhon 2021,
"Time-uniform, nonparametric, nonasymptotic confidence sequences"). The m at which it has not
passed are those that are still possible. Because ``log(1 + m * (exp(k) - 1))`` is concave in
m, the probabilities may differ from hit to hit and drift: what is bounded is their mean so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ErrorBound", "check_share", "evidence"]

TILTS: NDArray[np.float64] = np.geomspace(0.02, 6.0, 14)
"""The k, all of one weight: small ones serve many hits, large ones few hits and rare errors."""


@dataclass(slots=True)
class ErrorBound:
    """
    Bounds of the share of wrong answers among hits, which hold whenever one looks.

    Each of ``upper`` and ``lower`` holds at all times together with the probability
    `confidence` (both of them with ``2 * confidence - 1`` at least). They lie 1.4 to 1.9 times
    as far from the counted share as those of Clopper & Pearson 1934, which hold for one look.
    The fields are the whole state: four plain numbers to keep and to begin again with.

    Where every hit has the same chance to be audited, `add` those audited. Where the chances
    differ, `add` each with the weight ``1 / chance``, tell of those that were not audited with
    `skip`, and set `max_weight` to the largest weight that there can be.
    """

    confidence: float = 0.95
    max_weight: float = 1.0
    hits: int = 0
    wrong: float = 0.0
    """The sum of the weights of the wrong ones."""

    def __post_init__(self) -> None:
        check_share(self.confidence, "confidence")
        if not 1.0 <= self.max_weight < math.inf:
            raise ValueError(f"max_weight must be at least 1, got {self.max_weight!r}.")
        if isinstance(self.hits, bool) or not isinstance(self.hits, int) or self.hits < 0:
            raise ValueError(f"hits must be a whole number of at least 0, got {self.hits!r}.")
        if not 0.0 <= self.wrong <= self.hits * self.max_weight:
            raise ValueError(
                f"wrong must be from 0 to hits * max_weight, got {self.wrong!r} of {self.hits}."
            )

    def add(self, wrong: bool, weight: float = 1.0) -> None:
        """
        Count an audited hit, which was `wrong` or right.

        Raises:
            ValueError: `weight` is not from 1 to `max_weight`. Nothing was counted.
        """
        if not 1.0 <= weight <= self.max_weight:
            raise ValueError(
                f"weight must be from 1 to max_weight ({self.max_weight:g}), got {weight!r}. "
                "The hit was not counted. Set max_weight to the largest there can be."
            )
        self.hits += 1
        if wrong:
            self.wrong += weight

    def skip(self, hits: int = 1) -> None:
        """
        Count hits that nobody audited; only of use beside weights.

        Raises:
            ValueError: `hits` is negative. Nothing was counted.
        """
        if hits < 0:
            raise ValueError(f"hits must be at least 0, got {hits!r}. Nothing was counted.")
        self.hits += hits

    @property
    def rate(self) -> float:
        """The share of wrong ones as counted; 0 before the first hit."""
        return min(1.0, self.wrong / self.hits) if self.hits else 0.0

    @property
    def upper(self) -> float:
        """The largest share of wrong answers that is still possible."""
        return min(1.0, self.max_weight * self._edge(TILTS * -1.0))

    @property
    def lower(self) -> float:
        """The smallest share of wrong answers that is still possible."""
        return min(1.0, self.max_weight * self._edge(TILTS))

    def exceeds(self, limit: float) -> bool:
        """Whether a share of at most `limit` is no longer possible: ``lower > limit``, fast."""
        if self.rate <= limit:
            return False
        found = evidence(self.hits, self.wrong / self.max_weight, limit / self.max_weight)
        return found >= self._needed()

    def _needed(self) -> float:
        return -math.log1p(-self.confidence)

    def _edge(self, tilts: NDArray[np.float64]) -> float:
        """Where the evidence against a mean reaches what is needed, by bisection to 1e-9."""
        rate = self.rate / self.max_weight
        wrong = self.wrong / self.max_weight
        # Errors beyond the rate count for a lower bound, and their lack for an upper one.
        inside, outside = rate, 0.0 if tilts[0] > 0 else 1.0
        while abs(outside - inside) > 1e-9:
            middle = (inside + outside) / 2.0
            if _log_mixture(self.hits, wrong, middle, tilts) < self._needed():
                inside = middle
            else:
                outside = middle
        return outside


def evidence(hits: int, wrong: float, limit: float) -> float:
    """
    The logarithm of the evidence that more than `limit` of the hits are wrong.

    Under any share up to `limit` it ever passes ``ln(1 / x)`` with at most the probability x.
    """
    return _log_mixture(hits, wrong, limit, TILTS)


def check_share(value: float, name: str) -> float:
    """
    A number between 0 and 1, neither of them included.

    Raises:
        ValueError: anything else, naming it.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < 1.0:
        raise ValueError(f"{name} must be between 0 and 1, got {value!r}.")
    return float(value)


def _log_mixture(hits: int, wrong: float, mean: float, tilts: NDArray[np.float64]) -> float:
    logs = tilts * wrong - hits * np.log1p(mean * np.expm1(tilts))
    most = float(logs.max())
    return most + math.log(float(np.exp(logs - most).mean()))
