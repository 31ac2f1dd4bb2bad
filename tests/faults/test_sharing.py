"""Several caches on one store, in one process and in many: each sees what the others do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.embedders import cosine
from support.remote import Remote
from support.scenes import Scene, everywhere
from support.worlds import WORLDS, World, settled

import mneme
from mneme import MultiProcessLockError, SemanticCache, SQLiteStore, semantic_cache
from mneme.testing import HashEmbedder, ManualClock

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)


@everywhere()
async def test_two_caches_see_each_other(s: Scene) -> None:
    """Puts, replacements, deletes, clears and tags of one show in the other's next lookup."""
    s.durability = "commit"
    async with s.cache() as one, s.cache() as two:
        await one.put("q", "old", embedding=cosine(1.0), tags=["t"])
        assert (await two.get("q")).response == "old"
        assert (await two.get("z", embedding=cosine(1.0))).response == "old"
        await two.put("q", "new", embedding=cosine(0.0))
        assert (await one.get("q")).response == "new"
        assert await one.get("z", embedding=cosine(1.0)) is None
        assert await one.delete("q") == 1
        assert await two.get("q") is None
        await two.put("p", "P", tags=["t"])
        assert await one.invalidate(tag="t") == 1
        await two.put("o", "O", namespace="n")
        assert await one.clear_namespace("n") == 1
        assert await two.get("o", namespace="n") is None
        for name in "abc":
            await two.put(name, name, embedding=cosine(1.0))
        assert await one.clear() == 3
        assert await two.get("a", embedding=cosine(1.0)) is None
        if s.kind != "engine":
            # What another's clear has left in an engine is counted a moment later.
            assert (await one.stats()).entries == (await two.stats()).entries == 0


@everywhere()
async def test_a_delete_counts_what_another_has_put(s: Scene) -> None:
    """`delete`, `clear` and `vacuum` know what was put a moment ago, without a lookup between."""
    s.durability = "commit"
    async with s.cache() as one, s.cache() as two:
        for count in (1, 0):
            if count:
                await one.put("q", "r")
            assert await two.delete("q") == count
        await one.put("q", "r", ttl=5)
        s.clock.advance(5.0)
        assert await two.vacuum() == 1
        await one.put("p", "r")
        assert await two.clear() == 1
        assert await one.get("p") is None


@everywhere("sqlite")
async def test_an_interval_between_looks(s: Scene) -> None:
    """With stale_check_interval another's write may stay unseen that long, and no longer."""
    s.durability = "commit"
    async with s.cache(stale_check_interval=10) as one, s.cache() as two:
        await one.get("start the interval")
        await two.put("q", "r", embedding=cosine(1.0))
        s.clock.advance(9.0)
        assert await one.get("q", embedding=cosine(1.0)) is None
        s.clock.advance(1.0)
        assert (await one.get("q")).response == "r"
        await two.put("q", "newer", embedding=cosine(1.0))
        assert (await one.get("q")).response == "r"
        # A clock that is set back does not stop the looking.
        s.clock.advance(-1_000.0)
        assert (await one.get("q")).response == "newer"


@everywhere()
async def test_what_one_lets_expire_another_may_renew(s: Scene) -> None:
    """An entry that expired here and was put again there is not removed by this one's next put."""
    s.durability = "commit"
    async with s.cache() as one, s.cache() as two:
        await one.put("q", "old", ttl=5)
        s.clock.advance(5.0)
        assert await one.get("q") is None
        await two.put("q", "new", ttl=100)
        await one.put("another", "r")
        for cache in (one, two):
            assert (await cache.get("q")).response == "new"
    async with s.cache() as three:
        assert (await three.get("q")).response == "new"


@everywhere()
async def test_what_was_cleared_does_not_come_back(s: Scene) -> None:
    """After `cache_clear` of a function its answers stay away, however much others have written."""

    async def ask(prompt: str) -> str:
        return "r"

    s.durability = "commit"
    async with s.cache() as one, s.cache() as two:
        function = semantic_cache(cache=one.cache)(s.world.written(ask))
        await s.call(function, "q")
        function.cache_clear()
        # More commits than a MemoryStore remembers: what has changed is no longer known.
        count = 300 if s.path is None else 3
        for at in range(count):
            await two.put(f"{at}", at, embedding=cosine(1.0))
        assert not await s.call(function.lookup, "q")
        await one.put("p", "r")
    async with s.cache() as three:
        assert (await three.stats()).entries == count + 1


