"""The rows nearest to a question: by comparing with all, or with those a sketch leaves."""

from __future__ import annotations

import numpy as np

from mneme.indexes._best import Best, leading
from mneme.indexes._fit import cost
from mneme.indexes._quantised import AnyTable
from mneme.indexes._sketch import BLOCK, Asked, Rows, Sketch, segments
from mneme.records import Vector

__all__ = ["compare_all", "compare_likely", "nearest_of"]

SPAN = 4 * BLOCK
"""Rows whose bounds are looked at together: these fit into a cache, and each look has its price."""

FEW = 4
"""Times the rows wanted: so many of the most promising are compared first, to raise the floor."""

MANY = 16
"""Where more than one in so many rows is left by the first stage, the floor is raised first."""

DENSE = 4
"""Where more than one in so many rows of a block is left, all of it is compared."""

AT_ONCE = 1_024
"""Scattered rows that are gathered at a time: they should fit into a cache."""

TOGETHER = 64
"""Scattered rows up to which the block of each does not matter: all are compared at once."""

MET = np.float32(np.nan)
"""The bound of a row that was compared already: no floor lets it through."""


def compare_all(table: AnyTable, count: int, vector: Vector, best: Best) -> None:
    """Have `best`, which is new, meet the first `count` rows."""
    if 0 < count <= BLOCK:
        best.meet_all(table.run(0, count, vector))
        return
    for start in range(0, count, BLOCK):
        best.add_run(start, table.run(start // BLOCK, count - start, vector))


def nearest_of(
    table: AnyTable, count: int, vector: Vector, k: int, at_least: float
) -> list[tuple[int, float]]:
    """
    At most `k` of the first `count` rows, no more than a block, with a cosine of `at_least`,
    best first; where there is none, the nearest. For a table without slack.
    """
    if not count:
        return []
    cosines = table.run(0, count, vector)
    nearest = int(cosines.argmax())
    highest = float(cosines[nearest])
    if highest < at_least:
        return [(nearest, min(1.0, max(-1.0, highest)))]
    best = Best(k, at_least)
    best.meet_all(cosines)
    return best.pairs()


def compare_likely(
    sketch: Sketch, table: AnyTable, count: int, vector: Vector, best: Best
) -> float:
    """
    Have `best` meet all rows of the first `count` that may belong to it; what that cost, as a
    share of comparing with all.
    """
    asked = sketch.ask(vector)
    bounds = sketch.bounds(asked, 0, np.empty(min(count, SPAN), np.float32))
    seen = _by_span(sketch, asked, bounds, table, count, vector, best) if best.has_floor else None
    if seen is None:
        seen = _by_rank(sketch, asked, bounds, table, count, vector, best)
    kept, compared = seen
    return cost(table.dim, sketch.first, sketch.depth, kept / count, compared / count) / table.dim


def _by_span(
    sketch: Sketch,
    asked: Asked,
    bounds: Vector,
    table: AnyTable,
    count: int,
    vector: Vector,
    best: Best,
) -> tuple[int, int] | None:
    """
    Some blocks after the others, while their bounds are in a cache; how many rows the first
    stage left, and how many were compared. None, and nothing done: too many for the floor
    there is. `bounds`, which are those of the first span, are overwritten by the next.
    """
    kept = compared = 0
    for start in range(0, count, SPAN):
        size = min(SPAN, count - start)
        own = sketch.bounds(asked, start, bounds[:size]) if start else bounds
        low = best.floor - sketch.margin
        rows = (own >= low).nonzero()[0]
        if not len(rows):
            continue
        if not start and len(rows) > size // MANY:
            return None
        kept += len(rows)
        closer = own[rows]
        if start:
            rows += start
        if len(rows) <= size // DENSE and sketch.has_second_stage:
            rows = rows[sketch.tighten(asked, rows, closer) >= low]
        compared += _compare(table, count, rows, vector, best)
    return kept, compared


def _by_rank(
    sketch: Sketch,
    asked: Asked,
    bounds: Vector,
    table: AnyTable,
    count: int,
    vector: Vector,
    best: Best,
) -> tuple[int, int]:
    """The most promising first, whatever their block: for where a floor is still to be found."""
    if count > len(bounds):
        rest = np.empty(count - len(bounds), np.float32)
        bounds = np.concatenate([bounds, sketch.bounds(asked, len(bounds), rest)])
    few = FEW * best.k
    first = leading(bounds, few)
    compared = _compare(table, count, first, vector, best)
    bounds[first] = MET
    rows = (bounds >= best.floor - sketch.margin).nonzero()[0]
    kept = len(rows)
    closer = bounds[rows]
    if sketch.has_second_stage and few < kept <= count // DENSE:
        closer = sketch.tighten(asked, rows, closer)
        rows, closer = _from(rows, closer, best.floor - sketch.margin)
    if len(rows) > few:
        top = closer.argpartition(len(rows) - few)[-few:]
        top.sort()
        compared += _compare(table, count, rows[top], vector, best)
        closer[top] = MET
        rows, closer = _from(rows, closer, best.floor - sketch.margin)
    return kept, compared + _compare(table, count, rows, vector, best)


def _from(rows: Rows, bounds: Vector, floor: float) -> tuple[Rows, Vector]:
    kept = bounds >= floor
    return rows[kept], bounds[kept]


def _compare(table: AnyTable, count: int, rows: Rows, vector: Vector, best: Best) -> int:
    """Have `best` meet `rows`, which ascend; how many rows were compared for that."""
    if len(rows) <= TOGETHER:
        if len(rows):
            best.add(rows, table.scattered(rows).dot(vector))
        return len(rows)
    return sum(
        _compare_in(table, at, min(BLOCK, count - at * BLOCK), rows[part] % BLOCK, vector, best)
        for at, part in segments(rows)
    )


def _compare_in(
    table: AnyTable, at: int, size: int, inside: Rows, vector: Vector, best: Best
) -> int:
    """The same for rows of one block, which has `size`."""
    start = at * BLOCK
    if len(inside) > size // DENSE:
        best.add(inside + start, table.run(at, size, vector)[inside])
        return size
    for begin in range(0, len(inside), AT_ONCE):
        some = inside[begin : begin + AT_ONCE]
        best.add(some + start, table.some(at, some) @ vector)
    return len(inside)
