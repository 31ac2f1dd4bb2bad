"""Decorating: what is refused at once, and how the decorated function looks from outside."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.embedders import AsyncSpy, Spy
from support.worlds import drained, in_threads

import mneme
from mneme import (
    AsyncSemanticCache,
    CodecError,
    MemoryStore,
    SemanticCache,
    semantic_cache,
    to_sync_embedder,
)


def plain(prompt: str, /, model: str = "m", *rest: int, temperature: float = 0.5) -> str:
    """What `plain` says of itself."""
    return prompt


async def awaited(prompt: str, *, model: str = "m") -> dict[str, int]:
    """What `awaited` says of itself."""
    return {}


def told(prompt: str) -> Iterator[str]:
    """What `told` says of itself."""
    yield prompt


async def told_awaited(prompt: str) -> AsyncIterator[str]:
    """What `told_awaited` says of itself."""
    yield prompt


KINDS = pytest.mark.parametrize("original", [plain, awaited, told, told_awaited])

QUESTIONS: tuple[Callable[[Any], Any], ...] = (
    inspect.signature,
    inspect.iscoroutinefunction,
    inspect.isasyncgenfunction,
    inspect.isgeneratorfunction,
    inspect.isfunction,
    inspect.isroutine,
    callable,
    inspect.getdoc,
    inspect.getsource,
    inspect.getmodule,
    inspect.getfullargspec,
    typing.get_type_hints,
)


@KINDS
@pytest.mark.parametrize("ask", QUESTIONS, ids=lambda ask: ask.__name__)
def test_inspect_answers_as_for_the_original(original: Any, ask: Callable[[Any], Any]) -> None:
    """`inspect` and `typing` say of the decorated function what they say of the original."""
    assert ask(semantic_cache(embedder=Spy())(original)) == ask(original)


@KINDS
def test_names_of_the_original(original: Any) -> None:
    """Name, qualified name, module, docstring, annotations and defaults are the original's."""
    function: Any = semantic_cache(embedder=Spy())(original)
    for name in (
        "__name__", "__qualname__", "__module__", "__doc__", "__annotations__", "__defaults__",
        "__kwdefaults__", "__code__",
    ):  # fmt: skip
        assert getattr(function, name) == getattr(original, name)
    assert function.__wrapped__ is original
    assert isinstance(function, type(original))


def test_bound_methods_look_like_bound_methods() -> None:
    """A method's signature on an instance is without `self`, and the class shows it with."""

    class Bot:
        @semantic_cache(embedder=Spy())
        def ask(self, prompt: str) -> str:
            """Ask."""
            return prompt

        @semantic_cache(embedder=Spy())
        @classmethod
        def make(cls, prompt: str) -> str:
            return prompt

        @semantic_cache(embedder=Spy())
        @staticmethod
        def of(prompt: str) -> str:
            return prompt

    assert list(inspect.signature(Bot().ask).parameters) == ["prompt"]
    assert list(inspect.signature(Bot.ask).parameters) == ["self", "prompt"]
    assert list(inspect.signature(Bot.make).parameters) == ["prompt"]
    assert list(inspect.signature(Bot.of).parameters) == ["prompt"]
    assert Bot.ask.__doc__ == Bot().ask.__doc__ == "Ask."
    assert [Bot.make("q"), Bot.of("q"), Bot().ask("q")] == ["q"] * 3


