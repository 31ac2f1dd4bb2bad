"""
``single_flight="machine"`` in each world, between two caches on one file: a lock belongs to an
open file, so that to it they are two processes.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.engines_in_memory import MemoryEngine
from support.scenes import Face, Scene
from support.worlds import WORLDS, Count, Gate, World

from mneme import (
    AsyncSemanticCache,
    MemoryStore,
    SemanticCache,
    SQLiteStore,
    StoreBackendError,
    semantic_cache,
)
from mneme.records import Identity, Key, Partition
from mneme.stores import _flight_lock
from mneme.stores._flight_lock import PLACES, SQLiteFlightLock, place_of
from mneme.testing import HashEmbedder

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)
ON_EACH_LOOP = pytest.mark.parametrize("world", [w for w in WORLDS if w.is_async], ids=str)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Count:
    """How many callers have found a lock held by another cache."""
    count, seen, acquire = Count(), set[int](), SQLiteFlightLock.acquire
    alive: list[SQLiteFlightLock] = []

    def told(self: SQLiteFlightLock) -> bool:
        is_mine = acquire(self)
        if not is_mine and id(self) not in seen:
            alive.append(self)
            seen.add(id(self))
            count.add()
        return is_mine

    monkeypatch.setattr(SQLiteFlightLock, "acquire", told)
    return count


@pytest.fixture(autouse=True)
def none_left(tmp_path: Path) -> Iterator[None]:
    """Fails a test after which a lock is still open."""
    yield
    left = []
    for one in Path("/proc/self/fd").iterdir():
        # The one that lists them is gone by now.
        name = os.readlink(one) if os.path.lexists(one) else ""
        if name.startswith(str(tmp_path)) and name.endswith("-flights"):
            left.append(name)
    assert left == []


@asynccontextmanager
async def _two(s: Scene, **settings: Any) -> AsyncIterator[tuple[Face, Face]]:
    async with s.cache(**settings) as one, s.cache(**settings) as two:
        yield one, two


def _shared(cache: Face, ask: Callable[..., Any], **settings: Any) -> Any:
    return semantic_cache(cache=cache.cache, single_flight="machine", **settings)(ask)


@IN_EACH_WORLD
@pytest.mark.parametrize("durability", ["group", "commit"])
@pytest.mark.parametrize("interval", [0.0, 3600.0])
def test_one_call_for_both(
    world: World, durability: str, interval: float, waiting: Count, tmp_path: Path
) -> None:
    """Ten callers on each side make one call; each side waits once and then has the answer."""
    calls: list[str] = []

    async def ask(prompt: str) -> list[str]:
        calls.append(prompt)
        await waiting.reached(1)
        return ["r"]

    async def scenario(s: Scene) -> None:
        s.durability = durability
        async with _two(s, stale_check_interval=interval) as (one, two):
            functions = [_shared(cache, world.written(ask)) for cache in (one, two)]
            answers = await world.together(
                *[lambda at=at: s.call(functions[at % 2], "q") for at in range(20)]
            )
            assert answers == [["r"]] * 20
            assert calls == ["q"]
            stats = [await one.stats(), await two.stats()]
            assert sum(one.misses for one in stats) == 1
            assert sum(one.hits_exact for one in stats) == 19
            assert sum(one.failed_open for one in stats) == 0

    world.run(scenario, Scene(world, "sqlite", tmp_path))


@IN_EACH_WORLD
def test_other_questions_do_not_wait(world: World, waiting: Count, tmp_path: Path) -> None:
    """Calls of both sides with another prompt run beside each other."""
    inside = Count()

    async def ask(prompt: str) -> str:
        await inside.meet(2)
        return prompt

    async def scenario(s: Scene) -> None:
        async with _two(s) as (one, two):
            first, second = (_shared(cache, world.written(ask)) for cache in (one, two))
            await world.together(lambda: s.call(first, "red"), lambda: s.call(second, "blue"))
        assert waiting.value == 0

    world.run(scenario, Scene(world, "sqlite", tmp_path))


@IN_EACH_WORLD
@pytest.mark.parametrize("how", ["failed", "not kept"])
def test_those_who_waited_in_vain_call_in_parallel(
    world: World, how: str, waiting: Count, tmp_path: Path
) -> None:
    """When the call fails or its answer is not kept, those who waited call, and at once."""
    inside = Count()

    async def ask(prompt: str) -> str:
        if inside.add() == 1:
            await waiting.reached(2)
            if how == "failed":
                raise ConnectionError
            return "not kept"
        # Nobody gets past here before both are inside.
        await inside.reached(3)
        return "r"

    async def scenario(s: Scene) -> None:
        async with _two(s) as (one, two), s.cache() as three:

            async def call(cache: Face) -> Any:
                function = _shared(cache, world.written(ask), cache_if=lambda r: r == "r")
                try:
                    return await s.call(function, "q")
                except ConnectionError:
                    return "failed"

            answers = await world.together(
                lambda: call(one), lambda: call(two), lambda: call(three)
            )
        assert sorted(answers) == sorted([how, "r", "r"])

    world.run(scenario, Scene(world, "sqlite", tmp_path))


@IN_EACH_WORLD
@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_who_has_waited_long_enough_calls(
    world: World, seconds: float, waiting: Count, tmp_path: Path
) -> None:
    """After `flight_timeout` a caller calls for itself, while the other still does."""
    inside = Count()

    async def ask(prompt: str) -> str:
        await inside.meet(2)
        return "r"

    async def scenario(s: Scene) -> None:
        async with _two(s) as (one, two):
            first, second = (
                _shared(cache, world.written(ask), flight_timeout=seconds) for cache in (one, two)
            )
            answers = await world.together(lambda: s.call(first, "q"), lambda: s.call(second, "q"))
        assert (answers, waiting.value) == (["r", "r"], 1)

    world.run(scenario, Scene(world, "sqlite", tmp_path))


@IN_EACH_WORLD
def test_who_is_waited_for_does_not_wait(world: World, waiting: Count, tmp_path: Path) -> None:
    """Two calls that ask each other's question call through instead of waiting in a circle."""
    inside, own = Count(), {"red": "blue", "blue": "red"}

    async def scenario(s: Scene) -> None:
        async with _two(s) as (one, two):

            def of(cache: Face) -> Any:
                async def ask(prompt: str) -> Any:
                    if inside.add() > 2:
                        # Inside both at once: neither has the other's answer.
                        await inside.reached(4)
                        return prompt
                    await inside.reached(2)
                    return await s.call(function, own[prompt])

                function = _shared(cache, world.written(ask))
                return function

            red, blue = of(one), of(two)
            answers = await world.together(lambda: s.call(red, "red"), lambda: s.call(blue, "blue"))
        assert (answers, waiting.value) == (["blue", "red"], 2)

    world.run(scenario, Scene(world, "sqlite", tmp_path))


