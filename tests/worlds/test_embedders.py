"""Embedders: what they may give, what their mistakes come to, and how to fit one to a world."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from support.embedders import AsyncSpy, InFlight, Spy, Wrong, wrong_for
from support.scenes import Scene, everywhere
from support.worlds import PATIENCE, WORLDS, Count, Gate, World, in_threads, pause, settled

import mneme
from mneme import (
    EmbedderDimensionError,
    EmbedderMismatchError,
    EmbeddingError,
    MemoryStore,
    SemanticCache,
    embedder_from,
    semantic_cache,
    serialized,
    to_async_embedder,
    to_sync_embedder,
)
from mneme._core.ports import failing

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)
ON_EACH_LOOP = pytest.mark.parametrize("world", [w for w in WORLDS if w.is_async], ids=str)

AXIS = np.array([3.0, 0, 0, 0, 0, 0, 0, 0])

TOLERATED: dict[str, Any] = {
    "list": [3.0, 0, 0, 0, 0, 0, 0, 0],
    "tuple": (3.0, 0, 0, 0, 0, 0, 0, 0),
    "float64": AXIS,
    "float16": AXIS.astype(np.float16),
    "integers": AXIS.astype(np.int64),
    "huge": AXIS * 1e300,
    "tiny": AXIS * 1e-300,
    "read-only": np.broadcast_to(np.float32(3.0), (8,)),
    "strided": np.repeat(AXIS, 2)[::2],
}


@pytest.mark.parametrize("raw", TOLERATED.values(), ids=TOLERATED)
@IN_EACH_WORLD
def test_what_is_put_right(world: World, raw: Any, tmp_path: Path) -> None:
    """Lists, other dtypes and unnormalized vectors are converted once; the caller's array stays."""
    before = np.array(raw, dtype=np.float64)

    async def scenario(s: Scene) -> None:
        s.embedder = wrong_for(world, lambda text: raw)  # type: ignore[assignment]
        async with s.cache() as cache:
            await cache.put("a", "A")
            hit = await cache.get("b")
            assert (hit.layer, hit.response) == ("semantic", "A")
            assert hit.similarity == pytest.approx(1.0)
        async with s.cache() as cache:
            assert (await cache.get("b")).similarity == pytest.approx(1.0)

    world.run(scenario, Scene(world, "sqlite", tmp_path))
    assert np.array_equal(np.asarray(raw, dtype=np.float64), before)


def _raising(error: BaseException) -> Callable[[str], Any]:
    def answer(text: str) -> Any:
        raise error

    return answer


MISTAKES: dict[str, tuple[Callable[[str], Any], type[Exception], str]] = {
    "short": (lambda text: [1.0] * 7, EmbedderDimensionError, r"\(7,\).*\(8,\)"),
    "long": (lambda text: [1.0] * 9, EmbedderDimensionError, r"correct `dim`"),
    "two-dimensional": (lambda text: [[1.0] * 8], EmbedderDimensionError, r"\(1, 8\)"),
    "a number": (lambda text: 1.0, EmbedderDimensionError, r"\(\)"),
    "nothing": (lambda text: [], EmbedderDimensionError, r"\(0,\)"),
    "NaN": (lambda text: [math.nan] * 8, EmbeddingError, "NaN or infinity"),
    "one NaN": (lambda text: [1.0] * 7 + [math.nan], EmbeddingError, "NaN or infinity"),
    "infinity": (lambda text: [1.0] * 7 + [-math.inf], EmbeddingError, "NaN or infinity"),
    "zero": (lambda text: [0.0] * 8, EmbeddingError, "zero vector"),
    "text": (lambda text: text, EmbeddingError, "not an array of numbers"),
    "None": (lambda text: None, Exception, "Nothing was stored"),
    "ragged": (lambda text: [[1.0], [1.0, 2.0]], EmbeddingError, "not an array of numbers"),
    "raises": (_raising(ConnectionError("offline")), EmbeddingError, "ConnectionError: offline"),
    "raises its own": (_raising(EmbeddingError("own words")), EmbeddingError, "^own words$"),
}


