"""
How often the promise of `guaranteed_threshold` is broken, and what it serves.

From all labels of a place so many are drawn, again and again, and a threshold is taken from
each drawing; all labels together say whether its true error is over the limit, and what the
oracle would serve that knows them all. Labels are pairs as they are, or for a stream each
query beside the nearest query before it. Places where no threshold keeps the limit and serves
something worth naming are left out and counted.

    python tests/benchmarks/guarantee.py FOLDER --embedder wordllama --cache VECTORS

``one test`` is about what could be had if the best place to test were known beforehand: the
loosest threshold that a single binomial test of that many labels passes half of the time.
MiniLM was trained on Quora
duplicates among others: read its QQP figures with that in mind.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from quality import EMBEDDERS, Vectors, lines

from mneme.calibrate import guaranteed_threshold, upper_bound
from mneme.guards import DEFAULT_GUARDS

PAIRS = ("qqp", "mrpc", "paws", "cliffs")
STREAMS = ("qqp", "banking", "clinc", "hwu_strict")
TARGETS = (0.01, 0.02, 0.05, 0.1)
CONFIDENCE = 0.95
LEAST = 100
"""Labels that the oracle must serve; below, there is nothing to reach."""


@dataclass(frozen=True)
class Place:
    """All labels of one place, the surest first; refused ones have the score -1."""

    name: str
    scores: np.ndarray
    right: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """The true error among hits at each score."""
        return np.cumsum(~self.right) / np.arange(1, len(self.right) + 1)

    @property
    def ends(self) -> np.ndarray:
        """Where a run of equal scores ends that may be hits."""
        last = np.append(self.scores[1:] != self.scores[:-1], True)
        return np.flatnonzero(last & (self.scores >= 0.0))

    def oracle(self, limit: float) -> int:
        """The most hits with at most `limit` wrong."""
        kept = self.ends[self.errors[self.ends] <= limit]
        return int(kept[-1]) + 1 if len(kept) else 0

    def one_test(self, limit: float, labels: int) -> int:
        best = 0
        for end in self.ends[:: max(1, len(self.ends) // 300)]:
            hits = round(labels * (end + 1) / len(self.scores))
            wrong = round(hits * float(self.errors[end]))
            if hits and upper_bound(wrong, hits, CONFIDENCE) <= limit:
                best = int(end) + 1
        return best


def places(folder: Path, vectors: Vectors, *, guarded: bool) -> Iterator[Place]:
    for name in PAIRS:
        rows = lines(folder / f"pairs_{name}.jsonl.gz")
        texts = [(row["a"], row["b"]) for row in rows]
        left, right = (vectors.of([pair[side] for pair in texts]) for side in (0, 1))
        near = np.einsum("ij,ij->i", left, right)
        yield place(f"pairs {name}", texts, near, [bool(row["y"]) for row in rows], guarded)
    for name in STREAMS:
        rows = lines(folder / f"stream_{name}.jsonl.gz")
        asked = [row["q"] for row in rows]
        before, near = nearest_before(vectors.of(asked))
        texts = [(asked[at], asked[other]) for at, other in enumerate(before, start=1)]
        same = [rows[at]["c"] == rows[other]["c"] for at, other in enumerate(before, start=1)]
        yield place(f"stream {name}", texts, near, same, guarded)


def place(
    name: str, texts: list[tuple[str, str]], near: np.ndarray, same: list[bool], guarded: bool
) -> Place:
    scores = np.clip(near.astype(np.float64), 0.0, 1.0)
    if guarded:
        refused = [any(guard(*pair) for guard in DEFAULT_GUARDS) for pair in texts]
        scores = np.where(refused, -1.0, scores)
    order = np.argsort(-scores, kind="stable")
    return Place(name, scores[order], np.array(same)[order])


def nearest_before(matrix: np.ndarray) -> tuple[list[int], np.ndarray]:
    """For each row but the first: the row before it with the largest cosine, and that cosine."""
    best, near = [], []
    for start in range(0, len(matrix), 512):
        cosines = matrix[start : start + 512] @ matrix.T
        for at, row in enumerate(cosines, start=start):
            if at:
                best.append(int(np.argmax(row[:at])))
                near.append(row[best[-1]])
    return best, np.array(near)


def measure(where: Place, limit: float, labels: int, drawings: int) -> dict[str, float]:
    rng = np.random.default_rng(1)
    errors, broken, none, rates = where.errors, 0, 0, []
    for _ in range(drawings):
        drawn = rng.integers(0, len(where.scores), labels)
        drawn = drawn[where.scores[drawn] >= 0.0]
        scores, right = where.scores[drawn].tolist(), where.right[drawn].tolist()
        found = guaranteed_threshold(zip(scores, right, strict=True), limit, CONFIDENCE)
        hits = 0
        if found.threshold is not None:
            hits = int(np.searchsorted(-where.scores, -found.threshold, side="right"))
            broken += errors[hits - 1] > limit
        none += not hits
        rates.append(hits / len(where.scores))
    return {"broken": broken / drawings, "none": none / drawings, "hit": float(np.mean(rates))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=os.environ.get("MNEME_DATA"))
    parser.add_argument("--embedder", choices=EMBEDDERS, default="wordllama")
    parser.add_argument("--cache", type=Path, default=Path("vectors"), help="keeps the vectors")
    parser.add_argument("--labels", type=int, default=4_000)
    parser.add_argument("--drawings", type=int, default=400)
    parser.add_argument("--no-guards", action="store_true")
    options = parser.parse_args()
    if options.folder is None:
        parser.error("name the folder of the labelled data, or set MNEME_DATA.")
    vectors = Vectors(options.embedder, options.cache)
    print(
        f"{options.embedder}, {options.labels:,} labels a drawing, {options.drawings} drawings, "
        f"guards {'off' if options.no_guards else 'on'}, confidence {CONFIDENCE:.0%}"
    )
    print("| labels of | max error | oracle | one test | served | of oracle | none | broken |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    left_out = 0
    for where in places(Path(options.folder), vectors, guarded=not options.no_guards):
        for limit in TARGETS:
            oracle, total = where.oracle(limit), len(where.scores)
            if oracle < LEAST:
                left_out += 1
                continue
            found = measure(where, limit, options.labels, options.drawings)
            one = where.one_test(limit, options.labels) / total
            print(
                f"| {where.name} | {limit:.0%} | {oracle / total:.1%} | {one:.1%} "
                f"| {found['hit']:.1%} | {found['hit'] * total / oracle:.0%} "
                f"| {found['none']:.1%} | {found['broken']:.1%} |",
                flush=True,
            )
    print(f"left out, because the oracle serves under {LEAST} labels: {left_out}")


if __name__ == "__main__":
    main()
