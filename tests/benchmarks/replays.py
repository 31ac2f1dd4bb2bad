"""Labelled streams, replayed through a cache, through the learned policy alone, by threshold."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zlib import crc32

import numpy as np
from labelled import Vectors, lines

from mneme import SemanticCache
from mneme._core.judge import Judge
from mneme._core.learned.policy import LearnedPolicy, Neighbour
from mneme._core.learned.prior import Prior
from mneme.records import Hit
from mneme.stores.memory import MemoryStore

__all__ = [
    "Replay",
    "Stream",
    "interval",
    "read_stream",
    "replay_cache",
    "replay_learned",
    "replay_threshold",
]

NEIGHBOURS = 8

RANKED = 400
"""Nearest texts known of each. Only those that became entries count; where too few of them did,
all entries are compared."""


# -- data -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """
    Texts in order, the class of each, and their vectors.

    ``ranks``: for each text the others nearest to it, best first; ``cosines`` of these.
    """

    name: str
    texts: list[str]
    classes: np.ndarray
    vectors: np.ndarray
    ranks: np.ndarray
    cosines: np.ndarray

    def shuffled(self, seed: int) -> Stream:
        order = np.random.default_rng(seed).permutation(len(self.texts))
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return Stream(
            self.name,
            [self.texts[i] for i in order],
            self.classes[order],
            self.vectors[order],
            place[self.ranks[order]],
            self.cosines[order],
        )

    @property
    def ideal(self) -> float:
        """The hit rate of a cache that knows every class."""
        return 1.0 - len(set(self.classes.tolist())) / len(self.texts)


def read_stream(folder: Path, name: str, vectors: Vectors, half: int | None = None) -> Stream:
    """The stream of that name, or with `half` 0 or 1 the queries of half of its classes."""
    rows = lines(folder / f"stream_{name}.jsonl.gz")
    if half is not None:
        rows = [row for row in rows if crc32(str(row["c"]).encode()) % 2 == half]
    texts = [row["q"] for row in rows]
    found = vectors.of(texts)
    return Stream(name, texts, np.array([row["c"] for row in rows]), found, *ranked(found))


def ranked(vectors: np.ndarray, chunk: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """The `RANKED` nearest others of each vector, best first, and their cosines."""
    count = min(RANKED, len(vectors) - 1)
    ranks, cosines = [], []
    for start in range(0, len(vectors), chunk):
        block = vectors[start : start + chunk] @ vectors.T
        own = np.arange(len(block))
        block[own, start + own] = -np.inf
        near = np.argpartition(-block, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(block, near, 1)
        order = np.argsort(-found, axis=1, kind="stable")
        ranks.append(np.take_along_axis(near, order, 1))
        cosines.append(np.take_along_axis(found, order, 1))
    return np.concatenate(ranks), np.concatenate(cosines)


# -- replaying --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replay:
    """What became of each query: its chance of a wrong answer, whether served, whether right."""

    chance_wrong: np.ndarray
    served: np.ndarray
    right: np.ndarray
    audits: int = 0
    deciding: float = 0.0
    """Seconds spent in all decisions."""

    def figures(self) -> dict[str, float]:
        half = len(self.served) // 2
        wrong = self.served & ~self.right
        hits = int(self.served.sum())
        low, high = interval(hits - int(wrong.sum()), hits)
        return {
            "queries": len(self.served),
            "hit": float(self.served.mean()),
            "error": float(wrong.mean()),
            "precision": 1.0 - float(wrong.sum()) / max(hits, 1),
            "precision_low": low,
            "precision_high": high,
            "hit_second_half": float(self.served[half:].mean()),
            "error_second_half": float(wrong[half:].mean()),
            "audited": self.audits / len(self.served),
            "decision_us": self.deciding / len(self.served) * 1e6,
        }


def interval(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    if not count:
        return 0.0, 1.0
    z, share = 1.96, right / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = (
        z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    )
    return max(middle - reach, 0.0), min(middle + reach, 1.0)


class Nearest:
    """The entries of a growing cache that are nearest to each query of one stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.is_entry = np.zeros(len(stream.texts), bool)
        self.count = 0

    def add(self, query: int) -> None:
        self.is_entry[query] = True
        self.count += 1

    def to(self, query: int, most: int) -> tuple[list[int], list[float]]:
        """Queries that became entries, and their cosines, best first."""
        near, cosines = self.stream.ranks[query], self.stream.cosines[query]
        at = np.flatnonzero(self.is_entry[near])[:most]
        if len(at) < min(most, self.count):
            near = np.flatnonzero(self.is_entry)
            cosines = self.stream.vectors[near] @ self.stream.vectors[query]
            at = np.argsort(-cosines, kind="stable")[:most]
        return near[at].tolist(), cosines[at].tolist()


