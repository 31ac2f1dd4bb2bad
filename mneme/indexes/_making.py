"""Which index each partition gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from mneme.errors import MnemeError
from mneme.indexes.exact import DTYPES, ExactIndex
from mneme.indexes.hnsw import HnswIndex, check_options, graph_class, has_graph
from mneme.records import Key, Partition, Vector
from mneme.types import Index, Store, VectorSource

__all__ = ["Indexing"]

FETCH = 2_000_000
"""
Numbers read in the time that a store takes to give a few vectors. It may wait for a disk, so
such a search does not belong on an event loop.
"""


OUTGROWN_SECONDS = 0.01
"""
What a search by comparing may take before ``"auto"`` makes a graph: a thread is well used so
long, and with a sketch that is a million rows and more.
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

    @cached_property
    def may_be_outgrown(self) -> bool:
        """Whether a partition may ever get a graph: where none was ruled out, and there is one."""
        return self.backend == "auto" and has_graph()

    def is_outgrown(self, index: Index) -> bool:
        """Whether comparing takes so long in `index` that a graph is worth what it misses."""
        if not self.may_be_outgrown or not isinstance(index, ExactIndex):
            return False
        return (index.least_seconds or 0.0) > OUTGROWN_SECONDS

    def grown(self) -> Indexing:
        """The same with a graph."""
        return replace(self, backend="hnsw")

    @property
    def is_plain(self) -> bool:
        """Whether indexes compare exactly, and in float32."""
        return self.chosen == "numpy" and self.vector_dtype == "float32" and not self.options

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
