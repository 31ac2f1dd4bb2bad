"""A store or a hook that fails: puts say so, lookups and functions go on as without a cache."""

from __future__ import annotations

import gc
import logging
import threading
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.embedders import cosine
from support.scenes import IN_PROCESS, Scene, StoreKind, everywhere
from support.stores import Flaky
from support.worlds import PATIENCE, WORLDS, World, settled, without_blocking

import mneme
from mneme import CacheClosedError, SQLiteStore, StoreBackendError, semantic_cache
from mneme._core.core import core_of

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)
IN_EACH_STORE = pytest.mark.parametrize("kind", IN_PROCESS)


def _flaky(s: Scene, **options: Any) -> Flaky:
    """A store that obeys, in place of the scene's own and with its entries."""
    path, own = s.path, s.store
    store = Flaky((lambda: own) if path is None else (lambda: SQLiteStore(path)), **options)  # type: ignore[arg-type, return-value]
    s.path, s.store = None, store  # type: ignore[assignment]
    return store


@everywhere(*IN_PROCESS)
async def test_a_failed_commit_changes_nothing(s: Scene) -> None:
    """put, delete and clear raise StoreBackendError with the cause; memory stays as it was."""
    store = _flaky(s)
    async with s.cache(max_entries=3) as cache:
        for at, name in enumerate("abc"):
            await cache.put(name, name.upper(), embedding=cosine(0.5 - at / 2))
        await cache.get("a")
        before = await cache.stats()
        store.failing = {"commit"}
        for method, args in (
            ("put", ("d", "D")),
            ("put", ("a", "other")),
            ("put_many", ({"d": "D", "e": "E"},)),
            ("delete", ("a",)),
            ("clear", ()),
            ("clear_namespace", ("default",)),
        ):
            with pytest.raises(StoreBackendError, match=r"on fire.*Check the store") as caught:
                await getattr(cache, method)(*args)
            assert caught.value.__cause__ is store.error
        assert await cache.stats() == before
        for at, name in enumerate("abc"):
            hit = await cache.get("never", embedding=cosine(0.5 - at / 2))
            assert hit.response == name.upper()
        store.failing = set()
        assert await cache.put("d", "D") is True
        assert (await cache.stats()).evictions == 1
        assert (await cache.stats()).hits_semantic == 3
    async with s.cache() as cache:
        assert (await cache.stats()).hits_semantic == 3
        assert (await cache.stats()).entries == 3


@everywhere()
async def test_a_function_goes_on_without_its_store(s: Scene) -> None:
    """While commits fail a function answers each time; when they work again it is cached."""
    store = _flaky(s)
    calls = []

    async def ask(prompt: str) -> int:
        calls.append(prompt)
        return len(calls)

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(ask))
        assert await s.call(function, "before") == 1
        store.failing = {"commit"}
        assert [await s.call(function, "q") for _ in range(3)] == [2, 3, 4]
        assert await s.call(function, "before") == 1
        assert (await cache.stats()).failed_open == 3
        assert [attrs["part"] for attrs in s.heard("failed_open")] == ["store"] * 3
        store.failing = set()
        assert [await s.call(function, "q") for _ in range(2)] == [5, 5]
        assert (await cache.stats()).failed_open == 3


@IN_EACH_WORLD
def test_a_failing_store_is_logged_once_a_minute(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """However many calls go on without the store, the log has one line a minute."""

    async def ask(prompt: str) -> str:
        return "r"

    async def scenario(s: Scene) -> None:
        store = _flaky(s)
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache)(world.written(ask))
            store.failing = {"commit"}
            for passed, lines in ((0.0, 1), (30.0, 1), (29.0, 1), (1.0, 2), (59.0, 2), (1.0, 3)):
                s.clock.advance(passed)
                await s.call(function, "q")
                assert len(caplog.messages) == lines
            assert "the store failed, going on without it" in caplog.text
            store.failing = set()

    world.run(scenario, Scene(world, "memory", tmp_path))


@everywhere(*IN_PROCESS)
async def test_a_store_that_cannot_say_what_changed(s: Scene) -> None:
    """When catching up fails, lookups are misses of their own reason and functions are called."""
    calls = []

    async def ask(prompt: str) -> int:
        calls.append(prompt)
        return len(calls)

    s.durability = "commit"
    async with s.cache() as two, AsyncExitStack() as stack:
        store = _flaky(s)
        one = await stack.enter_async_context(s.cache())
        function = semantic_cache(cache=one.cache)(s.world.written(ask))
        assert await s.call(function, "q") == 1
        await two.put("by another", "r")
        store.failing = {"changes_since"}
        assert (await one.lookup("by another")).reason == "store_failed"
        assert await one.get_many(["by another", "q"]) == [None, None]
        assert [await s.call(function, "q") for _ in range(2)] == [2, 3]
        assert (await one.stats()).failed_open >= 5
        store.failing = set()
        assert (await one.get("by another")).response == "r"
        assert await s.call(function, "q") == 1


