"""One measured figure beside its bar, and how a set of them is kept as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Line", "number"]


@dataclass(frozen=True)
class Line:
    """
    A figure of one row of the table of goals.

    ``figure`` is what the bar is about, in ``unit``; ``side`` says on which side of ``bar`` it
    should be. None where it was not measured, and then ``note`` says why. ``told`` has what it
    was made of, by name: ``ours``, ``against``, ``mneme-cache``, ``faster`` (than mneme-cache).
    """

    what: str
    figure: float | None
    unit: str
    side: Literal["≤", "≥", ""] = ""
    bar: float | None = None
    told: Mapping[str, float] = field(default_factory=dict)
    told_unit: str = "µs"
    at: Mapping[str, Any] = field(default_factory=dict)
    """Where on a plot it stands."""
    note: str = ""
    row: str = ""

    @property
    def is_met(self) -> bool | None:
        """None: nothing was measured, or there is nothing to meet."""
        if self.figure is None or self.bar is None:
            return None
        return self.figure <= self.bar if self.side == "≤" else self.figure >= self.bar

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "is_met": self.is_met}

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Line:
        return Line(**{name: value for name, value in raw.items() if name != "is_met"})


def number(value: float | None) -> str:
    """Three digits that count, thousands with commas; ``–`` for None."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"
