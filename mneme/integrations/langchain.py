"""The cache under LangChain's models (extra: ``mneme-toolkit[langchain]``)."""

from __future__ import annotations

import json
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

from mneme._core import flow
from mneme._core.core import core_of
from mneme._core.freshness import as_seconds
from mneme._core.keys import Ask, Unaskable, check_namespace, partition_of
from mneme._core.messages import Asked, split
from mneme._core.ports import BlockingPort, LoopPort, drive, embeds_async
from mneme._core.settings import check_threshold
from mneme.cache import AnyCache
from mneme.errors import CodecError
from mneme.records import Hit, Identity, Miss, Payload, Selection, Terms

try:
    from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
    from langchain_core.messages import message_to_dict, messages_from_dict
    from langchain_core.outputs import (
        ChatGeneration,
        ChatGenerationChunk,
        Generation,
        GenerationChunk,
    )
except ImportError as _exc:
    raise ImportError(
        "mneme.integrations.langchain needs langchain-core. "
        "Install it with: pip install 'mneme-toolkit[langchain]'"
    ) from _exc

__all__ = ["MnemeCache"]

T = TypeVar("T")

TAG = "langchain"
KINDS: dict[str, type[Generation]] = {
    kind.__name__: kind
    for kind in (Generation, GenerationChunk, ChatGeneration, ChatGenerationChunk)
}
OFFERS_TOOLS = ("'tools'", '"tools"', "'functions'", '"functions"')
"""In the text that says how a model is asked: an answer may be a call of one of them."""

MAX_MISSES = 1_024


class MnemeCache(BaseCache):
    """
    Pass it to ``langchain_core.globals.set_llm_cache``, or as ``cache=`` to one model.

    The last turn of a person is compared by meaning; earlier turns, model and settings must
    be equal. Where tools are offered, all of it must be. A failing embedder or store is as no
    cache at all. LangChain's ``.stream()`` asks no cache.
    """

    def __init__(
        self,
        cache: AnyCache,
        *,
        namespace: str | None = None,
        ttl: float | timedelta | None = None,
        threshold: float | None = None,
    ) -> None:
        """
        Args:
            cache: either face of a cache; ``.invoke()`` needs one whose embedder is sync.
            namespace: where answers belong; None: the one that is open around the call.
            ttl: seconds an answer lives; None: the cache's default.
            threshold: least cosine at which an answer is served; None: the cache's.

        Raises:
            ValueError: a setting that makes no sense; the message names it.
        """
        self._core = core_of(cache)
        self._namespace = None if namespace is None else check_namespace(namespace)
        self._terms = Terms(ttl=as_seconds(ttl, "ttl"), tags=(TAG,))
        self._threshold = None if threshold is None else check_threshold(threshold, "threshold")
        self._mine = Selection(self._namespace, TAG)
        # Between lookup and update, so that a prompt is embedded once.
        self._misses: dict[Identity, Miss] = {}

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """
        The stored generations; None where there are none.

        Raises:
            TypeError: the embedder is async.
        """
        return self._blocking(self._look(BlockingPort(self._core), prompt, llm_string))

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Store the generations, if they can be stored and read back equal; see `lookup`."""
        self._blocking(self._fill(BlockingPort(self._core), prompt, llm_string, return_val))

    def clear(self, **kwargs: Any) -> None:
        """Remove what LangChain's models have stored, in this cache's namespace if it has one."""
        self._core.remove_where(self._mine)

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """As `lookup`, on asyncio or trio; the embedder may be async."""
        return await self._look(LoopPort(self._core), prompt, llm_string)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """As `update`, on asyncio or trio; the embedder may be async."""
        await self._fill(LoopPort(self._core), prompt, llm_string, return_val)

    async def aclear(self, **kwargs: Any) -> None:
        """As `clear`."""
        await LoopPort(self._core).run(self._core.remove_where, self._mine)

    def _blocking(self, work: Coroutine[Any, Any, T]) -> T:
        if embeds_async(self._core.embedder):
            work.close()
            raise TypeError(
                f"{type(self._core.embedder).__name__} is async and `.invoke()` is not. Nothing "
                "was looked up. Use `.ainvoke()`, or wrap it with mneme.to_sync_embedder."
            )
        return drive(work)

    async def _look(self, port: flow.Port, prompt: str, llm_string: str) -> list[Generation] | None:
        ask = self._ask(prompt, llm_string)
        if ask is None:
            return None
        found = await flow.look(port, ask)
        if isinstance(found, Hit):
            generations: list[Generation] = found.response
            return generations
        if len(self._misses) >= MAX_MISSES:
            self._misses.clear()
        self._misses[ask.identity] = found
        return None

    async def _fill(
        self, port: flow.Port, prompt: str, llm_string: str, generations: RETURN_VAL_TYPE
    ) -> None:
        core, ask = self._core, self._ask(prompt, llm_string)
        if ask is None:
            return
        miss = self._misses.pop(ask.identity, None)
        if miss is None:
            miss = core.miss(ask, "absent")
        try:
            await flow.fill(port, miss, generations, self._terms)
        except CodecError as exc:
            core.tally.failed_open("storing of an answer", ask.namespace, exc, core.clock())

    def _ask(self, prompt: str, llm_string: str) -> Ask | None:
        core, asked = self._core, _asked(prompt)
        namespace = core.namespace(self._namespace)
        offers = any(word in llm_string for word in OFFERS_TOOLS)
        try:
            return core.ask(
                asked.prompt,
                namespace,
                partition=partition_of(namespace, TAG, llm_string, asked.rest),
                codec=_GENERATIONS,
                threshold=self._threshold,
                semantic=asked.semantic and not offers,
            )
        except Unaskable:
            return None


def _asked(prompt: str) -> Asked:
    """The question in a prompt: plain text, or LangChain's dump of messages."""
    try:
        dumped = json.loads(prompt)
        messages = [{**one["kwargs"], "role": one["kwargs"]["type"]} for one in dumped]
        return split(messages)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return Asked(prompt, None)