@everywhere(*IN_PROCESS)
async def test_a_store_that_cannot_be_opened(s: Scene) -> None:
    """Opening raises StoreBackendError; the same settings open it once it works."""
    store = _flaky(s)
    for method in ("claim", "scan", "counts"):
        store.failing = {method}
        with pytest.raises(StoreBackendError, match="on fire"):
            async with s.cache():
                raise AssertionError("it opened")
        store.failing = set()
        async with s.cache() as cache:
            assert await cache.put("q", "r") is True


@pytest.mark.parametrize("world", [w for w in WORLDS if w.is_async], ids=str)
def test_a_function_whose_store_opens_late(world: World, tmp_path: Path) -> None:
    """Without an owner the store is opened by the first call; until it can be, functions run."""
    calls: list[str] = []

    async def ask(prompt: str) -> int:
        calls.append(prompt)
        return len(calls)

    async def scenario(s: Scene) -> None:
        store = _flaky(s)
        cache = s.make()
        function = semantic_cache(cache=cache)(ask)
        store.failing = {"claim"}
        assert [await s.call(function, "q") for _ in range(2)] == [1, 2]
        assert cache.stats().failed_open == 2
        store.failing = set()
        assert [await s.call(function, "q") for _ in range(2)] == [3, 3]
        await settled(cache.close())

    world.run(scenario, Scene(world, "sqlite", tmp_path))


@everywhere("memory")
async def test_a_store_that_fails_at_closing(s: Scene) -> None:
    """`close` raises what the store said, once; the cache is closed all the same."""
    store = _flaky(s)
    cache = s.make()
    await settled(cache.get("q"))
    store.failing = {"commit", "close"}
    with pytest.raises(StoreBackendError, match="on fire"):
        await settled(cache.close())
    await settled(cache.close())
    with pytest.raises(CacheClosedError):
        await settled(cache.get("q"))
    store.failing = set()


def _collected(held: list[Any]) -> None:
    held.clear()
    gc.collect()


