"""Decorated methods of every kind."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from support.scenes import Scene, everywhere
from support.worlds import drained, settled

from mneme import semantic_cache


@everywhere("memory")
async def test_instances_do_not_share_answers(s: Scene) -> None:
    """A method's answers are its instance's own, called on it or through its class."""
    calls: list[Any] = []

    class Bot:
        def __init__(self, name: str) -> None:
            self.name = name

        async def ask(self, prompt: str) -> str:
            """Ask."""
            calls.append(self.name)
            return f"{self.name}: {prompt}"

    Bot.ask = semantic_cache(cache=s.make())(s.world.written(Bot.ask))  # type: ignore[method-assign]
    one, two = Bot("one"), Bot("two")
    for bot in (one, two, one, two):
        assert await s.call(bot.ask, "q") == f"{bot.name}: q"
    assert await s.call(Bot.ask, one, "q") == "one: q"
    assert await s.call(Bot.ask, one, prompt="Q?") == "one: q"
    assert calls == ["one", "two"]


@everywhere("memory")
async def test_instances_with_a_value_share_by_value(s: Scene) -> None:
    """Where the instance has a stable form, equal instances share answers."""
    calls = []

    async def ask(self: Any, prompt: str) -> int:
        calls.append(self.model)
        return len(calls)

    decorated = semantic_cache(cache=s.make())(s.world.written(ask))

    @dataclasses.dataclass
    class Bot:
        model: str

    Bot.ask = decorated  # type: ignore[attr-defined]
    bots: list[Any] = [Bot("a"), Bot("a"), Bot("b")]
    assert [await s.call(bot.ask, "q") for bot in bots] == [1, 1, 2]


@everywhere("memory")
async def test_self_can_be_ignored(s: Scene) -> None:
    """With ignore=("self",) all instances share, even those that cannot be told apart."""

    class Slotted:
        __slots__ = ()

    async def ask(self: Any, prompt: str) -> str:
        return "r"

    shared = semantic_cache(cache=s.make(), ignore=("self",))(s.world.written(ask))
    apart = semantic_cache(cache=s.make())(s.world.written(ask))
    Slotted.shared, Slotted.apart = shared, apart  # type: ignore[attr-defined]
    one: Any = Slotted()
    assert await s.call(one.shared, "q") == await s.call(Slotted().shared, "q")  # type: ignore[attr-defined]
    assert shared.cache_info()[:2] == (1, 1)
    with pytest.raises(TypeError, match=r"ignore=\('self',\)"):
        await s.call(one.apart, "q")


@everywhere("memory")
async def test_the_methods_of_a_bound_method(s: Scene) -> None:
    """lookup, explain, refresh, invalidate and cache_info work on the bound method."""
    calls = []

    async def ask(self: Any, prompt: str, n: int = 0) -> int:
        calls.append(prompt)
        return len(calls)

    class Bot:
        pass

    Bot.ask = semantic_cache(cache=s.make())(s.world.written(ask))  # type: ignore[attr-defined]
    bot: Any = Bot()
    other: Any = Bot()
    assert not await s.call(bot.ask.lookup, "q")
    assert await s.call(bot.ask, "q") == 1
    assert (await s.call(bot.ask.lookup, "q")).response == 1
    assert not await s.call(other.ask.lookup, "q")
    assert (await s.call(bot.ask.explain, "q", n=0)).outcome.response == 1
    assert await s.call(bot.ask.refresh, "q") == 2
    assert await s.call(other.ask.invalidate, "q") == 0
    assert await s.call(bot.ask.invalidate, "q") == 1
    assert bot.ask.cache_info() == (1, 3, None, 0)
    assert bot.ask.cache is Bot.ask.cache  # type: ignore[attr-defined]
    await s.call(bot.ask, "q")
    bot.ask.cache_clear()
    assert other.ask.cache_info() == (0, 0, None, 0)


@everywhere("memory")
async def test_class_methods(s: Scene) -> None:
    """With the decorator above or below @classmethod, each class has answers of its own."""
    calls: list[str] = []

    async def ask(cls: Any, prompt: str) -> str:
        calls.append(cls.__name__)
        return cls.__name__

    written = s.world.written(ask)
    cache = s.make()
    decorate = semantic_cache(cache=cache)
    for method in (decorate(classmethod(written)), classmethod(decorate(written))):
        calls.clear()
        await settled(cache.clear())
        base: Any = type("Base", (), {"ask": method})
        child: Any = type("Child", (base,), {})
        for owner in (base, child, base, child(), child):
            name = owner.__name__ if isinstance(owner, type) else "Child"
            assert await s.call(owner.ask, "q") == name
        assert calls == ["Base", "Child"]


@everywhere("memory")
async def test_class_methods_have_the_methods_too(s: Scene) -> None:
    """lookup, refresh and invalidate of a class method know the class they were taken from."""
    calls: list[str] = []

    async def ask(cls: Any, prompt: str) -> int:
        calls.append(cls.__name__)
        return len(calls)

    method = semantic_cache(cache=s.make())(classmethod(s.world.written(ask)))
    base: Any = type("Base", (), {"ask": method})
    child: Any = type("Child", (base,), {})
    assert await s.call(base.ask, "q") == 1
    assert (await s.call(base.ask.lookup, "q")).response == 1
    assert not await s.call(child.ask.lookup, "q")
    assert await s.call(child().ask.refresh, "q") == 2
    assert calls == ["Base", "Child"]
    assert await s.call(child.ask.invalidate, "q") == 1
    assert await s.call(base.ask, "q") == 1


@everywhere("memory")
async def test_static_methods(s: Scene) -> None:
    """With the decorator above or below @staticmethod, all share, called on class or instance."""
    calls = []

    async def ask(prompt: str, *, model: str = "m") -> str:
        calls.append(prompt)
        return f"{prompt} {model}"

    written = s.world.written(ask)
    cache = s.make()
    decorate = semantic_cache(cache=cache)
    for method in (decorate(staticmethod(written)), staticmethod(decorate(written))):
        calls.clear()
        await settled(cache.clear())
        owner: Any = type("Owner", (), {"ask": method})
        assert await s.call(owner.ask, "q") == "q m"
        assert await s.call(owner().ask, "q", model="m") == "q m"
        assert await s.call(owner().ask, prompt="Q?") == "q m"
        assert calls == ["q"]
        assert (await s.call(owner.ask.lookup, "q")).response == "q m"
        assert await s.call(owner().ask.invalidate, "q") == 1


@everywhere("memory")
async def test_streaming_methods(s: Scene) -> None:
    """A method that is a generator streams, and replays for its own instance."""
    calls = []

    class Bot:
        async def ask(self, prompt: str) -> Any:
            calls.append(self)
            for word in prompt.split():
                yield word

    Bot.ask = semantic_cache(cache=s.make())(s.world.written(Bot.ask))  # type: ignore[method-assign]
    one, two = Bot(), Bot()
    for bot in (one, one, two):
        assert await drained(bot.ask("red blue")) == ["red", "blue"]
    assert calls == [one, two]
    assert (await settled(one.ask.lookup("red blue"))).response == ["red", "blue"]  # type: ignore[attr-defined]
