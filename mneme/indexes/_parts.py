"""An index as plain arrays, for files that are mapped into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mneme.indexes._names import KEY_BYTES, Packed
from mneme.indexes._sketch import BLOCK, Sketch
from mneme.records import Vector

__all__ = ["Parts", "SketchParts"]


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

    `keys` are uint8, shape ``(n, 16)``; `blocks` float32, ``(16384, dim)`` each, the last one
    with what rows are left.
    """

    dim: int
    keys: Packed
    blocks: tuple[Vector, ...]
    sketch: SketchParts | None = None

    def __post_init__(self) -> None:
        sizes = [min(BLOCK, len(self.keys) - at) for at in range(0, len(self.keys), BLOCK)]
        _check("keys", [self.keys], [(len(self.keys), KEY_BYTES)], np.uint8)
        _check("blocks", self.blocks, [(size, self.dim) for size in sizes])
        if (sketch := self.sketch) is not None:
            depth, first = len(sketch.directions), sketch.first
            width = depth - first + 2 if depth > first else 0
            _check("directions", [sketch.directions], [(max(depth, first), self.dim)])
            _check("heads", sketch.heads, [(first + 1, size) for size in sizes])
            _check("tails", sketch.tails, [(size, width) for size in sizes])


def _check(
    name: str,
    arrays: Sequence[npt.NDArray[Any]],
    shapes: list[tuple[int, int]],
    dtype: type[np.generic] = np.float32,
) -> None:
    found = [array.shape for array in arrays]
    if found != shapes or any(array.dtype != dtype for array in arrays):
        raise ValueError(
            f"{name} must be {dtype.__name__} of the shapes {shapes}, got "
            f"{[str(array.dtype) for array in arrays]} of {found}. No index was made. "
            "Give it what ExactIndex.parts gave."
        )


def taken(blocks: Sequence[Vector], sizes: Sequence[int], *, copy: bool) -> tuple[Vector, ...]:
    """The first rows of each of `blocks`, as many as `sizes` say."""
    parts = (block[:size] for block, size in zip(blocks, sizes, strict=True))
    return tuple(part.copy() if copy else part for part in parts)


def sketch_parts(sketch: Sketch, sizes: Sequence[int], *, copy: bool) -> SketchParts:
    """The parts of `sketch` for blocks of these `sizes`."""
    rows = taken([head.T for head in sketch.heads], sizes, copy=copy)
    heads = tuple(np.ascontiguousarray(head.T) if copy else head.T for head in rows)
    tails = taken(sketch.tails, sizes, copy=copy)
    return SketchParts(sketch.directions, sketch.first, heads, tails)
