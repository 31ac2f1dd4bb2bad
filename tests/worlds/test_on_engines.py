"""What is promised over an engine in memory holds over PostgreSQL and Redis, in every world."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import test_sharing
from support.embedders import cosine
from support.engines import own_name, postgres_url, redis_url
from support.flights import followers
from support.scenes import Opens, Scenario, Scene, on_engines, play
from support.worlds import settled
from worlds import test_keeping, test_lookups, test_stale, test_trust

from mneme import semantic_cache
from mneme.errors import CheckpointError
from mneme.stores.postgres import PostgresStore
from mneme.stores.redis import RedisStore
from mneme.types import Store

OPENS: dict[str, Opens] = {
    "postgres": lambda name: PostgresStore(postgres_url(), schema=name),
    "redis": lambda name: RedisStore(redis_url(), prefix=name),
}

SCENARIOS = on_engines(test_lookups, test_keeping, test_stale, test_trust, test_sharing)
ON_EACH = pytest.mark.parametrize("engine", OPENS)


@ON_EACH
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.__name__)
def test_a_scenario_over_a_server(scenario: Scenario, engine: str, tmp_path: Path) -> None:
    """It comes to the same on threads, asyncio and trio, and nothing blocks a loop."""
    play(scenario, "engine", tmp_path, OPENS[engine])


@ON_EACH
def test_equal_calls_at_once_are_one(engine: str, tmp_path: Path) -> None:
    """Thirty callers of one prompt make one call, and each gets its answer."""

    async def scenario(s: Scene) -> None:
        calls: list[str] = []
        async with s.cache() as cache:
            with followers(cache.cache) as waiting:

                async def ask(prompt: str) -> str:
                    calls.append(prompt)
                    await waiting.reached(29)
                    return prompt.upper()

                function = semantic_cache(cache=cache.cache)(s.world.written(ask))
                answers = await s.world.together(*[lambda: s.call(function, "q")] * 30)
            assert (calls, answers) == (["q"], ["Q"] * 30)
            stats = await cache.stats()
            assert (stats.hits_exact, stats.misses, stats.entries) == (29, 1, 1)

    play(scenario, "engine", tmp_path, OPENS[engine])


@ON_EACH
def test_the_rest_of_the_face(engine: str, tmp_path: Path) -> None:
    """Health, statistics, quotas, housekeeping and what an engine refuses, in every world."""

    async def scenario(s: Scene) -> None:
        async with s.cache(namespace_quotas={"small": 2}) as cache:
            await cache.put("q", "r", embedding=cosine(1.0), tags=["t"], ttl=60)
            for name in "abc":
                await cache.put(name, name, namespace="small", embedding=cosine(0.0))
            stats = await cache.stats()
            assert (stats.entries, stats.evictions, (await cache.stats("small")).entries) == (
                3,
                1,
                2,
            )
            assert (await cache.stats("small")).entries == 2
            assert await cache.list_namespaces() == ["default", "small"]
            health = await cache.health()
            assert (health.healthy, health.entries, health.bad_rows) == (True, 3, 0)
            assert (health.index_backend, health.vector_dtype) == ("engine", "float32")
            explained = await cache.explain("in other words", embedding=cosine(0.9))
            assert [one.reason for one in explained.verdicts] == [None]
            with pytest.raises(ValueError, match=r"searches by itself.*Nothing was changed"):
                await cache.requantize("int8")
            with pytest.raises(ValueError, match=r"searches by itself.*Leave index_backend= and"):
                s.make(index_backend="hnsw")
            assert await cache.invalidate(tag="t") == 1
            await cache.put("brief", "r", ttl=5)
            s.clock.advance(5.0)
            assert await cache.vacuum() == 1
            assert await cache.clear_namespace("small") == 2
            assert (await cache.stats()).entries == 0

    play(scenario, "engine", tmp_path, OPENS[engine])


@ON_EACH
def test_an_archive_goes_out_and_in(engine: str, tmp_path: Path) -> None:
    """`dumps` and `loads(store=)` in every world; a store that holds entries takes none."""

    async def scenario(s: Scene) -> None:
        archive = tmp_path / f"{s.world}.mneme"

        def store(name: str) -> Store:
            return OPENS[engine](own_name((tmp_path, s.world, name)))

        async with s.cache() as cache:
            await cache.put("q", "r", embedding=cosine(1.0), tags=["t"], metadata={"m": 1})
            await cache.put("p", "r", namespace="n")
            assert await cache.dumps(archive) == 2
            kind = type(cache.cache)
        settings = {"embedder": s.embedder, "clock": s.clock, "similarity_threshold": 0.8}
        copy = await settled(kind.loads(archive, store=store("new"), **settings))
        assert (await settled(copy.get("q"))).metadata == {"m": 1}
        assert (await settled(copy.get("z", embedding=cosine(0.9)))).layer == "semantic"
        assert copy.stats("n").entries == 1
        await settled(copy.close())
        with pytest.raises(CheckpointError, match="entries"):
            await settled(kind.loads(archive, store=store("new"), **settings))

    play(scenario, "engine", tmp_path, OPENS[engine])
