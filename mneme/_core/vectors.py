"""The one border that every embedding crosses on its way in."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
from numpy.typing import ArrayLike

from mneme.errors import EmbedderDimensionError, EmbeddingError
from mneme.records import Vector

__all__ = ["as_unit", "as_units"]

FLOAT32 = np.dtype(np.float32)

UNIT_TOLERANCE = 1e-6
"""How far the squared length of a unit vector in float32 may be from 1 by rounding."""


def as_unit(raw: ArrayLike, dim: int) -> Vector:
    """
    The embedding as a unit vector, float32, shape ``(dim,)``; never the caller's own array.

    Raises:
        EmbedderDimensionError: wrong shape.
        EmbeddingError: no numbers, NaN, infinity, or a zero vector (it has no direction, so
            no cosine).
    """
    if _is_plain(raw) and raw.shape == (dim,) and _is_unit(float(np.vdot(raw, raw))):
        return raw.copy()
    wide = _as_numbers(raw)
    if wide.shape != (dim,):
        raise EmbedderDimensionError(
            f"the embedder gave an array of shape {wide.shape}, its dim promises ({dim},). "
            "Nothing was stored. Return one flat vector per text, or correct `dim`."
        )
    # The largest component first: squares of very large or very small numbers would overflow.
    scale = float(np.abs(wide).max(initial=0.0))
    if not np.isfinite(scale):
        raise EmbeddingError(
            "the embedding holds NaN or infinity. Nothing was stored. "
            "Check the embedder's output for this text."
        )
    if scale == 0.0:
        raise EmbeddingError(
            "the embedding is a zero vector: it has no direction, so no cosine. "
            "Nothing was stored. Check the embedder's output for this text."
        )
    # Very small ones may vanish, whatever numpy was told elsewhere to do about that.
    with np.errstate(under="ignore"):
        scaled = wide / scale
        return np.asarray(scaled / np.linalg.norm(scaled), dtype=np.float32)


def as_units(raw: ArrayLike, count: int, dim: int) -> list[Vector]:
    """
    A batch of `count` embeddings, each as `as_unit` gives it.

    Raises:
        EmbedderDimensionError: the batch has another number of rows, or a wrong shape.
        EmbeddingError: as `as_unit`, for any of the rows.
    """
    if not (isinstance(raw, (list, tuple)) or (_is_plain(raw) and raw.ndim)):
        raw = np.atleast_1d(_as_numbers(raw))
    rows = list(raw)
    if len(rows) != count:
        raise EmbedderDimensionError(
            f"the embedder gave {len(rows)} vectors for {count} texts. Nothing was stored. "
            "Return one vector per text from embed_batch, in order."
        )
    return [as_unit(row, dim) for row in rows]


def _is_plain(raw: object) -> TypeGuard[Vector]:
    """Whether it is an array of float32 in this machine's byte order, and of no other kind."""
    return type(raw) is np.ndarray and raw.dtype == FLOAT32


def _is_unit(square: float) -> bool:
    # Neither NaN nor infinity is. (`vdot` gives them without a warning, as `dot` does not.)
    return abs(square - 1.0) <= UNIT_TOLERANCE


def _as_numbers(raw: ArrayLike) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    try:
        array = np.asarray(raw)
        if array.dtype.kind in "USOmMc":
            # numpy would read text as numbers, None as NaN and dates as days.
            raise TypeError(f"an array of {array.dtype}")
        with np.errstate(over="ignore"):
            return np.asarray(array, dtype=np.float64)
    except Exception as exc:  # another library's array may fail in any way
        raise EmbeddingError(
            f"the embedder gave {type(raw).__name__}, which is not an array of numbers. "
            "Nothing was stored. Return a numpy array or a list of floats."
        ) from exc
