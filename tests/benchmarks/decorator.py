"""What an exact hit costs: decorated functions against bare calls, `cache.get` against a dict."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio

from mneme import MemoryStore, SemanticCache, semantic_cache
from mneme.testing import HashEmbedder

ROUNDS = 150
CALLS = 300
"""Calls in one run; short enough that most runs are not interrupted."""

PROMPT = "What is the capital of France, and since when?"
ENTRIES = 1_000
"""Entries beside the one that is asked for."""


@dataclass(frozen=True)
class Row:
    """One figure: microseconds a call, beside what it is measured against in the same run."""

    what: str
    against: str
    us: float
    against_us: float

    @property
    def added_us(self) -> float:
        return self.us - self.against_us

    @property
    def ratio(self) -> float:
        return self.us / self.against_us

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "added_us": self.added_us, "ratio": self.ratio}


def _prompts() -> list[str]:
    # New objects, as requests bring them: a string keeps its hash once it was asked for it.
    return [PROMPT[:at] + PROMPT[at:] for at in [1] * CALLS]


def medians(*subjects: Callable[[str], object]) -> list[float]:
    """
    Microseconds a call of each of `subjects`, which take the prompt: medians of short runs.

    Their runs alternate, so that a busy moment of the machine slows all of them alike.
    """
    times: list[list[float]] = [[] for _ in subjects]
    for _ in range(ROUNDS):
        for subject, own in zip(subjects, times, strict=True):
            prompts = _prompts()
            start = time.perf_counter_ns()
            for prompt in prompts:
                subject(prompt)
            own.append((time.perf_counter_ns() - start) / CALLS / 1_000)
    return [statistics.median(own) for own in times]


async def async_medians(*subjects: Callable[[str], Awaitable[object]]) -> list[float]:
    """As `medians`, awaited on the running loop."""
    times: list[list[float]] = [[] for _ in subjects]
    for _ in range(ROUNDS):
        for subject, own in zip(subjects, times, strict=True):
            prompts = _prompts()
            start = time.perf_counter_ns()
            for prompt in prompts:
                await subject(prompt)
            own.append((time.perf_counter_ns() - start) / CALLS / 1_000)
    return [statistics.median(own) for own in times]


def ask(prompt: str) -> str:
    return "Paris, since 987."


def ask_with_arguments(client: object, prompt: str, *, model: str, temperature: float = 0.0) -> str:
    return "Paris, since 987."


async def ask_async(prompt: str) -> str:
    return "Paris, since 987."


def _memory_cache() -> SemanticCache:
    return SemanticCache(store=MemoryStore(), embedder=HashEmbedder(64))


def _filled(cache: SemanticCache) -> SemanticCache:
    cache.put_many({f"{PROMPT} {n}": "an answer" for n in range(ENTRIES)})
    cache.put(PROMPT, "Paris, since 987.")
    return cache


def sync_rows() -> Iterator[Row]:
    """A decorated ``def``, with the prompt alone and with arguments beside it."""
    cached = semantic_cache(cache=_memory_cache())(ask)
    cached(PROMPT)
    bare, hit = medians(ask, cached)
    yield Row("def, prompt alone", "the bare call", hit, bare)
    client = object()
    full = semantic_cache(cache=_memory_cache(), ignore=("client",))(ask_with_arguments)
    full(client, PROMPT, model="m", temperature=0.2)
    bare, hit = medians(
        lambda prompt: ask_with_arguments(client, prompt, model="m", temperature=0.2),
        lambda prompt: full(client, prompt, model="m", temperature=0.2),
    )
    yield Row("def, client, model, temperature", "the bare call", hit, bare)


async def async_row(backend: str) -> Row:
    """A decorated ``async def`` on the running loop."""
    cached = semantic_cache(cache=_memory_cache())(ask_async)
    await cached(PROMPT)
    bare, hit = await async_medians(ask_async, cached)
    return Row(f"async def on {backend}", "the bare call", hit, bare)


def get_rows() -> Iterator[Row]:
    """`cache.get` of a prompt that is there, of either store, against a dict with it as key."""
    known = {f"{PROMPT} {n}": "an answer" for n in range(ENTRIES)} | {PROMPT: "Paris"}
    with tempfile.TemporaryDirectory() as folder:
        caches = {
            "MemoryStore": _filled(_memory_cache()),
            "SQLite file": _filled(
                SemanticCache(Path(folder) / "cache.db", embedder=HashEmbedder(64))
            ),
        }
        for name, cache in caches.items():
            bare, hit = medians(known.get, cache.get)
            yield Row(f"cache.get, {name}", "a dict get", hit, bare)
            cache.close()


def measure() -> list[Row]:
    """All figures of this page, in one process."""
    on_loops = [anyio.run(async_row, name, backend=name) for name in ("asyncio", "trio")]
    return [*sync_rows(), *on_loops, *get_rows()]