@everywhere()
async def test_clearing_before_the_first_call(s: Scene) -> None:
    """`cache_clear` right after decorating removes what an earlier process has left."""

    async def ask(prompt: str) -> str:
        return "r"

    async with s.cache() as cache:
        await s.call(semantic_cache(cache=cache.cache)(s.world.written(ask)), "q")
    cache = s.make()
    function = semantic_cache(cache=cache)(s.world.written(ask))
    function.cache_clear()
    assert not await s.call(function.lookup, "q")
    await settled(cache.close())
    async with s.cache() as again:
        assert (await again.stats()).entries == 0


@everywhere()
async def test_counters_of_several_caches_add_up(s: Scene) -> None:
    """Each adds what it counted; nothing is lost and nothing counted twice."""
    s.durability = "commit"
    async with s.cache() as one, s.cache() as two:
        await one.put("q", "r")
        for cache in (one, two, two):
            await cache.get("q")
        await two.put("p", "r")
    async with s.cache() as three:
        assert (await three.stats()).hits_exact == 3


def test_many_caches_write_one_file(tmp_path: Path) -> None:
    """Threads with a cache each on one file lose no write of any of them."""
    from support.worlds import in_threads

    path = tmp_path / "cache.db"
    caches = [SemanticCache(path, embedder=HashEmbedder(8), durability="commit") for _ in range(4)]

    def write(at: int) -> None:
        for n in range(20):
            caches[at].put(f"{at} {n}", n, embedding=[1.0] * 8)
            assert caches[at].get(f"{at} {n}") is not None

    in_threads(*[lambda at=at: write(at) for at in range(4)])
    for cache in caches:
        assert cache.get("0 0") is not None
        assert cache.stats().entries == 80
        cache.close()


@pytest.mark.parametrize("durability", ["commit", "group"])
def test_two_processes_see_each_other(durability: Any, tmp_path: Path) -> None:
    """Another process's puts, deletes and clears show in the next lookup, both ways."""
    path = tmp_path / "cache.db"
    with (
        SemanticCache(path, embedder=HashEmbedder(8), durability=durability) as here,
        Remote(path, durability=durability) as there,
    ):

        def settle() -> None:
            # What is to be committed in a group is committed before the other reads.
            if durability == "group":
                here.vacuum()
                there.vacuum()

        here.put("q", "from here")
        settle()
        assert there.get("q") == "from here"
        there.put("q", "from there")
        settle()
        assert here.get("q").response == "from there"  # type: ignore[union-attr]
        there.put("p", "P", namespace="n")
        settle()
        assert here.get("p", namespace="n").response == "P"  # type: ignore[union-attr]
        assert here.clear_namespace("n") == 1
        settle()
        assert there.get("p", namespace="n") is None
        there.delete("q")
        settle()
        assert here.get("q") is None
        for n in range(5):
            here.put(f"{n}", n)
        settle()
        assert there.clear() == 5
        settle()
        assert here.get("3") is None
        assert here.stats().entries == 0


def test_a_writer_that_holds_the_file_too_long(tmp_path: Path) -> None:
    """A put that cannot get at the file says so; lookups go on, and later puts work."""
    import sqlite3

    path = tmp_path / "cache.db"
    store = SQLiteStore(path, busy_timeout=0.01, durability="commit")
    clock = ManualClock()
    with SemanticCache(store=store, embedder=HashEmbedder(8), clock=clock) as cache:
        cache.put("q", "r")
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(MultiProcessLockError, match="raise busy_timeout"):
            cache.put("p", "r")
        assert cache.get("q") is not None
        assert cache.get("p") is None

        @semantic_cache(cache=cache)
        def ask(prompt: str) -> str:
            return "answered"

        with mneme.observe() as seen:
            assert ask("x") == "answered"
        assert len(seen) == 1
        assert cache.stats().failed_open == 1
        holder.execute("ROLLBACK")
        holder.close()
        assert cache.put("p", "r") is True
        assert ask("x") == "answered"
        assert ask.cache_info().currsize == 1


@IN_EACH_WORLD
def test_the_mark_may_be_deleted_while_nobody_is_there(world: World, tmp_path: Path) -> None:
    """Without its -mark file a cache opens as ever, and makes a new one."""
    path = tmp_path / "cache.db"
    mark = Path(f"{path}-mark")
    with SemanticCache(path, embedder=HashEmbedder(8)) as cache:
        cache.put("q", "r")
    for content in (None, b"", b"\xff" * 8, b"\1" * 20):
        mark.unlink(missing_ok=True)
        if content is not None:
            mark.write_bytes(content)

        async def scenario() -> Any:
            face = world.open(path, embedder=HashEmbedder(8))
            found = await settled(face.get("q"))
            await settled(face.put("p", "r"))
            await settled(face.close())
            return found

        assert world.run(scenario).response == "r"
        assert mark.stat().st_size >= 8