def name(query: int) -> bytes:
    return query.to_bytes(4)


def number(entry: bytes) -> int:
    return int.from_bytes(entry)


def replay_threshold(stream: Stream, threshold: float) -> Replay:
    """Serve the nearest entry where its cosine is at least `threshold`."""
    count = len(stream.texts)
    best, right = np.full(count, -1.0), np.zeros(count, bool)
    nearest = Nearest(stream)
    for query in range(count):
        entries, cosines = nearest.to(query, 1)
        if entries:
            best[query] = cosines[0]
            right[query] = stream.classes[entries[0]] == stream.classes[query]
        if best[query] < threshold:
            nearest.add(query)
    return Replay(1.0 - best, best >= threshold, right)


def replay_learned(
    stream: Stream,
    policy: LearnedPolicy,
    *,
    noise: float = 0.0,
    seed: int = 0,
    log: Callable[[int, Any, list[bool]], None] | None = None,
) -> Replay:
    """Serve what `policy` says; comparisons of answers go wrong with the chance `noise`."""
    count, chances = len(stream.texts), np.random.default_rng(seed)
    chance_wrong = np.ones(count)
    served, right = np.zeros(count, bool), np.zeros(count, bool)
    nearest, audits, deciding = Nearest(stream), 0, 0.0
    classes = stream.classes.tolist()
    for query, (text, truth) in enumerate(zip(stream.texts, classes, strict=True)):
        near = zip(*nearest.to(query, NEIGHBOURS), strict=True)
        found = [Neighbour(name(entry), cosine, stream.texts[entry]) for entry, cosine in near]
        began = time.perf_counter()
        decision = policy.decide(text, found)
        deciding += time.perf_counter() - began
        if log is not None:
            log(query, decision, [classes[number(entry)] == truth for entry in decision.compare])
        chance_wrong[query] = decision.chance_wrong
        if decision.candidate is not None:
            right[query] = classes[number(decision.candidate)] == truth
        if decision.serve is not None:
            served[query] = True
            continue
        audits += decision.is_audit
        same = {entry: classes[number(entry)] == truth for entry in decision.compare}
        if noise:
            same = {entry: is_same != (chances.random() < noise) for entry, is_same in same.items()}
        policy.added(name(query), text, decision, policy.learned(decision, same))
        nearest.add(query)
        if policy.is_due:
            policy.refit()
    return Replay(chance_wrong, served, right, audits, deciding)


# -- through the cache ------------------------------------------------------------------------


class Known:
    """An embedder that only looks up the vectors of one stream."""

    fingerprint = "known"

    def __init__(self, stream: Stream) -> None:
        self.dim = stream.vectors.shape[1]
        self.at = {" ".join(text.split()): i for i, text in enumerate(stream.texts)}
        self.vectors = stream.vectors

    def embed(self, text: str) -> np.ndarray:
        return self.vectors[self.at[" ".join(text.split())]]


class Stopwatch:
    """Sums the time of this thread in calls of a function, so that others' load counts little."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.seconds = 0.0

    def __call__(self, *args: Any) -> Any:
        began = time.thread_time()
        try:
            return self.function(*args)
        finally:
            self.seconds += time.thread_time() - began


def replay_cache(
    stream: Stream, max_error: float, prior: Prior, *, noise: float = 0.0, seed: int = 0
) -> Replay:
    """Look up and fill in order; comparisons of answers go wrong with the chance `noise`."""
    chances, count = np.random.default_rng(seed), len(stream.texts)
    with patch("mneme._core.learned.policy.shipped_prior", lambda: prior):
        cache = SemanticCache(
            store=MemoryStore(),
            embedder=Known(stream),
            policy="learned",
            max_error=max_error,
            same_answer=lambda a, b: (a == b) != (noise > 0.0 and chances.random() < noise),
            seed=seed,
            self_check=False,
        )
    chance_wrong = np.ones(count)
    served, right = np.zeros(count, bool), np.zeros(count, bool)
    clock, audits = Stopwatch(Judge.choose), 0
    # A function, or it would not be bound to the judge.
    with cache, patch.object(Judge, "choose", lambda *args: clock(*args)):
        for query, (text, label) in enumerate(zip(stream.texts, stream.classes, strict=True)):
            truth = str(label)
            found = cache.lookup(text)
            if isinstance(found, Hit):
                served[query], right[query] = True, found.response == truth
                chance_wrong[query] = 0.0 if found.layer == "exact" else 1.0 - found.confidence
                continue
            audits += found.reason == "audited"
            if found.trial is not None and found.trial.best is not None:
                chance_wrong[query] = found.trial.decision.chance_wrong
                right[query] = found.trial.best.entry.payload.data == truth
            cache.fill(found, truth)
    return Replay(chance_wrong, served, right, audits, clock.seconds)
