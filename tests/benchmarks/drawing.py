"""The plots of the page of figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contenders import PEER
from lines import Line

__all__ = ["draw"]

NAMES = {"ours": "mneme", "against": "one product with all (sgemv)", PEER: PEER}
MARKS = {"ours": "o-", "against": "k:", PEER: "s-"}


def draw(folder: Path, lines: Sequence[Line], data: str) -> list[str]:
    """Write each plot that there are figures for; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Line]] = {}
    for line in lines:
        rows.setdefault(line.row, []).append(line)
    gets = [
        line
        for row in ("semantic-get", "semantic-get-by-size")
        for line in rows.get(row, [])
        if line.at.get("data") == data
    ]
    by_size = [line for line in gets if line.at["threshold"] == 0.90]
    largest = max((line.at["n"] for line in gets), default=0)
    at_largest = [line for line in gets if line.at["n"] == largest]
    exact = [line for line in rows.get("exact-hit", []) if line.at.get("store") == "SQLite"]
    plots: list[tuple[str, list[Line], str, str, dict[str, str], str]] = [
        ("by-entries", by_size, "n", "entries", NAMES, f"semantic get at 0.90, {data}"),
        ("by-threshold", at_largest, "threshold", "threshold", NAMES,
         f"semantic get among {largest:,} entries, {data}"),
        ("by-namespaces", rows.get("many-namespaces", []), "namespaces", "other namespaces",
         {**NAMES, "against": "mneme, alone"}, "semantic get beside other namespaces"),
        ("exact", exact, "n", "entries", {**NAMES, "against": "a dict get"},
         "exact hit, SQLite"),
    ]  # fmt: skip
    made = []
    for name, points, key, label, names, title in plots:
        if len(points) > 1:
            points = sorted(points, key=lambda line: float(line.at[key]))
            _plot(folder / f"{name}.png", points, key, label, names, title)
            made.append(name)
    return made


def _plot(
    file: Path, points: Sequence[Line], key: str, label: str, names: dict[str, str], title: str
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.4, 3.6))
    for name, said in names.items():
        own = [(line.at[key], line.told[name]) for line in points if name in line.told]
        if own:
            at: list[Any]
            at, us = map(list, zip(*own, strict=True))
            axes.plot(at, us, MARKS[name], label=said)
    axes.set(xlabel=label, ylabel="µs", yscale="log", title=title)
    if key != "threshold":
        axes.set_xscale("log")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=100, bbox_inches="tight", metadata={"Software": None})
    pyplot.close(figure)
