"""Answers past their time: served while one call renews them, or when the function fails."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.scenes import IN_PROCESS, Scene, everywhere
from support.worlds import WORLDS, Gate, World, pause, settled

import mneme
from mneme import AsyncSemanticCache, MemoryStore, semantic_cache
from mneme._core.core import core_of
from mneme.testing import HashEmbedder, ManualClock

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)


@everywhere()
async def test_without_an_owner_the_caller_renews(s: Scene) -> None:
    """With stale_for and no ``with``, the first caller past the TTL gets the new answer."""
    calls = []

    async def ask(prompt: str) -> int:
        calls.append(prompt)
        return len(calls)

    cache = s.make()
    function = semantic_cache(cache=cache, ttl=10, stale_for=timedelta(seconds=5))(
        s.world.written(ask)
    )
    assert await s.call(function, "q") == 1
    s.clock.advance(12.0)
    assert await s.call(function, "q") == 2
    s.clock.advance(9.0)
    assert await s.call(function, "q") == 2
    await settled(cache.close())


@everywhere(*IN_PROCESS)
async def test_stale_answers_are_no_hits_of_the_cache(s: Scene) -> None:
    """`lookup` names a stale answer as what it is; plain `get` does not serve it."""

    async def ask(prompt: str) -> str:
        return "r"

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache, ttl=10, stale_for=5)(s.world.written(ask))
        await s.call(function, "capital of france")
        s.clock.advance(12.0)
        for prompt in ("capital of france", "france capital of"):
            miss = await s.call(function.lookup, prompt)
            assert (miss.reason, miss.stale.response, miss.stale.ttl_seconds) == ("stale", "r", -2)
        assert (await cache.stats()).entries == 1
        s.clock.advance(3.0)
        assert not await s.call(function.lookup, "capital of france")
        assert (await cache.stats()).entries == 0


@everywhere()
async def test_stale_if_error_stands_in_for_a_failing_function(s: Scene) -> None:
    """Within its window the old answer is served when the function raises; after it the error."""
    failing: list[bool] = [False]

    async def ask(prompt: str) -> str:
        if failing[0]:
            raise ConnectionError("down")
        return "r"

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache, ttl=10, stale_if_error=20)(
            s.world.written(ask)
        )
        assert await s.call(function, "capital of france") == "r"
        failing[0] = True
        assert await s.call(function, "capital of france") == "r"
        s.clock.advance(29.0)
        for prompt in ("capital of france", "france capital of"):
            assert await s.call(function, prompt) == "r"
        assert (await cache.stats()).failed_open == 2
        assert [attrs["part"] for attrs in s.heard("failed_open")] == ["function"] * 2
        s.clock.advance(1.0)
        with pytest.raises(ConnectionError):
            await s.call(function, "capital of france")


@everywhere()
async def test_stale_windows_do_not_serve_each_other(s: Scene) -> None:
    """stale_if_error alone serves nothing stale while the function works."""
    calls = []

    async def ask(prompt: str) -> int:
        calls.append(prompt)
        return len(calls)

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache, ttl=10, stale_if_error=20)(
            s.world.written(ask)
        )
        assert await s.call(function, "q") == 1
        s.clock.advance(12.0)
        assert await s.call(function, "q") == 2


@everywhere("memory")
async def test_wrong_windows_are_refused(s: Scene) -> None:
    """Negative or non-numeric windows are a ValueError when decorating."""
    for name in ("ttl", "stale_for", "stale_if_error"):
        for wrong in (-1, float("nan"), "5"):
            with pytest.raises(ValueError, match=name):
                semantic_cache(embedder=s.embedder, **{name: wrong})


@IN_EACH_WORLD
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_with_an_owner_one_call_renews_in_the_background(
    world: World, kind: Any, tmp_path: Path
) -> None:
    """The stale answer is served at once, however often; one call renews it meanwhile."""
    calls: list[str] = []
    renewing, go = Gate(), Gate()

    async def ask(prompt: str) -> int:
        calls.append(prompt)
        if len(calls) > 1:
            renewing.open()
            await go.passed()
        return len(calls)

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache, ttl=10, stale_for=5)(world.written(ask))
            assert await s.call(function, "q") == 1
            s.clock.advance(12.0)
            assert await s.call(function, "q") == 1
            await renewing.passed()
            assert await world.together(*[lambda: s.call(function, "q")] * 5) == [1] * 5
            # Whoever asks while it is renewed is not held up, and does not renew it again.
            assert calls == ["q", "q"]
            go.open()
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache)(world.written(ask))
            assert await s.call(function, "q") == 2

    world.run(scenario, Scene(world, kind, tmp_path))


@IN_EACH_WORLD
def test_callers_at_once_renew_once(world: World, tmp_path: Path) -> None:
    """Renewals that were started together, and end one after the other, call the function once."""
    calls: list[str] = []

    async def ask(prompt: str) -> int:
        calls.append(prompt)
        return len(calls)

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache, ttl=10, stale_for=5)(world.written(ask))
            await s.call(function, "q")
            s.clock.advance(12.0)
            port = function._self_calls.port
            started: list[Callable[[], Any]] = []
            # Held back, so that every caller starts one before the first of them runs.
            real, port.start = port.start, started.append
            assert [await s.call(function, "q") for _ in range(3)] == [1, 1, 1]
            assert len(started) == 3
            for job in started:
                real(job)
        assert calls == ["q", "q"]

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
def test_a_refresh_never_serves_what_is_stale(world: World, tmp_path: Path) -> None:
    """`refresh` of a stale answer calls the function and gives the new one."""
    calls: list[str] = []

    async def ask(prompt: str) -> int:
        calls.append(prompt)
        return len(calls)

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache, ttl=10, stale_for=5)(world.written(ask))
            await s.call(function, "q")
            s.clock.advance(12.0)
            assert await s.call(function.refresh, "q") == 2
            assert await s.call(function, "q") == 2

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
def test_a_failing_renewal_is_counted_and_harms_nobody(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a renewal raises is logged and counted; the stale answer serves on."""
    calls: list[str] = []
    failed = Gate()

    async def ask(prompt: str) -> int:
        calls.append(prompt)
        if len(calls) > 1:
            raise ConnectionError("down")
        return len(calls)

    async def scenario(s: Scene) -> None:
        def hook(event: str, attrs: dict[str, Any]) -> None:
            if event == "failed_open":
                assert attrs["part"] == "refresh"
                failed.open()

        async with s.cache(metrics_hook=hook) as cache:
            function = semantic_cache(cache=cache.cache, ttl=10, stale_for=5)(world.written(ask))
            await s.call(function, "q")
            s.clock.advance(12.0)
            assert await s.call(function, "q") == 1
            await failed.passed()
            assert await s.call(function, "q") == 1
            assert (await cache.stats()).failed_open >= 1
        assert "the refresh failed" in caplog.text

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
def test_a_renewal_keeps_the_context_of_the_call(world: World, tmp_path: Path) -> None:
    """The function sees the caller's namespace while it runs in the background."""
    seen: list[str | None] = []

    async def ask(prompt: str) -> int:
        seen.append(mneme.context.current_namespace.get())
        return len(seen)

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache, ttl=10, stale_for=5)(world.written(ask))
            with mneme.namespace("n"):
                await s.call(function, "q")
                s.clock.advance(12.0)
                assert await s.call(function, "q") == 1
        assert seen == ["n", "n"]

    world.run(scenario, Scene(world, "memory", tmp_path))


