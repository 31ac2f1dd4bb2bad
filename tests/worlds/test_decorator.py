"""A decorated function: what is one question, what is another, and what is kept."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import pytest
from support.embedders import cosine
from support.scenes import Scene, everywhere
from support.worlds import settled

import mneme
from mneme import CodecError, Hit, Miss, NamespaceRequiredError, semantic_cache


@everywhere()
async def test_a_repeated_call_is_answered_without_calling(s: Scene) -> None:
    """The function runs once for equal and for reworded prompts, and again for another one."""
    calls: list[str] = []

    async def ask(prompt: str) -> str:
        calls.append(prompt)
        return f"answer {len(calls)}"

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(ask))
        assert await s.call(function, "capital of france") == "answer 1"
        assert await s.call(function, "Capital of France?") == "answer 1"
        assert await s.call(function, prompt="france capital of") == "answer 1"
        assert await s.call(function, "boiling point of water") == "answer 2"
        assert calls == ["capital of france", "boiling point of water"]
        # An exact hit embeds nothing, and a miss embeds once for looking and keeping.
        assert s.embedder.texts == [*calls[:1], "france capital of", *calls[1:]]
        assert function.cache is cache.cache
    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(ask))
        assert await s.call(function, "capital of france") == "answer 1"


@everywhere("memory")
async def test_every_other_argument_belongs_to_the_question(s: Scene) -> None:
    """Another model or temperature never gets this one's answer, however it is passed."""
    calls: list[tuple[Any, ...]] = []

    async def ask(prompt: str, model: str = "small", *, temperature: float = 0.0) -> int:
        calls.append((prompt, model, temperature))
        return len(calls)

    function = semantic_cache(embedder=s.embedder)(s.world.written(ask))
    same: list[tuple[Any, dict[str, Any]]] = [
        (("q",), {}),
        (("q", "small"), {}),
        (("q",), {"model": "small", "temperature": 0.0}),
        ((), {"prompt": "q", "model": "small"}),
        (("q",), {"temperature": -0.0}),
    ]
    assert [await s.call(function, *args, **kwargs) for args, kwargs in same] == [1] * len(same)
    others: list[tuple[Any, dict[str, Any]]] = [
        (("q", "large"), {}),
        (("q",), {"temperature": 1.0}),
        # To a dict these are equal; to a model they need not be.
        (("q",), {"temperature": 1}),
        (("q",), {"temperature": True}),
    ]
    assert [await s.call(function, *args, **kwargs) for args, kwargs in others] == [2, 3, 4, 5]


@everywhere("memory")
async def test_variadic_arguments_belong_to_the_question(s: Scene) -> None:
    """``*args`` and ``**kwargs`` count, whatever the order of names."""
    calls = []

    async def ask(prompt: str, *rest: Any, **options: Any) -> int:
        calls.append(prompt)
        return len(calls)

    function = semantic_cache(embedder=s.embedder, ignore=["trace"])(s.world.written(ask))
    assert await s.call(function, "q", 1, a=1, b=2) == 1
    assert await s.call(function, "q", 1, b=2, a=1, trace=object()) == 1
    assert await s.call(function, "q", 1, a=1, b=3) == 2
    assert await s.call(function, "q", 2, a=1, b=2) == 3
    assert await s.call(function, "q") == 4


@everywhere("memory")
async def test_ignored_arguments_do_not_matter(s: Scene) -> None:
    """What `ignore=` names reaches the function and makes no difference to the cache."""
    clients = []

    async def ask(client: object, prompt: str, model: str) -> str:
        clients.append(client)
        return f"by {model}"

    function = semantic_cache(embedder=s.embedder, ignore=("client",))(s.world.written(ask))
    first, second = object(), object()
    assert await s.call(function, first, "q", "m") == "by m"
    assert await s.call(function, second, "q", "m") == "by m"
    assert await s.call(function, second, "q", model="n") == "by n"
    assert clients == [first, second]


@everywhere("memory")
async def test_an_argument_without_a_stable_form_is_refused(s: Scene) -> None:
    """The TypeError names the argument and `ignore=`, and the function is not called."""
    calls = []

    async def ask(prompt: str, options: Any = None) -> str:
        calls.append(prompt)
        return "r"

    function = semantic_cache(embedder=s.embedder)(s.world.written(ask))
    for unstable in (object(), {"nested": [object()]}, lambda: 0):
        with pytest.raises(TypeError, match=r"options.*ignore=\('options',\)"):
            await s.call(function, "q", unstable)
    assert calls == []

    class Keyed:
        def __init__(self, name: str) -> None:
            self.name = name

        def __mneme_key__(self) -> str:
            return self.name

    for options in (Keyed("a"), Keyed("a"), Keyed("b"), {"a": [1, (2.0, None)]}):
        await s.call(function, "q", options)
    assert len(calls) == 3


