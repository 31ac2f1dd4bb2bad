"""The rows nearest to a question: by comparing with all, or with those a sketch leaves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mneme.indexes._best import Best, leading
from mneme.indexes._fit import cost
from mneme.indexes._sketch import BLOCK, Rows, Sketch, segments
from mneme.records import Vector

__all__ = ["compare_all", "compare_likely"]

FEW = 4
"""Times the rows wanted: so many of the most promising are compared first, to raise the floor."""

MANY = 16
"""Where more than one in so many rows is left by the first stage, the floor is raised first."""

DENSE = 4
"""Where more than one in so many rows of a block is left, all of it is compared."""

AT_ONCE = 1_024
"""Scattered rows that are gathered at a time: they should fit into a cache."""

MET = np.float32(np.nan)
"""The bound of a row that was compared already: no floor lets it through."""


def compare_all(blocks: Sequence[Vector], count: int, vector: Vector, best: Best) -> None:
    """Have `best` meet the first `count` rows."""
    for at, block in enumerate(blocks):
        start = at * BLOCK
        rows = block[: max(0, count - start)]
        if len(rows):
            best.add_run(start, rows @ vector)


def compare_likely(
    sketch: Sketch, blocks: Sequence[Vector], count: int, vector: Vector, best: Best
) -> float:
    """
    Have `best` meet all rows of the first `count` that may belong to it; what that cost, as a
    share of comparing with all.
    """
    asked = sketch.ask(vector)
    bounds = sketch.bounds(asked, count)
    few = FEW * best.k
    compared = 0
    rows: Rows | None = None
    if best.has_floor:
        rows = (bounds >= best.floor - sketch.margin).nonzero()[0]
    if rows is None or len(rows) > count // MANY:
        first = leading(bounds, few)
        compared += _compare(blocks, count, first, vector, best)
        bounds[first] = MET
        rows = (bounds >= best.floor - sketch.margin).nonzero()[0]
    kept = len(rows)
    if kept:
        closer = bounds[rows]
        if sketch.has_second_stage and few < kept <= count // DENSE:
            closer = sketch.tighten(asked, rows, closer)
            rows, closer = _from(rows, closer, best.floor - sketch.margin)
        if len(rows) > few:
            top = closer.argpartition(len(rows) - few)[-few:]
            top.sort()
            compared += _compare(blocks, count, rows[top], vector, best)
            closer[top] = MET
            rows, closer = _from(rows, closer, best.floor - sketch.margin)
        compared += _compare(blocks, count, rows, vector, best)
    return cost(len(vector), sketch.first, sketch.depth, kept / count, compared / count) / len(
        vector
    )


def _from(rows: Rows, bounds: Vector, floor: float) -> tuple[Rows, Vector]:
    kept = bounds >= floor
    return rows[kept], bounds[kept]


def _compare(blocks: Sequence[Vector], count: int, rows: Rows, vector: Vector, best: Best) -> int:
    """Have `best` meet `rows`, which ascend; how many that are."""
    for at, part in segments(rows):
        block, inside = blocks[at][: count - at * BLOCK], rows[part] % BLOCK
        if len(inside) > len(block) // DENSE:
            best.add(rows[part], (block @ vector)[inside])
            continue
        for start in range(0, len(inside), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            best.add(rows[part][some], block.take(inside[some], axis=0) @ vector)
    return len(rows)
