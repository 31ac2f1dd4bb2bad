"""The tables of docs/scaling.md: what was measured as rates, and what follows from it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import report
from lines import Line, number

__all__ = ["parts"]

EXAMPLES = Path(__file__).parents[2] / "examples"

DIMS = (256, 384, 768, 1_024, 1_536, 3_072)
BYTES = {"float32": 4, "float16": 2, "int8": 1, "int8, answers in the store": 1}
PRICE = 4.0
"""US dollars for a gigabyte of memory and a month: an assumption, said beside the table."""

MORE_CORES = (8, 16, 32)
NOTHING = "No figures yet: `python tests/benchmarks/run.py --engines FILE` puts them here."


def parts(lines: Sequence[Line], engines: Any) -> dict[str, str]:
    """By the marks they stand between."""
    return {
        "one process": report.records(list(one_process(lines))),
        "one machine": report.records(list(one_machine(lines))),
        "engines": engines_told(engines),
        "memory by dimension": by_dimension(lines),
        "many workers": many_workers(),
    }


def of_row(lines: Sequence[Line], row: str, **at: Any) -> Iterator[Line]:
    """The lines of a row that were measured there, and told something."""
    for line in lines:
        is_there = all(line.at.get(name) == value for name, value in at.items())
        if line.row == row and is_there and line.figure is not None:
            yield line


def one_process(lines: Sequence[Line]) -> Iterator[dict[str, str]]:
    """What takes so many microseconds happens so often in a second."""
    largest = max((line.at["n"] for line in of_row(lines, "semantic-get")), default=0)
    chosen = (
        *of_row(lines, "exact-hit", n=100_000),
        *list(of_row(lines, "async-exact-hit"))[:1],
        *list(of_row(lines, "semantic-get", n=largest, threshold=0.90))[:1],
        *of_row(lines, "mixed-trace"),
    )
    for line in chosen:
        if line.told_unit == "µs" and "ours" in line.told:
            yield {"what": line.what, "a second": number(1e6 / line.told["ours"])}
    for line in of_row(lines, "fill"):
        if line.figure:
            yield {"what": line.what, "a second": number(line.at["n"] / line.figure)}


def one_machine(lines: Sequence[Line]) -> Iterator[dict[str, str]]:
    """Measured, and with the share that cannot be done at once also for more cores."""
    totals = {int(line.at["processes"]): line.figure or 0.0 for line in of_row(lines, "processes")}
    for count, total in totals.items():
        yield {"processes": str(count), "lookups/s": number(total), "": "measured"}
    if totals.get(1) and totals.get(2):
        serial = max(0.0, 2.0 * totals[1] / totals[2] - 1.0)
        for count in MORE_CORES:
            total = count * totals[1] / (1.0 + serial * (count - 1))
            how = f"extrapolated, s = {serial:.2f}, on {count} cores"
            yield {"processes": str(count), "lookups/s": number(total), "": how}


def engines_told(engines: Any) -> str:
    """Flat records as a table, or several such lists by name."""
    if isinstance(engines, Mapping):
        told = [
            f"**{name}**\n\n{engines_told(value)}"
            for name, value in engines.items()
            if isinstance(value, list)
        ]
        return "\n\n".join(told) or NOTHING
    return report.records(engines) if engines else NOTHING


def by_dimension(lines: Sequence[Line]) -> str:
    """Bytes beside the vector are those that were measured at one dimension."""
    measured = {str(line.at["dtype"]): line for line in of_row(lines, "memory")}
    rows = []
    for dtype, size in BYTES.items():
        line = measured.get(dtype)
        if line is None or line.figure is None:
            continue
        beside = line.figure - size * line.at["dim"]
        for dim in DIMS:
            gigabytes = (beside + size * dim) * 1e6 / 2**30
            rows.append(
                {
                    "vectors": f"{dim:,} × {dtype}",
                    "GiB for a million entries": number(gigabytes),
                    "of it vectors": number(size * dim * 1e6 / 2**30),
                    f"US$ a month at {PRICE:g} a GiB": number(gigabytes * PRICE),
                    "": "measured" if dim == line.at["dim"] else "computed",
                }
            )
    missing = [dtype for dtype in BYTES if dtype not in measured]
    told = [report.records(rows)] if rows else []
    if missing:
        told.append(f"Not measured, and so not computed: {', '.join(missing)}.")
    told.append(f"The price is an assumption: put in that of your provider for {PRICE:g}.")
    return "\n\n".join(told)


def many_workers() -> str:
    """What the simulation in examples says of three fleets."""
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    from many_workers import Fleet, replay

    few = Fleet(workers=4, seconds=120.0, questions=4_000)
    rows = []
    for fleet in (few, replace(few, workers=16), replace(few, workers=16, sharded=True)):
        for interval in (0.0, 1.0, 10.0, 60.0):
            found = replay(fleet, interval)
            rows.append(
                {
                    "workers": f"{fleet.workers}{', sharded' if fleet.sharded else ''}",
                    "`stale_check_interval`": f"{interval:g} s",
                    "hits": f"{found.hit_rate:.1%}",
                    "from a near copy": f"{found.near / found.requests:.1%}",
                    "stale": f"{found.stale_rate:.2%}",
                    "reads/s": number(found.reads / fleet.seconds),
                    "writes/s": number(found.writes / fleet.seconds),
                }
            )
    told = (
        f"{few.rate:g} requests a second about {few.questions:,} questions, "
        f"rank ** -{few.zipf:g}, {few.changes:g} changes a second, for {few.seconds:g} s:"
    )
    return f"{told}\n\n{report.records(rows)}"
