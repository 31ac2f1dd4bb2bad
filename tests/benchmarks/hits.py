"""Hits in the exact layer."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from corpus import generated
from timing import run_on, us_a_call

__all__ = ["AsyncExactHit", "ExactHit"]

CALLS = 200
RUNS = 30
DIM = 16
"""The exact layer does not look at vectors."""


class ExactHit:
    """`cache.get` of texts that are there, against a dict get of the same."""

    def __init__(self, kit: Any, folder: Path, *, store: str, entries: int) -> None:
        path = folder / f"{kit.package}-exact-{entries}.db" if store == "file" else None
        self.cache = kit.cache(DIM, path)
        self.texts = store_some(kit, self.cache, entries)
        self.known = dict.fromkeys(self.texts, "an answer")
        self.random = np.random.default_rng(0)
        if not all(map(self.cache.get, self.texts[:50])):
            raise AssertionError("a text that was stored is not found")

    def asked(self) -> list[str]:
        """New objects, as requests bring them: a string keeps its hash once it has it."""
        picks = self.random.integers(len(self.texts), size=CALLS).tolist()
        return [self.texts[at][:1] + self.texts[at][1:] for at in picks]

    def round(self) -> dict[str, float]:
        us, against = [], []
        for _ in range(RUNS):
            # The same texts, in other objects.
            picked = self.asked()
            against.append(us_a_call(self.known.get, [text[:1] + text[1:] for text in picked]))
            us.append(us_a_call(self.cache.get, picked))
        return {"us": statistics.median(us), "against": statistics.median(against)}


class AsyncExactHit:
    """``await cache.get`` of texts that are there, against awaiting a function that has them."""

    def __init__(self, kit: Any, folder: Path, *, backend: str, entries: int) -> None:
        self.kit, self.backend = kit, backend
        self.path = folder / f"{kit.package}-await-{backend}-{entries}.db"
        cache = kit.cache(DIM, self.path)
        self.texts = store_some(kit, cache, entries)
        cache.close()

    def round(self) -> dict[str, float]:
        return dict(run_on(self.backend, self._round))

    async def _round(self) -> dict[str, float]:
        known = dict.fromkeys(self.texts, "an answer")
        random = np.random.default_rng(0)

        async def bare(text: str) -> object:
            return known.get(text)

        us, against = [], []
        async with self.kit.async_cache(self.path, DIM, {}) as cache:
            for _ in range(RUNS):
                for get, times in ((bare, against), (cache.get, us)):
                    picks = random.integers(len(self.texts), size=CALLS).tolist()
                    asked = [self.texts[at][:1] + self.texts[at][1:] for at in picks]
                    start = time.perf_counter_ns()
                    for text in asked:
                        await get(text)
                    times.append((time.perf_counter_ns() - start) / CALLS / 1_000)
        return {"us": statistics.median(us), "against": statistics.median(against)}


def store_some(kit: Any, cache: Any, entries: int) -> list[str]:
    """The texts of so many new entries."""
    texts = generated(entries)
    vectors = np.random.default_rng(0).standard_normal((entries, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kit.fill(cache, texts, vectors)
    kit.settle(cache)
    return texts