@IN_EACH_WORLD
@IN_EACH_STORE
def test_a_cache_that_nobody_closes(
    world: World, kind: StoreKind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its counters are saved when it is collected; a store that fails then is only logged."""

    async def scenario(s: Scene) -> None:
        store = _flaky(s)
        for failing, misses in ((set(), 1), ({"commit"}, 1), (set(), 2)):
            held = [s.make()]
            await settled(held[0].get("q"))
            store.failing = failing
            # In a thread: what collects it does the saving, and on a loop that would block.
            await without_blocking(_collected, held)
            store.failing = set()
            assert sum((await without_blocking(store.counts)).values()) == misses
        assert caplog.text.count("counters since the last commit were not saved") == 1
        # Else it is collected at some later moment, on the loop of another test.
        await without_blocking(store.close)

    world.run(scenario, Scene(world, kind, tmp_path))


@everywhere()
async def test_closing_while_a_call_runs(s: Scene) -> None:
    """A function that is running when its cache is closed still gives its answer."""
    cache = s.make()

    async def ask(prompt: str) -> str:
        await settled(cache.close())
        return "paid for"

    function = semantic_cache(cache=cache)(s.world.written(ask))
    assert await s.call(function, "q") == "paid for"
    with pytest.raises(CacheClosedError):
        await s.call(function, "q")


@IN_EACH_WORLD
@IN_EACH_STORE
def test_a_hanging_store(world: World, kind: StoreKind, tmp_path: Path) -> None:
    """After store_timeout puts raise and functions answer; what hung ends well later."""

    async def ask(prompt: str) -> str:
        return f"to {prompt}"

    async def scenario(s: Scene) -> None:
        store = _flaky(s, blocking=True)
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache)(world.written(ask))
            await cache.put("before", "B")
            store.hanging = {"commit"}
            # Only now: a commit that does not hang may take as long as this machine needs.
            core = core_of(cache.cache)
            core.settings = replace(core.settings, store_timeout=0.01)
            with pytest.raises(StoreBackendError, match=r"longer than store_timeout.*may still"):
                await cache.put("hung", "H")
            assert (await cache.get("before")).response == "B"
            assert await cache.get("hung") is None
            assert await s.call(function, "q") == "to q"
            assert await s.call(function, "q") == "to q"
            assert (await cache.stats()).failed_open == 2
            store.hanging = set()
            store.release.open()
        # Closing waits for the writers that were given up on.
        async with s.cache() as cache:
            assert (await cache.get("hung")).response == "H"

    try:
        world.run(scenario, Scene(world, kind, tmp_path))
    finally:
        for thread in threading.enumerate():
            if thread.name == "mneme-deadline":
                thread.join(PATIENCE)
                assert not thread.is_alive()


@pytest.mark.parametrize("world", [w for w in WORLDS if w.is_async], ids=str)
def test_a_caller_who_leaves_while_his_answer_is_stored(world: World, tmp_path: Path) -> None:
    """Cancelled during the commit, the answer is stored all the same: it is paid for."""

    async def ask(prompt: str) -> str:
        return "paid for"

    async def scenario(s: Scene) -> None:
        store = _flaky(s, blocking=True)
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache)(ask)
            store.hanging = {"commit"}
            ended: list[bool] = []

            async def call() -> None:
                try:
                    await function("q")
                finally:
                    ended.append(True)

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await store.reached.reached(1)
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await anyio.wait_all_tasks_blocked()
                # It does not leave before its answer is safe.
                assert not ended
                store.release.open()
            hit = await settled(function.lookup("q"))
            assert hit.response == "paid for"

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
def test_a_store_that_hangs_while_catching_up(world: World, tmp_path: Path) -> None:
    """A lookup gives up on a store that does not say what changed, and is a miss."""

    async def scenario(s: Scene) -> None:
        async with s.cache() as two, AsyncExitStack() as stack:
            store = _flaky(s, blocking=True)
            one = await stack.enter_async_context(s.cache(store_timeout=0.01))
            await two.put("q", "r")
            store.hanging = {"changes_since"}
            assert (await one.lookup("q")).reason == "store_failed"
            store.hanging = set()
            store.release.open()
        async with s.cache() as three:
            assert (await three.get("q")).response == "r"

    try:
        world.run(scenario, Scene(world, "memory", tmp_path))
    finally:
        for thread in threading.enumerate():
            if thread.name == "mneme-deadline":
                thread.join(PATIENCE)


@IN_EACH_WORLD
def test_a_hook_that_raises_is_harmless(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every event may raise in the hook: the log hears of it, and nobody else."""
    heard: set[str] = set()

    def hook(event: str, attrs: dict[str, Any]) -> None:
        heard.add(event)
        raise ZeroDivisionError(event)

    async def ask(prompt: str) -> str:
        return "r"

    async def scenario(s: Scene) -> None:
        store = _flaky(s)
        async with s.cache(
            metrics_hook=hook, max_entries=2, guards=[lambda asked, cached: "no"]
        ) as cache:
            function = semantic_cache(cache=cache.cache)(world.written(ask))
            assert [await s.call(function, "q") for _ in range(2)] == ["r", "r"]
            await cache.put("a", "A", embedding=cosine(1.0), ttl=5)
            assert await cache.get("b", embedding=cosine(1.0)) is None
            s.clock.advance(5.0)
            assert await cache.get("a", embedding=cosine(1.0)) is None
            await cache.put_many({"c": "C", "d": "D"})
            store.failing = {"commit"}
            assert await s.call(function, "unheard of") == "r"
            store.failing = set()
            stats = await cache.stats()
        assert (stats.hits_exact, stats.evictions, stats.expirations) == (1, 1, 1)

    with caplog.at_level(logging.ERROR, "mneme"):
        world.run(scenario, Scene(world, "memory", tmp_path))
    assert heard == {"hit", "miss", "put", "eviction", "expired", "guarded", "failed_open"}
    assert "the metrics hook raised on 'put'" in caplog.text


@everywhere("memory")
async def test_what_a_hook_hears(s: Scene) -> None:
    """Each event has its namespace and what it is about, and never a prompt or a response."""
    async with s.cache(max_entries=1) as cache:
        with mneme.namespace("n"):
            await cache.get("a secret question")
            await cache.put("a secret question", "a secret answer", metadata={"k": "secret"})
            await cache.get("a secret question")
            await cache.get("question a secret")
            await cache.put("other", "x")
    assert [name for name, _ in s.events] == ["miss", "put", "hit", "hit", "eviction", "put"]
    assert s.heard("miss") == [{"namespace": "n", "reason": "absent", "similarity": None}]
    exact, semantic = s.heard("hit")
    assert (exact["layer"], exact["similarity"], exact["age_seconds"]) == ("exact", 1.0, 0.0)
    assert semantic["layer"] == "semantic"
    assert "secret" not in repr(s.events)