@IN_EACH_WORLD
def test_closing_waits_for_renewals(world: World, tmp_path: Path) -> None:
    """No renewal is left behind: `close` returns once they have ended and are stored."""
    running = Gate()
    calls: list[str] = []

    async def ask(prompt: str) -> int:
        calls.append(prompt)
        if len(calls) > 1:
            running.open()
            for _ in range(10):
                await pause()
        return len(calls)

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache, ttl=10, stale_for=5)(world.written(ask))
            await s.call(function, "q")
            s.clock.advance(12.0)
            assert await s.call(function, "q") == 1
            core = core_of(cache.cache)
        await running.passed()
        assert len(core.flights) == len(core.renewals) == 0
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache)(world.written(ask))
            assert await s.call(function, "q") == 2

    world.run(scenario, Scene(world, "sqlite", tmp_path))


@pytest.mark.parametrize("loop", [one for one in WORLDS if one.is_async], ids=str)
def test_any_task_may_close_a_cache_that_is_renewing(loop: World) -> None:
    """It waits for what runs in the background; who has entered the cache leaves it after."""
    clock, gate, done = ManualClock(), Gate(), []

    async def ask(prompt: str) -> int:
        if done:
            await gate.passed()
        done.append(prompt)
        return len(done)

    async def scenario() -> None:
        cache = AsyncSemanticCache(store=MemoryStore(), embedder=HashEmbedder(), clock=clock)
        async with cache, anyio.create_task_group() as group:
            function = semantic_cache(cache=cache, ttl=10, stale_for=5)(ask)
            assert await function("q") == 1
            clock.advance(12.0)
            # Served stale; the renewal waits at the gate.
            assert await function("q") == 1
            group.start_soon(cache.close)
            await anyio.wait_all_tasks_blocked()
            assert not core_of(cache).is_closed
            gate.open()
        assert done == ["q", "q"]
        assert core_of(cache).is_closed
        # From another task that ends before the cache is left, and again.
        await cache.close()

    loop.run(scenario)