@everywhere("memory")
async def test_a_wrong_call_fails_as_without_the_decorator(s: Scene) -> None:
    """Arguments that do not fit the signature raise Python's own TypeError."""

    async def ask(prompt: str, *, model: str) -> str:
        return "r"

    function = semantic_cache(embedder=s.embedder)(s.world.written(ask))
    for args, kwargs in ((("q",), {}), (("q", "m"), {"model": "m"}), ((), {"model": "m"})):
        with pytest.raises(TypeError, match=r"ask\(\)"):
            await s.call(function, *args, **kwargs)


@everywhere()
async def test_the_version_and_the_name_belong_to_the_question(s: Scene) -> None:
    """Functions that share a cache never share answers; a new version leaves old ones behind."""
    async with s.cache() as cache:
        calls = []

        async def one(prompt: str) -> str:
            calls.append("one")
            return "of one"

        async def two(prompt: str) -> str:
            calls.append("two")
            return "of two"

        for function, version in ((one, ""), (two, ""), (one, 2), (one, ""), (two, "2")):
            shared = semantic_cache(cache=cache.cache, version=version)(s.world.written(function))
            await s.call(shared, "q")
        assert calls == ["one", "two", "one", "two"]
        # Nor do they meet what was put without a function.
        assert await cache.get("q") is None


@everywhere("memory")
async def test_namespaces_of_a_function(s: Scene) -> None:
    """The open namespace, a fixed one, or one told from the arguments: answers stay inside."""
    calls: list[str] = []

    async def ask(prompt: str, tenant: str = "t") -> int:
        calls.append(tenant)
        return len(calls)

    async with s.cache() as cache:
        written = s.world.written(ask)
        opened = semantic_cache(cache=cache.cache)(written)
        assert await s.call(opened, "q") == 1
        with mneme.namespace("x"):
            assert await s.call(opened, "q") == 2
            assert await s.call(opened, "q") == 2
        assert await s.call(opened, "q") == 1
        fixed = semantic_cache(cache=cache.cache, namespace="fixed", version=1)(written)
        with mneme.namespace("x"):
            assert await s.call(fixed, "q") == 3
        assert await s.call(fixed, "q") == 3
        told = semantic_cache(
            cache=cache.cache, namespace=lambda tenant: f"t-{tenant}", ignore=["tenant"], version=2
        )(written)
        assert [await s.call(told, "q", tenant) for tenant in "abab"] == [4, 5, 4, 5]
        mapped = semantic_cache(
            cache=cache.cache, namespace=lambda given: given["tenant"], version=3
        )(written)
        assert await s.call(mapped, "q", "m") == 6
        assert await cache.list_namespaces() == ["default", "fixed", "m", "t-a", "t-b", "x"]
        broken = semantic_cache(cache=cache.cache, namespace=lambda tenant: "", version=4)(written)
        with pytest.raises(ValueError, match="name for a namespace"):
            await s.call(broken, "q")
        assert len(calls) == 6


@everywhere("memory")
async def test_a_required_namespace_holds_for_functions_too(s: Scene) -> None:
    """Outside any namespace the call is refused before the function runs."""
    calls = []

    async def ask(prompt: str) -> str:
        calls.append(prompt)
        return "r"

    async with s.cache(require_namespace=True) as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(ask))
        with pytest.raises(NamespaceRequiredError):
            await s.call(function, "q")
        assert calls == []
        with mneme.namespace("n"):
            assert await s.call(function, "q") == "r"


@everywhere("memory")
async def test_the_prompt_by_name_and_by_callable(s: Scene) -> None:
    """`prompt=` names the parameter, or picks the text; the rest of what it picks from counts."""
    calls: list[Any] = []

    async def ask(question: str, context: Any) -> int:
        calls.append((question, context))
        return len(calls)

    written = s.world.written(ask)
    named = semantic_cache(embedder=s.embedder, prompt="question")(written)
    assert await s.call(named, "capital of france", "c") == 1
    assert await s.call(named, "france capital of", "c") == 1
    assert await s.call(named, "capital of france", "d") == 2
    picked = semantic_cache(embedder=s.embedder, prompt=lambda context: context["text"])(written)
    assert await s.call(picked, "x", {"text": "capital of france", "lang": "en"}) == 3
    assert await s.call(picked, "x", {"text": "france capital of", "lang": "en"}) == 3
    assert await s.call(picked, "x", {"text": "capital of france", "lang": "fr"}) == 4
    assert await s.call(picked, "y", {"text": "capital of france", "lang": "en"}) == 5
    joined = semantic_cache(
        embedder=s.embedder, prompt=lambda question, context: f"{question} {context}"
    )(written)
    assert await s.call(joined, "red", "blue") == 6
    assert await s.call(joined, "red", "blue") == 6


