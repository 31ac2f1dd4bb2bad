"""Keeping and removing: limits, lifetimes, housekeeping and counters, in every world alike."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from support.embedders import cosine
from support.scenes import IN_PROCESS, Scene, everywhere

from mneme import CodecError, NamespaceQuotaExceededError
from mneme.records import Health


@everywhere()
async def test_a_put_replaces_and_restarts_the_ttl(s: Scene) -> None:
    """Putting the same normalized query again leaves one entry, with the new answer and age."""
    async with s.cache() as cache:
        await cache.put("q", "old", ttl=10, embedding=cosine(1.0))
        s.clock.advance(8.0)
        await cache.put("Q?", "new", ttl=10, embedding=cosine(0.0))
        s.clock.advance(8.0)
        hit = await cache.get("q")
        assert (hit.response, hit.age_seconds, hit.ttl_seconds) == ("new", 8.0, 2.0)
        assert await cache.get("z", embedding=cosine(1.0)) is None
        assert (await cache.get("z", embedding=cosine(0.0))).response == "new"
        assert (await cache.stats()).entries == 1


@everywhere(*IN_PROCESS)
async def test_an_expired_entry_is_gone(s: Scene) -> None:
    """From its last second on an entry is served by no layer, and counts as expired once."""
    async with s.cache() as cache:
        await cache.put("q", "r", ttl=timedelta(seconds=10), embedding=cosine(1.0))
        s.clock.advance(9.75)
        assert (await cache.get("q")).ttl_seconds == 0.25
        assert await cache.get("z", embedding=cosine(1.0)) is not None
        s.clock.advance(0.25)
        assert (await cache.lookup("z", embedding=cosine(1.0))).reason == "expired"
        assert await cache.get("q", embedding=cosine(1.0)) is None
        stats = await cache.stats()
        assert (stats.entries, stats.expirations) == (0, 1)
        assert len(s.heard("expired")) == 1
    async with s.cache() as cache:
        assert (await cache.stats()).entries == 0


@everywhere(*IN_PROCESS)
async def test_the_default_ttl_and_the_ttl_of_a_put(s: Scene) -> None:
    """A put's own TTL goes before the default; zero keeps nothing; infinity has no end."""
    async with s.cache(default_ttl=10) as cache:
        assert await cache.put("zero", "r", ttl=0) is False
        for query, ttl in (("default", None), ("longer", 20), ("for ever", float("inf"))):
            assert await cache.put(query, "r", ttl=ttl) is True
        s.clock.advance(15.0)
        left = [await cache.get(query) is not None for query in ("default", "longer", "for ever")]
        assert left == [False, True, True]
        for wrong in (-1, float("nan"), "5", True):
            with pytest.raises(ValueError, match="ttl must"):
                await cache.put("q", "r", ttl=wrong)
        assert (await cache.stats()).entries == 2


@everywhere()
async def test_max_entries_evicts_what_was_not_used(s: Scene) -> None:
    """Over max_entries the oldest unused entry goes, from memory and store, and is counted."""
    async with s.cache(max_entries=3) as cache:
        for name in "abc":
            await cache.put(name, name.upper(), embedding=cosine(0.1 * ord(name) - 9.6))
        await cache.get("a")
        await cache.put("d", "D", embedding=cosine(0.5))
        kept = [name for name in "abcd" if await cache.get(name, embedding=cosine(-1.0))]
        assert kept == ["a", "c", "d"]
        stats = await cache.stats()
        assert (stats.entries, stats.evictions) == (3, 1)
        assert len(s.heard("eviction")) == 1
    async with s.cache() as cache:
        assert (await cache.stats()).entries == 3
        assert await cache.get("b", embedding=cosine(-1.0)) is None


@everywhere()
async def test_opening_with_a_smaller_limit_evicts(s: Scene) -> None:
    """A cache opened over a store with more entries than it may have keeps the newest."""
    async with s.cache() as cache:
        await cache.put_many([(f"question number {n}", n) for n in range(5)])
    async with s.cache(max_entries=2) as cache:
        assert (await cache.stats()).entries == 2
        assert (await cache.get("question number 4")).response == 4
        await cache.put("question number 5", 5)
    async with s.cache() as cache:
        assert (await cache.stats()).entries == 2


@everywhere()
async def test_a_quota_holds_for_its_namespace_only(s: Scene) -> None:
    """A full namespace evicts its own entries; others are not touched, even when fuller."""
    async with s.cache(namespace_quotas={"small": 2}) as cache:
        for n in range(4):
            await cache.put(f"question number {n}", n, namespace="small")
            await cache.put(f"question number {n}", n, namespace="large")
        assert (await cache.stats("small")).entries == 2
        assert (await cache.stats("large")).entries == 4
        assert (await cache.stats("small")).evictions == 2
        assert (await cache.get("question number 3", namespace="small")).response == 3


