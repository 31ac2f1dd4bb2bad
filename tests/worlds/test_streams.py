"""Generators and async generators: items pass as they come, and are replayed one by one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.scenes import Scene, everywhere
from support.worlds import drained, settled

import mneme
from mneme import CodecError, Miss, semantic_cache
from mneme.errors import MnemeError


async def _next(stream: Any) -> Any:
    """The next item of a generator of either kind."""
    return await anext(stream) if hasattr(stream, "__anext__") else next(stream)


async def _close(stream: Any) -> None:
    await stream.aclose() if hasattr(stream, "aclose") else stream.close()


@everywhere()
async def test_a_stream_is_replayed_item_by_item(s: Scene) -> None:
    """The first run passes items as they come; later ones give equal items without calling."""
    log: list[Any] = []

    async def tell(prompt: str) -> AsyncIterator[Any]:
        for item in ("a", "", None, 0, [], {"k": [1]}, "z"):
            log.append(item)
            yield item

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(tell))
        stream = function("count up")
        assert log == []
        assert await _next(stream) == "a"
        # Nothing is drawn ahead of the reader.
        assert log == ["a"]
        assert [await _next(stream) for _ in range(5)] == ["", None, 0, [], {"k": [1]}]
        assert not await settled(function.lookup("count up"))
        assert await drained(stream) == ["z"]
    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(tell))
        for prompt in ("count up", "up count"):
            assert await drained(function(prompt)) == log[:7]
        assert len(log) == 7
        hit = await settled(function.lookup("up count"))
        assert hit.layer == "semantic"
        assert hit.response == log


@everywhere("memory")
async def test_an_empty_stream_is_an_answer(s: Scene) -> None:
    """A stream that ends without an item is stored, and replayed as such."""
    calls = []

    async def tell(prompt: str) -> AsyncIterator[str]:
        calls.append(prompt)
        for item in ():
            yield item

    function = semantic_cache(embedder=s.embedder)(s.world.written(tell))
    assert [await drained(function("q")) for _ in range(2)] == [[], []]
    assert calls == ["q"]


@everywhere("memory")
async def test_a_stream_left_early_is_not_stored(s: Scene) -> None:
    """Closing or dropping a stream closes the function's own and stores no torso."""
    log: list[str] = []

    async def tell(prompt: str) -> AsyncIterator[int]:
        try:
            for number in range(3):
                yield number
        finally:
            log.append("closed")

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(tell))
        for taken in range(4):
            async with _Closing(function("q")) as stream:
                for number in range(min(taken, 3)):
                    assert await _next(stream) == number
            # A stream that was never begun has nothing to close.
            assert log == ["closed"] * taken
            assert (await cache.stats()).entries == 0
        assert await drained(function("q")) == [0, 1, 2]
        assert (await cache.stats()).entries == 1


class _Closing:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aenter__(self) -> Any:
        return self._stream

    async def __aexit__(self, *exc: object) -> None:
        await _close(self._stream)


@everywhere("memory")
async def test_an_exception_midway_stores_nothing(s: Scene) -> None:
    """The function's own exception comes out after the items before it; nothing is stored."""
    error = ValueError("midway")
    calls = []

    async def tell(prompt: str) -> AsyncIterator[int]:
        calls.append(prompt)
        yield 1
        if len(calls) < 3:
            raise error

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(tell))
        for _ in range(2):
            stream = function("q")
            assert await _next(stream) == 1
            with pytest.raises(ValueError, match="midway") as caught:
                await _next(stream)
            assert caught.value is error
            assert (await cache.stats()).entries == 0
        assert [await drained(function("q")) for _ in range(2)] == [[1], [1]]
        assert len(calls) == 3


@everywhere("memory")
async def test_what_the_reader_does_to_an_item_is_not_stored(s: Scene) -> None:
    """Items are kept as they were when they passed, and each replay has its own."""

    async def tell(prompt: str) -> AsyncIterator[list[int]]:
        yield [1]
        yield [2]

    function = semantic_cache(embedder=s.embedder)(s.world.written(tell))
    for _ in range(3):
        items = []
        stream = function("q")
        for _ in range(2):
            item = await _next(stream)
            items.append(list(item))
            item.append("changed")
        await drained(stream)
        assert items == [[1], [2]]


@everywhere("memory")
async def test_a_replay_may_be_left_early(s: Scene) -> None:
    """Leaving a replay changes nothing, and the function is not begun for it."""
    log = []

    async def tell(prompt: str) -> AsyncIterator[int]:
        log.append("begun")
        yield 1
        yield 2

    function = semantic_cache(embedder=s.embedder)(s.world.written(tell))
    await drained(function("q"))
    stream = function("q")
    assert await _next(stream) == 1
    await _close(stream)
    assert await drained(function("q")) == [1, 2]
    assert log == ["begun"]


