"""Large searches that tasks of one loop ask for at once are made together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import numpy as np
import pytest
from support.worlds import LOOPS

from mneme import AsyncSemanticCache, MemoryStore, StoreBackendError
from mneme._core.core import Core, core_of
from mneme._core.ports import looping
from mneme.testing import HashEmbedder

IN_EACH_LOOP = pytest.mark.parametrize("backend", LOOPS)
SEARCH = Core.near_many


@pytest.fixture(autouse=True)
def every_search_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looping, "INLINE_FLOATS", 0)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many searches each batch had, a number for each partition in it."""
    seen: list[int] = []

    def near_many(core: Core, partition: Any, vectors: Any, at_least: float) -> Any:
        seen.append(len(vectors))
        return SEARCH(core, partition, vectors, at_least)

    monkeypatch.setattr(Core, "near_many", near_many)
    return seen


def vectors(count: int) -> Any:
    rows = np.random.default_rng(0).standard_normal((count, 32))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def run(backend: str, scenario: Callable[[AsyncSemanticCache], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncSemanticCache(
            store=MemoryStore(), embedder=HashEmbedder(32), self_check=False, guards=()
        ) as cache:
            for namespace in "ab":
                pairs = [(f"{namespace} {at}", f"{namespace} {at}") for at in range(200)]
                await cache.put_many(pairs, embeddings=list(vectors(200)), namespace=namespace)
            with anyio.fail_after(20):
                await scenario(cache)

    anyio.run(main, backend=backend)


@IN_EACH_LOOP
def test_lookups_at_once_are_one_search(backend: str, sizes: list[int]) -> None:
    """A hundred tasks get each its own answer, from a few searches."""

    async def scenario(cache: AsyncSemanticCache) -> None:
        found: dict[tuple[str, int], Any] = {}

        async def look(namespace: str, at: int) -> None:
            found[namespace, at] = await cache.get(
                f"new {at}", embedding=vectors(200)[at], namespace=namespace
            )

        async with anyio.create_task_group() as group:
            for namespace in "ab":
                for at in range(100):
                    group.start_soon(look, namespace, at)
        assert all(hit.response == f"{name} {at}" for (name, at), hit in found.items())
        assert sum(sizes) == 200
        assert len(sizes) <= 6

    run(backend, scenario)


@IN_EACH_LOOP
def test_a_caller_who_leaves_holds_up_no_others(backend: str, sizes: list[int]) -> None:
    """Whoever is cancelled, first or later, the others get their answers."""

    async def scenario(cache: AsyncSemanticCache) -> None:
        for leaver in (0, 3, 9):
            found: list[Any] = []

            async def look(at: int, leaver: int = leaver, found: list[Any] = found) -> None:
                with anyio.CancelScope() as scope:
                    if at == leaver:
                        scope.cancel()
                    found.append(await cache.get("new", embedding=vectors(200)[at], namespace="a"))

            async with anyio.create_task_group() as group:
                for at in range(10):
                    group.start_soon(look, at)
            assert {f"a {at}" for at in range(10) if at != leaver} <= {
                hit.response for hit in found
            }

    run(backend, scenario)


def test_a_task_that_asyncio_cancels_holds_up_no_others(sizes: list[int]) -> None:
    """asyncio cancels through shields: those whom it led are led by another."""

    async def scenario(cache: AsyncSemanticCache) -> None:
        async def look(at: int) -> Any:
            return await cache.get("new", embedding=vectors(200)[at], namespace="a")

        for pauses in range(4):
            tasks = [asyncio.ensure_future(look(at)) for at in range(10)]
            for _ in range(pauses):
                await anyio.lowlevel.checkpoint()
            tasks[0].cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [hit.response for hit in found[1:]] == [f"a {at}" for at in range(1, 10)]

    run("asyncio", scenario)


@IN_EACH_LOOP
def test_a_search_that_fails_fails_its_own_callers(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong in one partition is heard by those who searched there, and no others."""

    async def scenario(cache: AsyncSemanticCache) -> None:
        core = core_of(cache)
        broken = core.ask("x", "a").partition

        def near_many(core: Core, partition: Any, rows: Any, at_least: float) -> Any:
            if partition == broken:
                raise StoreBackendError("broken")
            return SEARCH(core, partition, rows, at_least)

        monkeypatch.setattr(Core, "near_many", near_many)
        reasons: dict[str, Any] = {}

        async def look(namespace: str) -> None:
            reasons[namespace] = await cache.lookup(
                "new", embedding=vectors(200)[0], namespace=namespace
            )

        async with anyio.create_task_group() as group:
            for namespace in "ab":
                group.start_soon(look, namespace)
        assert reasons["a"].reason == "store_failed"
        assert reasons["b"].response == "b 0"

    run(backend, scenario)
