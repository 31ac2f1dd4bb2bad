"""
Rows in a quarter or half of the memory, and how far that may put their cosines off.

A row x is kept as whole numbers c with a scale s of its own, s = max|x| / 127 for one byte a
number and max|x| / 32767 for two. For a question q of length 1, by Cauchy and Schwarz,

    |<q, x> - <q, s c>|  <=  |x - s c|

and that length is computed when the row is written. ``slack`` is the greatest of all rows,
with what rounding may add to a dot product of n numbers, n 2^-24 (Higham, Accuracy and
Stability of Numerical Algorithms, 3.1), for each of the two cosines and the lengths of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mneme.indexes._sketch import BLOCK, UNIT_ROUNDOFF, Rows, segments
from mneme.indexes._table import FIRST, Table, longer
from mneme.records import Vector

__all__ = ["CODES", "AnyTable", "Codes", "QuantisedTable"]

Codes = npt.NDArray[Any]
"""int8 or int16, shape ``(rows, dim)``."""

CODES: dict[str, type[np.signedinteger[Any]]] = {"int8": np.int8, "float16": np.int16}
"""
How the numbers of a dtype are kept. In two bytes whole numbers with a scale are ten times as
exact as halves, and numpy reads them ten times as fast.
"""

CHUNK = 1_024
"""Rows that are made float32 at a time: they should fit into a cache."""


class QuantisedTable:
    """As `Table`, with whole numbers in place of float32."""

    def __init__(
        self,
        dim: int,
        dtype: str,
        blocks: Sequence[Codes] = (),
        scales: Sequence[Vector] = (),
        slack: float = 0.0,
    ) -> None:
        self.dim = dim
        self.dtype = CODES[dtype]
        self.blocks: list[Codes] = list(blocks)
        self.scales: list[Vector] = list(scales)
        self._rounding = 2.5 * (dim + 16) * UNIT_ROUNDOFF
        self.slack: float = max(slack, self._rounding)
        self._most = float(np.iinfo(self.dtype).max)

    @property
    def memory_bytes(self) -> int:
        return sum(part.nbytes for part in (*self.blocks, *self.scales))

    # -- reading -------------------------------------------------------------------------------

    def run(self, at: int, count: int, vector: Vector) -> Vector:
        cosines: Vector = self.runs(at, count, vector[None])[0]
        return cosines

    def runs(self, at: int, count: int, vectors: Vector) -> Vector:
        codes, scales = self.blocks[at][:count], self.scales[at][:count]
        found = np.empty((len(vectors), len(codes)), np.float32)
        room = np.empty((min(CHUNK, len(codes)), self.dim), np.float32)
        for start in range(0, len(codes), CHUNK):
            part = codes[start : start + CHUNK]
            rows = room[: len(part)]
            rows[:] = part
            if len(vectors) == 1:
                found[0, start : start + CHUNK] = rows @ vectors[0]
            else:
                found[:, start : start + CHUNK] = vectors @ rows.T
        found *= scales
        return found

    def some(self, at: int, inside: Rows) -> Vector:
        rows: Vector = self.blocks[at].take(inside, axis=0).astype(np.float32)
        rows *= self.scales[at].take(inside)[:, None]
        return rows

    def scattered(self, rows: Rows) -> Vector:
        parts = segments(rows)
        return np.concatenate([self.some(at, rows[part] - at * BLOCK) for at, part in parts])

    def slab(self, at: int, start: int, end: int) -> Vector:
        rows: Vector = self.blocks[at][start:end].astype(np.float32)
        rows *= self.scales[at][start:end, None]
        return rows

    # -- writing -------------------------------------------------------------------------------

    def write(self, row: int, vector: Vector) -> None:
        at, inside = divmod(row, BLOCK)
        self._make_room(at, inside)
        scale = np.float32(float(np.abs(vector).max()) / self._most or 1.0)
        # The scale was rounded, so that the greatest may come out one too large.
        codes = np.clip(np.rint(vector / scale), -self._most, self._most)
        error = np.linalg.norm(vector.astype(np.float64) - codes.astype(np.float64) * float(scale))
        self.slack = max(self.slack, float(error) * (1.0 + 1e-6) + self._rounding)
        self.blocks[at][inside] = codes
        self.scales[at][inside] = scale

    def move(self, source: int, target: int) -> None:
        (at, inside), (to, there) = divmod(source, BLOCK), divmod(target, BLOCK)
        self._make_room(to, there)
        self.blocks[to][there] = self.blocks[at][inside]
        self.scales[to][there] = self.scales[at][inside]

    def shrink(self, count: int) -> None:
        blocks = -(-count // BLOCK)
        del self.blocks[blocks:], self.scales[blocks:]

    def _make_room(self, at: int, inside: int) -> None:
        if at == len(self.blocks):
            size = FIRST if at == 0 else BLOCK
            self.scales.append(np.empty(size, np.float32))
            self.blocks.append(np.empty((size, self.dim), self.dtype))
        block, scales = self.blocks[at], self.scales[at]
        if inside < len(block) and block.flags.writeable and scales.flags.writeable:
            return
        size = max(len(block), min(BLOCK, max(FIRST, 2 * inside)))
        self.scales[at] = longer(scales, size)
        self.blocks[at] = longer(block, size)


AnyTable: TypeAlias = Table | QuantisedTable
