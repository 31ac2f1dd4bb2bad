"""Lines as Markdown, and pages whose generated parts stand between two marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from contenders import PEER
from lines import Line, number

__all__ = ["goals", "records", "rewrite", "table"]

HEADS = ("", "bar", "measured", "met?", "mneme", "against", "mneme-cache", "mneme-cache / mneme")
BEHIND = 0.95
"""Less than this is not noise."""

SAID = {True: "yes", False: "**no**", None: "–"}


def table(lines: Iterable[Line]) -> str:
    """Each line with its bar, and what the ratio is made of."""
    return markdown(HEADS, map(cells, lines))


def cells(line: Line) -> tuple[str, ...]:
    def absolute(name: str) -> str:
        value = line.told.get(name)
        return "–" if value is None else f"{number(value)} {line.told_unit}"

    faster = line.told.get("faster")
    return (
        line.what,
        "–" if line.bar is None else f"{line.side} {number(line.bar)}",
        "–" if line.figure is None else f"{number(line.figure)} {line.unit}",
        SAID[line.is_met],
        absolute("ours"),
        absolute("against"),
        absolute(PEER),
        "–" if faster is None else f"{number(faster)} ×",
    )


def goals(lines: Sequence[Line]) -> str:
    """How many bars are met; what is not, what was not measured, what another does better."""
    judged = [line for line in lines if line.bar is not None]
    met = [line for line in judged if line.is_met]
    told = [f"{len(met)} of {len(judged)} bars are met.", ""]
    told += [
        f"- Missed: {line.what}: {number(line.figure)} {line.unit}, "
        f"the bar is {line.side} {number(line.bar)}."
        for line in judged
        if line.is_met is False
    ]
    told += [
        f"- Not measured: {line.what}{f' ({line.note})' if line.note else ''}."
        for line in judged
        if line.is_met is None
    ]
    told += [
        f"- Behind {PEER}: {line.what} takes {number(1.0 / line.told['faster'])} × its "
        f"{number(line.told[PEER])} {line.told_unit}."
        for line in lines
        if 0.0 < line.told.get("faster", 1.0) < BEHIND
    ]
    return "\n".join(told)


def records(rows: Sequence[Mapping[str, Any]]) -> str:
    """Any flat records as a table, their keys as heads."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    return markdown(heads, (tuple(cell(row.get(head)) for head in heads) for row in rows))


def cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else "–" if value is None else str(value)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replaced(page: str, parts: Mapping[str, str]) -> str:
    """
    `page` with what stands between ``<!-- name -->`` and ``<!-- end of name -->`` replaced.

    Raises:
        ValueError: the page has no such marks.
    """
    for name, text in parts.items():
        first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, is_there, rest = page.partition(first)
        _, is_closed, after = rest.partition(last)
        if not (is_there and is_closed):
            raise ValueError(f"the page has no {first.strip()} or no {last}. Put both in.")
        page = f"{before}{first}\n{text}\n\n{last}{after}"
    return page


def rewrite(path: Path, parts: Mapping[str, str]) -> None:
    path.write_text(replaced(path.read_text(encoding="utf-8"), parts), encoding="utf-8")
