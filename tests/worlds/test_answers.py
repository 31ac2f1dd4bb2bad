"""Answers that stay in the store: memory has none, and what is served is what the store has."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.embedders import cosine
from support.engines_in_memory import MemoryEngine
from support.scenes import Scene, everywhere
from support.worlds import WORLDS, Gate, World, in_threads, settled, without_blocking

from mneme import AsyncSemanticCache, MemoryStore, SemanticCache, SQLiteStore, semantic_cache
from mneme._core import lean
from mneme.errors import CorruptCacheError, StoreBackendError
from mneme.records import Entry, Hit, Identity
from mneme.testing import HashEmbedder, ManualClock

QUESTION, NEAR = cosine(1.0), cosine(0.95)


class Watched(SQLiteStore):
    """Tells `before` each time that answers are about to be read."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__(path, **options)
        self.read: list[int] = []
        self.before: Callable[[], object] = lambda: None

    def fetch(self, identities: Sequence[Identity]) -> Sequence[Entry | None]:
        before, self.before = self.before, lambda: None
        before()
        self.read.append(len(identities))
        return super().fetch(identities)


def watched(s: Scene, **options: Any) -> Watched:
    """A store that is watched, in place of the scene's own."""
    assert s.path is not None
    store = Watched(s.path, **options)
    s.path, s.store = None, store
    return store


@asynccontextmanager
async def beside(store: Watched) -> AsyncIterator[SemanticCache]:
    """What another process has open on the same file; for threads."""
    embedder = HashEmbedder(256, name="spy")
    other = await without_blocking(
        lambda: SemanticCache(store.path, embedder=embedder, durability="commit")
    )
    try:
        yield other
    finally:
        await without_blocking(other.close)


@everywhere("lean")
async def test_memory_has_no_answers(s: Scene) -> None:
    """Nor prompts nor metadata; a hit of either layer has all of them."""
    async with s.cache() as cache:
        await cache.put("question", "answer", embedding=QUESTION, metadata={"source": "here"})
        (record,) = cache.cache._core.live.ledger.records()
        for secret in ("question", "answer", "source"):
            assert secret not in repr(record.entry)
        for asked, layer in (("Question?", "exact"), ("another", "semantic")):
            hit = await cache.get(asked, embedding=NEAR)
            assert (hit.response, hit.layer, hit.prompt) == ("answer", layer, "question")
            assert hit.metadata == {"source": "here"}


@everywhere("lean")
async def test_what_nobody_has_put_is_not_read(s: Scene) -> None:
    """Memory knows which questions there are, and which are near: others cost no read."""
    store = watched(s)
    async with s.cache() as cache:
        await cache.put("question", "answer", embedding=QUESTION)
        assert await cache.get("other", embedding=QUESTION, namespace="elsewhere") is None
        assert sum(store.read) == 0
        await cache.get("question")
        assert sum(store.read) == 1


@everywhere("lean")
async def test_an_answer_is_found_before_it_is_written(s: Scene) -> None:
    """Of a group that is not committed yet, the last word counts."""
    store = watched(s)
    async with s.cache() as cache:
        # Nobody writes what waits.
        store._group._begin = lambda: None  # type: ignore[union-attr, method-assign]
        for said in ("old", "new"):
            await cache.put("question", said, embedding=QUESTION)
            for asked in ("question", "another"):
                assert (await cache.get(asked, embedding=NEAR)).response == said
        with closing(sqlite3.connect(store.path)) as file:
            assert file.execute("SELECT count(*) FROM entries").fetchone() == (0,)
        assert await cache.delete("question") == 1
        assert await cache.get("question", embedding=QUESTION) is None


@everywhere("lean")
async def test_another_replaces_an_answer_as_it_is_read(s: Scene) -> None:
    """Both layers serve what is there now, whatever memory had found."""
    store = watched(s, durability="commit")
    async with beside(store) as other, s.cache() as cache:
        for n, asked in enumerate(("question", "another")):
            await cache.put("question", f"old {n}", embedding=QUESTION)
            s.clock.advance(1.0)
            store.before = lambda n=n: other.put("question", f"new {n}", embedding=QUESTION)
            hit = await cache.get(asked, embedding=NEAR)
            assert hit.response == f"new {n}"
            assert hit.similarity == pytest.approx((1.0, 0.95)[n])


