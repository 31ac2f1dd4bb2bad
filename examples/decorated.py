"""
`semantic_cache` on every kind of function: def, async def, method, generator; with tenants
and with chat messages.

Run ``python examples/decorated.py``. Needs ``pip install 'mneme-toolkit[demo]'`` for its
embedder, which works offline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from reference_embedders.offline_embedder import WordLlamaEmbedder

from mneme import MemoryStore, SemanticCache, namespace, semantic_cache

# One cache for all functions of this file; each has a partition of its own in it.
cache = SemanticCache(store=MemoryStore(), embedder=WordLlamaEmbedder(), similarity_threshold=0.7)
asked: list[str] = []


def model(prompt: str, name: str = "small") -> str:
    """Stands in for the model; remembers what it was asked."""
    asked.append(prompt)
    return f"[{name}] an answer to {prompt!r}"


def show(title: str) -> None:
    print(f"{len(asked)} model call{'s' if len(asked) > 1 else ' '}  {title}")
    asked.clear()


# A plain function. `name` is not the prompt, so another model never gets this one's answer.
@semantic_cache(cache=cache)
def ask(prompt: str, *, name: str = "small") -> str:
    return model(prompt, name)


@semantic_cache(cache=cache)
async def ask_async(prompt: str) -> str:
    return model(prompt)


# What a function returns comes back as what it was, by its annotation.
@dataclass(frozen=True)
class Verdict:
    text: str
    is_safe: bool


class Reviewer:
    # `self` tells answers apart; this class says what matters about an instance.
    def __init__(self, language: str) -> None:
        self.language = language

    def __mneme_key__(self) -> str:
        return self.language

    @semantic_cache(cache=cache)
    def review(self, text: str) -> Verdict:
        return Verdict(model(text, self.language), is_safe=True)


# A stream passes item by item; it is kept only if it comes to its end, and replayed the same way.
@semantic_cache(cache=cache)
def stream(prompt: str) -> Iterator[str]:
    yield from model(prompt).split()


# A list of chat messages: the last turn is compared, all before it must be equal.
@semantic_cache(cache=cache, prompt="messages")
def chat(messages: list[dict[str, str]]) -> str:
    return model(messages[-1]["content"])


def main() -> None:
    ask("How do I reset my password?")
    ask("I forgot my password, how do I reset it?")
    ask("How do I reset my password?", name="large")
    show("def: a question, the same in other words, the same for another model")

    async def both() -> None:
        await ask_async("Where is my parcel?")
        await ask_async("where is my  parcel")

    asyncio.run(both())
    show("async def: a question, typed differently")

    first = Reviewer("de").review("This text is fine.")
    again = Reviewer("de").review("This text is fine!")
    assert first == again
    assert isinstance(again, Verdict)
    Reviewer("fr").review("This text is fine.")
    show("method: German twice, French once")

    words = list(stream("Tell me a story about a fox."))
    assert list(stream("tell me a story about a fox")) == words
    show("generator: a stream and its replay")

    for tenant in ("north", "south", "north"):
        with namespace(tenant):
            ask("What did we earn last year?")
    show("namespaces: the same question by two tenants, one of them twice")

    order = [{"role": "user", "content": "I have ordered a lamp."},
             {"role": "assistant", "content": "It comes on Monday. Cancel it?"}]  # fmt: skip
    trip = [{"role": "user", "content": "I have booked a trip."},
            {"role": "assistant", "content": "It begins on Monday. Cancel it?"}]  # fmt: skip
    for earlier in (order, trip, order):
        chat([*earlier, {"role": "user", "content": "Yes, cancel it"}])
    show("chat: the same last words in two conversations, one of them twice")

    print(f"\n{ask.cache_info()}")
    print(ask.explain("Please tell me how I reset my password"))


if __name__ == "__main__":
    main()
    cache.close()
