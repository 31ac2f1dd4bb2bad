"""Lookups run beside each other: no lock is held while an embedder or the user's function runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from support.embedders import AsyncSpy, Spy, cosine
from support.scenes import STORES, Scene, StoreKind
from support.worlds import (
    PATIENCE,
    WORLDS,
    Count,
    World,
    in_threads,
    settled,
    without_blocking,
)

from mneme import AsyncSemanticCache, MemoryStore, SemanticCache, semantic_cache

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)
ON_EACH_LOOP = pytest.mark.parametrize("world", [w for w in WORLDS if w.is_async], ids=str)
IN_EACH_STORE = pytest.mark.parametrize("kind", STORES)

MANY = 100


@ON_EACH_LOOP
@IN_EACH_STORE
def test_a_hundred_lookups_wait_together(world: World, kind: StoreKind, tmp_path: Path) -> None:
    """All of a hundred lookups are inside a slow embedder at once."""

    async def scenario() -> None:
        inside, all_are = Count(), anyio.Event()

        class Meets(AsyncSpy):
            async def embed(self, text: str, /) -> Any:
                if inside.add() == MANY:
                    all_are.set()
                with anyio.fail_after(PATIENCE):
                    await all_are.wait()
                return await super().embed(text)

        store: Any = MemoryStore() if kind == "memory" else None
        path = tmp_path / "cache.db" if store is None else None
        async with AsyncSemanticCache(path, store=store, embedder=Meets()) as cache:
            await world.together(*[lambda at=at: cache.get(f"{at}") for at in range(MANY)])
            # Who waited in vain would be a miss as well.
            assert (cache.stats().misses, cache.stats().failed_open) == (MANY, 0)

    world.run(scenario)


@IN_EACH_WORLD
@IN_EACH_STORE
@pytest.mark.parametrize("what", ["get", "put", "call"])
def test_embedders_run_beside_each_other(
    world: World, kind: StoreKind, what: str, tmp_path: Path
) -> None:
    """All of forty callers are inside the embedder at once, for lookups, puts and calls."""
    inside = Count()

    class Meets(Spy):
        def embed(self, text: str, /) -> Any:
            # Forty are as many as one loop sends to worker threads.
            inside.add()
            inside.wait(40)
            return super().embed(text)

    async def ask(prompt: str) -> str:
        return prompt

    async def scenario(s: Scene) -> None:
        s.embedder = Meets()
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache)(world.written(ask))
            calls: dict[str, Any] = {
                "get": lambda text: cache.get(text),
                "put": lambda text: cache.put(text, "r"),
                "call": lambda text: settled(function(text)),
            }
            await world.together(*[lambda at=at: calls[what](f"{at}") for at in range(40)])
            assert len(s.embedder.texts) == 40

    world.run(scenario, Scene(world, kind, tmp_path))


@IN_EACH_WORLD
@IN_EACH_STORE
def test_an_embedder_may_use_the_cache(world: World, kind: StoreKind, tmp_path: Path) -> None:
    """An embedder may read and write the cache, in its own and in another thread."""
    cache: SemanticCache

    def elsewhere(text: str) -> None:
        def use() -> None:
            cache.put(f"inner {text}", text, embedding=cosine(1.0))
            assert cache.get(f"inner {text}", embedding=cosine(1.0)) is not None
            assert cache.stats().entries > 0
            cache.delete(f"inner {text}")

        use()
        in_threads(use)

    class Nosy(Spy):
        def embed(self, text: str, /) -> Any:
            elsewhere(text)
            return super().embed(text)

    class AsyncNosy(AsyncSpy):
        async def embed(self, text: str, /) -> Any:
            await without_blocking(elsewhere, text)
            return await super().embed(text)

    async def scenario(s: Scene) -> None:
        nonlocal cache
        s.embedder = AsyncNosy() if world.is_async else Nosy()
        # A second cache of the same store would not share the first one's locks: one core.
        own = s.make()
        cache = _sync_face(own)
        await settled(own.put("a", "A"))  # type: ignore[arg-type]
        assert await settled(own.get("b")) is None
        assert (await settled(own.get("a"))).response == "A"
        await settled(own.close())

    world.run(scenario, Scene(world, kind, tmp_path))


def _sync_face(cache: Any) -> SemanticCache:
    """The sync face, past the check that its embedder is sync: nothing here embeds with it."""
    if isinstance(cache, SemanticCache):
        return cache
    from mneme._core.ports import BlockingPort

    face = object.__new__(SemanticCache)
    face._core = cache._core
    face._port = BlockingPort(cache._core)
    return face


@IN_EACH_WORLD
@IN_EACH_STORE
def test_a_function_may_use_its_cache(world: World, kind: StoreKind, tmp_path: Path) -> None:
    """While the user's function runs, other threads read and write the same cache."""

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            face = _sync_face(cache.cache)

            def use() -> None:
                face.put("x", "X", embedding=cosine(1.0))
                assert face.get("x") is not None
                assert face.clear() == 1

            async def ask(prompt: str) -> str:
                await without_blocking(use)
                await without_blocking(in_threads, use)
                return prompt

            function = semantic_cache(cache=cache.cache)(world.written(ask))
            assert await s.call(function, "q") == "q"
            assert await s.call(function.lookup, "q")

    world.run(scenario, Scene(world, kind, tmp_path))
