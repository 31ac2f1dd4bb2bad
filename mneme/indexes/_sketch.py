"""
Upper bounds of cosines, from a few numbers a row.

Of a row x and a question q, let y = Rx and s = Rq be their coordinates in a few orthonormal
directions R, and r and t the lengths of what these leave over. Then by Cauchy and Schwarz

    <q, x>  <=  <s, y> + t r

and a row whose bound is below the floor of a search cannot be in its answer. That holds for
any R: which directions were chosen touches speed and never an answer.

The first directions are read for every row and lie dimension-major, which is two to three
times as fast as row by row. The others are read for the rows that the first could not rule
out, and lie row by row. The bound of both stages allows for the worst that rounding can do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mneme.records import Vector

__all__ = ["BLOCK", "Asked", "Rows", "Sketch", "gathered", "segments"]

BLOCK = 16_384
"""Rows in one array; growing never copies a full one."""

LONGEST = 1.3
"""Rows that are kept in one byte a number may be that much longer than 1."""

UNIT_ROUNDOFF = 2.0**-24
"""Of float32."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in the coordinates of a sketch: factors for the first stage and the second."""

    first: Vector
    second: Vector


class Sketch:
    """
    Coordinates of rows in `directions`, shape ``(depth, dim)``, orthonormal.

    Every row is looked at in ``first`` of them. The rows of the sketch are those of the index:
    it is told of each change, and never asked for more rows than it was told of.
    """

    def __init__(self, directions: Vector, first: int) -> None:
        depth, dim = directions.shape
        self.directions = directions
        self.first = first
        self.depth = depth
        # Each coordinate is off by up to dim roundoffs (Higham, Accuracy and Stability of
        # Numerical Algorithms, 3.5), a vector of them by sqrt(depth) times that.
        self.margin: float = LONGEST * (2.0 * depth**0.5 + 6.0) * (dim + 16) * UNIT_ROUNDOFF
        self.heads: list[Vector] = []
        self.tails: list[Vector] = []

    @property
    def memory_bytes(self) -> int:
        return sum(part.nbytes for part in (*self.heads, *self.tails))

    @property
    def has_second_stage(self) -> bool:
        return bool(self.depth > self.first)

    def write(self, start: int, rows: Vector) -> None:
        """Take in `rows`, shape ``(m, dim)``, all in one block, as those from `start` on."""
        at, inside = divmod(start, BLOCK)
        self._make_room(at, inside + len(rows))
        near, left, far, left_after = self._parts(rows)
        written = slice(inside, inside + len(rows))
        head = self.heads[at]
        head[:-1, written] = near.T
        head[-1, written] = left
        if self.has_second_stage:
            tail = self.tails[at][written]
            tail[:, :-2] = far
            tail[:, -2] = left_after
            tail[:, -1] = left

    def move(self, source: int, target: int) -> None:
        """Put the row of `source` in the place of `target`."""
        (at, inside), (to, there) = divmod(source, BLOCK), divmod(target, BLOCK)
        self._make_room(to, there + 1)
        self.heads[to][:, there] = self.heads[at][:, inside]
        self.tails[to][there] = self.tails[at][inside]

    def shrink(self, count: int) -> None:
        """Let go of what lies past `count` rows."""
        blocks = -(-count // BLOCK)
        del self.heads[blocks:], self.tails[blocks:]

    def ask(self, vector: Vector) -> Asked:
        # As `_parts`, without what numpy takes to begin with each array of one row.
        coordinates = self.directions.dot(vector)
        near, far = coordinates[: self.first], coordinates[self.first :]
        square = float(vector.dot(vector)) - float(near.dot(near))
        left = math.sqrt(max(square, 0.0) + self.margin)
        left_after = math.sqrt(max(square - float(far.dot(far)), 0.0) + self.margin)
        first = np.empty(self.first + 1, np.float32)
        first[:-1], first[-1] = near, left
        second = np.empty(self.depth - self.first + 2, np.float32)
        second[:-2], second[-2], second[-1] = far, left_after, -left
        return Asked(first, second)

    def ask_many(self, vectors: Vector) -> tuple[Vector, Vector]:
        """The factors of both stages for each of `vectors`, shape ``(m, dim)``."""
        near, left, far, left_after = self._parts(vectors)
        first = np.concatenate([near, left[:, None]], axis=1)
        return first, np.concatenate([far, left_after[:, None], -left[:, None]], axis=1)

    def bounds(self, asked: Asked, start: int, found: Vector) -> Vector:
        """
        What the cosines of the rows from `start` on, where a block begins, cannot exceed but for
        `margin`, put into `found`.
        """
        for at in range(0, len(found), BLOCK):
            part = found[at : at + BLOCK]
            # Not `numpy.dot`: that copies a matrix whose rows are not whole.
            np.matmul(asked.first, self.heads[(start + at) // BLOCK][:, : len(part)], out=part)
        return found

    def tighten(self, asked: Asked, rows: Rows, bounds: Vector) -> Vector:
        """The closer bounds of `rows`, which ascend, given those of the first stage."""
        closer: Vector = gathered(self.tails, rows).dot(asked.second)
        closer += bounds
        return closer

    def _make_room(self, at: int, end: int) -> None:
        """Have block `at` be ours to write to, up to its row `end`."""
        while at >= len(self.heads):
            # In this order: searches read the tail of a block only after its head.
            self.tails.append(np.empty((BLOCK, self._tail_width), np.float32))
            self.heads.append(np.empty((self.first + 1, BLOCK), np.float32))
        head, tail = self.heads[at], self.tails[at]
        if end <= len(tail) and head.flags.writeable and tail.flags.writeable:
            return
        # It came from elsewhere: no longer than its rows, or mapped from a file.
        larger = np.empty((self.first + 1, BLOCK), np.float32)
        larger[:, : len(tail)] = head
        longer = np.empty((BLOCK, self._tail_width), np.float32)
        longer[: len(tail)] = tail
        self.tails[at], self.heads[at] = longer, larger

    @property
    def _tail_width(self) -> int:
        return self.depth - self.first + 2 if self.has_second_stage else 0

    def _parts(self, rows: Vector) -> tuple[Vector, Vector, Vector, Vector]:
        """The first coordinates, the length left over, the others, and what they leave."""
        coordinates = rows @ self.directions.T
        near, far = coordinates[:, : self.first], coordinates[:, self.first :]
        square = _squares(rows) - _squares(near)
        return near, self._length(square), far, self._length(square - _squares(far))

    def _length(self, square: Vector) -> Vector:
        # Near zero the root makes much of a little rounding, so that is added before it.
        root: Vector = np.sqrt(np.maximum(square, 0.0) + np.float32(self.margin))
        return root


def gathered(blocks: Sequence[Vector], rows: Rows) -> Vector:
    """Those of `rows`, which ascend, from where they lie in `blocks`."""
    parts = list(segments(rows))
    if len(parts) == 1:
        at = parts[0][0]
        return blocks[at].take(rows - at * BLOCK, axis=0)
    found = np.empty((len(rows), blocks[0].shape[1]), np.float32)
    for at, part in parts:
        # Clipped: numpy would else put them somewhere else first.
        blocks[at].take(rows[part] - at * BLOCK, axis=0, out=found[part], mode="clip")
    return found


def segments(rows: Rows) -> Iterator[tuple[int, slice]]:
    """The blocks that ascending `rows` lie in, and which of `rows` lie there."""
    if not len(rows):
        return
    first, last = int(rows[0]) // BLOCK, int(rows[-1]) // BLOCK
    if first == last:
        yield first, slice(0, len(rows))
        return
    edges = rows.searchsorted(np.arange(first, last + 2) * BLOCK).tolist()
    for at in range(first, last + 1):
        start, end = edges[at - first], edges[at - first + 1]
        if start < end:
            yield at, slice(start, end)


def _squares(rows: Vector) -> Vector:
    squares: Vector = np.einsum("ij,ij->i", rows, rows)
    return squares