@everywhere("memory")
async def test_chat_messages_as_prompt(s: Scene) -> None:
    """The last user turn is compared; everything before it must be equal."""
    calls: list[Any] = []

    async def ask(messages: list[dict[str, str]]) -> int:
        calls.append(messages)
        return len(calls)

    def chat(question: str, *, system: str = "be brief") -> list[dict[str, str]]:
        return [{"role": "system", "content": system}, {"role": "user", "content": question}]

    function = semantic_cache(embedder=s.embedder)(s.world.written(ask))
    assert await s.call(function, chat("capital of france")) == 1
    assert await s.call(function, chat("france capital of")) == 1
    assert await s.call(function, chat("capital of france", system="be long")) == 2
    assert s.embedder.texts[0] == "capital of france"
    # A tail that is a tool's result is found again, and never compared.
    tool = [*chat("weather"), {"role": "tool", "content": "capital of france"}]
    before = len(s.embedder.texts)
    assert [await s.call(function, tool) for _ in range(2)] == [3, 3]
    assert len(s.embedder.texts) == before


@everywhere("memory")
async def test_a_prompt_the_cache_will_not_take(s: Scene) -> None:
    """Blank and oversized prompts reach the function each time; a non-text one is refused."""
    calls: list[Any] = []

    async def ask(prompt: Any) -> int:
        calls.append(prompt)
        return len(calls)

    async with s.cache(max_query_bytes=10, require_namespace=True) as cache:
        function = semantic_cache(cache=cache.cache, namespace="n")(s.world.written(ask))
        with mneme.observe() as seen:
            found = [await s.call(function, prompt) for prompt in ("", "", "x" * 11, "x" * 11)]
        assert found == [1, 2, 3, 4]
        assert [(one.reason, one.namespace) for one in seen if isinstance(one, Miss)] == [
            ("uncacheable", "n")
        ] * 4
        assert (await cache.stats("n")).misses == 4
        with pytest.raises(TypeError, match="prompt must be text"):
            await s.call(function, 5)
        assert len(calls) == 4


@everywhere()
async def test_none_and_falsy_results_are_cached(s: Scene) -> None:
    """A function that answers None, 0 or an empty list is not called again for it."""
    calls = []
    results: list[Any] = [None, 0, "", [], False, {}]

    async def ask(prompt: str, at: int) -> Any:
        calls.append(at)
        return results[at]

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(ask))
        for _ in range(2):
            assert [await s.call(function, "q", at) for at in range(6)] == results
        assert calls == list(range(6))


class _Odd(BaseException):
    pass


@everywhere("memory")
async def test_exceptions_pass_untouched_and_store_nothing(s: Scene) -> None:
    """The very exception of the function comes out, its cause and context as they were."""
    raised: list[BaseException] = [
        ValueError("x"), KeyError("k"), TimeoutError(), mneme.EmbeddingError("mine"),
        mneme.StoreBackendError("mine"), StopAsyncIteration("end"), GeneratorExit(), _Odd(),
    ]  # fmt: skip
    calls = []

    async def ask(prompt: str, at: int) -> str:
        calls.append(at)
        raise raised[at] from LookupError("cause")

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(ask))
        for at, error in enumerate(raised):
            for _ in range(2):
                with pytest.raises(type(error)) as caught:
                    await settled(function("q", at))
                assert caught.value is error
                assert isinstance(error.__cause__, LookupError)
        assert calls == [at for at in range(len(raised)) for _ in range(2)]
        assert (await cache.stats()).entries == 0


@everywhere()
async def test_cache_if_decides_what_is_kept(s: Scene) -> None:
    """A result that `cache_if` refuses is returned and not stored."""
    calls = []

    async def ask(prompt: str, good: bool) -> str:
        calls.append(good)
        return "yes" if good else ""

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache, cache_if=bool)(s.world.written(ask))
        assert [await s.call(function, "q", False) for _ in range(2)] == ["", ""]
        assert [await s.call(function, "q", True) for _ in range(2)] == ["yes", "yes"]
        assert calls == [False, False, True]
        assert (await cache.stats()).entries == 1


