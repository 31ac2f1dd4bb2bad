"""LangChain's own models over a cache of mneme's, sync and async."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from langchain_core.caches import BaseCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListLLM
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    Generation,
    GenerationChunk,
)
from support.worlds import LOOPS

import mneme
from mneme import AsyncSemanticCache, MemoryStore, SemanticCache
from mneme.errors import CodecError, NamespaceRequiredError
from mneme.integrations.langchain import _GENERATIONS, MnemeCache
from mneme.records import Payload
from mneme.testing import HashEmbedder, ManualClock
from mneme.types import AsyncEmbedder

pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")

ASKED = "how do i reset my old password"
REWORDED = "how do i reset my old password please"
USAGE = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
CALL = {"name": "look_up", "args": {"id": 7}, "id": "c1", "type": "tool_call"}


class Model(BaseChatModel):
    """A chat model that counts its calls, and answers with all that a message may hold."""

    temperature: float = 0.0
    calls: int = 0

    @property
    def _llm_type(self) -> str:
        return "counting"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"temperature": self.temperature}

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
        self.calls += 1
        message = AIMessage(
            [{"type": "text", "text": f"answer number {self.calls}"}],
            usage_metadata=USAGE,
            tool_calls=[CALL],
            response_metadata={"model_name": "m", "finish_reason": "stop"},
            additional_kwargs={"reasoning_content": "hm, \u00fc"},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> SemanticCache:
    return SemanticCache(
        store=MemoryStore(),
        embedder=HashEmbedder(),
        similarity_threshold=0.7,
        self_check=False,
        clock=clock,
    )


@pytest.fixture(params=["invoke", *LOOPS])
def ask(request: pytest.FixtureRequest) -> Any:
    """Ask a model something, in one of the worlds."""
    way: str = request.param
    if way == "invoke":
        return lambda model, asked, **more: model.invoke(asked, **more)

    def on_a_loop(model: Any, asked: Any, **more: Any) -> Any:
        async def main() -> Any:
            # Not `ainvoke`, whose callbacks need asyncio whatever the cache can do.
            if way == "asyncio":
                return await model.ainvoke(asked, **more)
            prompt, how = dumped(model, asked), "m"
            found = await model.cache.alookup(prompt, how)
            if found is None:
                found = model._generate([]).generations
                await model.cache.aupdate(prompt, how, found)
            return found[0].message

        return anyio.run(main, backend=way)

    return on_a_loop


def dumped(model: Any, asked: Any) -> str:
    from langchain_core.load import dumps

    return dumps(model._convert_input(asked).to_messages())


def said(message: Any) -> dict[str, Any]:
    """All of a message but its id, and what LangChain adds to the usage of what was cached."""
    found = message.model_dump()
    usage = dict(found.pop("usage_metadata"))
    usage.pop("total_cost", None)
    found.pop("id")
    return {**found, "usage_metadata": usage}


def test_item_33_a_question_is_paid_for_once(cache: Any, ask: Any) -> None:
    """Equal and reworded; the message of a hit is that of the miss, field by field."""
    model = Model(cache=MnemeCache(cache))
    miss, exact, near = [ask(model, text) for text in (ASKED, ASKED, REWORDED)]
    assert said(miss) == said(exact) == said(near)
    assert near.tool_calls == [CALL]
    assert model.calls == 1
    ask(model, "where is a bakery")
    assert model.calls == 2
    stats = cache.stats()
    assert (stats.hits_exact, stats.hits_semantic, stats.misses) == (1, 1, 2)


def test_item_33_a_prompt_is_embedded_once(cache: Any) -> None:
    """What the lookup has measured, the update does not measure again."""
    texts: list[str] = []
    embed = cache._core.embedder.embed
    cache._core.embedder.embed = lambda text: texts.append(text) or embed(text)
    Model(cache=MnemeCache(cache)).invoke(ASKED)
    assert texts == [ASKED]


def test_item_33_only_the_last_turn_is_compared(cache: Any, ask: Any) -> None:
    """Another system text, another earlier turn: another question, however alike."""
    model = Model(cache=MnemeCache(cache))
    for start in ("be short", "be polite"):
        for text in (ASKED, REWORDED):
            ask(model, [SystemMessage(start), HumanMessage(text)])
    assert model.calls == 2
    talk = [HumanMessage("hello"), AIMessage("what is it"), HumanMessage(ASKED)]
    ask(model, talk)
    ask(model, [*talk[:2], HumanMessage(REWORDED)])
    assert model.calls == 3
    ask(model, [HumanMessage("hello"), AIMessage("yes"), HumanMessage(ASKED)])
    assert model.calls == 4


@pytest.mark.parametrize("tail", [ToolMessage("7 found", tool_call_id="c1"), AIMessage("so")])
def test_item_33_what_is_no_question_must_be_equal(cache: Any, tail: Any) -> None:
    """A tool's result, or an answer to go on with."""
    model = Model(cache=MnemeCache(cache))
    model.invoke([HumanMessage(ASKED), tail])
    model.invoke([HumanMessage(ASKED), tail])
    assert model.calls == 1
    model.invoke([HumanMessage(REWORDED), tail])
    assert model.calls == 2