@everywhere("lean")
async def test_another_moves_a_question_away_as_it_is_read(s: Scene) -> None:
    """An answer that has been put again with a vector far away is not near any more."""
    store = watched(s, durability="commit")
    async with beside(store) as other, s.cache(stale_check_interval=60) as cache:
        await cache.put("question", "old", embedding=QUESTION)
        s.clock.advance(1.0)
        store.before = lambda: other.put("question", "new", embedding=cosine(-1.0))
        assert await cache.get("another", embedding=NEAR) is None
        assert (await cache.get("another", embedding=cosine(-0.99))).response == "new"


@everywhere("lean")
async def test_another_removes_an_answer_as_it_is_read(s: Scene) -> None:
    """It is a miss, and the next one that is near enough is served in its place."""
    store = watched(s, durability="commit")
    async with beside(store) as other, s.cache() as cache:
        for asked in ("question", "another"):
            await cache.put("question", "gone", embedding=QUESTION)
            await cache.put("second", "left", embedding=cosine(0.9))
            store.before = lambda: other.delete("question")
            hit = await cache.get(asked, embedding=QUESTION)
            assert (hit.response, hit.layer) == ("left", "semantic")
        store.before = lambda: other.clear()
        assert await cache.get("second", embedding=QUESTION) is None


@everywhere("lean")
async def test_a_read_that_fails_is_a_miss(s: Scene) -> None:
    """Counted, in both layers and for `explain`; a function is called, and no error is seen."""
    store = watched(s)

    def fail(error: Exception) -> None:
        raise error

    async with s.cache() as cache:
        await cache.put("question", "answer", embedding=QUESTION)
        failures = 0
        for error in (StoreBackendError("on fire"), CorruptCacheError("torn")):
            for asked in ("question", "another"):
                store.before = lambda error=error: fail(error)
                miss = await cache.lookup(asked, embedding=NEAR)
                failures += 1
                assert (bool(miss), miss.reason) == (False, "store_failed")
                store.before = lambda error=error: fail(error)
                explained = await cache.explain(asked, embedding=NEAR)
                assert "store failed" in str(explained)
        assert (await cache.stats()).failed_open >= failures

        async def ask(prompt: str) -> str:
            return f"called for {prompt}"

        function = semantic_cache(cache=cache.cache)(s.world.written(ask))
        assert await s.call(function, "q") == "called for q"
        store.before = lambda: fail(StoreBackendError("on fire"))
        assert await s.call(function, "q") == "called for q"


@everywhere("lean")
async def test_a_stale_answer_is_that_of_the_entry(s: Scene) -> None:
    """Read with its miss; never one that has been replaced or removed since."""
    fails = [False]

    async def ask(prompt: str) -> str:
        if fails[0]:
            raise RuntimeError("down")
        return f"answer {s.clock()}"

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache, ttl=10, stale_if_error=100)(
            s.world.written(ask)
        )
        first = await s.call(function, "q")
        s.clock.advance(11.0)
        fails[0] = True
        assert await s.call(function, "q") == first
        fails[0] = False
        second = await s.call(function, "q")
        s.clock.advance(11.0)
        fails[0] = True
        assert await s.call(function, "q") == second != first
        await cache.clear()
        with pytest.raises(RuntimeError, match="down"):
            await s.call(function, "q")


@everywhere("lean")
async def test_an_entry_that_is_used_stays(s: Scene) -> None:
    """A hit of either layer is a second chance, as where answers are in memory."""
    async with s.cache(max_entries=3) as cache:
        for n, name in enumerate("abc"):
            await cache.put(name, name.upper(), embedding=cosine(0.9 - n / 2))
        assert (await cache.get("a")).layer == "exact"
        await cache.put("d", "D", embedding=cosine(0.2))
        assert [bool(await cache.get(name, embedding=-QUESTION)) for name in "abcd"] == [
            True,
            False,
            True,
            True,
        ]