@everywhere()
async def test_ttl_and_tags_of_a_function(s: Scene) -> None:
    """`ttl=` bounds how long an answer serves; `tags=` name it for `invalidate`."""
    calls = []

    async def ask(prompt: str) -> int:
        calls.append(prompt)
        return len(calls)

    async with s.cache(default_ttl=1_000) as cache:
        function = semantic_cache(cache=cache.cache, ttl=10, tags=["model-x"])(s.world.written(ask))
        assert await s.call(function, "q") == 1
        s.clock.advance(9.0)
        assert await s.call(function, "q") == 1
        s.clock.advance(1.0)
        assert await s.call(function, "q") == 2
        assert await cache.invalidate(tag="model-x") == 1
        assert await s.call(function, "q") == 3


@everywhere("memory")
async def test_a_threshold_of_its_own(s: Scene) -> None:
    """A function's threshold goes before the cache's, for this function alone."""

    async def strict(prompt: str) -> str:
        return prompt

    async def loose(prompt: str) -> str:
        return prompt

    vectors = {"asked": cosine(1.0), "near": cosine(0.7)}
    s.embedder.embed = _from(vectors, s)  # type: ignore[method-assign]
    async with s.cache(similarity_threshold=0.8) as cache:
        for function, threshold, expected in ((strict, None, "near"), (loose, 0.6, "asked")):
            decorated = semantic_cache(cache=cache.cache, threshold=threshold)(
                s.world.written(function)
            )
            await s.call(decorated, "asked")
            assert await s.call(decorated, "near") == expected
            assert (await s.call(decorated.explain, "near")).threshold == (threshold or 0.8)


def _from(vectors: dict[str, Any], s: Scene) -> Any:
    if not s.world.is_async:
        return vectors.__getitem__

    async def embed(text: str) -> Any:
        return vectors[text]

    return embed


@everywhere()
async def test_lookup_explain_invalidate_and_refresh(s: Scene) -> None:
    """Each takes the call's own arguments; only `refresh` calls the function."""
    calls = []

    async def ask(prompt: str, *, model: str = "m") -> int:
        calls.append(model)
        return len(calls)

    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache)(s.world.written(ask))
        assert (await s.call(function.lookup, "q")).reason == "absent"
        assert calls == []
        assert await s.call(function, "q") == 1
        hit = await s.call(function.lookup, "Q?", model="m")
        assert isinstance(hit, Hit)
        assert hit.response == 1
        assert not await s.call(function.lookup, "q", model="n")
        explained = await s.call(function.explain, "q")
        assert explained.outcome == hit
        assert await s.call(function.refresh, "q") == 2
        assert await s.call(function, "q") == 2
        assert await s.call(function.invalidate, "q", model="n") == 0
        assert await s.call(function.invalidate, "q") == 1
        assert await s.call(function.invalidate, "q") == 0
        assert await s.call(function, "q") == 3
        assert calls == ["m"] * 3


@everywhere()
async def test_cache_info_and_cache_clear(s: Scene) -> None:
    """As `functools.lru_cache` has them, for this function's entries alone."""

    async def one(prompt: str) -> str:
        return prompt

    async def two(prompt: str) -> str:
        return prompt

    async with s.cache(max_entries=100) as cache:
        first = semantic_cache(cache=cache.cache)(s.world.written(one))
        second = semantic_cache(cache=cache.cache)(s.world.written(two))
        assert first.cache_info() == (0, 0, 100, 0)
        for prompt in ("red", "red", "blue"):
            await s.call(first, prompt)
        with mneme.namespace("other"):
            await s.call(first, "red")
        await s.call(second, "red")
        assert first.cache_info() == (1, 3, 100, 3)
        assert first.cache_info().hits == 1
        with mneme.bypass():
            await s.call(first, "red")
        assert first.cache_info() == (1, 3, 100, 3)
        first.cache_clear()
        assert first.cache_info() == (0, 0, 100, 0)
        assert second.cache_info().currsize == 1
        assert not await s.call(first.lookup, "red")
        await s.call(second, "green")
    async with s.cache() as cache:
        assert (await cache.stats()).entries == 2