@ON_EACH_LOOP
def test_cancelled_callers(world: World, waiting: Count, tmp_path: Path) -> None:
    """A cancelled caller lets go of the lock, and one who is cancelled waiting leaves none."""
    inside = Count()

    async def ask(prompt: str) -> str:
        if inside.add() == 1:
            await anyio.sleep_forever()
        return "r"

    async def scenario(s: Scene) -> None:
        s.durability = "commit"
        async with _two(s) as (one, two), s.cache() as three:
            first, second, third = (_shared(cache, ask) for cache in (one, two, three))
            patient = anyio.CancelScope()
            async with anyio.create_task_group() as group:

                async def lead() -> None:
                    with patient:
                        await first("q")

                group.start_soon(lead)
                await inside.reached(1)
                with anyio.CancelScope() as impatient:
                    async with anyio.create_task_group() as inner:
                        inner.start_soon(second, "q")
                        await waiting.reached(1)
                        impatient.cancel()
                group.start_soon(third, "q")
                await waiting.reached(2)
                patient.cancel()
            assert await second("q") == await third("q") == "r"
            assert inside.value == 2

    world.run(scenario, Scene(world, "sqlite", tmp_path))


@ON_EACH_LOOP
@pytest.mark.may_block("a sync call on a loop does")
def test_a_sync_call_on_a_loop_does_not_wait(world: World, waiting: Count, tmp_path: Path) -> None:
    """The call that it would wait for may need the very loop that it would block."""
    inside, done = Count(), Gate()
    path = tmp_path / "cache.db"

    async def ask(prompt: str) -> str:
        inside.add()
        await done.passed()
        return "r"

    def ask_now(prompt: str) -> str:
        return "here"

    # Equal questions of two functions: those of one name.
    ask_now.__qualname__ = ask.__qualname__

    async def scenario() -> None:
        embedder = HashEmbedder(8)
        async with AsyncSemanticCache(path, embedder=embedder, self_check=False) as one:
            with SemanticCache(path, embedder=embedder, self_check=False) as two:
                function = semantic_cache(cache=one, single_flight="machine")(ask)
                now = semantic_cache(cache=two, single_flight="machine")(ask_now)
                async with anyio.create_task_group() as group:
                    group.start_soon(function, "q")
                    await inside.reached(1)
                    assert now("q") == "here"
                    assert waiting.value == 1
                    done.open()

    world.run(scenario)


@IN_EACH_WORLD
def test_without_its_file_it_is_as_ever(world: World, tmp_path: Path) -> None:
    """Where nothing can be locked each call goes on and is kept, and that is counted."""

    async def ask(prompt: str) -> str:
        return "r"

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            function = _shared(cache, world.written(ask))
            assert [await s.call(function, "q") for _ in range(2)] == ["r", "r"]
            assert ((await cache.stats()).failed_open, function.cache_info().hits) == (1, 1)

    scene = Scene(world, "sqlite", tmp_path)
    Path(f"{scene.path}-flights").mkdir()
    world.run(scenario, scene)


