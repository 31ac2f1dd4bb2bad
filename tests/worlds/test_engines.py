"""A store whose engine searches: what the process keeps near, and what it asks for."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.embedders import cosine
from support.engines_in_memory import MemoryEngine
from support.scenes import Scene, everywhere

from mneme import SemanticCache, StoreBackendError, semantic_cache
from mneme.testing import HashEmbedder, ManualClock


def asked(s: Scene) -> dict[str, int]:
    """How often lookups went to the engine."""
    return {name: s.store.asked[name] for name in ("fetch", "search", "mark")}


@everywhere("engine")
async def test_the_engine_is_asked_by_every_lookup(s: Scene) -> None:
    """Without a stale_check_interval, what another process has done is seen at once."""
    async with s.cache() as mine, s.cache() as theirs:
        await mine.put("q", "old", embedding=cosine(1.0))
        assert (await theirs.get("q")).response == "old"
        await theirs.put("q", "new", embedding=cosine(1.0))
        assert (await mine.get("Q?")).response == "new"
        await theirs.delete("q")
        assert (await mine.lookup("q", embedding=cosine(1.0))).reason in (
            "absent",
            "below_threshold",
        )


@everywhere("engine")
async def test_what_was_fetched_is_kept_near_for_the_interval(s: Scene) -> None:
    """Within the interval an exact hit asks nothing; after it, only whether anything changed."""
    async with s.cache(stale_check_interval=5) as mine, s.cache() as theirs:
        await theirs.put("q", "old", embedding=cosine(1.0))
        assert (await mine.get("q")).response == "old"
        before = asked(s)
        assert (await mine.get("q")).response == "old"
        assert asked(s) == before
        await theirs.put("q", "new", embedding=cosine(1.0))
        assert (await mine.get("q")).response == "old"
        s.clock.advance(5.0)
        assert (await mine.get("q")).response == "new"
        s.clock.advance(5.0)
        before = asked(s)
        assert (await mine.get("q")).response == "new"
        assert asked(s) == {**before, "mark": before["mark"] + 1}


@everywhere("engine")
async def test_a_reader_never_goes_back(s: Scene) -> None:
    """Who has found the new by its meaning does not get the old by its words."""
    async with s.cache(stale_check_interval=5) as mine, s.cache() as theirs:
        await theirs.put("q", "old", embedding=cosine(1.0))
        assert (await mine.get("q")).response == "old"
        await theirs.put("q", "new", embedding=cosine(1.0))
        assert (await mine.get("q")).response == "old"
        assert (await mine.get("in other words", embedding=cosine(1.0))).response == "new"
        assert (await mine.get("q")).response == "new"


@pytest.mark.parametrize("interval", [0, 5])
def test_a_plain_answer_is_no_exception(interval: float) -> None:
    """Text that nobody else has a say about is as fresh as any other answer."""
    clock = ManualClock()
    settings: dict[str, Any] = {"embedder": HashEmbedder(), "store": MemoryEngine()}
    with (
        SemanticCache(**settings, clock=clock, stale_check_interval=interval) as mine,
        SemanticCache(**settings, clock=clock) as theirs,
    ):
        for turn in range(3):
            theirs.put("q", f"answer {turn}")
            clock.advance(interval)
            for _ in range(3):
                assert mine.get("q").response == f"answer {turn}"


def test_a_near_answer_asks_the_engine_nothing() -> None:
    """Within the interval the loop of an async cache waits for no network."""
    engine = MemoryEngine()
    with SemanticCache(
        store=engine, embedder=HashEmbedder(), clock=ManualClock(), stale_check_interval=5
    ) as cache:
        cache.put("q", "r")
        cache.get("q")
        asked = engine.asked.total()
        assert cache.get("q").response == "r"
        assert engine.asked.total() == asked


@everywhere("engine")
async def test_a_change_that_the_engine_has_forgotten_empties_memory(s: Scene) -> None:
    """Where `changes_since` says "scan again", nothing that was near is trusted."""
    async with s.cache(stale_check_interval=5) as mine, s.cache() as theirs:
        await theirs.put("q", "old", embedding=cosine(1.0))
        await mine.get("q")
        for at in range(300):
            await theirs.put(f"other {at}", "r", embedding=cosine(0.0))
        await theirs.delete("q")
        s.clock.advance(5.0)
        assert await mine.get("q", embedding=cosine(1.0)) is None


@everywhere("engine")
async def test_what_has_died_is_not_served_and_is_swept(s: Scene) -> None:
    """A dead entry is no hit of either layer; `vacuum` removes and counts it."""
    async with s.cache() as cache:
        await cache.put("q", "r", ttl=10, embedding=cosine(1.0))
        await cache.put("stays", "r", embedding=cosine(0.0))
        s.clock.advance(10.0)
        assert await cache.get("q", embedding=cosine(1.0)) is None
        assert await cache.vacuum() == 1
        stats = await cache.stats()
        assert (stats.entries, stats.expirations) == (1, 1)


@everywhere("engine")
async def test_limits_hold_after_the_next_put(s: Scene) -> None:
    """Quotas and max_entries are kept by the engine; what was used stays longer."""
    async with s.cache(max_entries=3) as cache:
        for name in "abc":
            await cache.put(name, name.upper(), namespace="n", embedding=cosine(-1.0))
        await cache.get("a", namespace="n")
        await cache.put("d", "D", namespace="n", embedding=cosine(-1.0))
        kept = [x for x in "abcd" if await cache.get(x, namespace="n", embedding=cosine(1.0))]
        assert kept == ["a", "c", "d"]
        assert (await cache.stats()).evictions == 1
        await cache.set_namespace_quota("n", 1)
        await cache.put("e", "E", namespace="n", embedding=cosine(-1.0))
        assert (await cache.stats("n")).entries == 1


@everywhere("engine")
async def test_an_engine_that_is_down_is_a_miss(s: Scene) -> None:
    """Lookups and decorated calls go on without it, are counted, and work again afterwards."""
    calls: list[str] = []

    async def ask(prompt: str) -> str:
        calls.append(prompt)
        return "r"

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(ask))
        assert await s.call(function, "capital of france") == "r"
        s.store.fails = StoreBackendError("connection refused")
        assert await s.call(function, "capital of france") == "r"
        assert (await s.call(function.lookup, "france capital of")).reason == "store_failed"
        assert len(calls) == 2
        s.store.fails = None
        assert await s.call(function, "france capital of") == "r"
        assert len(calls) == 2
        assert (await cache.stats()).failed_open == 2


@everywhere("engine")
async def test_a_server_that_does_not_answer_is_left_alone(s: Scene) -> None:
    """After a failure misses come at once, and one trial after each pause; then all is well."""
    refused = StoreBackendError("connection refused")
    refused.is_away = True
    async with s.cache() as cache:
        await cache.put("q", "r")
        asked = s.store.asked
        for error in (refused, ConnectionRefusedError("by a store of somebody's own")):
            s.store.fails = error
            before, failed = asked["fetch"], (await cache.stats()).failed_open
            for pause in (0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0):
                for _ in range(3):
                    assert (await cache.lookup("q")).reason == "store_failed"
                before += 1
                assert asked["fetch"] == before
                s.clock.advance(pause - 0.125)
                miss = await cache.lookup("q")
                assert (miss.reason, asked["fetch"]) == ("store_failed", before)
                s.clock.advance(0.125)
            assert (await cache.stats()).failed_open == failed + 7 * 4
            s.store.fails = None
            assert [(await cache.get("q")).response for _ in range(2)] == ["r", "r"]
        # What is put is tried in any case, and shows that it answers.
        s.store.fails = refused
        assert (await cache.lookup("q")).reason == "store_failed"
        with pytest.raises(StoreBackendError, match="connection refused"):
            await cache.put("q", "other")
        s.store.fails = None
        assert (await cache.lookup("q")).reason == "store_failed"
        await cache.put("q", "other")
        assert (await cache.get("q")).response == "other"


@everywhere("engine")
async def test_a_server_that_says_no_is_asked_again_at_once(s: Scene) -> None:
    """One question that it cannot answer says nothing of the next."""
    async with s.cache() as cache:
        await cache.put("q", "r")
        s.store.fails = StoreBackendError("statement timeout")
        before = s.store.asked["fetch"]
        for _ in range(3):
            assert (await cache.lookup("q")).reason == "store_failed"
        assert s.store.asked["fetch"] == before + 3
        s.store.fails = None


@everywhere("engine")
async def test_a_server_that_is_away_at_first_is_left_alone(s: Scene) -> None:
    """With `open_later` one call after each pause tries to open it, and a put always."""
    async with s.cache(open_later=True) as cache:
        refused = StoreBackendError("connection refused")
        refused.is_away = True
        s.store.fails = refused
        claims = s.store.asked
        for _ in range(3):
            assert (await cache.lookup("q")).reason == "store_failed"
        tried = sum(claims.values())
        assert (await cache.lookup("q")).reason == "store_failed"
        assert sum(claims.values()) == tried
        s.clock.advance(0.5)
        assert (await cache.lookup("q")).reason == "store_failed"
        assert sum(claims.values()) > tried
        s.store.fails = None
        assert (await cache.lookup("q")).reason == "store_failed"
        await cache.put("q", "r")
        assert (await cache.get("q")).response == "r"


def test_one_hung_question_holds_up_no_others() -> None:
    """While one lookup waits for the engine, others are misses at once; then all is well."""
    engine = MemoryEngine()
    with SemanticCache(store=engine, embedder=HashEmbedder(), clock=ManualClock()) as cache:
        cache.put("q", "r")
        now = [100.0]
        cache._core.questions.monotonic = lambda: now[0]  # type: ignore[attr-defined]
        engine.waits = threading.Event()
        found: list[Any] = []
        hung = threading.Thread(target=lambda: found.append(cache.lookup("q")))
        asked = engine.asked["fetch"]
        hung.start()
        while engine.asked["fetch"] == asked:
            pass
        now[0] += 10.0
        miss = cache.lookup("q")
        assert (miss.reason, engine.asked["fetch"]) == ("store_failed", asked + 1)
        engine.waits.set()
        hung.join()
        assert found[0].response == cache.get("q").response == "r"


def test_what_was_fetched_before_a_change_is_not_kept_after_it() -> None:
    """A slow answer from before another's put does not outlive the news of that put."""
    engine, clock = MemoryEngine(), ManualClock()
    settings: dict[str, Any] = {"store": engine, "embedder": HashEmbedder(), "clock": clock}
    with (
        SemanticCache(**settings, stale_check_interval=5) as mine,
        SemanticCache(**settings) as theirs,
    ):
        theirs.put("q", "old")
        fetch = engine.fetch

        def slow(identities: Any) -> Any:
            found = fetch(identities)
            engine.fetch = fetch  # type: ignore[method-assign]
            theirs.put("q", "new")
            clock.advance(5.0)
            assert mine.get("something else", embedding=HashEmbedder().embed("x")) is None
            return found

        engine.fetch = slow  # type: ignore[method-assign]
        assert mine.get("q").response == "old"
        assert mine.get("q").response == "new"