@everywhere("memory")
async def test_contexts_hold_inside_functions(s: Scene) -> None:
    """bypass, refresh and observe reach every decorated function that is called inside."""
    calls = []

    async def inner(prompt: str) -> int:
        calls.append("inner")
        return len(calls)

    async with s.cache() as cache:
        cached = semantic_cache(cache=cache.cache)(s.world.written(inner))

        async def outer(prompt: str) -> int:
            calls.append("outer")
            return await s.call(cached, prompt)

        function = semantic_cache(cache=cache.cache)(s.world.written(outer))
        with mneme.observe() as seen:
            assert await s.call(function, "q") == 2
        assert [one.reason for one in seen if isinstance(one, Miss)] == ["absent"] * 2
        with mneme.bypass():
            assert await s.call(function, "q") == 4
        assert await s.call(function, "q") == 2
        with mneme.refresh():
            assert await s.call(function, "q") == 6
        assert await s.call(function, "q") == 6
        assert await s.call(cached, "q") == 6


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Answer:
    text: str
    colour: Colour
    sizes: tuple[int, ...] = ()


@everywhere()
async def test_results_come_back_as_what_they_were(s: Scene) -> None:
    """By the annotation: dataclasses, enums, tuples and bytes are equal, type for type."""
    kept: dict[str, Any] = {
        "answer": Answer("a", Colour.RED, (1, 2)), "colour": Colour.RED, "raw": b"\0\xff",
        "pair": (1, "x"), "many": {"k": [Answer("b", Colour.RED)]}, "maybe": None,
    }  # fmt: skip

    async def answer(prompt: str) -> Answer:
        return kept[prompt]

    async def colour(prompt: str) -> Colour:
        return kept[prompt]

    async def raw(prompt: str) -> bytes:
        return kept[prompt]

    async def pair(prompt: str) -> tuple[int, str]:
        return kept[prompt]

    async def many(prompt: str) -> dict[str, list[Answer]]:
        return kept[prompt]

    async def maybe(prompt: str) -> Answer | None:
        return kept[prompt]

    for _ in range(2):
        async with s.cache() as cache:
            for function in (answer, colour, raw, pair, many, maybe):
                decorated = semantic_cache(cache=cache.cache)(s.world.written(function))
                name = function.__name__
                found = [await s.call(decorated, name) for _ in range(2)]
                assert found == [kept[name]] * 2
                assert type(found[1]) is type(kept[name])
                assert decorated.cache_info().hits > 0


@everywhere()
async def test_a_result_that_cannot_be_stored(s: Scene) -> None:
    """A result that would not come back equal is a CodecError, and leaves nothing stored."""
    calls = []

    async def untyped(prompt: str):
        calls.append(prompt)
        return {1: "not text"}

    async def wrong(prompt: str) -> list[int]:
        calls.append(prompt)
        return [object()]  # type: ignore[list-item]

    async with s.cache() as cache:
        for function in (untyped, wrong):
            decorated = semantic_cache(cache=cache.cache)(s.world.written(function))
            for _ in range(2):
                with pytest.raises(CodecError, match="Nothing was stored"):
                    await s.call(decorated, "q")
        assert len(calls) == 4
        assert (await cache.stats()).entries == 0


@everywhere()
async def test_a_codec_of_its_own(s: Scene) -> None:
    """`codec=` says how results are stored; without it a pickle is not read but asked again."""
    calls = []

    async def ask(prompt: str):
        calls.append(prompt)
        return {1, 2}

    with pytest.warns(UserWarning, match="runs code"):
        codec = mneme.codecs.PickleCodec()
    async with s.cache() as cache:
        function = semantic_cache(cache=cache.cache, codec=codec)(s.world.written(ask))
        assert [await s.call(function, "q") for _ in range(2)] == [{1, 2}] * 2
        assert calls == ["q"]
        plain = semantic_cache(cache=cache.cache)(s.world.written(ask))
        assert (await s.call(plain.lookup, "q")).reason == "undecodable"


@everywhere()
async def test_a_changed_annotation_asks_again(s: Scene) -> None:
    """An entry that the new result type cannot read is no hit; the new answer replaces it."""

    async def ask(prompt: str) -> str:
        return "text"

    async with s.cache() as cache:
        await s.call(semantic_cache(cache=cache.cache)(s.world.written(ask)), "q")
        old = ask

        async def ask(prompt: str) -> Answer:  # type: ignore[no-redef]
            return Answer("new", Colour.RED)

        assert old.__qualname__ == ask.__qualname__
        function = semantic_cache(cache=cache.cache)(s.world.written(ask))
        assert [await s.call(function, "q") for _ in range(2)] == [Answer("new", Colour.RED)] * 2
        assert function.cache_info() == (1, 1, None, 1)
