"""Puts, fills, openings, removals, and what an entry takes of memory."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

from corpus import Corpus
from subjects import Unsupported, answer
from timing import DAY, WARM_UP, at_rest, copied, filled, filled_file, percentile, removed

__all__ = [
    "ClearNamespace",
    "Fill",
    "MemoryOfEntries",
    "OpenFile",
    "Puts",
    "PutsAtTheLimit",
    "Vacuum",
]


def times_of(cache: Any, pairs: Any) -> list[float]:
    """Microseconds of each put."""
    times = []
    for at, (text, vector) in enumerate(pairs):
        start = time.perf_counter_ns()
        cache.put(text, answer(at), embedding=vector)
        times.append((time.perf_counter_ns() - start) / 1_000)
    return times


def spread(times: list[float]) -> dict[str, float]:
    return {
        "us": percentile(times, 0.5),
        "mean": statistics.fmean(times),
        "p99": percentile(times, 0.99),
        "worst_ms": max(times) / 1e3,
    }


class Puts:
    """So many puts one after the other into a new cache, each timed until it returns."""

    def __init__(
        self, kit: Any, folder: Path, *, data: str, entries: int, store: str, durability: str
    ) -> None:
        self.kit, self.folder, self.count = kit, folder, entries
        self.corpus = Corpus.read(folder, data)
        self.store, self.durability, self.done = store, durability, 0

    def round(self) -> dict[str, float]:
        self.done += 1
        settings = {}
        path = None
        if self.store == "file":
            path = self.folder / f"{self.kit.package}-puts-{self.durability}-{self.done}.db"
            settings["durability"] = self.durability
        cache = self.kit.cache(self.corpus.dim, path, **settings)
        texts, vectors = self.corpus.entries(self.count)
        found = spread(times_of(cache, zip(texts, vectors, strict=True)))
        cache.close()
        return found


class PutsAtTheLimit:
    """Puts into a file that is at `max_entries`, against the same into one that has no limit."""

    def __init__(self, kit: Any, folder: Path, *, data: str, entries: int, puts: int) -> None:
        corpus = Corpus.read(folder, data)
        name = f"{kit.package}-limit"
        self.full = filled(kit, corpus, entries, folder / f"{name}.db", max_entries=entries)
        self.free = filled(kit, corpus, entries, folder / f"{name}-free.db")
        self.questions, self.puts = corpus.questions(), puts

    def round(self) -> dict[str, float]:
        asked = list(islice(self.questions, self.puts))
        free, full = times_of(self.free, asked), times_of(self.full, asked)
        return {**spread(full), "against": statistics.fmean(free)}


class Fill:
    """Seconds until so many entries are in a new file, written."""

    def __init__(self, kit: Any, folder: Path, *, data: str, entries: int, how: str) -> None:
        if how == "put_many" and not kit.has_put_many:
            raise Unsupported(f"{kit.package} has no put_many")
        self.kit, self.folder, self.how, self.done = kit, folder, how, 0
        corpus = Corpus.read(folder, data)
        self.dim, (self.texts, self.vectors) = corpus.dim, corpus.entries(entries)

    def round(self) -> dict[str, float]:
        self.done += 1
        path = self.folder / f"{self.kit.package}-{self.how}-{self.done}.db"
        cache = self.kit.cache(self.dim, path)
        start = time.perf_counter()
        if self.how == "put_many":
            self.kit.fill(cache, self.texts, self.vectors)
        else:
            for at, (text, vector) in enumerate(zip(self.texts, self.vectors, strict=True)):
                cache.put(text, answer(at), embedding=vector)
        self.kit.settle(cache)
        seconds = time.perf_counter() - start
        cache.close()
        removed(path)
        return {"s": seconds}


class OnFile:
    """What is done to a file of `entries`, half of which live for a day; a copy a round."""

    def __init__(self, kit: Any, folder: Path, *, data: str, entries: int) -> None:
        self.kit, self.folder, self.count = kit, folder, entries
        self.corpus = Corpus.read(folder, data)
        self.path = filled_file(kit, folder, data, entries)
        self.copy = folder / f"{kit.package}-copy.db"

    def copied(self) -> Path:
        return copied(self.path, self.copy)


class OpenFile(OnFile):
    """Until a cache on the file is there, and until it has answered its first new question."""

    def round(self) -> dict[str, float]:
        path = self.copied()
        text, vector = self.corpus.entries(1)[0][0], self.corpus.entries(1)[1][0]
        start = time.perf_counter()
        cache = self.kit.cache(self.corpus.dim, path)
        opened = time.perf_counter()
        hit = cache.get(f"{text} in other words", embedding=vector)
        answered = time.perf_counter()
        if hit is None:
            raise AssertionError("the first entry of the file is not found by its vector")
        cache.close()
        return {"ms": (opened - start) * 1e3, "first_hit_ms": (answered - opened) * 1e3}


class ClearNamespace(OnFile):
    """Until `clear_namespace` returns."""

    def round(self) -> dict[str, float]:
        cache = self.kit.cache(self.corpus.dim, self.copied())
        start = time.perf_counter()
        removed = cache.clear_namespace("default")
        ms = (time.perf_counter() - start) * 1e3
        left = cache.stats().entries
        cache.close()
        if left:
            raise AssertionError(f"clear_namespace removed {removed} and left {left}")
        return {"ms": ms}


class Vacuum(OnFile):
    """
    Until `vacuum` returns, half having expired since the cache was opened; until what it leaves
    to the background is done; and the longest another thread waits in all that time.
    """

    def round(self) -> dict[str, float]:
        ahead = 0.0
        cache = self.kit.cache(self.corpus.dim, self.copied(), age=lambda: ahead)
        # Opens it, and memory is filled: that a put waits for it is no doing of `vacuum`.
        cache.get(self.corpus.entries(1)[0][0])
        at_rest()
        ahead = 2.0 * DAY
        waits, is_over = [0.0], threading.Event()
        other = threading.Thread(target=self._use, args=(cache, waits, is_over))
        other.start()
        start = time.perf_counter()
        removed = cache.vacuum()
        ms = (time.perf_counter() - start) * 1e3
        self.kit.sweep(cache)
        all_ms = (time.perf_counter() - start) * 1e3
        is_over.set()
        other.join()
        cache.close()
        if removed != len(self.corpus.entries(self.count)[0]) // 2:
            raise AssertionError(f"vacuum removed {removed} of {self.count}, half are expired")
        return {"ms": ms, "all_ms": all_ms, "longest_wait_ms": max(waits)}

    def _use(self, cache: Any, waits: list[float], is_over: threading.Event) -> None:
        """Get an exact hit and put something new in turn, and note how long each took."""
        known = self.corpus.entries(1)[0][0]
        for text, vector in self.corpus.questions():
            if is_over.is_set():
                return
            start = time.perf_counter()
            cache.get(known)
            cache.put(text, "an answer", embedding=vector)
            waits.append((time.perf_counter() - start) * 1e3)
            time.sleep(0.002)


class MemoryOfEntries(OnFile):
    """Bytes of memory an entry of an open file takes once the index is at rest."""

    def __init__(
        self, kit: Any, folder: Path, *, data: str, entries: int, settings: dict[str, Any]
    ) -> None:
        super().__init__(kit, folder, data=data, entries=entries)
        self.settings = settings

    def round(self) -> dict[str, float]:
        # Copies: the pages of the file of vectors are no part of the cache.
        asked = [(text, vector.copy()) for text, vector in islice(self.corpus.questions(), WARM_UP)]
        path, dim = self.copied(), self.corpus.dim
        gc.collect()
        before = resident()
        cache = self.kit.cache(dim, path, **self.settings)
        for text, vector in asked:
            cache.get(text, embedding=vector)
        # Who removes something waits until memory is filled.
        cache.clear_namespace("nobody's")
        at_rest()
        gc.collect()
        count = cache.stats().entries
        after = resident()
        return {
            "bytes": (sum(after) - sum(before)) / count,
            "not_shared": (after[0] - before[0]) / count,
        }


def resident() -> tuple[int, int]:
    """Bytes of this process in memory: its own, and those mapped from files (Linux)."""
    fields = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value
    own, mapped = (int(fields[name].split()[0]) * 1_024 for name in ("RssAnon", "RssFile"))
    return own, mapped
