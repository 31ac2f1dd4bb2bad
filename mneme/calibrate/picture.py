"""The picture of a calibration. The only module that knows matplotlib."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mneme.calibrate.report import CONFIDENCE, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["check_picture", "save_picture"]

KINDS = (".png", ".svg", ".pdf")
RIGHT, WRONG, CHOSEN = "#3b76af", "#c44e52", "#222222"


def check_picture(path: str | os.PathLike[str]) -> None:
    """
    See that `save_picture` can draw to `path`, before the work that comes first.

    Raises:
        ImportError: matplotlib is missing; the message says what to install.
        ValueError: the name is not that of a PNG, SVG or PDF.
    """
    if Path(path).suffix.lower() not in KINDS:
        raise ValueError(f"a picture is {', '.join(KINDS)}, got {str(path)!r}. Use such a name.")
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as exc:
        raise ImportError(
            "a picture needs matplotlib. Run: pip install 'mneme-toolkit[plot]'"
        ) from exc


def save_picture(report: Report, path: str | os.PathLike[str]) -> None:
    """
    Precision against hit rate, and the cosines of right and wrong, as a PNG, SVG or PDF.

    Raises:
        ImportError, ValueError: as `check_picture`.
        OSError: it cannot be written.
    """
    check_picture(path)
    # Not pyplot: it would choose a window system, and keep the figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_curve(left, report)
    _draw_cosines(right, report)
    figure.suptitle(report.calibration.embedder_fingerprint.replace("$", r"\$"), fontsize=9)
    figure.savefig(path, dpi=150)


def _draw_curve(axes: Axes, report: Report) -> None:
    made = report.calibration
    rates = [point.hit_rate for point in report.points]
    confidence = made.confidence or CONFIDENCE
    axes.plot(rates, [point.precision for point in report.points], color=RIGHT, label="counted")
    axes.fill_between(
        rates,
        [point.least_precision for point in report.points],
        [point.precision for point in report.points],
        color=RIGHT,
        alpha=0.2,
        linewidth=0,
        label=f"down to its bound ({confidence:.0%}, one threshold)",
    )
    lowest = min((point.precision for point in report.points), default=0.0)
    if made.limit is not None and made.target in ("max_error", "precision"):
        wanted = 1.0 - made.limit if made.target == "max_error" else made.limit
        lowest = min(lowest, wanted)
        axes.axhline(wanted, color=CHOSEN, linewidth=0.8, linestyle="--", label="target")
    if made.threshold is not None:
        axes.plot(
            [made.hit_rate], [made.precision], "o", color=CHOSEN, label=f"at {made.threshold:.4f}"
        )
        if made.upper_bound is not None:
            ends = [1.0 - made.upper_bound, made.precision]
            axes.plot([made.hit_rate] * 2, ends, color=CHOSEN, linewidth=1.5)
    axes.set(xlabel="hit rate (share of the pairs)", ylabel="precision (share of the hits)")
    axes.set_xlim(left=0.0)
    # The bound of the first few hits is near nothing; it would flatten all the rest.
    margin = 0.15 * (1.0 - lowest) + 0.002
    axes.set_ylim(lowest - margin, 1.0 + margin / 3.0)
    axes.legend(fontsize=8, loc="lower left")
    axes.grid(alpha=0.3)


def _draw_cosines(axes: Axes, report: Report) -> None:
    edges = list(report.edges)
    for counts, color, label in (
        (report.right, RIGHT, "one answer for both"),
        (report.wrong, WRONG, "two answers needed"),
    ):
        axes.stairs(list(counts), edges, fill=True, color=color, alpha=0.5, label=label)
    if report.calibration.threshold is not None:
        axes.axvline(report.calibration.threshold, color=CHOSEN, label="threshold")
    axes.set(xlabel="cosine", ylabel="pairs")
    axes.legend(fontsize=8)
