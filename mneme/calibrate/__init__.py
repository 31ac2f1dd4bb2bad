"""Find the threshold for an embedder and a kind of question, and know what it promises."""

from mneme._core.calibration import Calibration
from mneme.calibrate.choice import HitCurve, choose_threshold, hit_curve
from mneme.calibrate.guarantee import Guarantee, guaranteed_threshold, labels_needed, upper_bound
from mneme.calibrate.pairs import Pair, check_pairs, load_pairs
from mneme.calibrate.picture import check_picture, save_picture
from mneme.calibrate.report import Report, ReportPoint, report_of
from mneme.calibrate.score import Progress, ScoredPairs, ascore_pairs, score_pairs, similarities
from mneme.calibrate.sweep import (
    CalibrationResult,
    CurvePoint,
    find_threshold,
    precision_recall_curve,
)

__all__ = [
    "Calibration",
    "CalibrationResult",
    "CurvePoint",
    "Guarantee",
    "HitCurve",
    "Pair",
    "Progress",
    "Report",
    "ReportPoint",
    "ScoredPairs",
    "ascore_pairs",
    "check_pairs",
    "check_picture",
    "choose_threshold",
    "find_threshold",
    "guaranteed_threshold",
    "hit_curve",
    "labels_needed",
    "load_pairs",
    "precision_recall_curve",
    "report_of",
    "save_picture",
    "score_pairs",
    "similarities",
    "upper_bound",
]
