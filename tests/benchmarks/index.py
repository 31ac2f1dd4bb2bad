"""
What a search costs against one matrix-vector product over the same vectors.

    python tests/benchmarks/index.py [--vectors FILE.npy ...] [--sizes N ...] [--dims D ...]

Prints a Markdown table. Searches and products take turns in rounds, and the ratio of each
round is taken before their median, so that a busy machine slows both. Times are those of the
processor, without those of other programs. The product is the cheapest comparison with all:
no keys, no neighbours, only the largest cosine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

# Set before numpy is imported: more threads make small products slower and noisier.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from mneme.indexes import ExactIndex, _compare, exact
from mneme.indexes._sketch import BLOCK
from mneme.records import Key, Vector

SIZES = (1_000, 10_000, 100_000)
DIMS = (256, 384, 768, 1_536)
ROUNDS, SEARCHES = 11, 20
WARM_UP = 160
"""Searches before those that are measured: by then the sketch is fitted."""

NEAR = 1e-5
"""Two ways to add up a cosine differ by less."""

SEARCHED = ((8, 0.85), (8, 0.90), (8, 0.95), (8, -1.0))
"""How many are asked for, and from which cosine on."""

HEADS = ("data", "n", "d", "search", "sgemv µs", "ours µs", "ratio", "compared", "wrong")


@dataclass(frozen=True)
class Figure:
    """One line: medians in microseconds; ``share`` of the rows compared exactly."""

    data: str
    rows: int
    dim: int
    search: str
    plain_us: float
    ours_us: float
    ratio: float
    share: float
    wrong: int

    def cells(self) -> tuple[str, ...]:
        return (
            self.data,
            f"{self.rows:,}",
            str(self.dim),
            self.search,
            f"{self.plain_us:,.0f}",
            f"{self.ours_us:,.0f}",
            f"{self.ratio:.1f}",
            f"{self.share:.2%}",
            str(self.wrong),
        )


def as_units(raw: Vector) -> Vector:
    raw /= np.linalg.norm(raw, axis=1, keepdims=True)
    return raw


def isotropic(count: int, dim: int) -> Vector:
    """The worst case: no direction says more than another."""
    return as_units(np.random.default_rng(0).standard_normal((count, dim), np.float32))


def like_text(count: int, dim: int) -> Vector:
    """Spectrum and clusters of sentence embeddings: variances fall as 1/rank, topics in groups."""
    random = np.random.default_rng(0)
    scale = (np.arange(1, dim + 1, dtype=np.float32)) ** -0.5
    topics = random.standard_normal((max(1, count // 20), dim), np.float32) * scale
    own = random.standard_normal((count, dim), np.float32)
    own *= 0.6 * scale
    own += topics[random.integers(len(topics), size=count)]
    return as_units(own)


def real_like(vectors: Vector) -> Callable[[int, int], Vector]:
    """Real vectors; where more are asked for, others between two of them with noise."""

    def make(count: int, dim: int) -> Vector:
        random = np.random.default_rng(0)
        own = vectors[random.permutation(len(vectors))[:count]]
        if count <= len(own):
            return own
        more = np.empty((count, dim), np.float32)
        more[: len(own)] = own
        for start in range(len(own), count, BLOCK):
            end = min(count, start + BLOCK)
            one, other = random.integers(len(own), size=(2, end - start))
            noise = random.standard_normal((end - start, dim), np.float32) / dim**0.5
            more[start:end] = own[one] + 0.5 * own[other] + 0.3 * noise
        return as_units(more)[random.permutation(count)]

    return make


def differs(found: Sequence[tuple[Key, float]], best: float, at_least: float) -> bool:
    """Whether a search says otherwise than the product; within rounding either is right."""
    if abs(best - at_least) < NEAR:
        return False
    if best < at_least:
        return bool(found)
    return not found or abs(found[0][1] - best) > NEAR


def compared(index: ExactIndex, questions: Vector, k: int, at_least: float) -> float:
    """The mean share of rows that searches compare exactly, counted apart from the timing."""
    counts: list[int] = []
    compare, compare_all = _compare._compare_in, exact.compare_all

    def counting(*args: Any) -> int:
        counts.append(compare(*args))
        return counts[-1]

    def counting_all(*args: Any) -> None:
        counts.append(len(index))
        compare_all(*args)

    with (
        mock.patch.object(_compare, "_compare_in", counting),
        mock.patch.object(exact, "compare_all", counting_all),
    ):
        for question in questions:
            index.search(question, k=k, at_least=at_least)
    return sum(counts) / len(questions) / len(index)


def measured(data: str, vectors: Vector, k: int, at_least: float) -> Figure:
    """One line of the table; the last of `vectors` are the questions."""
    count = ROUNDS * SEARCHES + WARM_UP
    vectors, questions = vectors[:-count], vectors[-count:]
    dim = vectors.shape[1]
    fits: list[threading.Thread] = []

    def start_fit(fit: Callable[[], None]) -> None:
        fits.append(threading.Thread(target=fit))
        fits[-1].start()

    index = ExactIndex(dim, start=start_fit)
    for at, vector in enumerate(vectors):
        index.add(Key(at.to_bytes(16)), vector)
    blocks = [vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK)]
    for question in questions[:WARM_UP]:
        index.search(question, k=k, at_least=at_least)
        for fit in fits:
            fit.join()
    plain_us, ours_us, wrong = [], [], 0
    for round_ in range(ROUNDS):
        own = questions[WARM_UP + round_ * SEARCHES :][:SEARCHES]
        start = time.thread_time()
        best = [max(float((block @ question).max()) for block in blocks) for question in own]
        between = time.thread_time()
        found = [index.search(question, k=k, at_least=at_least) for question in own]
        end = time.thread_time()
        plain_us.append((between - start) / SEARCHES * 1e6)
        ours_us.append((end - between) / SEARCHES * 1e6)
        wrong += sum(map(differs, found, best, [at_least] * SEARCHES))
    ratios = [plain / ours for plain, ours in zip(plain_us, ours_us, strict=True)]
    medians = [statistics.median(values) for values in (plain_us, ours_us, ratios)]
    share = compared(index, questions[-SEARCHES * 3 :], k, at_least)
    name = f"{k} nearest" if at_least <= -1.0 else f"from {at_least:.2f}"
    return Figure(data, len(vectors), dim, name, *medians, share, wrong)


def figures(chosen: argparse.Namespace) -> Iterator[Figure]:
    """All lines, one by one: they take minutes."""
    sources: list[tuple[str, Callable[[int, int], Vector], Sequence[int]]] = [
        ("isotropic", isotropic, chosen.dims),
        ("like text", like_text, chosen.dims),
    ]
    for file in chosen.vectors:
        vectors = np.load(file)
        sources.append((file.stem, real_like(vectors), [vectors.shape[1]]))
    spare = ROUNDS * SEARCHES + WARM_UP
    for name, make, dims in sources:
        if chosen.data and name not in chosen.data:
            continue
        for dim in dims:
            for count in chosen.sizes:
                vectors = make(count + spare, dim)
                for k, at_least in SEARCHED:
                    yield measured(name, vectors, k, at_least)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--vectors", type=Path, nargs="*", default=[], help="unit rows, .npy")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--dims", type=int, nargs="*", default=DIMS)
    parser.add_argument("--data", nargs="*", help="only these, by name")
    print("| " + " | ".join(HEADS) + " |")
    print("| " + " | ".join("---" for _ in HEADS) + " |")
    for figure in figures(parser.parse_args()):
        print("| " + " | ".join(figure.cells()) + " |", flush=True)


if __name__ == "__main__":
    main()
