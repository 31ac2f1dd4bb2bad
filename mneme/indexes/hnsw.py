"""
Approximate search in a graph (HNSW, Malkov and Yashunin 2018), by usearch: extra ``hnsw``.

The graph proposes rows and the float32 cosine decides, so nothing is found that is not near
enough; but now and then something near is not found. It is made anew when a cache opens,
at some hundred microseconds a row, and its searches take turns with changes of it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from mneme.errors import IndexBackendUnavailableError
from mneme.indexes._decide import Exact
from mneme.indexes._quantised import CODES
from mneme.records import Key, Vector

__all__ = ["HnswIndex"]

DTYPES = {"float32": "f32", "float16": "f16", "int8": "i8"}
BYTES = {"float32": 4, "float16": 2, "int8": 1}

LEAST = {"connectivity": 2, "expansion_add": 1, "expansion_search": 1}

FEW = 1_000
"""Rows up to which all are compared: a graph of so few gains nothing and may miss."""

SPARE = 2
"""Times the rows wanted: so many are taken from the graph, for the cosine to choose from."""


def check_options(options: Mapping[str, Any]) -> None:
    """
    Nothing, if `options` are those of the graph: ``connectivity``, ``expansion_add`` and
    ``expansion_search``, whole numbers, and ``dtype``.

    Raises:
        ValueError: another name, or a value that makes no sense.
    """
    unknown = sorted(set(options) - {*LEAST, "dtype"})
    if unknown:
        raise ValueError(
            f"index_options of hnsw are {sorted(LEAST)} and 'dtype', got {unknown}. "
            "Leave out what is not among them."
        )
    for name, least in LEAST.items():
        value = options.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"index_options[{name!r}] must be a whole number of at least {least}, "
                f"got {value!r}."
            )
    if options.get("dtype", "float32") not in DTYPES:
        raise ValueError(
            f"index_options['dtype'] must be one of {tuple(DTYPES)}, got {options['dtype']!r}."
        )


class HnswIndex:
    """
    The unit vectors of one partition, shape ``(dim,)`` each, searched approximately.

    Args:
        connectivity: neighbours of a row in the graph: more find better, and take memory.
        expansion_add, expansion_search: rows looked at on adding and on searching: more find
            better, and take time.
        dtype: of the graph: ``"float32"``, ``"float16"`` or ``"int8"``.
        exact: gives the float32 vectors of keys, by which rows are decided; without it a graph
            of another dtype keeps them beside it.
        exact_floats: what a call of `exact` costs, in numbers read.

    Raises:
        IndexBackendUnavailableError: usearch is not installed.
        ValueError: an option that makes no sense.
    """

    def __init__(
        self,
        dim: int,
        *,
        connectivity: int = 16,
        expansion_add: int = 128,
        expansion_search: int = 64,
        dtype: str = "float32",
        exact: Exact | None = None,
        exact_floats: int = 0,
    ) -> None:
        options = {
            "connectivity": connectivity,
            "expansion_add": expansion_add,
            "expansion_search": expansion_search,
        }
        check_options({**options, "dtype": dtype})
        self._graph = graph_class()(ndim=dim, metric="ip", dtype=DTYPES[dtype], **options)
        self._dim = dim
        self._row_bytes = dim * BYTES[dtype] + 10 * connectivity
        self._looked_at = expansion_search * connectivity
        self._exact = exact
        self._exact_floats = exact_floats
        self._kept: dict[int, Vector] | None = {} if dtype in CODES and exact is None else None
        self._keys: dict[int, Key] = {}
        self._numbers: dict[Key, int] = {}
        self._next = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def memory_bytes(self) -> int:
        """An estimate: usearch tells what it has reserved, which is more."""
        kept = 0 if self._kept is None else 4 * self._dim
        return len(self) * (self._row_bytes + kept)

    @property
    def search_floats(self) -> int:
        """What a search costs, in numbers read, scattered ones counted four times."""
        count = len(self)
        if not count:
            return 0
        return self._dim * min(count, 4 * self._looked_at) + self._exact_floats

    def add(self, key: Key, vector: Vector) -> None:
        with self._lock:
            # Under a number of its own: the graph is slow to put another vector in one's place.
            self._remove(key)
            number = self._next
            self._next += 1
            self._graph.add(number, vector, threads=1)
            if self._kept is not None:
                self._kept[number] = vector.copy()
            self._keys[number], self._numbers[key] = key, number

    def remove(self, key: Key) -> None:
        with self._lock:
            self._remove(key)

    def search(
        self, vector: Vector, *, k: int, at_least: float = -1.0
    ) -> Sequence[tuple[Key, float]]:
        """At most `k` keys with a cosine of `at_least`, best first; one may be missed."""
        with self._lock:
            if not self._numbers:
                return []
            count = len(self._numbers)
            compares_all = count <= max(FEW, 2 * SPARE * k)
            wanted = count if compares_all and k * SPARE > count else min(count, SPARE * k)
            matches = self._graph.search(vector, wanted, exact=compares_all, threads=1)
            numbers = [int(number) for number in matches.keys]
            keys = [self._keys[number] for number in numbers]
            rows = self._vectors(numbers)
        if rows is None and self._exact is not None:
            rows = self._exact(keys)
        found = []
        for key, row, distance in zip(keys, rows or (), matches.distances, strict=True):
            # What the store has no more keeps the cosine that the graph has for it.
            cosine = 1.0 - float(distance) if row is None else float(row @ vector)
            cosine = min(1.0, max(-1.0, cosine))
            if cosine >= at_least:
                found.append((key, cosine))
        found.sort(key=lambda pair: -pair[1])
        return found[:k]

    def _remove(self, key: Key) -> None:
        number = self._numbers.pop(key, None)
        if number is not None:
            del self._keys[number]
            if self._kept is not None:
                del self._kept[number]
            self._graph.remove(number, threads=1)

    def _vectors(self, numbers: Sequence[int]) -> Sequence[Vector | None] | None:
        """The float32 vectors, where they are kept here."""
        if self._exact is not None:
            return None
        if self._kept is not None:
            return [self._kept[number] for number in numbers]
        rows: Sequence[Vector] = self._graph.get(np.array(numbers, np.uint64))
        return rows


def has_graph() -> bool:
    """Whether usearch is installed; it is not imported for that."""
    return find_spec("usearch") is not None


def graph_class() -> Any:
    """
    What usearch calls an index.

    Raises:
        IndexBackendUnavailableError: it is not installed.
    """
    try:
        from usearch.index import Index
    except ImportError as exc:
        raise IndexBackendUnavailableError(
            "index_backend='hnsw' needs usearch, which is not installed. Nothing was opened. "
            "Run: pip install 'mneme-toolkit[hnsw]', or use index_backend='auto'."
        ) from exc
    return Index
