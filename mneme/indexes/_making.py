"""Which index each partition gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mneme.errors import MnemeError
from mneme.indexes.exact import DTYPES, ExactIndex
from mneme.records import Key, Partition, Vector
from mneme.types import Index, Store, VectorSource

__all__ = ["Indexing"]

FETCH = 2_000_000
"""
Numbers read in the time that a store takes to give a few vectors. It may wait for a disk, so
such a search does not belong on an event loop.
"""


@dataclass(frozen=True)
class Indexing:
    """
    How the vectors of a cache are searched and kept.

    Raises:
        ValueError: a backend, dtype or option that there is not.
    """

    store: Store
    backend: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    vector_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.vector_dtype not in DTYPES:
            raise ValueError(f"vector_dtype must be one of {DTYPES}, got {self.vector_dtype!r}.")
        if self.backend not in ("auto", "numpy"):
            raise ValueError(f"index_backend must be auto or numpy, got {self.backend!r}.")
        if self.options:
            raise ValueError(
                f"the numpy index takes no options, got {sorted(self.options)}. Leave them out."
            )

    def with_dtype(self, dtype: str) -> Indexing:
        return replace(self, vector_dtype=dtype)

    def make(self, dim: int, partition: Partition) -> Index:
        """An empty index for the vectors of `partition`."""
        if self.vector_dtype == "float32" or not isinstance(self.store, VectorSource):
            return ExactIndex(dim, dtype=self.vector_dtype)
        return ExactIndex(
            dim,
            dtype=self.vector_dtype,
            exact=partial(_vectors, self.store, partition),
            exact_floats=FETCH if self.store.blocking else 0,
        )


def _vectors(
    source: VectorSource, partition: Partition, keys: Sequence[Key]
) -> Sequence[Vector | None]:
    try:
        return source.vectors([(partition, key) for key in keys])
    except MnemeError:
        # A lookup does not fail with the store: the cosine it was found by decides.
        return [None] * len(keys)
