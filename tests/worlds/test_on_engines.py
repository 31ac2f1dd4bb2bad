"""What is promised over an engine in memory holds over PostgreSQL and Redis, in every world."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import test_sharing
from support.engines import postgres_url, redis_url
from support.flights import followers
from support.scenes import Opens, Scenario, Scene, on_engines, play
from worlds import test_keeping, test_lookups, test_stale, test_trust

from mneme import semantic_cache
from mneme.stores.postgres import PostgresStore
from mneme.stores.redis import RedisStore

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
