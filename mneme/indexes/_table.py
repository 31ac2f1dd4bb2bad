"""The rows of an index, in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mneme.indexes._sketch import BLOCK, Rows, gathered
from mneme.records import Vector

__all__ = ["Table"]

FIRST = 4
"""Rows in the first block to begin with."""


class Table:
    """
    Unit vectors as float32. Growing never copies a full block.

    ``slack`` is how far the cosine that a row is found by may be from that of the vector that
    was written: nothing here.
    """

    slack = 0.0

    def __init__(self, dim: int, blocks: Sequence[Vector] = ()) -> None:
        self.dim = dim
        self.blocks: list[Vector] = list(blocks)

    @property
    def memory_bytes(self) -> int:
        return sum(block.nbytes for block in self.blocks)

    # -- reading -------------------------------------------------------------------------------

    def run(self, at: int, count: int, vector: Vector) -> Vector:
        """The cosines of the first `count` rows of block `at`."""
        cosines: Vector = self.blocks[at][:count].dot(vector)
        return cosines

    def runs(self, at: int, count: int, vectors: Vector) -> Vector:
        """The same for each of `vectors`, shape ``(m, dim)``: shape ``(m, count)``."""
        cosines: Vector = vectors @ self.blocks[at][:count].T
        return cosines

    def some(self, at: int, inside: Rows) -> Vector:
        """The rows of block `at` that `inside` says."""
        return self.blocks[at].take(inside, axis=0)

    def scattered(self, rows: Rows) -> Vector:
        """The same of `rows`, which ascend, in whatever blocks."""
        return gathered(self.blocks, rows)

    def slab(self, at: int, start: int, end: int) -> Vector:
        """A run of rows of one block."""
        return self.blocks[at][start:end]

    # -- writing -------------------------------------------------------------------------------

    def write(self, row: int, vector: Vector) -> None:
        """Put `vector` in the place of `row`, which may be one past the last."""
        at, inside = divmod(row, BLOCK)
        self._make_room(at, inside)
        self.blocks[at][inside] = vector

    def move(self, source: int, target: int) -> None:
        """Put the row of `source` in the place of `target`."""
        at, inside = divmod(target, BLOCK)
        self._make_room(at, inside)
        self.blocks[at][inside] = self.blocks[source // BLOCK][source % BLOCK]

    def shrink(self, count: int) -> None:
        """Let go of the blocks past `count` rows."""
        del self.blocks[-(-count // BLOCK) :]

    def _make_room(self, at: int, inside: int) -> None:
        if at == len(self.blocks):
            self.blocks.append(np.empty((FIRST if at == 0 else BLOCK, self.dim), np.float32))
        block = self.blocks[at]
        if inside < len(block) and block.flags.writeable:
            return
        # Full, or mapped from a file that is only read.
        size = max(len(block), min(BLOCK, max(FIRST, 2 * inside)))
        self.blocks[at] = longer(block, size)


def longer(block: npt.NDArray[Any], size: int) -> npt.NDArray[Any]:
    """A copy of `block` with room for `size` rows."""
    copy = np.empty((size, *block.shape[1:]), block.dtype)
    copy[: len(block)] = block
    return copy