class _Generations:
    """Generations as JSON, without pickle and without names of classes to import."""

    def encode(self, value: Any, /) -> Payload:
        """
        Raises:
            CodecError: they would not come back equal.
        """
        try:
            record = [_plain(one) for one in value]
            payload = Payload("json", json.dumps(record, ensure_ascii=False))
            if self.decode(payload) == list(value):
                return payload
            raise ValueError("they would come back as something else")
        except (ValueError, TypeError, KeyError) as exc:
            raise CodecError(
                f"these generations cannot be stored: {exc}. Nothing was stored. "
                "Keep what is no JSON out of `generation_info` and the message's metadata."
            ) from exc

    def decode(self, payload: Payload, /) -> list[Generation]:
        """
        Raises:
            CodecError: the payload is none of this codec.
        """
        try:
            return [_generation(dict(one)) for one in json.loads(payload.data)]
        except (ValueError, TypeError, KeyError) as exc:
            raise CodecError(
                f"this entry holds no generations: {exc}. The entry was left as it is. "
                "Clear it, or let the next answer overwrite it."
            ) from exc

    def said(self, payload: Payload) -> str:
        """What the generations say, for comparing answers."""
        return "\n".join(str(one["text"]) for one in json.loads(payload.data))


_GENERATIONS = _Generations()


def _plain(generation: Generation) -> dict[str, Any]:
    kind = type(generation).__name__
    if KINDS.get(kind) is not type(generation):
        raise TypeError(f"{kind} is no generation of langchain-core")
    found = {"kind": kind, "text": generation.text, "generation_info": generation.generation_info}
    if isinstance(generation, ChatGeneration):
        found["message"] = message_to_dict(generation.message)
    return found


def _generation(record: dict[str, Any]) -> Generation:
    kind = KINDS[record.pop("kind")]
    if "message" in record:
        (record["message"],) = messages_from_dict([record["message"]])
    return kind(**record)
