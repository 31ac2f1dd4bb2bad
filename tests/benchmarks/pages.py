"""docs/performance.md and docs/scaling.md: what in them is generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import drawing
import report
import scaling
from lines import Line

__all__ = ["PAGES", "SECTIONS", "check", "write"]

SECTIONS = {
    "exact hits": ("exact-hit", "decorated", "async-exact-hit"),
    "searches": (
        "semantic-get", "semantic-get-by-size", "guarded-get", "gptcache", "index-alone",
        "worst-data", "million", "after-deletes", "many-namespaces", "fan-out", "mixed-trace",
        "processes",
    ),
    "writes": ("put", "put-at-limit", "fill", "open-file", "clear-namespace", "vacuum"),
    "memory": ("memory",),
    "http": ("http",),
}  # fmt: skip
"""Marks in performance.md, and the rows between them."""


PAGES = ("performance.md", "scaling.md")


def write(docs: Path, figures: Mapping[str, Any], lines: Sequence[Line]) -> None:
    """Both pages of this folder, and the plots."""
    drawing.draw(docs / "performance", lines, figures["data"])
    parts = {"machine": machine(figures["machine"]), "goals": report.goals(lines)}
    for name, rows in SECTIONS.items():
        own = [line for line in lines if line.row in rows]
        parts[name] = "\n\n".join(filter(None, (report.table(own), notes(own))))
    report.rewrite(docs / "performance.md", parts)
    report.rewrite(docs / "scaling.md", scaling.parts(lines, figures.get("engines")))


def check(docs: Path) -> None:
    """
    Before anything is measured: that both pages are there.

    Raises:
        SystemExit: one is not.
    """
    for page in PAGES:
        if not (docs / page).exists():
            raise SystemExit(f"{docs / page} is not there, so nothing was measured. Pass --docs.")


def machine(told: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in told.items() if value) + "."


def notes(lines: Sequence[Line]) -> str:
    return "\n".join(f"- {line.what}: {line.note}." for line in lines if line.note)
