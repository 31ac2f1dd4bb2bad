"""Vectors in less memory are found by less exact cosines, and answers are as exact as before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.vectors import as_units, isotropic

from mneme.indexes import ExactIndex
from mneme.indexes._quantised import QuantisedTable
from mneme.indexes._sketch import BLOCK, Sketch
from mneme.records import Key, Vector
from mneme.testing import IndexContract
from mneme.types import Index

NEAR = 1e-5
"""Two ways to add up a cosine differ by less."""

DTYPES = ("int8", "float16")


def clustered(count: int, dim: int, seed: int) -> Vector:
    random = np.random.default_rng(seed)
    centres = isotropic(max(1, count // 20), dim, seed + 1)
    noise = 0.3 / dim**0.5 * random.standard_normal((count, dim))
    return as_units(centres[random.integers(len(centres), size=count)] + noise)


def crowded(count: int, dim: int, seed: int) -> Vector:
    """So alike that one byte a number cannot tell them apart."""
    noise = 1e-3 * np.random.default_rng(seed).standard_normal((count, dim))
    return as_units(isotropic(1, dim, seed) + noise)


def spiked(count: int, dim: int, seed: int) -> Vector:
    """One great number and many small ones, of which one byte keeps nothing."""
    random = np.random.default_rng(seed)
    raw = random.uniform(-0.5 / 127, 0.5 / 127, (count, dim))
    raw[np.arange(count), random.integers(dim, size=count)] = 1.0
    return as_units(raw)


def duplicates(count: int, dim: int, seed: int) -> Vector:
    return isotropic(3, dim, seed)[np.random.default_rng(seed).integers(3, size=count)]


KINDS = (isotropic, clustered, crowded, spiked, duplicates)


def key_of(number: int) -> Key:
    return Key(number.to_bytes(16))


class Kept:
    """The float32 vectors, as a store has them."""

    def __init__(self) -> None:
        self.rows: dict[Key, Vector] = {}
        self.fetched = 0

    def __call__(self, keys: Sequence[Key]) -> list[Vector | None]:
        self.fetched += len(keys)
        return [self.rows.get(key) for key in keys]


def some_sketch(dim: int, seed: int) -> Sketch:
    random = np.random.default_rng(seed)
    depth = int(random.integers(1, dim + 1))
    directions = np.linalg.qr(random.standard_normal((dim, dim)))[0][:depth]
    return Sketch(np.asarray(directions, np.float32), int(random.integers(1, depth + 1)))


def check(index: Index, kept: Kept, vector: Vector, k: int, at_least: float) -> None:
    """That a search answers as comparing with every float32 vector does."""
    truth = {key: float(row.astype(np.float64) @ vector) for key, row in kept.rows.items()}
    found = index.search(vector, k=k, at_least=at_least)
    assert len({key for key, _ in found}) == len(found) <= k
    assert [cosine for _, cosine in found] == sorted((c for _, c in found), reverse=True)
    for key, cosine in found:
        assert abs(cosine - truth[key]) < NEAR
        assert cosine >= at_least
    assert len(found) >= min(k, sum(c >= at_least + NEAR for c in truth.values()))
    if len(found) == k:
        better = {key for key, cosine in truth.items() if cosine > found[-1][1] + NEAR}
        assert better <= {key for key, _ in found}


@pytest.mark.parametrize("dtype", DTYPES)
class TestWithVectors(IndexContract):
    """Where the float32 vectors are at hand, every promise is that of float32."""

    @pytest.fixture(autouse=True)
    def _dtype(self, dtype: str) -> None:
        self.dtype = dtype

    def make_index(self, dim: int) -> Index:
        kept = Kept()

        class Told(ExactIndex):
            def add(self, key: Key, vector: Vector) -> None:
                kept.rows[key] = vector.copy()
                super().add(key, vector)

        return Told(dim, dtype=self.dtype, exact=kept)


@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    dim=st.integers(2, 48),
    seed=st.integers(0, 2**16),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "replace", "adopt", "fit", "open"]),
            st.integers(1, 120),
            st.integers(1, 20),
            st.sampled_from([-1.0, 0.0, 0.7, 0.9, 0.99, 0.999999, 1.0, None]),
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_it_answers_as_float32_does(
    kind: Callable[[int, int, int], Vector],
    dtype: str,
    dim: int,
    seed: int,
    steps: list[tuple[str, int, int, float | None]],
) -> None:
    """For any data and floor, with a sketch and without, through changes of every sort."""
    random = np.random.default_rng(seed)
    pool, kept, number = kind(500, dim, seed), Kept(), 0
    index = ExactIndex(dim, dtype=dtype, exact=kept)
    for step, size, k, at_least in steps:
        known = [list(kept.rows)[at] for at in random.permutation(len(kept.rows))[:size]]
        if step == "add":
            for _ in range(size):
                number += 1
                kept.rows[key_of(number)] = pool[random.integers(len(pool))]
                index.add(key_of(number), kept.rows[key_of(number)])
        elif step == "adopt":
            index.adopt(some_sketch(dim, seed + size))
        elif step == "fit":
            index.fit()
        elif step == "open":
            index = ExactIndex.from_parts(index.parts(), exact=kept)
        for key in known:
            if step == "remove":
                index.remove(key)
                del kept.rows[key]
            elif step == "replace":
                kept.rows[key] = pool[random.integers(len(pool))]
                index.add(key, kept.rows[key])
        for question in (pool[random.integers(len(pool))], isotropic(1, dim, seed + size)[0]):
            some = next(iter(kept.rows.values()), question)
            check(
                index,
                kept,
                question,
                k,
                min(1.0, float(some @ question)) if at_least is None else at_least,
            )
            (many,) = index.search_many(question[None], k=k, at_least=0.5)
            alone = index.search(question, k=k, at_least=0.5)
            assert [c for _, c in many] == pytest.approx([c for _, c in alone], abs=NEAR)


@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    dim=st.integers(2, 300),
    seed=st.integers(0, 2**16),
)
def test_no_cosine_is_off_by_more_than_is_said(
    kind: Callable[[int, int, int], Vector], dtype: str, dim: int, seed: int
) -> None:
    """By whatever way it is computed."""
    vectors = kind(60, dim, seed)
    table = QuantisedTable(dim, dtype)
    for at, vector in enumerate(vectors):
        table.write(at, vector)
    for question in (vectors[0], isotropic(1, dim, seed)[0]):
        truth = vectors.astype(np.float64) @ question
        ways = (
            table.run(0, 60, question),
            table.runs(0, 60, np.stack([question, -question]))[0],
            table.some(0, np.arange(60)) @ question,
            table.slab(0, 0, 60) @ question,
        )
        for cosines in ways:
            assert (np.abs(cosines - truth) <= table.slack).all()
    assert table.slack < (0.06 if dtype == "int8" else 3e-4) * max(1.0, dim / 100) ** 0.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_the_vectors(dtype: str) -> None:
    """The cosine that a row is found by decides, and is off by no more than is said."""
    vectors = clustered(2_000, 64, 1)
    index = ExactIndex(64, dtype=dtype)
    for at, vector in enumerate(vectors):
        index.add(key_of(at), vector)
    for question in vectors[:50]:
        found = dict(index.search(question, k=2_000, at_least=0.8))
        truth = vectors @ question
        for key, cosine in found.items():
            assert cosine >= 0.8
            assert abs(cosine - float(truth[int.from_bytes(key)])) <= index.slack
        surely = {key_of(at) for at in (truth >= 0.8 + index.slack).nonzero()[0].tolist()}
        assert surely <= found.keys()


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_vectors_are_fetched(dtype: str) -> None:
    """Those that may be in the answer, not all that are near."""
    vectors, kept = crowded(3_000, 32, 1), Kept()
    index = ExactIndex(32, dtype=dtype, exact=kept)
    far = isotropic(BLOCK, 32, 2)
    for at, vector in enumerate(np.concatenate([far, vectors])):
        kept.rows[key_of(at)] = vector
        index.add(key_of(at), vector)
    check(index, kept, far[5], 3, 0.9)
    assert kept.fetched <= 64


def test_a_vector_that_is_gone() -> None:
    """Where the store has let go of it, the cosine it was found by stands."""
    kept = Kept()
    index = ExactIndex(16, dtype="int8", exact=kept)
    vector = isotropic(1, 16, 1)[0]
    index.add(key_of(1), vector)
    ((key, cosine),) = index.search(vector, k=3, at_least=0.9)
    assert key == key_of(1)
    assert abs(cosine - 1.0) <= index.slack


def test_memory() -> None:
    """A quarter of the numbers, or half, and four bytes a row."""
    vectors = isotropic(BLOCK, 384, 1)
    sizes = {}
    for dtype in ("float32", *DTYPES):
        index = ExactIndex(384, dtype=dtype)
        for at, vector in enumerate(vectors):
            index.add(key_of(at), vector)
        sizes[dtype] = index.memory_bytes / BLOCK
    assert sizes == {"float32": 4 * 384, "float16": 2 * 384 + 4, "int8": 384 + 4}


def test_another_dtype() -> None:
    """It is refused, with what there is."""
    with pytest.raises(ValueError, match="'float32', 'int8', 'float16'"):
        ExactIndex(8, dtype="float64")


def test_what_a_search_costs_with_a_store_behind() -> None:
    """What asking the store costs is added, where there is anything to search."""
    index = ExactIndex(8, dtype="int8", exact=Kept(), exact_floats=1_000)
    assert index.search_floats == 0
    index.add(key_of(1), isotropic(1, 8, 1)[0])
    assert index.search_floats == 1_008