@pytest.mark.parametrize("by", ["meaning", "words"])
def test_what_was_fetched_before_is_not_kept_after_a_newer_one_was_found(by: str) -> None:
    """A slow answer is not kept near where another lookup has found its successor meanwhile."""
    engine, embedder = MemoryEngine(), HashEmbedder()
    settings: dict[str, Any] = {"store": engine, "embedder": embedder, "clock": ManualClock()}
    with (
        SemanticCache(**settings, stale_check_interval=5) as mine,
        SemanticCache(**settings) as theirs,
    ):
        theirs.put("q", "old")
        fetch = engine.fetch

        def slow(identities: Any) -> Any:
            found = fetch(identities)
            engine.fetch = fetch  # type: ignore[method-assign]
            theirs.put("q", "new")
            asked = "q" if by == "words" else "in other words"
            assert mine.get(asked, embedding=embedder.embed("q")).response == "new"
            return found

        assert mine.get("something else") is None
        engine.fetch = slow  # type: ignore[method-assign]
        assert mine.get("q").response == "old"
        assert mine.get("q").response == "new"


@pytest.mark.parametrize("wrong", [{"index_backend": "numpy"}, {"vector_dtype": "int8"}])
def test_settings_of_an_index_are_refused(wrong: dict[str, Any]) -> None:
    """Where the engine searches, there is no index to choose."""
    with pytest.raises(ValueError, match="searches by itself"):
        SemanticCache(store=MemoryEngine(), embedder=HashEmbedder(), **wrong)


@everywhere("engine")
async def test_closing_while_the_engine_is_down(s: Scene) -> None:
    """Counters are lost, and logged; whoever leaves the block hears of no error."""
    async with s.cache() as cache:
        await cache.put("q", "r")
        await cache.get("q")
        s.store.fails = StoreBackendError("connection refused")
    s.store.fails = None
    async with s.cache() as again:
        assert (await again.get("q")).response == "r"
