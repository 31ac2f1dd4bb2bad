"""
A threshold that tightens by itself when audited hits show that too many are wrong.

The error among hits may rise after a quiet time, so the evidence is gathered anew from a
start every `BLOCK` audits on; each start gets a share of the level, the k-th one
``1 / ((k + 1) * (k + 2))``, which sum to one (the e-detectors of Shin, Ramdas & Rinaldo 2022
restart likewise). So hits that are never wrong more often than the limit are tightened, ever,
with at most the probability ``1 - confidence``.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np

from mneme._core.anytime import ErrorBound, check_share, evidence

__all__ = ["Tightening"]

STEPS = 16
"""Thresholds tried below 1, where only equal vectors are served."""

BLOCK = 64
MAX_BLOCKS = 32
"""Starts kept: the first, and the latest ones."""


@dataclass(slots=True)
class Tightening:
    """
    The threshold that audited hits leave standing; it never loosens.

    While the hits at ``threshold`` may yet keep to `max_error`, nothing changes. Once they are
    shown not to, it becomes the lowest one at which the counted share keeps to it, or 1.0, and
    ``reason`` says why. Every hit must have the same chance to be audited. The fields are the
    whole state, plain numbers, lists and text: ``Tightening(**asdict(old))`` goes on.
    """

    floor: float
    """The threshold that it begins with."""
    max_error: float
    confidence: float = 0.95
    level: int = 0
    reason: str = ""
    starts: list[int] = field(default_factory=lambda: [0])
    """The number of each block, counted from the first."""
    hits: list[list[int]] = field(default_factory=lambda: [[0] * (STEPS + 1)])
    """By block and by step: similarities from that step up to the next."""
    wrong: list[list[int]] = field(default_factory=lambda: [[0] * (STEPS + 1)])

    def __post_init__(self) -> None:
        check_share(self.max_error, "max_error")
        check_share(self.confidence, "confidence")
        if not 0.0 <= self.floor <= 1.0:
            raise ValueError(f"floor must be a cosine from 0.0 to 1.0, got {self.floor!r}.")
        blocks = {len(self.starts), len(self.hits), len(self.wrong)}
        steps = {len(block) for block in (*self.hits, *self.wrong)}
        if not 0 <= self.level <= STEPS or blocks == {0} or len(blocks) > 1 or steps != {STEPS + 1}:
            raise ValueError("these are not the counts of a Tightening. Begin with a new one.")

    @property
    def threshold(self) -> float:
        """The lowest similarity that is still to be served."""
        return self._steps()[self.level]

    @property
    def bound(self) -> ErrorBound:
        """What all audits so far say of the hits at the present threshold."""
        hits = sum(sum(block[self.level :]) for block in self.hits)
        wrong = sum(sum(block[self.level :]) for block in self.wrong)
        return ErrorBound(self.confidence, hits=hits, wrong=float(wrong))

    def add(self, similarity: float, wrong: bool) -> bool:
        """
        Count an audited hit, and say whether the threshold rose by it.

        Raises:
            ValueError: `similarity` is no number. Nothing was counted.
        """
        if not math.isfinite(similarity):
            raise ValueError(
                f"similarity must be a number, got {similarity!r}. Nothing was counted."
            )
        step = bisect_right(self._steps(), similarity) - 1
        if step < self.level:
            # Served before the threshold rose: what is served now is not like it.
            return False
        if sum(self.hits[-1]) >= BLOCK:
            self._begin_block()
        self.hits[-1][step] += 1
        self.wrong[-1][step] += wrong
        # At 1.0 there is nothing left to tighten.
        return wrong and self.threshold < 1.0 and self._tightened()

    def _steps(self) -> list[float]:
        return [self.floor + (1.0 - self.floor) * at / STEPS for at in range(STEPS)] + [1.0]

    def _begin_block(self) -> None:
        self.starts.append(self.starts[-1] + 1)
        self.hits.append([0] * (STEPS + 1))
        self.wrong.append([0] * (STEPS + 1))
        if len(self.starts) > MAX_BLOCKS:
            # The second start is given up, its counts go on as a part of the first's.
            del self.starts[1]
            for counts in (self.hits, self.wrong):
                counts[0] = [sum(pair) for pair in zip(counts[0], counts.pop(1), strict=True)]

    def _tightened(self) -> bool:
        # Row: all since a start. Column: all from a step up.
        hits, wrong = (
            np.array(counts)[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1]
            for counts in (self.hits, self.wrong)
        )
        for row, start in enumerate(self.starts):
            seen, bad = int(hits[row, self.level]), int(wrong[row, self.level])
            needed = math.log((start + 1) * (start + 2) / (1.0 - self.confidence))
            if bad <= self.max_error * seen or evidence(seen, bad, self.max_error) < needed:
                continue
            keeps = (
                wrong[row, self.level + 1 : -1] <= self.max_error * hits[row, self.level + 1 : -1]
            )
            old = self.threshold
            self.level += 1 + int(np.argmax([*keeps, True]))
            self.reason = (
                f"{bad} of the last {seen} audited hits at {old:.4f} and above were wrong, which "
                f"shows more than {self.max_error:.1%} with {self.confidence:.0%} confidence."
            )
            return True
        return False
