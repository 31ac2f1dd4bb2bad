"""How much is measured, and how what was found becomes lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from contenders import GPTCACHE, OURS, PEER, Bench, Found
from lines import Line, number

__all__ = ["ROWS", "Plan", "line", "row", "turned"]


@dataclass(frozen=True)
class Plan:
    """Sizes and rounds; ``data`` names the vectors that bars are about, ``others`` more of them."""

    bench: Bench
    data: str
    others: tuple[str, ...] = ()
    entries: int = 60_000
    large: int = 100_000
    largest: int | None = None
    rounds: int = 9
    is_quick: bool = False

    @property
    def few(self) -> int:
        """Rounds of what takes long."""
        return min(self.rounds, 3)

    def named(self, count: int, data: str | None = None) -> str:
        return f"{count:,} {data or self.data}"


UNITS = {
    "ms": "ms",
    "worst_ms": "ms",
    "first_hit_ms": "ms",
    "longest_wait_ms": "ms",
    "all_ms": "ms",
    "s": "s",
    "bytes": "B",
}
"""Of figures of scenarios; of others microseconds."""

Row = Callable[[Plan], Iterator[Line]]
ROWS: dict[str, Row] = {}
"""By the names that ``--only`` takes, in the order of the table."""


def row(measure: Row) -> Row:
    ROWS[measure.__name__.replace("_", "-")] = measure
    return measure


def line(
    found: Found, what: str, figure: float | None, unit: str, *, told: str = "us", **rest: Any
) -> Line:
    """A line with the medians of all caches beside it, and why one of them has none."""
    medians = {
        "ours": found.of(OURS, told),
        "against": found.of(OURS, "against"),
        **{name: found.of(name, told) for name in found.rounds if name != OURS},
        "faster": found.faster(PEER, told),
    }
    notes = [why if name in why else f"{name}: {why}" for name, why in found.failed.items()]
    if wrong := sum(one.get("wrong", 0) for one in found.rounds.get(OURS, [])):
        notes.append(f"{wrong:.0f} answers differ from those of comparing with all")
    if (other := medians.get(GPTCACHE)) is not None:
        notes.append(f"GPTCache takes {number(other)} {UNITS.get(told, 'µs')}")
    return Line(
        what,
        figure,
        unit,
        told={name: value for name, value in medians.items() if value is not None},
        told_unit=UNITS.get(told, "µs"),
        note="; ".join(notes),
        **rest,
    )


def turned(ratio: float | None) -> float | None:
    """A ratio the other way round."""
    return None if not ratio else 1.0 / ratio
