"""
A threshold with a promise: at most so many wrong answers among the hits.

From labelled candidates (score, right or wrong) thresholds are tested from strict to loose.
At a threshold t, with n scores at or above it of which e are wrong, the error among hits is
at most U(t), the upper bound of Clopper & Pearson 1934, at the level that is asked for.
Loosening stops at the first t whose bound is over the limit. Because the order of the tests
is fixed by the scores alone, all of them together need the level only once (fixed-sequence
testing, Maurer, Hothorn & Lehmacher 1995).

One wrong label near the top would end a single sequence at once. So there are several starts,
each further down than the one before, and they share the level between them (Angelopoulos et
al. 2021, "Learn then Test", section 4.2). A sequence that reaches the next start takes that
one's share along, and may use the sum from there on (the fallback procedure, Wiens & Dmitrienko
2005). Steps are of 2 % more hits: finer ones give chance more occasions to end a sequence,
coarser ones end further from the limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mneme._core.calibration import Calibration

__all__ = ["Guarantee", "guaranteed_threshold", "labels_needed", "upper_bound"]

SHARES = (0.4, 0.3, 0.2, 0.1)
"""Of the level, by start; most at the strictest, which has the fewest labels to go by."""

STEP = 1.02


class Named(Protocol):
    """What every embedder says of itself, and all that is needed of it here."""

    @property
    def dim(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Guarantee:
    """
    "At most `max_error` wrong among hits, with confidence `confidence`", and what it rests on.

    ``threshold`` is None where nothing can be promised yet: then only the exact layer should
    answer, and ``more_labels`` says how many labels without an error would do. ``hits`` and
    ``wrong`` count the labels at or above the threshold, ``bound`` is their upper bound.
    """

    threshold: float | None
    max_error: float
    confidence: float
    labels: int
    hits: int
    wrong: int
    bound: float
    more_labels: int

    @property
    def hit_rate(self) -> float:
        """The share of the labelled candidates that would be served."""
        return self.hits / self.labels if self.labels else 0.0

    def for_embedder(
        self,
        embedder: Named,
        *,
        vector_dtype: str = "float32",
        guarded: bool = False,
        created_at: float | None = None,
    ) -> Calibration:
        """
        What a cache takes as its threshold, where the scores were cosines of `embedder`.

        Args:
            guarded: the labels leave out what the guards of the cache refuse.
            created_at: seconds since the epoch, to be kept with it.

        Raises:
            ValueError: the threshold is no cosine from 0 to 1.
        """
        return Calibration(
            threshold=self.threshold,
            target="max_error",
            limit=self.max_error,
            confidence=self.confidence,
            labels=self.labels,
            hits=self.hits,
            wrong=self.wrong,
            upper_bound=None if self.threshold is None else self.bound,
            embedder_fingerprint=embedder.fingerprint,
            dim=embedder.dim,
            vector_dtype=vector_dtype,
            guarded=guarded,
            created_at=created_at,
        )

    def __str__(self) -> str:
        if self.threshold is None:
            return (
                f"no threshold can promise at most {self.max_error:.1%} wrong among hits with "
                f"{self.confidence:.0%} confidence from {self.labels} labels; "
                f"{self.more_labels} more without an error would do."
            )
        return (
            f"at {self.threshold:.4f}: at most {self.max_error:.1%} wrong among hits with "
            f"{self.confidence:.0%} confidence ({self.wrong} of {self.hits} labels were wrong); "
            f"serves {self.hit_rate:.1%} of the candidates."
        )


def guaranteed_threshold(
    labelled: Iterable[tuple[float, bool]], max_error: float = 0.02, confidence: float = 0.95
) -> Guarantee:
    """
    The loosest threshold at which at most `max_error` of the hits are wrong.

    Args:
        labelled: (score, whether the answer would have been right) of candidates drawn as
            they come in use; any score will do that is higher for surer ones.
        max_error: the share of wrong ones among hits, between 0 and 1.
        confidence: how often, over repeated drawings of labels, the promise holds at least.

    Raises:
        ValueError: no labels, a score that is no number, or a share that is not between 0
            and 1.
    """
    for name, share in (("max_error", max_error), ("confidence", confidence)):
        if not 0.0 < share < 1.0:
            raise ValueError(f"{name} must be between 0 and 1, got {share!r}.")
    pairs = list(labelled)
    if not pairs:
        raise ValueError("there are no labels. Label some candidates as right or wrong first.")
    scores = np.array([score for score, _ in pairs], dtype=np.float64)
    if not np.isfinite(scores).all():
        at = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(f"label {at} has the score {float(scores[at])!r}, which is no number.")
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    wrong = np.cumsum([not pairs[at][1] for at in order])
    total = len(pairs)
    # All labels in one test need the fewest; it has the whole level.
    least = labels_needed(max_error, confidence)
    first = labels_needed(max_error, 1.0 - (1.0 - confidence) * SHARES[0])
    steps = _steps(scores, min(first, max(total, least)))
    best, level = 0, 1.0 - confidence
    for hits, share in _levels(steps, wrong, max_error, 1.0 - confidence):
        best, level = hits, share
    if not best:
        clean = int(np.searchsorted(wrong, 1))
        more = max(1, (least if clean == total else first) - clean)
        return Guarantee(None, max_error, confidence, total, 0, 0, 1.0, more)
    errors = int(wrong[best - 1])
    bound = upper_bound(errors, best, 1.0 - level)
    threshold = float(scores[best - 1])
    return Guarantee(threshold, max_error, confidence, total, best, errors, bound, more_labels=0)


def _levels(
    steps: list[int], wrong: NDArray[np.int64], max_error: float, level: float
) -> Iterator[tuple[int, float]]:
    """The numbers of hits that pass, strict to loose, each with the level it was tested at."""
    shares = dict.fromkeys(steps, 0.0)
    for at, share in enumerate(SHARES if steps else ()):
        # Where steps are few, one has the shares of several starts.
        shares[steps[len(steps) * at // len(SHARES)]] += level * share
    held = 0.0
    for hits in steps:
        held += shares[hits]
        if held > 0.0 and _tail(int(wrong[hits - 1]), hits, max_error) <= held:
            yield hits, held
        else:
            held = 0.0


def _steps(scores: NDArray[np.float64], first: int) -> list[int]:
    """Numbers of hits to test at: from `first` on, each at the end of a run of equal scores."""
    total = len(scores)
    steps: list[int] = []
    wanted = float(first)
    while wanted <= total:
        hits = int(np.searchsorted(-scores, -scores[int(wanted) - 1], side="right"))
        steps.append(hits)
        wanted = max(hits + 1.0, wanted * STEP)
    if steps and steps[-1] < total:
        steps.append(total)
    return steps


def labels_needed(max_error: float, confidence: float) -> int:
    """How many labels without an error promise `max_error`: ``ln(1 - confidence) / ln(1 - e)``."""
    return math.ceil(math.log(1.0 - confidence) / math.log1p(-max_error))


def upper_bound(wrong: int, labels: int, confidence: float) -> float:
    """
    The share of errors that `wrong` of `labels` leave possible at `confidence`.

    Clopper & Pearson 1934: the p at which seeing at most `wrong` has the probability
    ``1 - confidence``; by bisection on the binomial tail, to 1e-9.
    """
    if wrong >= labels:
        return 1.0
    level = 1.0 - confidence
    low, high = wrong / labels, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2.0
        if _tail(wrong, labels, middle) > level:
            low = middle
        else:
            high = middle
    return high


def _tail(wrong: int, labels: int, p: float) -> float:
    """The probability of at most `wrong` errors among `labels`, each with probability `p`."""
    if p <= 0.0:
        return 1.0
    if p >= 1.0:
        return 0.0
    k = np.arange(wrong + 1)
    logs = _log_choose(labels, wrong) + k * math.log(p) + (labels - k) * math.log1p(-p)
    return float(np.exp(logs).sum())


def _log_choose(labels: int, most: int) -> NDArray[np.float64]:
    """``ln(labels choose k)`` for k from 0 to `most`."""
    k = np.arange(1, most + 1, dtype=np.float64)
    return np.concatenate(([0.0], np.cumsum(np.log((labels - k + 1.0) / k))))