@pytest.mark.parametrize("name", MISTAKES)
@IN_EACH_WORLD
def test_a_mistake_is_an_error_at_put_and_a_miss_at_get(
    world: World, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Storing raises the right class and keeps nothing; a lookup is a miss, logged and counted."""
    answer, kind, says = MISTAKES[name]

    async def ask(prompt: str) -> str:
        return "r"

    async def scenario(s: Scene) -> None:
        s.embedder = wrong_for(world, answer)  # type: ignore[assignment]
        async with s.cache() as cache:
            with pytest.raises(kind, match=says):
                await cache.put("q", "r")
            with pytest.raises(kind, match=says):
                await cache.put_many({"q": "r", "p": "r"})
            assert (await cache.stats()).entries == 0
            assert caplog.messages == []
            miss = await cache.lookup("q")
            assert miss.reason == "embedder_failed"
            assert "the embedder failed, going on without it" in caplog.text
            assert await cache.get_many(["q", "p"]) == [None, None]
            assert (await cache.explain("q")).outcome.reason == "embedder_failed"
            function = semantic_cache(cache=cache.cache)(world.written(ask))
            assert await s.call(function, "q") == "r"
            assert (await cache.stats()).failed_open >= 3
            assert {attrs["part"] for attrs in s.heard("failed_open")} == {"embedder"}

    world.run(scenario, Scene(world, "memory", tmp_path))


@everywhere("memory")
async def test_given_embeddings_cross_the_same_border(s: Scene) -> None:
    """`embedding=` of a wrong shape is an error at put and a miss at get, like the embedder's."""
    async with s.cache() as cache:
        with pytest.raises(EmbedderDimensionError):
            await cache.put("q", "r", embedding=[1.0, 2.0])
        with pytest.raises(EmbeddingError):
            await cache.put("q", "r", embedding=[0.0] * 256)
        assert (await cache.lookup("q", embedding=[1.0])).reason == "embedder_failed"
        assert s.embedder.texts == []


@everywhere("memory")
async def test_what_failed_serves_the_exact_layer_still(s: Scene) -> None:
    """An embedder that is down costs only the semantic hits."""
    async with s.cache() as cache:
        await cache.put("q", "r")
        s.embedder.embed = _raising(OSError("down"))  # type: ignore[method-assign]
        assert (await cache.get("Q?")).response == "r"
        assert await cache.get("other") is None
        del s.embedder.embed
        assert await cache.get("other") is None
        assert (await cache.stats()).failed_open == 1


@IN_EACH_WORLD
def test_trouble_is_logged_once_a_minute(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every failure is counted; the log hears of it once a minute."""

    async def scenario(s: Scene) -> None:
        s.embedder = wrong_for(world, _raising(OSError("down")))  # type: ignore[assignment]
        async with s.cache() as cache:
            for _ in range(3):
                await cache.get("q")
            s.clock.advance(59.0)
            await cache.get("q")
            assert len(caplog.messages) == 1
            s.clock.advance(1.0)
            await cache.get("q")
            assert len(caplog.messages) == 2
            assert (await cache.stats()).failed_open == 5

    world.run(scenario, Scene(world, "memory", tmp_path))


class _Stop(BaseException):
    pass


@everywhere("memory")
async def test_interrupts_are_no_weather(s: Scene) -> None:
    """KeyboardInterrupt and its like pass through an embedder's failure policy."""
    async with s.cache() as cache:
        s.embedder.embed = _raising(_Stop())  # type: ignore[method-assign]
        for call in (cache.get("q"), cache.put("q", "r")):
            with pytest.raises(_Stop):
                await call


@everywhere("memory")
async def test_batches_of_a_wrong_size(s: Scene) -> None:
    """embed_batch must give a vector per text: otherwise puts raise and lookups miss."""
    async with s.cache() as cache:
        batch = s.embedder.embed_batch

        if s.world.is_async:

            async def short(texts: Any) -> Any:
                return (await batch(texts))[1:]

        else:

            def short(texts: Any) -> Any:
                return batch(texts)[1:]

        s.embedder.embed_batch = short  # type: ignore[method-assign]
        with pytest.raises(EmbedderDimensionError, match="1 vectors for 2 texts"):
            await cache.put_many({"a": "A", "b": "B"})
        assert await cache.get_many(["a", "b"]) == [None, None]
        assert (await cache.stats()).entries == 0


@IN_EACH_WORLD
def test_without_embed_batch_texts_go_one_by_one(world: World, tmp_path: Path) -> None:
    """An embedder needs no embed_batch."""
    texts: list[str] = []

    def answer(text: str) -> Any:
        texts.append(text)
        return np.eye(8)[len(text)]

    async def scenario(s: Scene) -> None:
        s.embedder = wrong_for(world, answer)  # type: ignore[assignment]
        async with s.cache() as cache:
            await cache.put_many({"a": 1, "bb": 2, "ccc": 3})
            assert texts == ["a", "bb", "ccc"]
            found = await cache.get_many(["zz", "z"])
            assert [hit.response for hit in found] == [2, 1]

    world.run(scenario, Scene(world, "memory", tmp_path))


def _hanging(release: Gate, world: World, own_kind: bool) -> Any:
    """An embedder that does not answer; of the world's own kind, or sync on a loop."""
    if world.is_async and own_kind:

        class Never(AsyncSpy):
            async def embed(self, text: str, /) -> Any:
                await anyio.sleep_forever()

        return Never()

    class Stuck(Spy):
        def embed(self, text: str, /) -> Any:
            release.wait()
            return super().embed(text)

    return Stuck()


@IN_EACH_WORLD
@pytest.mark.parametrize("own_kind", [True, False], ids=["own kind", "sync"])
def test_a_hanging_embedder(world: World, own_kind: bool, tmp_path: Path) -> None:
    """After embed_timeout a lookup is a miss, a put raises, and a call goes to the function."""
    release = Gate()

    async def ask(prompt: str) -> str:
        return "r"

    async def scenario(s: Scene) -> None:
        s.embedder = _hanging(release, world, own_kind)
        async with s.cache(embed_timeout=0.01) as cache:
            assert (await cache.lookup("q")).reason == "embedder_failed"
            with pytest.raises(EmbeddingError, match=r"was late.*raise embed_timeout"):
                await cache.put("q", "r")
            function = semantic_cache(cache=cache.cache)(world.written(ask))
            assert await s.call(function, "q") == "r"
            assert (await cache.stats()).entries == 0

    try:
        world.run(scenario, Scene(world, "memory", tmp_path))
    finally:
        _let_go(release)


def _let_go(release: Gate) -> None:
    """Open the gate, and see the threads behind it end."""
    release.open()
    for thread in threading.enumerate():
        if thread.name == "mneme-deadline":
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_too_many_that_were_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Abandoned embedder calls are bounded: past the bound a lookup is a miss at once."""
    monkeypatch.setattr(failing._late, "room", threading.BoundedSemaphore(2))
    release, inside = Gate(), Count()

    class Stuck(Spy):
        def embed(self, text: str, /) -> Any:
            inside.add()
            release.wait()
            return super().embed(text)

    cache = SemanticCache(store=MemoryStore(), embedder=Stuck(), embed_timeout=0.01)
    try:
        for _ in range(5):
            assert cache.get("q") is None
        assert inside.value == 2
    finally:
        _let_go(release)


@everywhere("memory")
async def test_an_endless_deadline_is_none(s: Scene) -> None:
    """embed_timeout=inf is no deadline."""
    async with s.cache(embed_timeout=math.inf, store_timeout=math.inf) as cache:
        await cache.put("q", "r")
        assert (await cache.get("q")).response == "r"
        assert (await cache.stats()).failed_open == 0


@everywhere()
async def test_another_embedder_is_refused(s: Scene) -> None:
    """A filled store opens for its own embedder only; the error names both and the remedy."""
    async with s.cache() as cache:
        await cache.put("q", "r")
    own, ours = s.embedder, type(s.embedder)
    for other in (ours(name="other"), ours(dim=8, name="spy")):
        s.embedder = other
        with pytest.raises(EmbedderMismatchError) as caught:
            async with s.cache():
                raise AssertionError("it opened")
        for word in (own.fingerprint, other.fingerprint, "not changed"):
            assert word in str(caught.value)
        assert ("migrate (reembed)" in str(caught.value)) is (s.path is not None)
    s.embedder = own
    async with s.cache() as cache:
        assert (await cache.get("q")).response == "r"
        await cache.clear()
    s.embedder = ours(name="other")
    async with s.cache() as cache:
        assert await cache.put("q", "r") is True


def test_an_async_embedder_in_sync_clothes() -> None:
    """A plain def that gives a coroutine is a TypeError when it is first called."""

    async def embed(text: str) -> Any:
        raise AssertionError("nobody can await this")

    with pytest.raises(TypeError, match="to_sync_embedder"):
        SemanticCache(store=MemoryStore(), embedder=Wrong(embed))
    cache = SemanticCache(store=MemoryStore(), embedder=Wrong(embed), self_check=False)
    for use in (lambda: cache.put("q", "r"), lambda: cache.get("q")):
        with pytest.raises(TypeError, match="to_sync_embedder"):
            use()


@ON_EACH_LOOP
def test_to_async_embedder(world: World) -> None:
    """Each call runs in a worker thread, calls run beside each other, and attributes pass."""
    inside = Count()
    threads: set[int] = set()

    class Meets(Spy):
        max_chars = 77

        def embed(self, text: str, /) -> Any:
            threads.add(threading.get_ident())
            inside.add()
            inside.wait(3)
            return super().embed(text)

    plain = Meets()
    adapted: Any = to_async_embedder(plain)

    async def scenario() -> None:
        vectors = await world.together(*[lambda: adapted.embed("red")] * 3)
        assert all(np.array_equal(vector, vectors[0]) for vector in vectors)
        assert (await adapted.embed_batch(["a", "b"])).shape == (2, 256)

    world.run(scenario)
    assert threading.get_ident() not in threads
    assert len(threads) == 3
    assert (adapted.dim, adapted.fingerprint) == (plain.dim, plain.fingerprint)
    assert adapted.max_chars == 77
    assert "threaded" in repr(adapted)
    with pytest.raises(TypeError, match="async already"):
        to_async_embedder(adapted)


def test_to_sync_embedder() -> None:
    """Each call runs on a loop of its own; embed_batch too; a sync embedder is refused."""
    adapted: Any = to_sync_embedder(AsyncSpy())
    assert np.allclose(adapted.embed("red"), Spy().embed("red"))
    assert adapted.embed_batch(["red", "blue"]).shape == (2, 256)
    with SemanticCache(store=MemoryStore(), embedder=adapted) as cache:
        cache.put_many({"capital of france": "Paris", "red": "colour"})
        assert cache.get("france capital of").response == "Paris"  # type: ignore[union-attr]
    with pytest.raises(TypeError, match="sync already"):
        to_sync_embedder(adapted)


@ON_EACH_LOOP
def test_to_sync_embedder_on_a_running_loop(world: World) -> None:
    """On a loop's own thread it says what to do instead; in a worker thread it works."""
    adapted: Any = to_sync_embedder(AsyncSpy())

    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="use AsyncSemanticCache"):
            adapted.embed("red")
        assert (await anyio.to_thread.run_sync(adapted.embed, "red")).shape == (256,)

    world.run(scenario)


def test_serialized_threads() -> None:
    """A serialized sync embedder is never called twice at once, `embed_batch` included."""
    flying = InFlight()

    class Fragile(Spy):
        def embed(self, text: str, /) -> Any:
            with flying:
                return super().embed(text)

        def embed_batch(self, texts: Any, /) -> Any:
            with flying:
                return super().embed_batch(texts)

    embedder = serialized(Fragile())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        in_threads(
            *[lambda: [embedder.embed(f"{n}") for n in range(100)]] * 4,
            *[lambda: [embedder.embed_batch(["a", "b"]) for _ in range(50)]] * 2,  # type: ignore[attr-defined]
        )
    finally:
        sys.setswitchinterval(interval)
    assert flying.most == 1


def test_serialized_across_loops() -> None:
    """A serialized async embedder is never entered twice at once, by tasks of any loops."""
    flying = InFlight()

    class Fragile(AsyncSpy):
        async def embed(self, text: str, /) -> Any:
            with flying:
                await pause()
                await pause()
                return await super().embed(text)

    embedder = serialized(Fragile())
    loops = [world for world in (*WORLDS, *WORLDS) if world.is_async]

    def one_loop(world: World) -> Any:
        return world.run(lambda: world.together(*[lambda: embedder.embed("q")] * 20))

    outcomes = in_threads(*[lambda world=world: one_loop(world) for world in loops])
    assert [len(vectors) for vectors in outcomes] == [20] * len(loops)
    assert flying.most == 1


@ON_EACH_LOOP
def test_serialized_in_a_cache(world: World) -> None:
    """Lookups at once through a serialized embedder all get their turn."""
    flying = InFlight()

    class Fragile(AsyncSpy):
        async def embed(self, text: str, /) -> Any:
            with flying:
                return await super().embed(text)

    async def scenario() -> None:
        embedder = serialized(Fragile())
        async with mneme.AsyncSemanticCache(store=MemoryStore(), embedder=embedder) as cache:
            await world.together(*[lambda at=at: cache.get(f"{at}") for at in range(30)])
            assert cache.stats().misses == 30
            assert cache.stats().failed_open == 0
        assert flying.most == 1

    world.run(scenario)


@ON_EACH_LOOP
@pytest.mark.parametrize("when", ["in the queue", "as its turn comes"])
def test_a_cancelled_waiter_does_not_lose_the_turn(world: World, when: str) -> None:
    """Whoever leaves the queue, even in the moment of being called, passes the turn on."""
    inside = Count()
    gate = Gate()

    class Held(AsyncSpy):
        async def embed(self, text: str, /) -> Any:
            inside.add()
            if text == "first":
                await gate.passed()
            return await super().embed(text)

    embedder = serialized(Held())
    scope: anyio.CancelScope
    done: list[str] = []

    async def first() -> None:
        await embedder.embed("first")
        # The turn was passed to the second in this very step; it has not run yet.
        if when == "as its turn comes":
            scope.cancel()

    async def second() -> None:
        nonlocal scope
        with anyio.CancelScope() as scope:
            await embedder.embed("second")
            done.append("second")

    async def third() -> None:
        await embedder.embed("third")
        done.append("third")

    async def scenario() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await inside.reached(1)
            for waiter in (second, third):
                group.start_soon(waiter)
                await anyio.wait_all_tasks_blocked()
            if when == "in the queue":
                scope.cancel()
                await anyio.wait_all_tasks_blocked()
            gate.open()
        await embedder.embed("fourth")

    world.run(scenario)
    assert "third" in done
    assert "second" not in done or when == "as its turn comes"


def test_a_queue_outlives_a_loop() -> None:
    """A waiter whose loop ends leaves the queue; the turn goes on to another loop."""
    inside = Count()
    gate = Gate()

    class Held(AsyncSpy):
        async def embed(self, text: str, /) -> Any:
            inside.add()
            if text == "first":
                await gate.passed()
            return await super().embed(text)

    embedder = serialized(Held())

    async def leaves() -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(embedder.embed, "second")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()

    def short_lived() -> None:
        inside.wait(1)
        anyio.run(leaves)
        gate.open()

    in_threads(lambda: anyio.run(embedder.embed, "first"), short_lived)
    in_threads(lambda: anyio.run(embedder.embed, "third"))
    assert inside.value == 2


@everywhere("memory")
async def test_embedder_from(s: Scene) -> None:
    """A plain function, sync or async, becomes an embedder with dim and fingerprint."""

    def plain(text: str) -> list[float]:
        return [float(len(text)), 1.0]

    async def awaited(text: str) -> list[float]:
        return plain(text)

    function: Any = awaited if s.world.is_async else plain
    s.embedder = embedder_from(function, dim=2, fingerprint="lengths:2")  # type: ignore[assignment]
    async with s.cache() as cache:
        await cache.put("aaa", "three")
        assert (await cache.get("bbb")).response == "three"
        assert (await cache.stats()).embedder_fingerprint == "lengths:2"
    for dim in (0, -1, 1.5, True, None):
        with pytest.raises(ValueError, match="dim"):
            embedder_from(plain, dim=dim, fingerprint="x")  # type: ignore[arg-type]
    for fingerprint in ("", None, 5):
        with pytest.raises(ValueError, match="fingerprint"):
            embedder_from(plain, dim=2, fingerprint=fingerprint)  # type: ignore[arg-type]
    assert "dim=2" in repr(s.embedder)
    assert (await settled(s.embedder.embed("ab")))[0] == 2.0
