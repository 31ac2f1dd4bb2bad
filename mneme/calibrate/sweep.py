"""Thresholds against labelled pairs: what each would serve, rightly and wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mneme._core.ports import embeds_async
from mneme._core.settings import check_threshold
from mneme._core.vectors import as_unit, as_units
from mneme.calibrate.pairs import Pair
from mneme.types import Embedder

__all__ = [
    "CalibrationResult",
    "CurvePoint",
    "find_threshold",
    "precision_recall_curve",
    "similarities",
]

TextPairs = Iterable[tuple[str, str] | Pair]
Progress = Callable[[int, int], object]

BATCH = 64
DEFAULT_GRID = tuple(round(0.5 + at / 200, 3) for at in range(100))


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """At `threshold`: how many of the hits are right, and how many of the right are hits."""

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class CalibrationResult:
    """
    The chosen threshold and how it was chosen; pass it as ``similarity_threshold=``.

    ``fingerprint`` names the embedder that it holds for: no other one.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    pr_curve: tuple[CurvePoint, ...]
    fingerprint: str = ""
    vector_dtype: str = "float32"

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
) -> CalibrationResult:
    """
    The threshold of `grid` with the best `target_metric` that keeps both minima.

    Args:
        paraphrase_pairs: pairs of texts that one answer is right for.
        distractor_pairs: pairs that need two answers.
        embedder: sync; the one that the cache will use.
        grid: thresholds to try; default: 0.5 to 0.995 in steps of 0.005.
        progress: called with (texts embedded, texts in all).

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
    curve = precision_recall_curve(
        paraphrase_pairs, distractor_pairs, embedder, grid, progress=progress
    )
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
        points.append(CurvePoint(threshold, precision, recall, f1))
    return tuple(points)


def similarities(
    pairs: Sequence[tuple[str, str]], embedder: Embedder, *, progress: Progress | None = None
) -> NDArray[np.float64]:
    """
    The cosine of each pair, shape ``(len(pairs),)``; every text is embedded once.

    Raises:
        TypeError: the embedder is async.
    """
    if embeds_async(embedder):
        raise TypeError("calibration needs a sync embedder. Wrap it with to_sync_embedder.")
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    rows: list[NDArray[np.float32]] = []
    embed_batch = getattr(embedder, "embed_batch", None)
    for at in range(0, len(texts), BATCH):
        chunk = texts[at : at + BATCH]
        if embed_batch is not None:
            rows += as_units(embed_batch(chunk), len(chunk), embedder.dim)
        else:
            rows += [as_unit(embedder.embed(text), embedder.dim) for text in chunk]
        if progress is not None:
            progress(len(rows), len(texts))
    places = {text: row for row, text in enumerate(texts)}
    matrix = np.array(rows, dtype=np.float64)
    left, right = matrix[[places[a] for a, _ in pairs]], matrix[[places[b] for _, b in pairs]]
    return np.asarray(np.einsum("ij,ij->i", left, right))


def _texts(pairs: TextPairs) -> list[tuple[str, str]]:
    return [(pair.a, pair.b) if isinstance(pair, Pair) else pair for pair in pairs]
