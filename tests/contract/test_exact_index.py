"""Whatever the sketch rules out, searches answer as comparing with every vector does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.vectors import as_units, isotropic

from mneme.indexes import ExactIndex, _compare
from mneme.indexes._best import leading
from mneme.indexes._compare import compare_all, compare_likely
from mneme.indexes._fit import Past, fitted
from mneme.indexes._sketch import BLOCK, Sketch
from mneme.records import Key, Vector
from mneme.testing import IndexContract
from mneme.types import Index

NEAR = 1e-5
"""Two ways to add up a cosine differ by less."""

Rows = dict[Key, Vector]


def clustered(count: int, dim: int, seed: int) -> Vector:
    random = np.random.default_rng(seed)
    centres = isotropic(max(1, count // 20), dim, seed + 1)
    return as_units(
        centres[random.integers(len(centres), size=count)]
        + 0.3 / dim**0.5 * random.standard_normal((count, dim))
    )


def duplicates(count: int, dim: int, seed: int) -> Vector:
    few = isotropic(3, dim, seed)
    return few[np.random.default_rng(seed).integers(3, size=count)]


def flat(count: int, dim: int, seed: int) -> Vector:
    """In a plane of two dimensions, so that nothing is left over but rounding."""
    random = np.random.default_rng(seed)
    return as_units(random.standard_normal((count, 2)) @ isotropic(2, dim, seed))


def opposite(count: int, dim: int, seed: int) -> Vector:
    """One direction and its opposite, hardly disturbed."""
    random = np.random.default_rng(seed)
    signs = random.choice([-1.0, 1.0], size=(count, 1))
    raw = signs * isotropic(1, dim, seed) + 1e-6 * random.standard_normal((count, dim))
    return as_units(raw)


def lattice(count: int, dim: int, seed: int) -> Vector:
    """Many equal cosines, and many of zero."""
    raw = np.random.default_rng(seed).integers(-1, 2, size=(count, dim)).astype(float)
    raw[~raw.any(axis=1), 0] = 1.0
    return as_units(raw)


def one_sided(count: int, dim: int, seed: int) -> Vector:
    """All components positive and alike: roundings add up instead of cancelling."""
    return as_units(1.0 + 0.01 * np.random.default_rng(seed).random((count, dim)))


KINDS = (isotropic, clustered, duplicates, flat, opposite, lattice, one_sided)


def some_sketch(dim: int, seed: int) -> Sketch:
    """Any directions, in no relation to any rows."""
    random = np.random.default_rng(seed)
    depth = int(random.integers(1, dim + 1))
    directions = np.linalg.qr(random.standard_normal((dim, dim)))[0][:depth]
    return Sketch(np.asarray(directions, np.float32), int(random.integers(1, depth + 1)))


def key_of(number: int) -> Key:
    return Key(number.to_bytes(16))


def filled(vectors: Vector, **options: Any) -> ExactIndex:
    index = ExactIndex(vectors.shape[1], **options)
    for at, vector in enumerate(vectors):
        index.add(key_of(at), vector)
    return index


def check(index: Index, rows: Rows, vector: Vector, k: int, at_least: float) -> None:
    """That a search answers as comparing with every one of `rows` does."""
    keys = list(rows)
    table = np.array([rows[key] for key in keys], np.float64).reshape(len(keys), len(vector))
    truth = dict(zip(keys, (table @ vector.astype(np.float64)).tolist(), strict=True))
    found = index.search(vector, k=k, at_least=at_least)
    assert len({key for key, _ in found}) == len(found) <= k
    assert [cosine for _, cosine in found] == sorted((c for _, c in found), reverse=True)
    for key, cosine in found:
        assert abs(cosine - truth[key]) < NEAR
        assert cosine >= at_least
    surely = sum(cosine >= at_least + NEAR for cosine in truth.values())
    assert len(found) >= min(k, surely)
    if len(found) == k:
        worst = found[-1][1]
        better = {key for key, cosine in truth.items() if cosine > worst + NEAR}
        assert better <= {key for key, _ in found}


class TestSketchedIndex(IndexContract):
    """With a sketch from the start, and another after every few searches."""

    def make_index(self, dim: int) -> Index:
        index = ExactIndex(dim)
        index.adopt(some_sketch(dim, seed=dim))
        return index


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dim=st.integers(2, 48),
    seed=st.integers(0, 2**16),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "replace", "adopt", "fit", "open"]),
            st.integers(1, 120),
            st.integers(1, 20),
            st.sampled_from([-1.0, -0.5, 0.0, 0.3, 0.7, 0.9, 0.99, 0.999999, 1.0, None]),
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_it_answers_as_comparing_with_all_does(
    kind: Callable[[int, int, int], Vector],
    dim: int,
    seed: int,
    steps: list[tuple[str, int, int, float | None]],
) -> None:
    """For any data, sketch and floor, through additions, removals, replacements and refits."""
    random = np.random.default_rng(seed)
    pool = kind(1_000, dim, seed)
    index, rows, number = ExactIndex(dim), Rows(), 0
    index.adopt(some_sketch(dim, seed))
    for step, size, k, at_least in steps:
        known = [list(rows)[at] for at in random.permutation(len(rows))[:size]]
        if step == "add":
            for _ in range(size):
                number += 1
                rows[key_of(number)] = pool[random.integers(len(pool))]
                index.add(key_of(number), rows[key_of(number)])
        elif step == "adopt":
            index.adopt(some_sketch(dim, seed + size))
        elif step == "fit":
            index.fit()
        elif step == "open":
            index = ExactIndex.from_parts(index.parts())
        for key in known:
            if step == "remove":
                index.remove(key)
                del rows[key]
            elif step == "replace":
                rows[key] = pool[random.integers(len(pool))]
                index.add(key, rows[key])
        assert len(index) == len(rows)
        for question in (pool[random.integers(len(pool))], isotropic(1, dim, seed + size)[0]):
            floor = at_least
            if floor is None:
                some = next(iter(rows.values()), question)
                floor = min(1.0, float(some @ question))
            check(index, rows, question, k, floor)


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dim=st.integers(2, 200),
    seed=st.integers(0, 2**16),
    count=st.integers(1, 300),
)
def test_no_cosine_exceeds_its_bound(
    kind: Callable[[int, int, int], Vector], dim: int, seed: int, count: int
) -> None:
    """Neither that of the first stage nor that of both, which is the closer one."""
    vectors = kind(count, dim, seed)
    sketch = some_sketch(dim, seed)
    sketch.write(0, vectors)
    for question in (vectors[0], -vectors[0], isotropic(1, dim, seed)[0]):
        cosines = vectors.astype(np.float64) @ question
        asked = sketch.ask(question)
        bounds = sketch.bounds(asked, 0, np.empty(count, np.float32))
        assert (cosines <= bounds + sketch.margin).all()
        if sketch.has_second_stage:
            closer = sketch.tighten(asked, np.arange(count), bounds)
            assert (cosines <= closer + sketch.margin).all()
            assert (closer <= bounds + sketch.margin).all()


@pytest.mark.parametrize(
    ("kind", "span"), [(isotropic, 4), (clustered, 4), (clustered, 1), (duplicates, 1)]
)
def test_many_blocks(
    kind: Callable[[int, int, int], Vector], span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The same over several blocks, with blocks that go and come, and fits in between; whether
    they are looked at together or one after the other.
    """
    monkeypatch.setattr(_compare, "SPAN", span * BLOCK)
    vectors = kind(2 * BLOCK + 500, 24, 1)
    index = filled(vectors, start=lambda fit: fit())
    rows = {key_of(at): vector for at, vector in enumerate(vectors)}
    questions = np.concatenate([vectors[:40], isotropic(40, 24, 2)])
    for round_, floor in enumerate([0.9, -1.0, 0.5]):
        for question in questions:
            index.search(question, k=8, at_least=floor)
        for question in questions[::8]:
            for k, at_least in ((1, -1.0), (8, floor), (100, 0.2), (20_000, -1.0)):
                check(index, rows, question, k, at_least)
        index.adopt(some_sketch(24, round_))
        for key in [key for key in rows if rows[key][0] > 0][:600]:
            index.remove(key)
            del rows[key]
        for question in questions[::8]:
            check(index, rows, question, 8, floor)
            check(index, rows, question, 8, -1.0)


