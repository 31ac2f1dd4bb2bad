"""What a calibration rests on: in words, as JSON, and as the numbers of its picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mneme._core.calibration import Calibration
from mneme.calibrate.choice import hit_curve
from mneme.calibrate.guarantee import upper_bound
from mneme.calibrate.score import ScoredPairs

__all__ = ["Report", "ReportPoint", "report_of"]

POINTS = 60
BINS = 20
NEAREST = 5
BAR = 24
CONFIDENCE = 0.95
"""Of the margins where the calibration itself has none."""


@dataclass(frozen=True, slots=True)
class ReportPoint:
    """
    At `threshold`: the share of pairs served, and the share of these that is right.

    ``least_precision`` is its lower bound, for this one threshold (Clopper & Pearson 1934).
    """

    threshold: float
    hit_rate: float
    precision: float
    least_precision: float


@dataclass(frozen=True, slots=True)
class Report:
    """
    A calibration, the curve it was chosen from, and the pairs to look at.

    ``same`` of the pairs are labelled so, and guards refuse ``refused``. Of all others,
    ``right`` and ``wrong`` count those that are the same and those that are not, by cosine in
    bins with the limits ``edges``; ``nearest_wrong`` are the most similar that are not.
    """

    calibration: Calibration
    same: int
    refused: int
    points: tuple[ReportPoint, ...]
    edges: tuple[float, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    nearest_wrong: tuple[tuple[float, str, str], ...]

    def to_json(self) -> str:
        """The report as JSON, with the calibration as `Calibration.from_json` reads it."""
        found: dict[str, Any] = asdict(self)
        found["calibration"] = json.loads(self.calibration.to_json())
        found["points"] = [asdict(point) for point in self.points]
        return json.dumps(found, indent=2, ensure_ascii=False)

    def __str__(self) -> str:
        made = self.calibration
        kinds = f"{self.same:,} the same and {made.labels - self.same:,} not"
        whose = f"embedder {made.embedder_fingerprint}, {made.dim} numbers a vector"
        lines = [str(made), f"{made.labels:,} pairs, {kinds}; {whose}"]
        if made.guarded:
            lines.append(f"guards refuse {self.refused:,} of the pairs")
        lines += ["", *self._table(), "", *self._histogram()]
        if self.nearest_wrong:
            lines += ["", "the nearest pairs that are not the same:"]
            lines += [f"  {cosine:.4f}  {a!r}  {b!r}" for cosine, a, b in self.nearest_wrong]
        return "\n".join(lines)

    def _table(self) -> list[str]:
        """Every few points, and the chosen one."""
        chosen = self.calibration.threshold
        step = max(1, len(self.points) // 12)
        shown = [
            point
            for at, point in enumerate(self.points)
            if at % step == 0 or at == len(self.points) - 1 or point.threshold == chosen
        ]
        lines = ["threshold    served  precision  at least"]
        for point in shown:
            mark = "  <- chosen" if point.threshold == chosen else ""
            lines.append(
                f"   {point.threshold:.4f}   {point.hit_rate:6.1%}    {point.precision:6.1%}"
                f"    {point.least_precision:6.1%}{mark}"
            )
        return lines

    def _histogram(self) -> list[str]:
        most = max(1, *self.right, *self.wrong)
        lines = [f"{'from cosine':<12}{'the same':<{BAR + 8}}not the same"]
        for at in reversed(range(len(self.right))):
            if not self.right[at] and not self.wrong[at]:
                continue
            cells = [
                f"{'#' * -(-count * BAR // most)} {count:,}"
                for count in (self.right[at], self.wrong[at])
            ]
            lines.append(f"   {self.edges[at]:6.3f}   {cells[0]:<{BAR + 8}}{cells[1]}")
        return lines


def report_of(scored: ScoredPairs, calibration: Calibration) -> Report:
    """The report of a `calibration` that was chosen from `scored`."""
    near = scored.similarities
    right, wrong = scored.same & ~scored.refused, ~scored.same & ~scored.refused
    lowest = min(0.99, float(near[~scored.refused].min(initial=0.99)))
    edges = np.linspace(lowest, 1.0, BINS + 1)
    order = sorted(np.flatnonzero(wrong), key=lambda at: -near[at])
    return Report(
        calibration=calibration,
        same=int(scored.same.sum()),
        refused=int(scored.refused.sum()),
        points=_points(scored, calibration),
        edges=tuple(edges.tolist()),
        right=tuple(np.histogram(near[right], edges)[0].tolist()),
        wrong=tuple(np.histogram(near[wrong], edges)[0].tolist()),
        nearest_wrong=tuple(
            (float(near[at]), scored.pairs[at].a, scored.pairs[at].b) for at in order[:NEAREST]
        ),
    )


def _points(scored: ScoredPairs, calibration: Calibration) -> tuple[ReportPoint, ...]:
    """So many of the curve's points that a picture is smooth, evenly by hits."""
    curve = hit_curve(scored)
    if not curve.hits:
        return ()
    wanted = np.linspace(1, curve.hits[-1], POINTS)
    places = {int(at) for at in np.searchsorted(curve.hits, wanted)}
    if calibration.threshold in curve.thresholds:
        places.add(curve.thresholds.index(calibration.threshold))
    confidence = calibration.confidence or CONFIDENCE
    return tuple(
        ReportPoint(
            curve.thresholds[at],
            curve.hits[at] / curve.labels,
            1.0 - curve.wrong[at] / curve.hits[at],
            1.0 - upper_bound(curve.wrong[at], curve.hits[at], confidence),
        )
        for at in sorted(places)
    )
