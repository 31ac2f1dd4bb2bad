"""
What searches cost, as ratios that a busy or slow machine does not change.

Each ratio is between two things done in turn in one process, and the median of several is
taken. The bounds are about twice what is measured on a quiet machine: they catch a search that
compares with everything, or one that goes bad after removals, not a few microseconds.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from mneme.indexes import ExactIndex
from mneme.indexes._sketch import BLOCK
from mneme.records import Key, Vector

pytestmark = pytest.mark.timing

DIM, ROWS, K = 384, 24_000, 8
HALF_BLOCK = BLOCK // 2
ROUNDS, SEARCHES = 9, 8


def like_text(count: int) -> Vector:
    """Spectrum and clusters of sentence embeddings: variances fall as 1/rank, topics in groups."""
    random = np.random.default_rng(0)
    scale = np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    topics = random.standard_normal((max(1, count // 20), DIM), np.float32) * scale
    own = 0.6 * scale * random.standard_normal((count, DIM), np.float32)
    own += topics[random.integers(len(topics), size=count)]
    return np.asarray(own / np.linalg.norm(own, axis=1, keepdims=True), np.float32)


def key_of(number: int) -> Key:
    return Key(number.to_bytes(16))


def filled(vectors: Vector) -> ExactIndex:
    index = ExactIndex(vectors.shape[1], start=lambda fit: fit())
    for at, vector in enumerate(vectors):
        index.add(key_of(at), vector)
    return index


def ratio(
    one: Callable[[Vector], object], other: Callable[[Vector], object], asked: Vector
) -> float:
    """How many times as long `one` takes for the same questions."""
    ratios = []
    for round_ in range(ROUNDS):
        some = asked[(round_ * SEARCHES) % (len(asked) - SEARCHES) :][:SEARCHES]
        start = time.perf_counter()
        for question in some:
            one(question)
        between = time.perf_counter()
        for question in some:
            other(question)
        ratios.append((between - start) / (time.perf_counter() - between))
    return statistics.median(ratios)


@pytest.fixture(scope="module")
def vectors() -> Vector:
    return like_text(ROWS + 200)


@pytest.fixture(scope="module")
def index(vectors: Vector) -> ExactIndex:
    index = filled(vectors[:ROWS])
    for question in vectors[ROWS:]:
        index.search(question, k=K, at_least=0.9)
    return index


def product(vectors: Vector) -> Callable[[Vector], object]:
    """The cheapest comparison with all: no keys, no neighbours."""
    blocks = [vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK)]
    return lambda question: [block @ question for block in blocks]


def test_a_search_costs_a_fraction_of_the_product(vectors: Vector, index: ExactIndex) -> None:
    """From a threshold on, a third of the time of comparing with all at most."""
    took = ratio(
        lambda question: index.search(question, k=K, at_least=0.9),
        product(vectors[:ROWS]),
        vectors[ROWS:],
    )
    assert took < 1 / 3


@pytest.mark.parametrize("at_least", [-1.0, 0.9])
def test_no_search_costs_much_more_than_the_product(at_least: float) -> None:
    """Where no sketch can help: numbers without any structure, and few dimensions."""
    raw = np.random.default_rng(1).standard_normal((12_200, 64)).astype(np.float32)
    rows = np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), np.float32)
    index = filled(rows[:12_000])
    for question in rows[-200:]:
        index.search(question, k=K, at_least=at_least)
    took = ratio(
        lambda question: index.search(question, k=K, at_least=at_least),
        product(rows[:12_000]),
        rows[-200:],
    )
    # A product of 0.2 ms, beside which the calls of numpy on a busy machine weigh much.
    assert took < 4.0


def test_removing_leaves_searches_as_fast(vectors: Vector, index: ExactIndex) -> None:
    """After half of the rows went, a search costs no more than in an index of the other half."""
    half = ROWS // 2
    worn = filled(vectors[:ROWS])
    fresh = filled(vectors[half:ROWS])
    for at in range(half):
        worn.remove(key_of(at))
    for question in vectors[ROWS:]:
        worn.search(question, k=K, at_least=0.9)
        fresh.search(question, k=K, at_least=0.9)
    took = ratio(
        lambda question: worn.search(question, k=K, at_least=0.9),
        lambda question: fresh.search(question, k=K, at_least=0.9),
        vectors[ROWS:],
    )
    assert took < 1.6


def test_other_partitions_cost_nothing(vectors: Vector) -> None:
    """With 10,000 indexes beside it, a search of one costs what it costs alone."""
    alone = filled(vectors[:500])
    many = [filled(vectors[at : at + 1]) for at in range(10_000)]
    crowded = filled(vectors[:500])
    took = ratio(
        lambda question: crowded.search(question, k=K, at_least=0.9),
        lambda question: alone.search(question, k=K, at_least=0.9),
        vectors[ROWS:],
    )
    assert took < 1.6
    assert len(many) == 10_000


def test_a_small_partition_costs_little(vectors: Vector) -> None:
    """Of one row: less memory than a page, and a search of some microseconds, not a fit."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        many = [filled(vectors[at : at + 1]) for at in range(200)]
        each = (tracemalloc.get_traced_memory()[0] - before) / len(many)
    finally:
        tracemalloc.stop()
    # Room for the next rows, and the objects around it.
    assert each < 4 * 4 * DIM + 8_192


@pytest.mark.parametrize(("dtype", "most"), [("float32", 4.0), ("float16", 2.0), ("int8", 1.0)])
def test_memory_of_a_row(vectors: Vector, dtype: str, most: float) -> None:
    """What each number takes, a sketch with room for as many rows again, and 200 bytes of key."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        index = ExactIndex(DIM, dtype=dtype, start=lambda fit: fit())
        for at, vector in enumerate(vectors[:HALF_BLOCK]):
            index.add(key_of(at), vector)
        for question in vectors[-40:]:
            index.search(question, k=K, at_least=0.9)
        each = (tracemalloc.get_traced_memory()[0] - before) / HALF_BLOCK
    finally:
        tracemalloc.stop()
    assert each < most * DIM + 2 * DIM + 200
    assert index.memory_bytes / HALF_BLOCK < most * DIM + 2 * DIM + 20


def test_many_at_once_cost_less(vectors: Vector) -> None:
    """Thirty-two questions without a sketch cost less than two thirds of as many searches."""
    index = ExactIndex(DIM, start=lambda fit: None)
    for at, vector in enumerate(vectors[:ROWS]):
        index.add(key_of(at), vector)
    asked = vectors[ROWS : ROWS + 32]
    took = []
    for _ in range(5):
        start = time.perf_counter()
        index.search_many(asked, k=K, at_least=0.9)
        between = time.perf_counter()
        for question in asked:
            index.search(question, k=K, at_least=0.9)
        took.append((between - start) / (time.perf_counter() - between))
    assert statistics.median(took) < 2 / 3
