"""An index as plain arrays, for files that are mapped into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mneme.indexes._names import KEY_BYTES, Packed
from mneme.indexes._quantised import CODES, QuantisedTable
from mneme.indexes._sketch import BLOCK, Sketch
from mneme.indexes._table import Table
from mneme.records import Vector

__all__ = ["Parts", "SketchParts", "sketch_parts", "table_of", "taken"]

Array = TypeVar("Array", bound=npt.NDArray[Any])


@dataclass(frozen=True, slots=True)
class SketchParts:
    """
    A sketch: orthonormal `directions`, shape ``(depth, dim)``, the `first` of which every row
    is looked at in.

    One of `heads`, shape ``(first + 1, rows)``, and one of `tails`, ``(rows, depth - first + 2)``
    or ``(rows, 0)`` where depth is `first`, for each block of 16,384 rows; float32.
    """

    directions: Vector
    first: int
    heads: tuple[Vector, ...]
    tails: tuple[Vector, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """
    All that an `ExactIndex` of vectors of `dim` numbers is made of.

    `keys` are uint8, shape ``(n, 16)``; `blocks` have 16,384 rows each, the last one what is
    left. They are float32, or whole numbers with one of `scales` for each row and the `slack`
    that their cosines may be off by.
    """

    dim: int
    keys: Packed
    blocks: tuple[npt.NDArray[Any], ...]
    sketch: SketchParts | None = None
    dtype: str = "float32"
    scales: tuple[Vector, ...] = ()
    slack: float = 0.0

    def __post_init__(self) -> None:
        sizes = [min(BLOCK, len(self.keys) - at) for at in range(0, len(self.keys), BLOCK)]
        _check("keys", [self.keys], [(len(self.keys), KEY_BYTES)], np.uint8)
        codes = CODES.get(self.dtype, np.float32)
        _check("blocks", self.blocks, [(size, self.dim) for size in sizes], codes)
        _check("scales", self.scales, [(size,) for size in sizes if self.dtype in CODES])
        if (sketch := self.sketch) is not None:
            depth, first = len(sketch.directions), sketch.first
            width = depth - first + 2 if depth > first else 0
            _check("directions", [sketch.directions], [(max(depth, first), self.dim)])
            _check("heads", sketch.heads, [(first + 1, size) for size in sizes])
            _check("tails", sketch.tails, [(size, width) for size in sizes])


def _check(
    name: str,
    arrays: Sequence[npt.NDArray[Any]],
    shapes: Sequence[tuple[int, ...]],
    dtype: type[np.generic] = np.float32,
) -> None:
    found = [array.shape for array in arrays]
    if found != list(shapes) or any(array.dtype != dtype for array in arrays):
        raise ValueError(
            f"{name} must be {dtype.__name__} of the shapes {shapes}, got "
            f"{[str(array.dtype) for array in arrays]} of {found}. No index was made. "
            "Give it what ExactIndex.parts gave."
        )


def taken(blocks: Sequence[Array], sizes: Sequence[int], *, copy: bool) -> tuple[Array, ...]:
    """The first rows of each of `blocks`, as many as `sizes` say."""
    parts = (block[:size] for block, size in zip(blocks, sizes, strict=True))
    return tuple(part.copy() if copy else part for part in parts)  # type: ignore[misc]


def table_of(parts: Parts) -> Table | QuantisedTable:
    """The rows of `parts`, on its arrays."""
    if parts.dtype in CODES:
        return QuantisedTable(parts.dim, parts.dtype, parts.blocks, parts.scales, parts.slack)
    return Table(parts.dim, parts.blocks)


def sketch_parts(sketch: Sketch, sizes: Sequence[int], *, copy: bool) -> SketchParts:
    """The parts of `sketch` for blocks of these `sizes`."""
    rows = taken([head.T for head in sketch.heads], sizes, copy=copy)
    heads = tuple(np.ascontiguousarray(head.T) if copy else head.T for head in rows)
    tails = taken(sketch.tails, sizes, copy=copy)
    return SketchParts(sketch.directions, sketch.first, heads, tails)
