"""
What an entry takes of memory, by what Python and numpy have allocated: the same on any machine.

What the process takes, with the sketch of a searched index and with what allocators keep, is
in docs/performance.md.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mneme import SemanticCache
from mneme.testing import HashEmbedder

ENTRIES = 8_192
"""A power of two, at which an index has room for no more rows than it has."""

DIM = 384
ANSWER = "an answer of four hundred and thirty characters " * 9

EMBEDDER = HashEmbedder(DIM)


def opened(path: Path, settings: dict[str, Any]) -> SemanticCache:
    return SemanticCache(path, embedder=EMBEDDER, self_check=False, **settings)


def fill(cache: SemanticCache) -> None:
    """Half of the entries live for a day."""
    vectors = np.random.default_rng(0).normal(size=(ENTRIES, DIM)).astype(np.float32)
    for start in range(0, ENTRIES, 512):
        pairs = [
            (f"what is the meaning of question number {at}, and why?", ANSWER[:430])
            for at in range(start, start + 512)
        ]
        own = vectors[start : start + 512]
        cache.put_many(pairs, embeddings=own, ttl=86_400.0 if start % 1_024 else None)
    cache.stats()


def bytes_of_an_entry(make: Callable[[], SemanticCache]) -> float:
    """What is allocated by `make`, and still is when nothing waits to be written, by entry."""
    gc.collect()
    tracemalloc.start(1)
    try:
        cache = make()
        # Who removes something waits until memory is filled, and `compact` until all is written.
        cache.clear_namespace("nobody's")
        cache.compact()
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.stats().entries == ENTRIES
    cache.close()
    return taken / ENTRIES


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, 2_750),
        ({"vector_dtype": "int8"}, 1_550),
        ({"answers": "store"}, 2_100),
        ({"vector_dtype": "int8", "answers": "store"}, 1_000),
    ],
    ids=["float32", "int8", "store", "int8-store"],
)
def test_what_an_entry_takes(settings: dict[str, Any], most: float, tmp_path: Path) -> None:
    """Whether it was put by this process or read from the file."""

    def put() -> SemanticCache:
        cache = opened(tmp_path / "cache.db", settings)
        fill(cache)
        return cache

    assert bytes_of_an_entry(put) <= most
    assert bytes_of_an_entry(lambda: opened(tmp_path / "cache.db", settings)) <= most
