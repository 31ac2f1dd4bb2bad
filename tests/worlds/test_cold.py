"""Lookups, writes and closing while memory is being filled: threads, asyncio and trio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.cold import MANY, Gate, filled, is_cold, vectors
from support.worlds import WORLDS, World, settled

from mneme import AsyncSemanticCache, SQLiteStore
from mneme.testing import HashEmbedder

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)


pytestmark = pytest.mark.usefixtures("few_are_many")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    filled(tmp_path / "cache.db")
    return tmp_path / "cache.db"


async def _opened(world: World, path: Path) -> Any:
    cache = world.open(
        None,
        store=SQLiteStore(path),
        embedder=HashEmbedder(8),
        similarity_threshold=0.95,
        guards=(),
        self_check=False,
    )
    if isinstance(cache, AsyncSemanticCache):
        await cache.get("opens it", embedding=-vectors(1)[0])
    return cache


@IN_EACH_WORLD
def test_lookups_do_not_wait(world: World, path: Path, gate: Gate) -> None:
    """Both layers answer while memory is held empty, and loops are not blocked."""

    async def scenario() -> None:
        cache = await _opened(world, path)
        assert (await settled(cache.get("question 3"))).layer == "exact"
        found = await settled(cache.get("asked", embedding=vectors(4)[3]))
        assert (found.response, found.layer) == ("answer 3", "semantic")
        assert await settled(cache.get("unheard of", embedding=-vectors(1)[0])) is None
        many = await settled(cache.get_many(["question 5", "question 6"]))
        assert [hit.response for hit in many] == ["answer 5", "answer 6"]
        assert is_cold(cache)
        await settled(cache.close())

    world.run(scenario)


@IN_EACH_WORLD
def test_telling_does_not_wait_for_memory(world: World, path: Path, gate: Gate) -> None:
    """Sizes are counted in the file, and a quota is kept once memory is filled."""

    async def scenario() -> None:
        cache = await _opened(world, path)
        assert cache.stats().entries == 2 * MANY
        assert cache.list_namespaces() == ["default"]
        assert "1 namespaces" in repr(cache)
        cache.set_namespace_quota("other", 3)
        await settled(cache.set_namespace_quota("default", 3))
        gate.open()
        await settled(cache.put("new", "answer", embedding=vectors(1, 5)[0], namespace="other"))
        assert await settled(cache.delete("nothing")) == 0
        assert cache.stats().entries == 4
        assert not is_cold(cache)
        await settled(cache.close())

    world.run(scenario)


@IN_EACH_WORLD
def test_puts_do_not_wait_and_removals_do(world: World, path: Path, gate: Gate) -> None:
    """A put, a removal and a clear that begin while it is cold."""

    async def scenario() -> None:
        cache = await _opened(world, path)
        assert await settled(cache.put("new", "answer", embedding=vectors(1, 5)[0]))
        found = await settled(cache.get("in other words", embedding=vectors(1, 5)[0]))
        assert found.response == "answer"
        assert is_cold(cache)
        gate.open()
        assert await settled(cache.delete("question 1")) == 1
        assert await settled(cache.get("question 1", embedding=-vectors(1)[0])) is None
        assert await settled(cache.clear_namespace("default")) == 2 * MANY
        await settled(cache.close())

    world.run(scenario)


@IN_EACH_WORLD
def test_closing_does_not_wait_for_memory(world: World, path: Path, gate: Gate) -> None:
    """The thread that fills it ends before `close` returns."""

    async def scenario() -> None:
        cache = await _opened(world, path)
        thread = cache._core._warming._thread
        assert thread.is_alive()
        await settled(cache.close())
        assert not thread.is_alive()

    world.run(scenario)