@everywhere("memory")
async def test_the_context_of_a_stream_is_that_of_its_call(s: Scene) -> None:
    """Namespace, bypass and refresh count where the function is called, not where it is read."""
    calls = []

    async def tell(prompt: str) -> AsyncIterator[int]:
        calls.append(prompt)
        yield len(calls)

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(tell))
        with mneme.namespace("n"):
            stream = function("q")
        assert await drained(stream) == [1]
        assert await cache.list_namespaces() == ["n"]
        with mneme.namespace("n"), mneme.bypass():
            stream = function("q")
        assert await drained(stream) == [2]
        with mneme.namespace("n"), mneme.refresh():
            stream = function("q")
        assert await drained(stream) == [3]
        with mneme.namespace("n"):
            assert await drained(function("q")) == [3]
            assert await drained(function.refresh("q")) == [4]
            assert await drained(function("q")) == [4]
            stream = function("other question")
        with mneme.bypass():
            assert await drained(stream) == [5]
        # It began as a call to be served; a bypass around its end keeps it from being stored.
        with mneme.namespace("n"):
            assert await drained(function("other question")) == [6]


@everywhere("memory")
async def test_what_is_not_kept_of_streams(s: Scene) -> None:
    """What cache_if refuses, is too large or cannot be asked passes, and is not stored."""
    calls = []

    async def tell(prompt: str, items: int = 2) -> AsyncIterator[str]:
        calls.append(prompt)
        for _ in range(items):
            yield "xxxxx"

    async with s.cache(max_response_bytes=40, max_query_bytes=10) as cache:
        written = s.world.written(tell)
        picky = semantic_cache(cache=cache.cache, cache_if=lambda items: len(items) > 1)(written)
        for items, runs in ((1, 2), (2, 1), (0, 2)):
            calls.clear()
            for _ in range(2):
                assert await drained(picky("q", items)) == ["xxxxx"] * items
            assert len(calls) == runs
        calls.clear()
        function = semantic_cache(cache=cache.cache, version=1)(written)
        for items in (6, 9):
            for _ in range(2):
                assert await drained(function("q", items)) == ["xxxxx"] * items
        assert len(calls) == 4
        with mneme.observe() as seen:
            assert await drained(function("x" * 11)) == ["xxxxx"] * 2
        assert [one.reason for one in seen if isinstance(one, Miss)] == ["uncacheable"]


@everywhere("memory")
async def test_streams_that_cannot_be_stored(s: Scene) -> None:
    """Every item passes, then the CodecError says that nothing was stored."""

    async def tell(prompt: str):
        yield 1
        yield object

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(tell))
        stream = function("q")
        assert [await _next(stream) for _ in range(2)] == [1, object]
        with pytest.raises(CodecError, match="Nothing was stored"):
            await _next(stream)
        assert (await cache.stats()).entries == 0


@everywhere("memory")
async def test_counters_of_streams(s: Scene) -> None:
    """A stream counts once, as a hit or a miss, in cache_info and for observers."""

    async def tell(prompt: str) -> AsyncIterator[int]:
        yield 1

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(tell))
        with mneme.observe() as seen:
            for _ in range(3):
                await drained(function("q"))
        assert function.cache_info() == (2, 1, None, 1)
        assert [bool(one) for one in seen] == [False, True, True]


@everywhere("memory")
async def test_a_broken_stream_call_fails_where_it_is_called(s: Scene) -> None:
    """Wrong arguments and a closed cache show at the call, before anything is drawn."""

    async def tell(prompt: str) -> AsyncIterator[int]:
        yield 1

    cache = s.make()
    function = semantic_cache(cache=cache)(s.world.written(tell))
    with pytest.raises(TypeError, match=r"tell\(\)"):
        function("q", "too many")
    with pytest.raises(TypeError, match="prompt must be text"):
        function(5)
    await settled(cache.close())
    with pytest.raises(MnemeError, match="closed"):
        function("q")


def test_a_generator_keeps_what_it_returns() -> None:
    """A generator's return value reaches the caller; such a stream is not stored."""
    calls = []

    @semantic_cache(embedder=mneme.testing.HashEmbedder())
    def tell(prompt: str, result: Any) -> Any:
        calls.append(prompt)
        yield 1
        return result

    for _ in range(2):
        stream = tell("q", "returned")
        assert next(stream) == 1
        with pytest.raises(StopIteration) as end:
            next(stream)
        assert end.value.value == "returned"
    assert len(calls) == 2
