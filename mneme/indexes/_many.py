"""Many questions at once: one product of matrices in place of many with a vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mneme.indexes._best import Best
from mneme.indexes._quantised import AnyTable
from mneme.indexes._sketch import BLOCK, Rows, Sketch
from mneme.records import Vector

__all__ = ["AT_ONCE", "all_of_many", "likely_of_many"]

AT_ONCE = 16
"""Questions at a time: their bounds over a block should fit into a cache."""

DENSE = 16
"""Where more than one in so many cosines may matter, all are computed."""


def all_of_many(table: AnyTable, count: int, vectors: Vector, bests: Sequence[Best]) -> None:
    """Have each of `bests` meet the first `count` rows, for the vector of its place."""
    for start in range(0, count, BLOCK):
        _whole_block(table, start, count, vectors, bests)


def likely_of_many(
    sketch: Sketch, table: AnyTable, count: int, vectors: Vector, bests: Sequence[Best]
) -> None:
    """The same for rows that may belong to the best; each of `bests` has a floor."""
    first, second = sketch.ask_many(vectors)
    for start in range(0, count, BLOCK):
        at, size = start // BLOCK, min(BLOCK, count - start)
        low = np.array([[best.floor - sketch.margin] for best in bests], np.float32)
        bounds = first @ sketch.heads[at][:, :size]
        places = (bounds >= low).ravel().nonzero()[0]
        if len(places) * DENSE <= bounds.size and sketch.has_second_stage:
            which, inside = _apart(places, size)
            closer = bounds.ravel()[places]
            closer += _dots(sketch.tails[at].take(inside, axis=0), second[which])
            places = places[closer >= low[which, 0]]
        if len(places) * DENSE > bounds.size:
            _whole_block(table, start, count, vectors, bests)
        elif len(places):
            _meet(table, start, *_apart(places, size), vectors, bests)


def _meet(
    table: AnyTable, start: int, which: Rows, inside: Rows, vectors: Vector, bests: Sequence[Best]
) -> None:
    """Compare pairs of a question and a row, those of one question together."""
    edges = which.searchsorted(np.arange(len(bests) + 1)).tolist()
    for number, best in enumerate(bests):
        own = inside[edges[number] : edges[number + 1]]
        if len(own):
            best.add(own + start, table.some(start // BLOCK, own) @ vectors[number])


def _whole_block(
    table: AnyTable, start: int, count: int, vectors: Vector, bests: Sequence[Best]
) -> None:
    cosines = table.runs(start // BLOCK, count - start, vectors)
    for best, own in zip(bests, cosines, strict=True):
        best.add_run(start, own)


def _apart(places: Rows, size: int) -> tuple[Rows, Rows]:
    which = places // size
    return which, places - which * size


def _dots(rows: Vector, others: Vector) -> Vector:
    dots: Vector = np.einsum("ij,ij->i", rows, others)
    return dots
