"""The pictures of docs/answer-quality.md, from what quality.py measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from replays import Replay


def plot(replays: dict[str, list[Replay]], out: dict[str, Any], folder: Path) -> None:
    """Precision against hit rate, and how often an answer of each chance was wrong."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(6.4, 4.4))
    for name in replays:
        rows = [row for row in out["threshold"] if row["stream"] == name]
        line = axes.plot([r["hit"] for r in rows], [r["precision"] for r in rows], ":")[0]
        mine = [row for row in out["learned"] if row["stream"] == name]
        budgets = sorted({row["max_error"] for row in mine})
        means = [
            [np.mean([r[key] for r in mine if r["max_error"] == budget]) for budget in budgets]
            for key in ("hit", "precision")
        ]
        axes.plot(*means, "o-", color=line.get_color(), label=name)
    axes.set(xlabel="hit rate", ylabel="precision", ylim=(0.7, 1.0), xlim=(0.0, 1.0))
    axes.set_title("learned at several budgets (o) and cosine thresholds (dotted)")
    axes.legend()
    figure.savefig(folder / "precision.png", dpi=100, bbox_inches="tight")
    figure, axes = pyplot.subplots(figsize=(5.4, 4.4))
    edges = np.array([0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0])
    for name, found in replays.items():
        chance = np.concatenate([replay.chance_wrong for replay in found])
        wrong = np.concatenate([~replay.right for replay in found])
        bins = np.digitize(chance, edges[1:-1])
        full = [b for b in range(len(edges) - 1) if (bins == b).sum() >= 100]
        said = [chance[bins == b].mean() for b in full]
        axes.loglog(said, [wrong[bins == b].mean() for b in full], "o-", label=name)
    axes.plot([1e-3, 1], [1e-3, 1], "k:")
    axes.set(xlabel="chance of a wrong answer, as said", ylabel="share that was wrong")
    axes.set_title("all candidates, served or not")
    axes.legend()
    figure.savefig(folder / "reliability.png", dpi=100, bbox_inches="tight")
