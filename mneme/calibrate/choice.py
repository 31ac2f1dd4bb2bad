"""From scored pairs to the threshold that a cache takes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mneme._core.anytime import check_share
from mneme._core.calibration import Calibration
from mneme.calibrate.guarantee import Guarantee, guaranteed_threshold
from mneme.calibrate.pairs import check_pairs
from mneme.calibrate.score import ScoredPairs

__all__ = ["HitCurve", "choose_threshold", "hit_curve"]


@dataclass(frozen=True, slots=True)
class HitCurve:
    """At each threshold, loosest last: how many pairs would be served, and how many wrongly."""

    thresholds: tuple[float, ...]
    hits: tuple[int, ...]
    wrong: tuple[int, ...]
    labels: int


def choose_threshold(
    scored: ScoredPairs,
    *,
    max_error: float | None = None,
    min_precision: float | None = None,
    confidence: float = 0.95,
    created_at: float | None = None,
) -> Calibration:
    """
    The loosest threshold that keeps a target.

    Args:
        max_error: at most this share of the hits is wrong, with `confidence`; 0.02 unless
            `min_precision` is given. The threshold is None where the pairs cannot show it.
        min_precision: at least this share of the hits is right, as counted in the pairs;
            nothing is promised beyond them.
        created_at: seconds since the epoch, to be kept with it.

    Raises:
        ValueError: both targets are given, a share is not between 0 and 1, or the pairs are
            all of one kind.
    """
    if max_error is not None and min_precision is not None:
        raise ValueError("max_error and min_precision are two targets. Give one of them.")
    check_pairs(scored.pairs)
    if min_precision is not None:
        check_share(min_precision, "min_precision")
        return _counted(scored, min_precision, created_at)
    share = check_share(0.02 if max_error is None else max_error, "max_error")
    check_share(confidence, "confidence")
    labelled = list(scored.labelled())
    found = Guarantee(None, share, confidence, 0, 0, 0, 1.0, 0)
    if labelled:
        found = guaranteed_threshold(labelled, share, confidence)
    return replace(found, labels=len(scored.pairs)).for_embedder(
        scored, vector_dtype=scored.vector_dtype, guarded=scored.guarded, created_at=created_at
    )


def hit_curve(scored: ScoredPairs) -> HitCurve:
    """What every threshold would serve: one point for each cosine that occurs."""
    labelled = sorted(scored.labelled(), reverse=True)
    scores = np.array([score for score, _ in labelled])
    wrong = np.cumsum([not right for _, right in labelled])
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], [True] * bool(labelled)))
    return HitCurve(
        tuple(scores[ends].tolist()),
        tuple((ends + 1).tolist()),
        tuple(wrong[ends].tolist()),
        len(scored.pairs),
    )


def _counted(scored: ScoredPairs, precision: float, created_at: float | None) -> Calibration:
    curve = hit_curve(scored)
    found, counts = None, (0, 0)
    for threshold, hits, wrong in zip(curve.thresholds, curve.hits, curve.wrong, strict=True):
        if hits - wrong >= precision * hits:
            found, counts = threshold, (hits, wrong)
    return Calibration(
        threshold=found,
        target="precision",
        limit=precision,
        confidence=None,
        labels=curve.labels,
        hits=counts[0],
        wrong=counts[1],
        upper_bound=None,
        embedder_fingerprint=scored.fingerprint,
        dim=scored.dim,
        vector_dtype=scored.vector_dtype,
        guarded=scored.guarded,
        created_at=created_at,
    )