@pytest.mark.parametrize(
    ("function", "options", "says"),
    [
        (lambda one, two: 0, {}, "not clear which parameter.*one, two.*prompt='"),
        (lambda: 0, {}, "not clear which parameter.*none"),
        (lambda *args: 0, {}, "not clear which parameter"),
        (lambda self, one, two: 0, {}, "self, one, two"),
        (lambda prompt: 0, {"prompt": "question"}, "'question'.*Its parameters are: prompt"),
        (lambda *prompt: 0, {"prompt": "prompt"}, "no parameter that holds one value"),
        (lambda prompt, a: 0, {"ignore": ["b", "c"]}, "ignore= names b, c.*prompt, a"),
        (lambda prompt: 0, {"ignore": "prompt"}, "list of names"),
        (lambda prompt: 0, {"ignore": ["prompt"]}, "not clear which parameter"),
        (lambda p: 0, {"prompt": "p", "ignore": ["p"]}, "both the prompt and ignored"),
        (lambda prompt: 0, {"namespace": lambda who, what: ""}, "namespace takes"),
        (lambda prompt: 0, {"prompt": lambda who, what: ""}, "prompt takes"),
        (lambda prompt: 0, {"tags": "one"}, "tags must be a list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_unclear_is_refused(function: Any, options: dict[str, Any], says: str) -> None:
    """An unclear prompt or an unknown name is a TypeError at decoration that lists parameters."""
    with pytest.raises(TypeError, match=says):
        semantic_cache(embedder=Spy(), **options)(function)


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({}, TypeError, "needs cache= or embedder="),
        ({"cache": True, "embedder": True}, TypeError, "not both"),
        ({"cache": True, "path": "x.db"}, TypeError, "has its own"),
        ({"cache": True, "store": MemoryStore()}, TypeError, "has its own"),
        ({"embedder": True, "path": "x.db", "store": MemoryStore()}, ValueError, "exactly one"),
        ({"embedder": True, "threshold": 85}, ValueError, r"Did you mean 0\.85"),
        ({"embedder": True, "threshold": float("nan")}, ValueError, "threshold"),
        ({"embedder": True, "ttl": -1}, ValueError, "ttl"),
        ({"embedder": True, "namespace": ""}, ValueError, "namespace"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_make_no_sense(
    options: dict[str, Any],
    kind: type[Exception],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong combination or value is refused when decorating, and no file is made."""
    monkeypatch.chdir(tmp_path)
    made = {
        "cache": lambda: SemanticCache(store=MemoryStore(), embedder=Spy()),
        "embedder": Spy,
    }
    given = {name: made[name]() if name in made else value for name, value in options.items()}
    with pytest.raises(kind, match=says):
        semantic_cache(**given)(plain)
    assert list(tmp_path.iterdir()) == []


def test_an_async_embedder_under_a_sync_function() -> None:
    """It is refused when decorating, with the remedy, for a private and for a shared cache."""
    shared = AsyncSemanticCache(store=MemoryStore(), embedder=AsyncSpy())
    for options in ({"embedder": AsyncSpy()}, {"cache": shared}):
        for function in (plain, told):
            with pytest.raises(TypeError, match=r"is sync and its embedder is async.*to_sync"):
                semantic_cache(**options)(function)  # type: ignore[call-overload]
        assert semantic_cache(**options)(awaited)  # type: ignore[call-overload]
    assert semantic_cache(embedder=to_sync_embedder(AsyncSpy()))(plain)("q") == "q"


class Unstorable:
    pass


def test_annotations_that_cannot_be_stored() -> None:
    """A result that could not come back equal is a CodecError when decorating, with a remedy."""

    def one(prompt: str) -> Unstorable:
        raise AssertionError

    async def two(prompt: str) -> list[Unstorable]:
        raise AssertionError

    def three(prompt: str) -> Iterator[Unstorable]:
        yield Unstorable()

    async def four(prompt: str) -> AsyncIterator[dict[str, Unstorable]]:
        yield {}

    for function in (one, two, three, four):
        with pytest.raises(CodecError, match=r"Unstorable.*pass `codec=`"):
            semantic_cache(embedder=Spy())(function)

    with pytest.warns(UserWarning, match="runs code"):
        codec = mneme.codecs.PickleCodec()
    assert semantic_cache(embedder=Spy(), codec=codec)(one)


def test_an_annotation_that_only_a_type_checker_knows() -> None:
    """A return annotation that cannot be resolved at run time says nothing."""

    def ask(prompt: str) -> NowhereDefined:  # type: ignore[name-defined]  # noqa: F821
        return {"k": 1}

    function: Any = semantic_cache(embedder=Spy())(ask)
    assert [function("q") for _ in range(2)] == [{"k": 1}] * 2
    assert function.cache_info().hits == 1


def test_partials_and_lambdas() -> None:
    """A lambda works as any function does."""
    function = semantic_cache(embedder=Spy())(lambda prompt: prompt.upper())
    assert [function("q"), function("Q?")] == ["Q", "Q"]


def test_stop_iteration_of_a_sync_function() -> None:
    """A `StopIteration` that the function raises comes out itself, cause and all."""
    cause = LookupError("cause")

    @semantic_cache(embedder=Spy())
    def ask(prompt: str) -> str:
        raise StopIteration("mine") from cause

    for _ in range(2):
        with pytest.raises(StopIteration) as caught:
            ask("q")
        assert caught.value.value == "mine"
        assert caught.value.__cause__ is cause
        assert caught.value.__context__ is None
    assert ask.cache_info().currsize == 0


def test_the_traceback_leads_to_the_function() -> None:
    """The frames of an exception end in the user's own function."""

    @semantic_cache(embedder=Spy())
    def ask(prompt: str) -> str:
        return [prompt][len(prompt)]

    with pytest.raises(IndexError) as caught:
        ask("q")
    assert caught.traceback[-1].name == "ask"


def test_a_private_cache_in_a_file(tmp_path: Path) -> None:
    """`path=` keeps the answers of one function in a file."""
    calls = []

    def ask(prompt: str) -> str:
        calls.append(prompt)
        return prompt

    for _ in range(2):
        function = semantic_cache(embedder=Spy(), path=tmp_path / "cache.db")(ask)
        assert function("q") == "q"
        cache = function.cache
        assert isinstance(cache, SemanticCache)
        cache.close()
    assert calls == ["q"]


def test_private_caches_are_apart() -> None:
    """Without `cache=`, each decorated function has a cache of its own."""
    decorate = semantic_cache(embedder=Spy())

    def ask(prompt: str) -> str:
        return prompt

    assert decorate(ask).cache is not decorate(ask).cache


@pytest.mark.parametrize("face", [SemanticCache, AsyncSemanticCache])
def test_functions_of_both_kinds_share_a_cache(face: Any) -> None:
    """Either face serves sync and async functions alike; each finds its own answers."""
    cache = face(store=MemoryStore(), embedder=Spy())
    decorate = semantic_cache(cache=cache)
    one, two, three, four = (decorate(kind) for kind in (plain, awaited, told, told_awaited))

    async def on_a_loop() -> None:
        for _ in range(2):
            assert await two("q") == {}  # type: ignore[misc]
            assert await drained(four("q")) == ["q"]

    for _ in range(2):
        assert in_threads(lambda: one("q"), lambda: list(three("q"))) == ["q", ["q"]]
        anyio.run(on_a_loop)
    for function, hits in ((one, 1), (two, 3), (three, 1), (four, 3)):
        assert function.cache_info()[:2] == (hits, 1)
        assert function.cache is cache
    assert cache.stats().entries == 4


def test_a_decorated_function_wrapped_again() -> None:
    """`functools.wraps` and partial application over a decorated function work."""

    @semantic_cache(embedder=Spy())
    def ask(prompt: str, model: str) -> str:
        return f"{prompt} {model}"

    bound = functools.partial(ask, model="m")
    assert [bound("q"), bound("Q?")] == ["q m"] * 2

    @functools.wraps(ask)
    def outer(*args: Any, **kwargs: Any) -> Any:
        return ask(*args, **kwargs)

    assert inspect.signature(outer) == inspect.signature(ask)
    assert outer("q", "m") == "q m"
    assert ask.cache_info()[:2] == (2, 1)
