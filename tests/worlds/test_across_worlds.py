"""One cache, three worlds at once: threads, an asyncio loop and a trio loop meet on one key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.embedders import Spy
from support.flights import followers
from support.scenes import STORES
from support.worlds import WORLDS, Count, Gate, World, in_threads

from mneme import MemoryStore, SemanticCache, semantic_cache

EACH = 5
"""Callers of each world."""


def _cache(kind: str, place: Path) -> SemanticCache:
    store = {"store": MemoryStore()} if kind == "memory" else {"path": place / "cache.db"}
    return SemanticCache(**store, embedder=Spy(), similarity_threshold=0.8)  # type: ignore[arg-type]


def _crowd(
    functions: dict[World, Any], outcomes: list[Any], prompt: str = "q"
) -> list[Callable[[], None]]:
    """What to run in threads so that `EACH` callers of every world ask; outcomes are collected."""

    def threads_of(world: World) -> list[Callable[[], None]]:
        if not world.is_async:
            return [lambda: outcomes.append(_outcome(lambda: functions[world](prompt)))] * EACH

        async def one() -> None:
            try:
                outcomes.append(await functions[world](prompt))
            except ConnectionError as exc:
                outcomes.append(exc)

        return [lambda: world.run(lambda: world.together(*[one] * EACH))]

    return [work for world in functions for work in threads_of(world)]


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ConnectionError as exc:
        return exc


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("leader", WORLDS, ids=str)
def test_callers_of_all_worlds_share_one_call(leader: World, kind: str, tmp_path: Path) -> None:
    """Whoever leads, threads and tasks of every loop wait for one call and get its answer."""
    cache = _cache(kind, tmp_path)
    crowd = EACH * len(WORLDS)
    calls: list[str] = []
    led = Gate()
    decorate = semantic_cache(cache=cache)
    with cache, followers(cache) as waiting:

        async def ask(prompt: str) -> dict[str, int]:
            calls.append(prompt)
            led.open()
            await waiting.reached(crowd)
            return {"answer": 42}

        functions = {world: decorate(world.written(ask)) for world in WORLDS}
        outcomes: list[Any] = []

        def lead() -> None:
            function = functions[leader]
            outcomes.append(leader.run(function, "q") if leader.is_async else function("q"))

        def later(work: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                led.wait()
                work()

            return run

        in_threads(lead, *map(later, _crowd(functions, outcomes)))
        assert outcomes == [{"answer": 42}] * (crowd + 1)
        assert calls == ["q"]
        assert cache.stats().hits_exact == crowd


@pytest.mark.parametrize("leader", WORLDS, ids=str)
def test_a_leader_that_fails_frees_all_worlds(leader: World, tmp_path: Path) -> None:
    """The leader's error is its own; the followers of every world call, and beside each other."""
    cache = _cache("memory", tmp_path)
    crowd = EACH * len(WORLDS)
    inside = Count()
    led = Gate()
    decorate = semantic_cache(cache=cache)
    with followers(cache) as waiting:

        async def ask(prompt: str) -> str:
            if inside.add() == 1:
                led.open()
                await waiting.reached(crowd)
                raise ConnectionError
            await inside.reached(1 + crowd)
            return "r"

        functions = {world: decorate(world.written(ask)) for world in WORLDS}
        outcomes: list[Any] = []

        def lead() -> None:
            function = functions[leader]
            with pytest.raises(ConnectionError):
                leader.run(function, "q") if leader.is_async else function("q")

        def later(work: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                led.wait()
                work()

            return run

        in_threads(lead, *map(later, _crowd(functions, outcomes)))
    assert outcomes == ["r"] * crowd
    assert inside.value == 1 + crowd


@pytest.mark.parametrize("leader", [world for world in WORLDS if world.is_async], ids=str)
def test_a_cancelled_leader_hands_over_to_any_world(leader: World, tmp_path: Path) -> None:
    """After a cancelled leader exactly one follower calls, of whatever world, for all the rest."""
    cache = _cache("memory", tmp_path)
    crowd = EACH * len(WORLDS)
    inside = Count()
    led = Gate()
    decorate = semantic_cache(cache=cache)
    with followers(cache) as waiting:

        async def ask(prompt: str) -> str:
            if inside.add() == 1:
                led.open()
                await waiting.reached(crowd)
                scope.cancel()
                await anyio.sleep_forever()
            await waiting.reached(crowd + crowd - 1)
            return "r"

        functions = {world: decorate(world.written(ask)) for world in WORLDS}
        outcomes: list[Any] = []
        scope: anyio.CancelScope

        async def lead() -> None:
            nonlocal scope
            with anyio.CancelScope() as scope:
                await functions[leader]("q")
            assert scope.cancelled_caught

        def later(work: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                led.wait()
                work()

            return run

        in_threads(lambda: leader.run(lead), *map(later, _crowd(functions, outcomes)))
    assert outcomes == ["r"] * crowd
    assert inside.value == 2


def test_a_ring_across_worlds(tmp_path: Path) -> None:
    """A thread and tasks of different loops that need each other's answers all get theirs."""
    cache = _cache("memory", tmp_path)
    begun = Count()
    decorate = semantic_cache(cache=cache)
    functions: dict[World, Any] = {}

    async def ask(prompt: str, at: int) -> str:
        if begun.add() <= len(WORLDS):
            await begun.reached(len(WORLDS))
            nearest = WORLDS[at]
            outcome = functions[nearest](prompt, (at + 1) % len(WORLDS))
            return await outcome if nearest.is_async else outcome  # type: ignore[no-any-return]
        return "end"

    functions |= {world: decorate(world.written(ask)) for world in WORLDS}

    def begin(at: int) -> Any:
        world = WORLDS[at]
        call = functions[world]
        return world.run(call, "q", at) if world.is_async else call("q", at)

    with followers(cache):
        works = [lambda at=at: begin(at) for at in range(len(WORLDS))]
        assert in_threads(*works) == ["end"] * len(WORLDS)


@pytest.mark.parametrize("kind", STORES)
def test_a_storm_from_all_worlds(kind: str, tmp_path: Path) -> None:
    """Round after round of callers from all worlds at once make one call a round."""
    cache = _cache(kind, tmp_path)
    calls = Count()
    decorate = semantic_cache(cache=cache)

    async def ask(prompt: str) -> str:
        calls.add()
        return prompt

    functions = {world: decorate(world.written(ask)) for world in WORLDS}
    with cache, followers(cache):
        for at, prompt in enumerate(["red", "green", "blue", "black", "white"]):
            outcomes: list[Any] = []
            in_threads(*_crowd(functions, outcomes, prompt))
            assert outcomes == [prompt] * EACH * len(WORLDS)
            assert calls.value == at + 1
