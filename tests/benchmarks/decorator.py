"""What an exact hit of a decorated function costs over the bare call."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator

import anyio
from lines import Line

from mneme import MemoryStore, SemanticCache, semantic_cache
from mneme.testing import HashEmbedder

ROUNDS = 150
CALLS = 300
"""Calls in one run; short enough that most runs are not interrupted."""

PROMPT = "What is the capital of France, and since when?"


def _prompts() -> list[str]:
    # New objects, as requests bring them: a string keeps its hash once it was asked for it.
    return [PROMPT[:at] + PROMPT[at:] for at in [1] * CALLS]


def medians(rounds: int, *subjects: Callable[[str], object]) -> list[float]:
    """
    Microseconds a call of each of `subjects`, which take the prompt: medians of short runs.

    Their runs alternate, so that a busy moment of the machine slows all of them alike.
    """
    times: list[list[float]] = [[] for _ in subjects]
    for _ in range(rounds):
        for subject, own in zip(subjects, times, strict=True):
            prompts = _prompts()
            start = time.perf_counter_ns()
            for prompt in prompts:
                subject(prompt)
            own.append((time.perf_counter_ns() - start) / CALLS / 1_000)
    return [statistics.median(own) for own in times]


async def async_medians(rounds: int, *subjects: Callable[[str], Awaitable[object]]) -> list[float]:
    """As `medians`, awaited on the running loop."""
    times: list[list[float]] = [[] for _ in subjects]
    for _ in range(rounds):
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


def sync_lines(rounds: int) -> Iterator[Line]:
    """A decorated ``def``, with the prompt alone and with arguments beside it."""
    cached = semantic_cache(cache=_memory_cache())(ask)
    cached(PROMPT)
    yield _line("def, prompt alone", *medians(rounds, ask, cached))
    client = object()
    full = semantic_cache(cache=_memory_cache(), ignore=("client",))(ask_with_arguments)
    full(client, PROMPT, model="m", temperature=0.2)
    bare, hit = medians(
        rounds,
        lambda prompt: ask_with_arguments(client, prompt, model="m", temperature=0.2),
        lambda prompt: full(client, prompt, model="m", temperature=0.2),
    )
    yield _line("def, with client, model and temperature", bare, hit)


async def async_line(backend: str, rounds: int) -> Line:
    """A decorated ``async def`` on the running loop."""
    cached = semantic_cache(cache=_memory_cache())(ask_async)
    await cached(PROMPT)
    return _line(f"async def on {backend}", *await async_medians(rounds, ask_async, cached))


def _line(what: str, bare: float, hit: float) -> Line:
    added = "µs over the bare call"
    return Line(
        f"decorated {what}, exact hit", hit - bare, added, "≤", 3.0, {"ours": hit, "against": bare}
    )


def measure(rounds: int = ROUNDS) -> Iterator[Line]:
    """All of them, in this process."""
    yield from sync_lines(rounds)
    for backend in ("asyncio", "trio"):
        yield anyio.run(async_line, backend, rounds, backend=backend)
