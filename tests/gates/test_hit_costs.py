"""
What an exact hit costs, as ratios to a look into a dictionary in the same process.

The least of many short runs is taken on both sides, which a busy machine hardly moves; bounds
are about twice what was measured on one. Figures are in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from timeit import repeat

import pytest

from mneme import MemoryStore, SemanticCache, semantic_cache
from mneme.testing import HashEmbedder

pytestmark = pytest.mark.timing

EMBEDDER = HashEmbedder(8)
ANSWER = "an answer of some length " * 10


def prompts(count: int) -> list[str]:
    return [f"what is the meaning of question number {at}" for at in range(count)]


def cost(work: Callable[[], object]) -> float:
    return min(repeat(work, number=500, repeat=40)) / 500


def look(count: int) -> float:
    """What it costs to look into a dictionary of `count` prompts, from a function."""
    known = dict.fromkeys(prompts(count), ANSWER)
    asked = prompts(count)[count // 2]
    return cost(lambda: known[asked])


def filled(count: int, path: Path | None = None) -> SemanticCache:
    cache = SemanticCache(
        path, store=MemoryStore() if path is None else None, embedder=EMBEDDER, self_check=False
    )
    vector = EMBEDDER.embed("all the same")
    cache.put_many([(one, ANSWER) for one in prompts(count)], embeddings=[vector] * count)
    return cache


def hit(cache: SemanticCache, count: int) -> float:
    asked = prompts(count)[count // 2]
    found = cache.get(asked)
    assert found is not None
    assert found.layer == "exact"
    return cost(lambda: cache.get(asked))


def test_an_exact_hit_costs_some_looks_into_a_dictionary() -> None:
    """Of 0.03 µs each; a store that was asked, or a lock waited for, would cost thousands."""
    with filled(1_000) as cache:
        assert hit(cache, 1_000) < 80 * look(1_000)


def test_a_file_costs_no_more_than_memory(tmp_path: Path) -> None:
    """The one thing more is a look at eight bytes that processes share."""
    with filled(1_000) as memory, filled(1_000, tmp_path / "cache.db") as file:
        assert hit(file, 1_000) < 2.0 * hit(memory, 1_000)


def test_a_hit_costs_the_same_in_a_large_cache() -> None:
    """Fifty times the entries change nothing but what a processor's cache can hold."""
    with filled(1_000) as small, filled(50_000) as large:
        assert hit(large, 50_000) < 2.0 * hit(small, 1_000)


@pytest.mark.parametrize("arguments", [{}, {"model": "small"}])
def test_a_decorated_call_costs_little_more(arguments: dict[str, str]) -> None:
    """Binding the arguments and finding their partition come on top of a hit."""
    with filled(1_000) as cache:

        @semantic_cache(cache=cache)
        def ask(prompt: str, *, model: str = "large") -> str:
            return ANSWER

        ask("q", **arguments)
        assert ask.cache_info().misses == 1
        called = cost(lambda: ask("q", **arguments))
        assert ask.cache_info().misses == 1
        assert called < 4.0 * hit(cache, 1_000)
