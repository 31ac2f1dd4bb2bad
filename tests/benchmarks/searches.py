"""Lookups that the exact layer cannot answer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from corpus import Corpus
from subjects import answer
from timing import WARM_UP, at_rest, copied, filled, filled_file, run_on, warm

__all__ = ["AfterDeletes", "FanOut", "ManyNamespaces", "MixedTrace", "SemanticGet", "SharedFile"]

SEARCHES = 20
"""Searches of one round, each for another question."""

NEAR = 1e-4
"""Two ways to add up a cosine differ by less."""


def cpu_us(function: Callable[[Any], Any], arguments: list[Any]) -> tuple[float, list[Any]]:
    """Microseconds of processor a call, all threads of this process together; what was told."""
    start = time.process_time()
    told = [function(argument) for argument in arguments]
    return (time.process_time() - start) / len(arguments) * 1e6, told


def is_wrong(hit: Any, best: float, threshold: float) -> bool:
    """Whether a lookup says otherwise than comparing with all; within rounding both are right."""
    if abs(best - threshold) < NEAR:
        return False
    if best < threshold:
        return hit is not None
    return hit is None or abs(getattr(hit, "similarity", best) - best) > NEAR


class SemanticGet:
    """`cache.get` with a vector, against one matrix-vector product over the same vectors."""

    def __init__(
        self,
        kit: Any,
        folder: Path,
        *,
        data: str,
        entries: int,
        threshold: float,
        store: str = "memory",
        guarded: bool = False,
    ) -> None:
        corpus = Corpus.read(folder, data)
        path = folder / f"{kit.package}-semantic.db" if store == "file" else None
        settings: dict[str, Any] = {"similarity_threshold": threshold}
        if guarded:
            settings["guards"] = kit.default_guards
        self.cache = filled(kit, corpus, entries, path, **settings)
        self.vectors = corpus.entries(entries)[1]
        self.threshold, self.is_guarded = threshold, guarded
        self.questions = corpus.questions()
        warm(self.cache.get, self.questions)

    def round(self) -> dict[str, float]:
        asked = list(islice(self.questions, SEARCHES))
        against, best = cpu_us(lambda one: float((self.vectors @ one[1]).max()), asked)
        us, found = cpu_us(lambda one: self.cache.get(one[0], embedding=one[1]), asked)
        told = {"us": us, "against": against, "hits": sum(hit is not None for hit in found)}
        if not self.is_guarded:
            told["wrong"] = sum(map(is_wrong, found, best, [self.threshold] * len(asked)))
        return told


class AfterDeletes:
    """The same entries in a cache that held half as many more, against one that never did."""

    def __init__(self, kit: Any, folder: Path, *, data: str, entries: int) -> None:
        corpus = Corpus.read(folder, data)
        texts, vectors = corpus.entries(entries)
        gone = np.zeros(len(texts), bool)
        gone[np.random.default_rng(0).permutation(len(texts))[: len(texts) // 3]] = True
        self.old = filled(kit, corpus, entries, None)
        for at in np.flatnonzero(gone).tolist():
            self.old.delete(texts[at])
        self.fresh = kit.cache(corpus.dim)
        kept = np.flatnonzero(~gone)
        kit.fill(self.fresh, [texts[at] for at in kept.tolist()], vectors[kept])
        self.questions = corpus.questions()
        warm(self.old.get, self.questions)
        warm(self.fresh.get, self.questions)

    def round(self) -> dict[str, float]:
        return compared(self.old, self.fresh, self.questions)


class ManyNamespaces:
    """A namespace of `own` entries beside `namespaces` with `rest` in all, against alone."""

    def __init__(
        self, kit: Any, folder: Path, *, data: str, own: int, rest: int, namespaces: int
    ) -> None:
        corpus = Corpus.read(folder, data)
        texts, vectors = corpus.entries(own + rest)
        self.alone, self.among = kit.cache(corpus.dim), kit.cache(corpus.dim)
        own = min(own, len(texts) - namespaces)
        for cache in (self.alone, self.among):
            kit.fill(cache, texts[:own], vectors[:own])
        for at in range(namespaces):
            share = slice(own + at, None, namespaces)
            kit.fill(self.among, texts[share], vectors[share], namespace=f"tenant-{at}")
        self.questions = corpus.questions()
        warm(self.among.get, self.questions)
        warm(self.alone.get, self.questions)

    def round(self) -> dict[str, float]:
        return compared(self.among, self.alone, self.questions)


def compared(cache: Any, other: Any, questions: Any) -> dict[str, float]:
    """Both are asked the same; what the processor has at hand is the same for both."""
    asked = list(islice(questions, SEARCHES))
    times: dict[int, list[float]] = {id(cache): [], id(other): []}
    for at, one in enumerate(asked):
        for own in (cache, other) if at % 2 else (other, cache):
            start = time.process_time()
            own.get(one[0], embedding=one[1])
            times[id(own)].append((time.process_time() - start) * 1e6)
    us, against = (statistics.mean(times[id(own)]) for own in (cache, other))
    return {"us": us, "against": against}


class FanOut:
    """So many new questions at once on one loop, answered from a file of `entries`."""

    BURSTS = 5

    def __init__(
        self, kit: Any, folder: Path, *, data: str, entries: int, tasks: int, backend: str
    ) -> None:
        self.kit, self.backend, self.tasks = kit, backend, tasks
        self.corpus = Corpus.read(folder, data)
        self.path = filled_file(kit, folder, data, entries)

    def round(self) -> dict[str, float]:
        return {"ms": run_on(self.backend, self._round)}

    async def _round(self) -> float:
        questions = self.corpus.questions()
        known = dict(self.corpus.questions())
        async with self.kit.async_cache(self.path, self.corpus.dim, known) as cache:
            for _ in range(4):
                for text, _ in islice(questions, WARM_UP // 4):
                    await cache.get(text)
                at_rest()
            times = []
            for _ in range(self.BURSTS):
                asked = [text for text, _ in islice(questions, self.tasks)]
                start = time.perf_counter()
                await self._all(cache, asked)
                times.append((time.perf_counter() - start) * 1e3)
        return statistics.median(times)

    async def _all(self, cache: Any, asked: list[str]) -> None:
        if self.backend == "asyncio":
            import asyncio

            await asyncio.gather(*map(cache.get, asked))
            return
        import trio

        async with trio.open_nursery() as nursery:
            for text in asked:
                nursery.start_soon(cache.get, text)


class MixedTrace:
    """60 of 100 questions are known by their words; a miss is answered and stored, in a file."""

    EXACT, FRESH = 60, 40

    def __init__(self, kit: Any, folder: Path, *, data: str, entries: int) -> None:
        corpus = Corpus.read(folder, data)
        self.texts = corpus.entries(entries)[0]
        self.known = dict(corpus.questions())
        path = folder / f"{kit.package}-mixed.db"
        self.cache = filled(kit, corpus, entries, path, known=self.known)
        self.questions = corpus.questions()
        self.random = np.random.default_rng(0)
        warm(self.cache.get, self.questions)

    def round(self) -> dict[str, float]:
        fresh = [text for text, _ in islice(self.questions, self.FRESH)]
        exact = [self.texts[at] for at in self.random.integers(len(self.texts), size=self.EXACT)]
        asked = [*fresh, *exact]
        self.random.shuffle(asked)
        start = time.perf_counter()
        for text in asked:
            if self.cache.get(text) is None:
                self.cache.put(text, answer(0), embedding=self.known[text])
        return {"us": (time.perf_counter() - start) / len(asked) * 1e6}


class SharedFile(MixedTrace):
    """The same by one of several processes on one file; what each of them gets done."""

    def __init__(
        self, kit: Any, folder: Path, *, data: str, entries: int, worker: int, workers: int
    ) -> None:
        corpus = Corpus.read(folder, data)
        self.texts = corpus.entries(entries)[0]
        self.known = dict(corpus.questions())
        path = folder / f"{kit.package}-shared-{workers}.db"
        if worker == 0:
            copied(filled_file(kit, folder, data, entries), path)
        self.cache = kit.cache(corpus.dim, path, known=self.known)
        self.questions = islice(corpus.questions(), worker, None, workers)
        self.random = np.random.default_rng(worker)
        warm(self.cache.get, self.questions)

    def round(self) -> dict[str, float]:
        return {"per_second": 1e6 / super().round()["us"]}