@everywhere("lean")
async def test_shadow_mode_compares_with_the_stored_answer(s: Scene) -> None:
    """What the exact layer would have served is read again to be compared."""
    async with s.cache(mode="shadow") as cache:
        for said, label in (("yes", None), ("yes", True), ("no", False)):
            miss = await cache.lookup("question")
            await cache.fill(miss, said)
            labels = await cache.labels()
            assert (labels[-1].right if labels else None) is label


@everywhere("lean")
async def test_archives_hold_the_answers(s: Scene) -> None:
    """`dumps` and opening again see what memory does not have."""
    archive = s.path.with_name("archive")  # type: ignore[union-attr]
    async with s.cache() as cache:
        await cache.put("question", {"n": [1, None]}, embedding=QUESTION)
        assert await cache.dumps(archive) == 1
    async with s.cache(answers="memory") as cache:
        assert (await cache.get("question")).response == {"n": [1, None]}
    async with s.cache(vector_dtype="int8") as cache:
        hit = await cache.get("another", embedding=NEAR)
        assert hit.response == {"n": [1, None]}
        assert hit.similarity == pytest.approx(0.95, abs=1e-5)


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_lookups_at_once_read_together(world: World, tmp_path: Path) -> None:
    """Tasks of a loop are served by a few reads; each gets the answer to its own question."""

    async def scenario() -> None:
        s = Scene(world, "lean", tmp_path)
        store = watched(s)
        rows = np.random.default_rng(0).standard_normal((60, 256)).astype(np.float32)
        async with s.cache() as cache:
            pairs = [(f"question {n}", f"answer {n}") for n in range(60)]
            await cache.put_many(pairs, embeddings=rows)
            store.read.clear()

            async def look(n: int) -> Any:
                return await settled(cache.cache.get(f"other {n}", embedding=rows[n]))

            found = await world.together(*[lambda n=n: look(n) for n in range(60)])
            assert [hit.response for hit in found] == [f"answer {n}" for n in range(60)]
            if world.is_async:
                assert len(store.read) <= 6

    world.run(scenario)


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_a_read_that_hangs_is_given_up_on(world: World, tmp_path: Path) -> None:
    """After `store_timeout`, in both layers."""

    async def scenario() -> None:
        s = Scene(world, "lean", tmp_path)
        store, gate = watched(s), Gate()
        async with s.cache(store_timeout=0.2) as cache:
            await cache.put("question", "answer", embedding=QUESTION)
            for asked in ("question", "another"):
                store.before = gate.wait
                miss = await cache.lookup(asked, embedding=NEAR)
                assert miss.reason == "store_failed"
            gate.open()

    world.run(scenario)