@everywhere(*IN_PROCESS)
async def test_a_quota_can_change_at_run_time(s: Scene) -> None:
    """Lowering a quota evicts at once, zero refuses, None lifts it, nonsense is a ValueError."""
    async with s.cache() as cache:
        await cache.put_many([(f"question number {n}", n) for n in range(4)], namespace="ns")
        await cache.set_namespace_quota("ns", 1)
        assert (await cache.stats("ns")).entries == 1
        await cache.set_namespace_quota("ns", 0)
        assert (await cache.stats("ns")).entries == 0
        with pytest.raises(NamespaceQuotaExceededError, match="set_namespace_quota"):
            await cache.put("q", "r", namespace="ns")
        await cache.set_namespace_quota("ns", None)
        assert await cache.put("q", "r", namespace="ns") is True
        for wrong in (-1, 1.5, True, "2"):
            with pytest.raises(ValueError, match="whole number"):
                await cache.set_namespace_quota("ns", wrong)
    async with s.cache() as cache:
        assert (await cache.stats("ns")).entries == 1


@everywhere()
async def test_oversized_and_unstorable_answers_are_refused(s: Scene) -> None:
    """What is over a limit, or would not come back equal, raises and leaves nothing stored."""
    async with s.cache(max_response_bytes=10, max_metadata_bytes=20) as cache:
        for response in ("x" * 11, "é" * 6, b"x" * 11, [1] * 6):
            with pytest.raises(ValueError, match="raise max_response_bytes"):
                await cache.put("q", response)
        with pytest.raises(ValueError, match="raise max_metadata_bytes"):
            await cache.put("q", "r", metadata={"k": "x" * 20})
        for unstorable in (object(), (1, 2), {1: 2}, float("nan"), {"a"}, "\ud800"):
            with pytest.raises(CodecError, match="Nothing was stored"):
                await cache.put_many([("fine", "r"), ("q", unstorable)])
        with pytest.raises(CodecError, match="metadata"):
            await cache.put("q", "r", metadata={"k": object()})
        with pytest.raises(ValueError, match=r"half of a surrogate pair.*errors='replace'"):
            await cache.put("q", "r", tags=["\ud800"])
        with pytest.raises(TypeError, match="tags must be a list"):
            await cache.put("q", "r", tags="one")
        assert await cache.put("q", "x" * 10, metadata={"k": "x" * 12}) is True
        assert (await cache.stats()).entries == 1
    async with s.cache() as cache:
        assert (await cache.stats()).entries == 1


@everywhere()
async def test_delete_removes_one_by_its_normalized_query(s: Scene) -> None:
    """`delete` gives 1 for what was there and 0 otherwise, and touches no other namespace."""
    async with s.cache() as cache:
        await cache.put("q", "r")
        await cache.put("q", "r", namespace="other")
        assert await cache.delete("nothing like it") == 0
        assert await cache.delete(" Q? ") == 1
        assert await cache.delete("q") == 0
        assert await cache.get("q") is None
        assert await cache.get("q", namespace="other") is not None
    async with s.cache() as cache:
        assert await cache.list_namespaces() == ["other"]


@everywhere()
async def test_invalidate_removes_what_has_all_that_is_named(s: Scene) -> None:
    """Tag, namespace and age narrow each other down; naming nothing is refused."""

    async def fill(cache: Any) -> None:
        for query, namespace, tags in (
            ("a", "one", ["x"]),
            ("b", "one", ["x", "y"]),
            ("c", "two", ["y"]),
        ):
            await cache.put(query, "r", namespace=namespace, tags=tags)
            s.clock.advance(10.0)

    async with s.cache() as cache:
        await fill(cache)
        with pytest.raises(ValueError, match=r"Use clear\(\)"):
            await cache.invalidate()
        with pytest.raises(ValueError, match="older_than"):
            await cache.invalidate(older_than=-1)
        assert (await cache.stats()).entries == 3
        assert await cache.invalidate(tag="none") == 0
        assert await cache.invalidate(tag="y", namespace="one") == 1
        assert await cache.get("b", namespace="one") is None
        assert await cache.invalidate(older_than=timedelta(seconds=15)) == 1
        assert await cache.list_namespaces() == ["two"]
        assert await cache.invalidate(namespace="two", older_than=10) == 0
        assert await cache.invalidate(namespace="two") == 1
        assert (await cache.stats()).entries == 0


@everywhere()
async def test_clear_and_clear_namespace(s: Scene) -> None:
    """Both give the number removed, from memory and store; counters stay."""
    async with s.cache() as cache:
        for namespace, count in (("a", 600), ("b", 2)):
            await cache.put_many(
                [(f"q{n}", n) for n in range(count)],
                namespace=namespace,
                embeddings=[cosine(1.0)] * count,
            )
        await cache.get("q1", namespace="a")
        assert await cache.clear_namespace("none") == 0
        # More than go in one commit.
        assert await cache.clear_namespace("a") == 600
        assert await cache.get("q1", namespace="a") is None
        assert (await cache.get("q1", namespace="b")).response == 1
        assert await cache.clear() == 2
        assert await cache.clear() == 0
        assert await cache.list_namespaces() == []
        assert (await cache.stats()).hits_exact == 2
    async with s.cache() as cache:
        assert (await cache.stats()).entries == 0
        assert (await cache.stats()).hits_exact == 2


