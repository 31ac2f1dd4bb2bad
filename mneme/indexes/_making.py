"""Which index each partition gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mneme.errors import MnemeError
from mneme.indexes.exact import DTYPES, ExactIndex
from mneme.indexes.hnsw import HnswIndex, check_options, graph_class
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
        IndexBackendUnavailableError: the backend is not installed.
    """

    store: Store
    backend: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    vector_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.vector_dtype not in DTYPES:
            raise ValueError(f"vector_dtype must be one of {DTYPES}, got {self.vector_dtype!r}.")
        if self.backend not in ("auto", "numpy", "hnsw"):
            raise ValueError(f"index_backend must be auto, numpy or hnsw, got {self.backend!r}.")
        if self.backend == "hnsw":
            check_options(self.options)
            graph_class()
        elif self.options:
            raise ValueError(
                f"the numpy index takes no options, got {sorted(self.options)}. Leave them out."
            )

    def with_dtype(self, dtype: str) -> Indexing:
        options = {name: value for name, value in self.options.items() if name != "dtype"}
        return replace(self, vector_dtype=dtype, options=options)

    @property
    def chosen(self) -> str:
        """The backend, whatever was asked for."""
        return "hnsw" if self.backend == "hnsw" else "numpy"

    def make(self, dim: int, partition: Partition) -> Index:
        """An empty index for the vectors of `partition`."""
        settings: dict[str, Any] = {"dtype": self.vector_dtype, **self.options}
        if settings["dtype"] != "float32" and isinstance(self.store, VectorSource):
            settings["exact"] = partial(_vectors, self.store, partition)
            settings["exact_floats"] = FETCH if self.store.blocking else 0
        return HnswIndex(dim, **settings) if self.chosen == "hnsw" else ExactIndex(dim, **settings)


def _vectors(
    source: VectorSource, partition: Partition, keys: Sequence[Key]
) -> Sequence[Vector | None]:
    try:
        return source.vectors([(partition, key) for key in keys])
    except MnemeError:
        # A lookup does not fail with the store: the cosine it was found by decides.
        return [None] * len(keys)