def test_few_stale_answers_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for past their time; the last one asked for is among them."""
    monkeypatch.setattr(lean, "PAST", 10)
    clock = ManualClock()
    names = [f"question number {n}" for n in range(40)]
    with SemanticCache(
        tmp_path / "a.db", embedder=HashEmbedder(8), answers="store", clock=clock
    ) as cache:

        @semantic_cache(cache=cache, ttl=5, stale_if_error=60)
        def ask(prompt: str) -> str:
            if clock() > began:
                raise RuntimeError("down")
            return prompt.upper()

        began = clock()
        for name in names:
            ask(name)
        clock.advance(6.0)
        for name in names:
            assert ask(name) == name.upper()
        assert len(cache._core._past) <= 11


def test_no_thread_ever_gets_a_torn_answer(tmp_path: Path) -> None:
    """While others put, delete and clear, an answer is always one that was put to its question."""
    embedder = HashEmbedder(64)
    names = [f"what is known of the number {n} here" for n in range(5)]
    with (
        SemanticCache(tmp_path / "a.db", embedder=embedder, answers="store", guards=()) as one,
        SemanticCache(tmp_path / "a.db", embedder=embedder, answers="store", guards=()) as two,
    ):

        def write(cache: SemanticCache) -> None:
            for n in range(120):
                name = names[n % 5]
                cache.put(name, f"{name}|{n}")
                if n % 11 == 0:
                    cache.delete(names[n % 3])
                if n % 50 == 49:
                    cache.clear()

        def read(cache: SemanticCache) -> int:
            hits = 0
            for n in range(300):
                found = cache.lookup(names[n % 5])
                if isinstance(found, Hit):
                    hits += 1
                    name, _, number = found.response.partition("|")
                    assert name == found.prompt
                    assert names[int(number) % 5] == name
                else:
                    assert found.reason != "store_failed"
            return hits

        works = [lambda c=c, w=w: w(c) for c in (one, two) for w in (write, read)]
        hits = in_threads(*works)
        assert sum(filter(None, hits)) > 0


NAMES = [f"what is {name}" for name in "abcde"]
SPACES = st.sampled_from(["x", "y"])
STEPS = st.one_of(
    st.tuples(
        st.just("put"),
        st.sampled_from(NAMES),
        st.sampled_from(["one", {"n": 2}, b"three", None]),
        SPACES,
        st.sampled_from([None, 5.0, 20.0]),
        st.sampled_from([(), ("t",)]),
    ),
    st.tuples(st.just("look"), st.sampled_from([*NAMES, "What is A?", "another"]), SPACES),
    st.tuples(st.just("delete"), st.sampled_from(NAMES), SPACES),
    st.tuples(st.just("invalidate"), st.sampled_from(["t", None]), SPACES),
    st.tuples(st.just("clear"), SPACES),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 6.0])),
    st.tuples(st.just("vacuum")),
)


def done(cache: SemanticCache, clock: ManualClock, step: tuple[Any, ...]) -> Any:
    """What a step of a story comes to."""
    match step:
        case "put", name, said, space, ttl, tags:
            at = cosine(1.0 - NAMES.index(name) * 0.1)
            return cache.put(name, said, embedding=at, namespace=space, ttl=ttl, tags=tags)
        case "look", name, space:
            found = cache.lookup(name, embedding=cosine(0.97), namespace=space)
            if isinstance(found, Hit):
                return found
            return found.reason, found.nearest_similarity, found.stale
        case "delete", name, space:
            return cache.delete(name, namespace=space)
        case "invalidate", tag, space:
            return cache.invalidate(tag=tag, namespace=space)
        case "clear", space:
            return cache.clear_namespace(space)
        case "wait", seconds:
            return clock.advance(seconds)
    return cache.vacuum(compact=False)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=25), st.none() | st.integers(1, 4), st.booleans())
def test_it_makes_no_difference_where_answers_are(
    tmp_path: Path, story: list[Any], limit: int | None, has_quota: bool
) -> None:
    """Whatever was put, removed and waited for: hits, reasons, numbers and counters are alike."""
    told = []
    for answers in ("memory", "store"):
        clock = ManualClock()
        path = tmp_path / f"{uuid4()}.db"
        with SemanticCache(
            path,
            embedder=HashEmbedder(256),
            answers=answers,  # type: ignore[arg-type]
            guards=(),
            max_entries=limit,
            namespace_quotas={"x": 2} if has_quota else None,
            clock=clock,
            self_check=False,
        ) as cache:
            outcomes = [done(cache, clock, step) for step in story]
            told.append((outcomes, replace(cache.stats(), memory_bytes_estimate=0)))
    assert told[0] == told[1]


@pytest.mark.parametrize("face", [SemanticCache, AsyncSemanticCache])
def test_a_store_in_memory_cannot_keep_them(face: Any) -> None:
    """It would keep them in memory; that is said, and so is another place that there is not."""
    parts = {"store": MemoryStore(), "embedder": HashEmbedder(8)}
    with pytest.raises(ValueError, match=r"this process's memory does not.*Use path="):
        face(**parts, answers="store")
    with pytest.raises(ValueError, match=r"answers must be one of .*got 'disk'"):
        face(**parts, answers="disk")


def test_an_engine_keeps_them_anyway() -> None:
    """Either word is right where the engine answers."""
    for answers in ("memory", "store"):
        with SemanticCache(store=MemoryEngine(), embedder=HashEmbedder(8), answers=answers) as one:
            one.put("q", "r")
            assert one.get("q").response == "r"  # type: ignore[union-attr]