@everywhere()
async def test_vacuum_removes_what_has_died(s: Scene) -> None:
    """`vacuum` gives the number of expired entries, of one namespace or all, and compacts."""
    async with s.cache() as cache:
        for namespace in ("a", "b"):
            await cache.put("short", "r", ttl=5, namespace=namespace)
            await cache.put("long", "r", ttl=500, namespace=namespace)
        assert await cache.vacuum() == 0
        s.clock.advance(5.0)
        assert await cache.vacuum(namespace="a") == 1
        assert (await cache.stats()).entries == 3
        assert await cache.vacuum(compact=False) == 1
        assert (await cache.stats()).expirations == 2
        await cache.compact()
        assert (await cache.get("long", namespace="b")).response == "r"
    async with s.cache() as cache:
        assert (await cache.stats()).entries == 2


@everywhere()
async def test_stats_add_up_and_survive_closing(s: Scene) -> None:
    """Counters are kept per namespace, sum up, and go on where they were after reopening."""
    async with s.cache() as cache:
        await cache.put("capital of france", "Paris", namespace="a")
        await cache.get("capital of france", namespace="a")
        await cache.get("france capital of", namespace="a")
        await cache.get("nothing", namespace="b")
        await cache.delete("capital of france", namespace="a")
        first = await cache.stats()
        assert (first.hits_exact, first.hits_semantic, first.misses) == (1, 1, 1)
        assert first.hits == 2
        assert first.hit_rate == pytest.approx(2 / 3)
        assert (await cache.stats("b")).misses == 1
        assert (await cache.stats("unknown")).hit_rate == 0.0
        assert first.embedder_fingerprint == s.embedder.fingerprint
    async with s.cache() as cache:
        assert await cache.stats() == first
        await cache.get("nothing", namespace="b")
        assert (await cache.stats("b")).misses == 2
    async with s.cache() as cache:
        assert (await cache.stats()).misses == 2


@everywhere(*IN_PROCESS)
async def test_sizes_in_stats_follow_the_entries(s: Scene) -> None:
    """Memory estimates grow with entries, are told apart by namespace, and fall to nothing."""
    async with s.cache() as cache:
        await cache.put("q", "r" * 5_000, namespace="a")
        await cache.put("q", "r", namespace="b")
        large, small = await cache.stats("a"), await cache.stats("b")
        apart = 0 if s.kind == "lean" else 4_999
        assert large.memory_bytes_estimate - small.memory_bytes_estimate == apart
        both = await cache.stats()
        assert both.index_memory_bytes == large.index_memory_bytes + small.index_memory_bytes > 0
        await cache.clear()
        assert (await cache.stats()).memory_bytes_estimate == 0


@everywhere(*IN_PROCESS)
async def test_health_of_a_sound_cache(s: Scene) -> None:
    """A cache that can be relied on says so, with its backends and the age of the oldest."""
    async with s.cache() as cache:
        assert (await cache.health()).oldest_entry_age_seconds is None
        await cache.put("q", "r")
        s.clock.advance(7.0)
        await cache.put("p", "r", namespace="b")
        assert await cache.health() == Health(
            healthy=True,
            schema_version=1 if s.path is None else 2,
            integrity_ok=True,
            embedder_fingerprint_match=True,
            entries=2,
            namespaces=2,
            oldest_entry_age_seconds=7.0,
            index_backend="numpy",
            store_backend="MemoryStore" if s.path is None else "SQLiteStore",
            vector_dtype="float32",
        )


@everywhere()
async def test_everything_survives_reopening(s: Scene) -> None:
    """Entries come back with prompt, answer, metadata, tags, age, TTL, namespace and vector."""
    async with s.cache() as cache:
        await cache.put(
            "capital of france", {"city": "Paris"}, metadata={"n": 1}, ttl=100, tags=["geo"],
            namespace="a",
        )  # fmt: skip
    s.clock.advance(10.0)
    async with s.cache() as cache:
        hit = await cache.get("france capital of", namespace="a")
        assert hit.response == {"city": "Paris"}
        assert hit.metadata == {"n": 1}
        assert (hit.age_seconds, hit.ttl_seconds, hit.layer) == (10.0, 90.0, "semantic")
        assert await cache.invalidate(tag="geo") == 1


@everywhere()
async def test_replacing_an_entry_by_one_without_a_vector(s: Scene) -> None:
    """An entry that became exact-only is no longer found by the vector it had."""
    async with s.cache() as cache:
        await cache.put("q", "old", embedding=cosine(1.0))
        s.embedder.max_chars = 0  # type: ignore[attr-defined]
    async with s.cache() as cache:
        await cache.put("q", "new", embedding=cosine(1.0))
        s.embedder.max_chars = None  # type: ignore[attr-defined]
    async with s.cache() as cache:
        assert await cache.get("other", embedding=cosine(1.0)) is None
        assert (await cache.get("q")).response == "new"
