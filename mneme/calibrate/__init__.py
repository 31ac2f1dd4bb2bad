"""Find the threshold for an embedder and a kind of question, and know what it promises."""

from mneme.calibrate.guarantee import Guarantee, guaranteed_threshold, labels_needed, upper_bound
from mneme.calibrate.pairs import Pair, check_pairs, load_pairs
from mneme.calibrate.sweep import (
    CalibrationResult,
    CurvePoint,
    find_threshold,
    precision_recall_curve,
    similarities,
)

__all__ = [
    "CalibrationResult",
    "CurvePoint",
    "Guarantee",
    "Pair",
    "check_pairs",
    "find_threshold",
    "guaranteed_threshold",
    "labels_needed",
    "load_pairs",
    "precision_recall_curve",
    "similarities",
    "upper_bound",
]