@IN_EACH_WORLD
def test_an_answer_that_is_not_committed_yet(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the commit that others wait for fails, the caller has its answer; it is counted."""

    def fail(self: SQLiteFlightLock) -> None:
        raise StoreBackendError("the disk is full. Make room.")

    async def ask(prompt: str) -> str:
        return "r"

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:
            assert await s.call(_shared(cache, world.written(ask)), "q") == "r"
            assert (await cache.stats()).failed_open == 1

    monkeypatch.setattr(SQLiteFlightLock, "settle", fail)
    world.run(scenario, Scene(world, "sqlite", tmp_path))


def test_a_lock_that_was_released_is_over(tmp_path: Path) -> None:
    """An attempt that comes after the release takes nothing, for nobody would let go of it."""
    store = SQLiteStore(tmp_path / "cache.db")
    identity = _identity(b"p", b"k")
    lock, other = store.flight_lock(identity), store.flight_lock(identity)
    assert lock.acquire()
    assert not other.acquire()
    lock.release()
    lock.release()
    assert not lock.acquire()
    assert other.acquire()
    other.release()
    early = store.flight_lock(identity)
    early.release()
    assert not early.acquire()


@IN_EACH_WORLD
def test_hits_lock_nothing(world: World, tmp_path: Path) -> None:
    """What the cache can answer itself, in the same words or others, touches no lock."""

    async def scenario(s: Scene) -> None:
        async with s.cache() as cache:

            async def ask(prompt: str) -> str:
                return "r"

            function = _shared(cache, world.written(ask))
            await s.call(function, "capital of france")
            os.unlink(f"{s.path}-flights")
            for prompt in ("capital of france", "france capital of"):
                assert await s.call(function, prompt) == "r"
            assert function.cache_info().hits == 2

    scene = Scene(world, "sqlite", tmp_path)
    world.run(scenario, scene)
    assert not Path(f"{scene.path}-flights").exists()


@IN_EACH_WORLD
def test_stale_answers_do_not_wait(world: World, waiting: Count, tmp_path: Path) -> None:
    """Who may be served an old answer has it at once, while another process calls."""
    inside, done = Count(), Gate()

    async def ask(prompt: str) -> int:
        number = inside.add()
        if number > 1:
            await done.passed()
        return number

    async def scenario(s: Scene) -> None:
        s.durability = "commit"
        async with _two(s) as (one, two):
            first = _shared(one, world.written(ask), ttl=10)
            second = _shared(two, world.written(ask), ttl=10, stale_for=60)
            assert await s.call(second, "q") == 1
            s.clock.advance(11.0)

            async def other() -> None:
                await inside.reached(2)
                assert await s.call(second, "q") == 1
                done.open()

            await world.together(lambda: s.call(first, "q"), other)
        assert waiting.value == 0

    world.run(scenario, Scene(world, "sqlite", tmp_path))


@pytest.mark.parametrize("store", [MemoryStore, MemoryEngine])
def test_stores_without_locks_are_refused(store: Any) -> None:
    """Decorating over a store that has no locks says which has."""

    def ask(prompt: str) -> str:
        return prompt

    with pytest.raises(TypeError, match="Keep the cache in a SQLiteStore, or leave out"):
        semantic_cache(embedder=HashEmbedder(8), store=store(), single_flight="machine")(ask)


def test_what_cannot_be_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generators, other systems than Linux, and values that mean nothing are refused."""
    shared: Any = {
        "embedder": HashEmbedder(8),
        "store": SQLiteStore(tmp_path / "cache.db"),
        "single_flight": "machine",
    }

    def stream(prompt: str) -> Iterator[str]:
        yield prompt

    def ask(prompt: str) -> str:
        return prompt

    with pytest.raises(TypeError, match=r"is a generator.*Leave out single_flight='machine'\.$"):
        semantic_cache(**shared)(stream)
    monkeypatch.setattr(_flight_lock, "HAS_LOCKS", False)
    with pytest.raises(TypeError, match=r"needs Linux for that\. Leave out single_flight"):
        semantic_cache(**shared)(ask)
    with pytest.raises(ValueError, match="True, False or 'machine', got 'host'"):
        semantic_cache(**{**shared, "single_flight": "host"})
    with pytest.raises(ValueError, match="flight_timeout"):
        semantic_cache(**shared, flight_timeout=-1)


def _identity(partition: bytes, key: bytes) -> Identity:
    return Partition(partition), Key(key)


@given(st.binary(), st.binary())
def test_the_place_of_a_question(partition: bytes, key: bytes) -> None:
    """It is a byte that a file could have, and depends on both parts of the identity."""
    place = place_of(_identity(partition, key))
    assert 0 <= place < PLACES < 2**63
    assert place != place_of(_identity(partition + b"p", key))
    assert place != place_of(_identity(partition, key + b"k"))


def test_the_place_of_a_question_is_everybodys() -> None:
    """Every process and version comes to the same one: they share the file."""
    assert place_of(_identity(b"p" * 16, b"k" * 16)) == 290_536_654_812_473_831