def test_item_33_where_tools_are_offered_all_must_be_equal(cache: Any) -> None:
    """The answer may be a call that does something."""
    tools = [{"type": "function", "function": {"name": "delete_account"}}]
    model = Model(cache=MnemeCache(cache))
    for text, calls in ((ASKED, 1), (ASKED, 1), (REWORDED, 2)):
        model.invoke(text, tools=tools)
        assert model.calls == calls


def test_item_33_settings_and_namespaces_are_kept_apart(cache: Any) -> None:
    """Another temperature, another stop, another tenant."""
    adapter = MnemeCache(cache)
    cold, warm = Model(cache=adapter), Model(cache=adapter, temperature=1.0)
    for model in (cold, warm):
        model.invoke(ASKED)
        model.invoke(REWORDED)
        assert model.calls == 1
    cold.invoke(ASKED, stop=["."])
    with mneme.namespace("tenant-7"):
        cold.invoke(ASKED)
    assert cold.calls == 3
    Model(cache=MnemeCache(cache, namespace="tenant-7"), calls=9).invoke(ASKED)
    assert cache.stats("tenant-7").hits_exact == 1


def test_item_33_the_terms_of_an_answer(cache: Any, clock: ManualClock) -> None:
    """A lifetime and a threshold of its own; the blocks around a call count."""
    model = Model(cache=MnemeCache(cache, ttl=60, threshold=0.999))
    for text in (ASKED, ASKED, REWORDED):
        model.invoke(text)
    assert model.calls == 2
    clock.advance(61)
    model.invoke(ASKED)
    assert model.calls == 3
    with mneme.bypass():
        model.invoke(ASKED)
    with mneme.refresh():
        model.invoke(ASKED)
    assert model.calls == 5
    for wrong in ({"ttl": -1}, {"threshold": 85}, {"namespace": ""}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MnemeCache(cache, **wrong)


def test_item_33_clear_removes_what_langchain_has_stored(cache: Any) -> None:
    """Nothing else in the cache, and nothing of other namespaces."""
    cache.put("mine", "stays")
    for name in ("a", "b"):
        Model(cache=MnemeCache(cache, namespace=name)).invoke(ASKED)
    MnemeCache(cache, namespace="a").clear()
    assert {name: cache.stats(name).entries for name in "ab"} == {"a": 0, "b": 1}
    anyio.run(MnemeCache(cache).aclear)
    assert cache.stats().entries == 1
    assert cache.get("mine").response == "stays"


def test_item_33_completions_and_the_global_cache(cache: Any) -> None:
    """A model of plain text; the whole prompt is the question."""
    model = FakeListLLM(responses=["one", "two", "three"])
    set_llm_cache(MnemeCache(cache))
    try:
        assert [model.invoke(text) for text in (ASKED, REWORDED)] == ["one", "one"]
        assert model.invoke("[1, 2]") == "two"
        assert model.invoke("   ") == "three"
    finally:
        set_llm_cache(None)


def test_item_33_an_embedder_that_is_down_is_no_cache(cache: Any, ask: Any) -> None:
    """The model answers; the cache counts what it could not do."""

    def down(text: str) -> Any:
        raise OSError("no network")

    cache._core.embedder.embed = down
    model = Model(cache=MnemeCache(cache))
    ask(model, ASKED)
    ask(model, ASKED)
    assert model.calls == 2
    assert cache.stats().failed_open == 2


def test_item_33_an_async_embedder_is_for_async_calls() -> None:
    """`.invoke()` says what to do, `.ainvoke()` works."""

    class Remote(AsyncEmbedder):
        dim, fingerprint = 64, "remote"

        async def embed(self, text: str) -> Any:
            return HashEmbedder(64).embed(text)

    cache = AsyncSemanticCache(
        store=MemoryStore(), embedder=Remote(), similarity_threshold=0.7, self_check=False
    )
    model = Model(cache=MnemeCache(cache))
    with pytest.raises(TypeError, match="to_sync_embedder"):
        model.invoke(ASKED)

    async def main() -> None:
        for text in (ASKED, REWORDED):
            await model.ainvoke(text)

    anyio.run(main)
    assert model.calls == 1


def test_item_33_a_namespace_that_is_required_is_asked_for() -> None:
    """A mistake of the developer's is told, not swallowed."""
    cache = SemanticCache(store=MemoryStore(), embedder=HashEmbedder(), require_namespace=True)
    with pytest.raises(NamespaceRequiredError, match="namespace"):
        Model(cache=MnemeCache(cache)).invoke(ASKED)


@pytest.mark.parametrize(
    "generation",
    [
        Generation(text="plain", generation_info={"finish_reason": "stop", "logprobs": [0.5]}),
        GenerationChunk(text="a part"),
        ChatGeneration(message=AIMessage("text", id="run-1", name="bot")),
        ChatGenerationChunk(message=AIMessageChunk("text", usage_metadata=USAGE)),
        ChatGeneration(message=AIMessage([{"type": "text", "text": "a"}, {"type": "image"}])),
    ],
)
def test_item_33_generations_come_back_equal(generation: Any) -> None:
    """Of every kind, as JSON."""
    payload = _GENERATIONS.encode([generation, generation])
    assert payload.kind == "json"
    found = _GENERATIONS.decode(payload)
    assert found == [generation, generation]
    assert type(found[0]) is type(generation)
    assert _GENERATIONS.said(payload) == f"{generation.text}\n{generation.text}"


class Odd(Generation):
    """A generation of somebody else's."""


@pytest.mark.parametrize(
    "generation",
    [
        Odd(text="x"),
        Generation(text="x", generation_info={"at": object()}),
        Generation(text="x", generation_info={"pair": (1, 2)}),
    ],
)
def test_item_33_what_would_come_back_otherwise_is_not_stored(cache: Any, generation: Any) -> None:
    """The caller has it all the same, and the cache counts it."""
    with pytest.raises(CodecError, match="Keep what is no JSON"):
        _GENERATIONS.encode([generation])
    adapter: BaseCache = MnemeCache(cache)
    adapter.update(ASKED, "m", [generation])
    assert adapter.lookup(ASKED, "m") is None
    assert cache.stats().failed_open == 1


@pytest.mark.parametrize("data", ["{}x", "[1]", '[{"kind": "Path", "text": "x"}]', "[{}]", "1"])
def test_item_33_what_is_no_generation_is_no_answer(data: str) -> None:
    """An entry that somebody else wrote is undecodable, not served."""
    with pytest.raises(CodecError, match="Clear it"):
        _GENERATIONS.decode(Payload("json", data))
