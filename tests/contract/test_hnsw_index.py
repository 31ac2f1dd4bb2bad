"""The graph finds nearly all, and nothing that is not near enough."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import usearch.index

from mneme import MemoryStore, SemanticCache
from mneme.indexes import hnsw
from mneme.indexes.hnsw import HnswIndex
from mneme.records import Key, Vector
from mneme.testing import HashEmbedder, IndexContract
from mneme.types import Index, Priced

DTYPES = ("float32", "float16", "int8")
DIM = 48


def clustered(count: int, seed: int) -> Vector:
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((60, DIM))
    raw = centres[random.integers(60, size=count)] + 0.6 * random.standard_normal((count, DIM))
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), np.float32)


def key_of(number: int) -> Key:
    return Key(number.to_bytes(16))


@pytest.fixture
def graph_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows there are, the graph is asked."""
    monkeypatch.setattr(hnsw, "FEW", 0)


@pytest.mark.parametrize("dtype", DTYPES)
class TestHnswIndex(IndexContract):
    """All promises with the few rows of a test, which are compared one by one."""

    @pytest.fixture(autouse=True)
    def _dtype(self, dtype: str) -> None:
        self.dtype = dtype

    def make_index(self, dim: int) -> Index:
        return HnswIndex(dim, dtype=self.dtype)


@pytest.mark.usefixtures("graph_alone")
class TestGraphAlone(IndexContract):
    """All promises but that every neighbour is found."""

    RECALL = 0.95

    def make_index(self, dim: int) -> Index:
        return HnswIndex(dim, connectivity=32, expansion_search=256)


@pytest.mark.usefixtures("graph_alone")
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_finds_nearly_all(dtype: str) -> None:
    """After removals and replacements too; and each cosine is that of float32."""
    vectors, questions = clustered(3_000, 1), clustered(100, 2)
    index = HnswIndex(DIM, dtype=dtype)
    rows = dict(enumerate(vectors))
    for at, vector in rows.items():
        index.add(key_of(at), vector)
    for at in range(0, 3_000, 3):
        index.remove(key_of(at))
        del rows[at]
    for at in range(1, 600, 3):
        rows[at] = vectors[-at]
        index.add(key_of(at), rows[at])
    assert len(index) == len(rows) == 2_000
    table, numbers = np.stack(list(rows.values())), list(rows)
    found = wanted = 0
    for question in questions:
        truth = table @ question
        best = {numbers[at] for at in np.argsort(-truth)[:8].tolist()}
        said = dict(index.search(question, k=8))
        for key, cosine in said.items():
            assert cosine == pytest.approx(float(rows[int.from_bytes(key)] @ question), abs=1e-5)
        found += len(best & {int.from_bytes(key) for key in said})
        wanted += 8
        assert all(c >= 0.7 for _, c in index.search(question, k=8, at_least=0.7))
    assert found / wanted > 0.95


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_the_vectors_of_a_store_decide(dtype: str) -> None:
    """They are not kept twice; what the store has no more keeps its cosine in the graph."""
    vectors = clustered(50, 1)
    store = {key_of(at): vector for at, vector in enumerate(vectors)}

    def exact(keys: Sequence[Key]) -> list[Vector | None]:
        return [store.get(key) for key in keys]

    index = HnswIndex(DIM, dtype=dtype, exact=exact, exact_floats=7)
    assert index.search_floats == 0
    for key, vector in store.items():
        index.add(key, vector)
    assert index.search_floats > 7
    assert index.memory_bytes < graph_of(vectors, dtype).memory_bytes
    ((key, cosine),) = index.search(vectors[3], k=1)
    assert (key, cosine) == (key_of(3), pytest.approx(1.0, abs=1e-6))
    del store[key_of(3)]
    ((key, cosine),) = index.search(vectors[3], k=1)
    assert (key, cosine) == (key_of(3), pytest.approx(1.0, abs=0.05))


def graph_of(vectors: Vector, dtype: str) -> HnswIndex:
    index = HnswIndex(DIM, dtype=dtype)
    for at, vector in enumerate(vectors):
        index.add(key_of(at), vector)
    return index


@pytest.mark.usefixtures("graph_alone")
def test_threads_change_it_meanwhile() -> None:
    """What stays is found while others write."""
    vectors = clustered(400, 1)
    index = graph_of(vectors, "float32")
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for at in range(1, 400, 2):
                index.remove(key_of(at))
                index.add(key_of(at), vectors[at - 1])
        except BaseException as exc:
            failures.append(exc)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for thread in writers:
        thread.start()
    missed = sum(
        key_of(at) not in dict(index.search(vectors[at], k=8, at_least=0.99))
        for at in range(0, 400, 2)
    )
    for thread in writers:
        thread.join()
    assert not failures
    assert missed <= 10


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ef": 64}, "'ef'"),
        ({"connectivity": 1}, "connectivity.*at least 2"),
        ({"expansion_add": 0}, "expansion_add"),
        ({"expansion_search": "64"}, "expansion_search"),
        ({"connectivity": True}, "connectivity"),
        ({"dtype": "f8"}, "dtype.*'float32', 'float16', 'int8'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], says: str) -> None:
    """They are refused by the constructor of the cache, with what there is."""
    with pytest.raises(ValueError, match=says):
        SemanticCache(
            store=MemoryStore(),
            embedder=HashEmbedder(8),
            index_backend="hnsw",
            index_options=options,
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cache_on_it(tmp_path: Path, dtype: Any) -> None:
    """It answers, is made anew when the cache opens, and may be kept otherwise."""
    settings: dict[str, Any] = {
        "embedder": HashEmbedder(64),
        "index_backend": "hnsw",
        "similarity_threshold": 0.8,
    }
    with SemanticCache(tmp_path / "a.db", vector_dtype=dtype, **settings) as cache:
        cache.put("a b c d e", 1)
        cache.put("v w x y z", 2)
        cache.delete("v w x y z")
    with SemanticCache(tmp_path / "a.db", vector_dtype=dtype, **settings) as cache:
        assert cache.health().index_backend == "hnsw"
        for kept in (dtype, "int8", "float32"):
            cache.requantize(kept)
            hit = cache.get("a b c d e f")
            assert hit is not None
            assert hit.response == 1
            assert cache.get("v w x y z u") is None
        assert cache.stats().index_memory_bytes > 0


def test_it_is_what_was_pinned() -> None:
    """The graph is usearch's, and knows what a search costs."""
    index = HnswIndex(8)
    assert isinstance(index._graph, usearch.index.Index)
    assert isinstance(index, Priced)