@settings(deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    count=st.integers(0, 60),
    seed=st.integers(0, 2**16),
    k=st.integers(1, 8),
    at_least=st.sampled_from([-1.0, -0.5, 0.0, 0.7, 0.9, 0.999999, 1.0, 1.5]),
    dtype=st.sampled_from(["float32", "int8"]),
    is_sketched=st.booleans(),
)
def test_or_the_nearest(
    kind: Callable[[int, int, int], Vector],
    count: int,
    seed: int,
    k: int,
    at_least: float,
    dtype: str,
    is_sketched: bool,
) -> None:
    """What is near enough, best first; where nothing is, the nearest of all."""
    vectors = kind(count, 16, seed) if count else np.empty((0, 16), np.float32)
    index = filled(vectors, dtype=dtype)
    if is_sketched:
        index.adopt(some_sketch(16, seed))
    question = isotropic(1, 16, seed)[0]
    found = index.search_or_nearest(question, k=k, at_least=at_least)
    nearest = index.search(question, k=k)
    expected = [cosine for _, cosine in nearest if cosine >= at_least]
    expected = expected or [cosine for _, cosine in nearest[:1]]
    assert np.allclose([cosine for _, cosine in found], expected, atol=1e-6)
    assert all(-1.0 <= cosine <= 1.0 for _, cosine in found)
    assert len({key for key, _ in found}) == len(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_sketched", [False, True])
def test_many_at_once(kind: Callable[[int, int, int], Vector], is_sketched: bool) -> None:
    """Each question has the answer that it has alone, with any floor and number."""
    vectors = kind(BLOCK + 700, 16, 5)
    index = filled(vectors, start=lambda fit: None)
    if is_sketched:
        index.adopt(some_sketch(16, 5))
    questions = np.concatenate([vectors[:20], isotropic(20, 16, 6)])
    for k, at_least in ((8, 0.9), (8, -1.0), (1, 0.999), (300, 0.2), (8, 1.0)):
        found = index.search_many(questions, k=k, at_least=at_least)
        assert len(found) == len(questions)
        for question, several in zip(questions, found, strict=True):
            alone = index.search(question, k=k, at_least=at_least)
            cosines = [cosine for _, cosine in several]
            assert cosines == sorted(cosines, reverse=True)
            near = min(len(alone), len(several))
            assert np.allclose(cosines[:near], [c for _, c in alone[:near]], atol=NEAR)
            # Those at the very floor, within rounding, may be in one and not in the other.
            assert all(c < at_least + NEAR for _, c in (*alone[near:], *several[near:]))
            for key, cosine in several:
                own = float(vectors[int.from_bytes(key)] @ question)
                assert cosine == pytest.approx(own, abs=NEAR)


def test_many_of_none() -> None:
    """No questions have no answers, and an empty index none for any."""
    index = ExactIndex(16)
    assert list(index.search_many(np.empty((0, 16), np.float32), k=3)) == []
    assert list(index.search_many(isotropic(20, 16, 1), k=3, at_least=0.5)) == [[]] * 20


def test_searching_while_others_write_and_fit() -> None:
    """A row that stays is found, with its cosine, whatever threads do beside it."""
    dim = 32
    vectors = clustered(3_000, dim, 3)
    index = filled(vectors)
    index.adopt(some_sketch(dim, 0))
    stays = range(0, 3_000, 50)
    failures: list[BaseException] = []
    writing = threading.Event()

    def write(seed: int) -> None:
        random = np.random.default_rng(seed)
        for at in random.integers(3_000, size=1_500).tolist():
            if at % 50 == 0:
                continue
            index.remove(key_of(at))
            index.add(key_of(at), vectors[random.integers(3_000)])
            index.add(key_of(at), vectors[at])

    def adopt(seed: int) -> None:
        while not writing.is_set():
            index.adopt(some_sketch(dim, seed))

    def search(seed: int) -> None:
        while not writing.is_set():
            for at in stays:
                own = vectors[at]
                assert dict(index.search(own, k=300, at_least=0.9))[key_of(at)] > 1 - NEAR

    def run(work: Callable[[int], None], seed: int) -> None:
        try:
            work(seed)
        except BaseException as exc:
            failures.append(exc)

    beside = [threading.Thread(target=run, args=(work, 5)) for work in (search, search, adopt)]
    writers = [threading.Thread(target=run, args=(write, seed)) for seed in (1, 2)]
    for thread in (*beside, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    writing.set()
    for thread in beside:
        thread.join()
    if failures:
        raise failures[0]


def test_changes_between_the_steps_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that change while a sketch is being told of them are found as they are then."""
    vectors = isotropic(300, 16, 4)
    index = filled(vectors)
    rows = {key_of(at): vector for at, vector in enumerate(vectors)}
    steps = iter(range(300))

    def change(seconds: float) -> None:
        at = next(steps)
        rows[key_of(at)] = vectors[-at - 1]
        index.add(key_of(at), rows[key_of(at)])
        if at % 2 and len(rows) > 100:
            del rows[key_of(at - 1)]
            index.remove(key_of(at - 1))

    monkeypatch.setattr("mneme.indexes.exact.STEP", 16 * 16 * 10)
    monkeypatch.setattr("mneme.indexes.exact.time.sleep", change)
    index.adopt(some_sketch(16, 3))
    assert next(steps) > 5
    for vector in vectors:
        check(index, rows, vector, 3, 0.99)


def test_a_change_in_the_middle_of_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read of two states is thrown away, and the search made again."""
    vectors = isotropic(300, 16, 4)
    index = filled(vectors)
    index.adopt(some_sketch(16, 3))
    searched = 0

    def interrupted(*args: Any) -> float:
        nonlocal searched
        searched += 1
        share = compare_likely(*args)
        if searched == 1:
            index.add(key_of(7), -vectors[7])
        return share

    monkeypatch.setattr("mneme.indexes.exact.compare_likely", interrupted)
    assert not index.search(vectors[7], k=1, at_least=0.99)
    assert searched == 2


def searches(index: ExactIndex, questions: Vector, at_least: float, k: int = 8) -> None:
    for question in questions:
        index.search(question, k=k, at_least=at_least)


def test_what_a_search_costs() -> None:
    """All numbers there are, and with a sketch as large a share as searches have taken."""
    vectors = clustered(6_000, 128, 1)
    assert ExactIndex(128).search_floats == 0
    index = filled(vectors, start=lambda fit: fit())
    assert index.search_floats == 6_000 * 128
    searches(index, vectors[:4], 0.95)
    assert 0 < index.search_floats < 6_000 * 128
    for _ in range(30):
        index._watch.pace(0.95).took(10.0, sketched=False)
        index._watch.pace(0.95).took(2.5, sketched=True)
    assert index.search_floats == 6_000 * 128 // 4


class TestFitting:
    """When there is a sketch, and which."""

    def test_searches_bring_it_about(self) -> None:
        """Enough searches of a large partition, in the background and not before."""
        asked: list[Callable[[], None]] = []
        vectors = clustered(6_000, 96, 1)
        index = filled(vectors, start=asked.append)
        bare = index.memory_bytes
        searches(index, vectors[:3], 0.9)
        assert not asked
        searches(index, vectors[3:40], 0.9)
        assert len(asked) == 1
        assert index.memory_bytes == bare
        asked.pop()()
        assert index.memory_bytes > bare
        check(index, {key_of(at): v for at, v in enumerate(vectors)}, vectors[7], 8, 0.9)

    def test_how_fast_searches_are(self) -> None:
        """Nobody knows before a sketch was looked for: it may yet make them much faster."""
        asked: list[Callable[[], None]] = []
        vectors = clustered(6_000, 96, 1)
        index = filled(vectors, start=asked.append)
        searches(index, vectors[:60], 0.9)
        assert index.least_seconds is None
        asked.pop()()
        searches(index, vectors[:60], 0.9)
        assert index.least_seconds is not None

    def test_a_small_partition_has_none(self) -> None:
        """A few thousand rows are compared as fast."""
        vectors = clustered(2_000, 96, 1)
        index = filled(vectors, start=lambda fit: pytest.fail("a fit was begun"))
        searches(index, vectors[:200], 0.9)

    def test_no_thread_to_be_had(self) -> None:
        """Searches go on, and a later one tries again."""
        tried: list[object] = []

        def start(fit: Callable[[], None]) -> None:
            tried.append(fit)
            raise RuntimeError("can't start new thread")

        vectors = clustered(5_000, 64, 1)
        index = filled(vectors, start=start)
        searches(index, vectors[:40], 0.9)
        assert len(tried) > 1

    def test_searches_without_a_floor_bring_it_about_later(self) -> None:
        """What would have sufficed for them is known only from several."""
        asked: list[Callable[[], None]] = []
        vectors = clustered(6_000, 96, 1)
        index = filled(vectors, start=asked.append)
        searches(index, vectors[:15], -1.0)
        assert not asked
        searches(index, vectors[15:20], -1.0)
        assert len(asked) == 1

    def test_it_suits_the_floor(self) -> None:
        """A lower floor gets a deeper sketch, a higher one a lighter."""
        vectors = clustered(4_096, 128, 1)
        deep, light = (
            fitted(vectors, [Past(row, floor) for row in vectors[-20:]], 50_000, 0)
            for floor in (0.7, 0.95)
        )
        assert deep is not None
        assert light is not None
        assert deep[0].first > light[0].first
        assert deep[1] > light[1]

    def test_it_follows_the_floor(self) -> None:
        """Searches with another floor than it was fitted to bring about another."""
        asked: list[Callable[[], None]] = []
        vectors = clustered(6_000, 128, 1)
        index = filled(vectors, start=asked.append)
        searches(index, vectors[:200], 0.95)
        asked.pop()()
        searches(index, vectors[:100], 0.7)
        assert len(asked) == 1

    def test_one_that_loses_is_dropped(self) -> None:
        """A sketch that rules nothing out costs more than it saves, so it goes."""
        vectors = isotropic(5_000, 64, 1)
        index = filled(vectors, start=lambda fit: None)
        bare = index.memory_bytes
        index.adopt(some_sketch(64, 1))
        assert index.memory_bytes > bare
        searches(index, vectors[:300], -1.0, k=5_000)
        assert index.memory_bytes == bare

    def test_one_that_is_slower_is_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever was reckoned: the clock decides."""
        now = 0

        def clock() -> int:
            return now

        def slowly(*args: Any) -> float:
            nonlocal now
            now += 1_100_000
            return compare_likely(*args)

        def plainly(*args: Any) -> None:
            nonlocal now
            now += 1_000_000
            compare_all(*args)

        monkeypatch.setattr("mneme.indexes.exact.time.perf_counter_ns", clock)
        monkeypatch.setattr("mneme.indexes.exact.compare_likely", slowly)
        monkeypatch.setattr("mneme.indexes.exact.compare_all", plainly)
        vectors = clustered(6_000, 128, 1)
        index = filled(vectors, start=lambda fit: None)
        bare = index.memory_bytes
        index.adopt(some_sketch(128, 1))
        searches(index, vectors[:60], 0.99)
        assert index.memory_bytes == bare

    def test_searches_that_gain_keep_it(self) -> None:
        """Where those without a floor are slower with it, they go without and others do not."""
        vectors = clustered(6_000, 128, 1)
        index = filled(vectors, start=lambda fit: None)
        index.adopt(some_sketch(128, 1))
        watch = index._watch
        for floor, likely in ((0.9, 1.0), (-1.0, 20.0)):
            for _ in range(30):
                watch.pace(floor).took(10.0, sketched=False)
                watch.pace(floor).took(likely, sketched=True)
        assert not watch.is_lossy
        assert watch.pace(-1.0).compares_all()
        assert not any(watch.pace(0.9).compares_all() for _ in range(30))

    def test_data_that_no_sketch_suits(self) -> None:
        """With a low floor over isotropic data of few dimensions there is none."""
        rows = isotropic(4_000, 24, 1)
        assert fitted(rows, [Past(rows[0], 0.1)], 4_000, 0) is None

    def test_data_in_few_directions(self) -> None:
        """It is cheap, and as deep as there are directions."""
        rows = flat(4_000, 256, 1)
        found = fitted(rows, [Past(row, 0.99999) for row in rows[:8]], 4_000, 0)
        assert found is not None
        assert found[0].depth == 8
        assert found[1] < 0.5


@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 3_000),
    wanted=st.integers(1, 40),
    values=st.integers(1, 3_000),
)
def test_the_leading_ones(seed: int, count: int, wanted: int, values: int) -> None:
    """They are among the rows that are given, which ascend; with ties any of the equal."""
    few = np.random.default_rng(seed).integers(values, size=count).astype(np.float32)
    rows = leading(few, wanted)
    assert (np.diff(rows) > 0).all()
    best = np.sort(few)[::-1][:wanted]
    assert np.array_equal(np.sort(few[rows])[::-1][:wanted], best)
    assert len(rows) <= 4 * wanted
