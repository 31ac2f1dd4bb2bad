"""Thresholds against labelled pairs: what each would serve, rightly and wrongly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mneme._core.calibration import Calibration
from mneme._core.settings import check_threshold
from mneme.calibrate.pairs import Pair
from mneme.calibrate.score import Progress, similarities
from mneme.types import Embedder

__all__ = [
    "CalibrationResult",
    "CurvePoint",
    "find_threshold",
    "precision_recall_curve",
]

TextPairs = Iterable[tuple[str, str] | Pair]
DEFAULT_GRID = tuple(round(0.5 + at / 200, 3) for at in range(100))


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """At `threshold`: how many of the hits are right, and how many of the right are hits."""

    threshold: float
    precision: float
    recall: float
    f1: float
    hits: int = 0
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """
    The chosen threshold and how it was chosen.

    ``fingerprint`` names the embedder that it holds for: no other one. ``calibration`` is the
    same as a record that can be kept, and that a cache of another embedder refuses.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    pr_curve: tuple[CurvePoint, ...]
    fingerprint: str = ""
    vector_dtype: str = "float32"
    calibration: Calibration | None = field(default=None, repr=False)

    def __float__(self) -> float:
        return self.threshold


def find_threshold(
    paraphrase_pairs: TextPairs,
    distractor_pairs: TextPairs,
    embedder: Embedder,
    target_metric: Literal["f1", "precision", "recall"] = "f1",
    min_precision: float | None = None,
    min_recall: float | None = None,
    grid: Sequence[float] | None = None,
    vector_dtype: Literal["float32"] = "float32",
    progress: Progress | None = None,
    created_at: float | None = None,
) -> CalibrationResult:
    """
    The threshold of `grid` with the best `target_metric` that keeps both minima.

    Args:
        paraphrase_pairs: pairs of texts that one answer is right for.
        distractor_pairs: pairs that need two answers.
        embedder: sync; the one that the cache will use.
        grid: thresholds to try; default: 0.5 to 0.995 in steps of 0.005.
        progress: called with (texts embedded, texts in all).
        created_at: seconds since the epoch, to be kept in ``calibration``.

    Raises:
        ValueError: pairs of one kind are missing, a value is out of range, or no threshold
            keeps the minima (the message says what can be had).
        TypeError: the embedder is async.
    """
    if target_metric not in ("f1", "precision", "recall"):
        raise ValueError(f"target_metric must be f1, precision or recall, got {target_metric!r}.")
    if vector_dtype != "float32":
        raise ValueError(f"vector_dtype must be 'float32', got {vector_dtype!r}.")
    for name, share in (("min_precision", min_precision), ("min_recall", min_recall)):
        if share is not None and not 0.0 <= share <= 1.0:
            raise ValueError(f"{name} must be between 0 and 1, got {share!r}.")
    same, other = list(paraphrase_pairs), list(distractor_pairs)
    curve = precision_recall_curve(same, other, embedder, grid, progress=progress)
    fit = [
        point
        for point in curve
        if point.precision >= (min_precision or 0.0) and point.recall >= (min_recall or 0.0)
    ]
    if not fit:
        best = max(curve, key=lambda point: (point.precision, point.recall))
        raise ValueError(
            f"no threshold keeps precision {min_precision} and recall {min_recall}; the best "
            f"precision is {best.precision:.4f}, at {best.threshold} with recall "
            f"{best.recall:.4f}. Lower a minimum, or take another embedder."
        )
    # Of equals the strictest: a wrong answer costs more than a call.
    chosen = max(fit, key=lambda point: (getattr(point, target_metric), point.threshold))
    return CalibrationResult(
        chosen.threshold,
        chosen.precision,
        chosen.recall,
        chosen.f1,
        curve,
        embedder.fingerprint,
        vector_dtype,
        Calibration(
            threshold=chosen.threshold,
            target=target_metric,
            limit={"precision": min_precision, "recall": min_recall}.get(target_metric),
            confidence=None,
            labels=len(same) + len(other),
            hits=chosen.hits,
            wrong=chosen.wrong,
            upper_bound=None,
            embedder_fingerprint=embedder.fingerprint,
            dim=embedder.dim,
            vector_dtype=vector_dtype,
            created_at=created_at,
        ),
    )


def precision_recall_curve(
    paraphrase_pairs: TextPairs,
    distractor_pairs: TextPairs,
    embedder: Embedder,
    grid: Sequence[float] | None = None,
    *,
    progress: Progress | None = None,
) -> tuple[CurvePoint, ...]:
    """
    Precision, recall and F1 at each threshold of `grid`, loosest first.

    Where nothing would be served, precision is 1: nothing served is nothing wrong.

    Raises:
        ValueError, TypeError: as `find_threshold`.
    """
    same, other = _texts(paraphrase_pairs), _texts(distractor_pairs)
    for name, pairs in (("paraphrase_pairs", same), ("distractor_pairs", other)):
        if not pairs:
            raise ValueError(f"{name} is empty. A threshold needs pairs of both kinds: add some.")
    thresholds = sorted({check_threshold(t, "grid") for t in (grid or DEFAULT_GRID)})
    cosines = similarities([*same, *other], embedder, progress=progress)
    right, wrong = np.sort(cosines[: len(same)]), np.sort(cosines[len(same) :])
    points = []
    for threshold in thresholds:
        served = len(right) - int(np.searchsorted(right, threshold))
        false = len(wrong) - int(np.searchsorted(wrong, threshold))
        precision = served / (served + false) if served + false else 1.0
        recall = served / len(right)
        total = precision + recall
        f1 = 2 * precision * recall / total if total else 0.0
        points.append(CurvePoint(threshold, precision, recall, f1, served + false, false))
    return tuple(points)


def _texts(pairs: TextPairs) -> list[tuple[str, str]]:
    return [(pair.a, pair.b) if isinstance(pair, Pair) else pair for pair in pairs]
