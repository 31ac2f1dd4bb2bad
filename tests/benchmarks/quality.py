"""
How many answers the policies serve, and how many of them are wrong.

Replays labelled streams through the learned policy and through plain cosine thresholds, each
from an empty cache, in several random orders. A hit is right if the entry served is of the
query's class; an audited hit calls the model and counts as a miss. The labelled data is named
by an argument or MNEME_DATA; without either, the samples under examples/data are replayed,
which are small: their figures say that it runs, not how good it is.

    python tests/benchmarks/quality.py [FOLDER] --embedder minilm --orders 5 --json out.json

MiniLM was trained on Quora duplicates among others: read its QQP figures with that in mind.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from labelled import EMBEDDERS, STREAMS, Vectors, lines

from mneme._core.learned.policy import LearnedPolicy, Neighbour
from mneme._core.learned.prior import Prior, read_prior, shipped_prior

SAMPLES = Path(__file__).parents[2] / "examples" / "data"
NEIGHBOURS = 8
THRESHOLDS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.92, 0.95)
STEPS = tuple(step / 100 for step in range(70, 99))
"""Thresholds of which the best one is looked for in hindsight."""

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


def read_stream(folder: Path, name: str, vectors: Vectors) -> Stream:
    rows = lines(folder / f"stream_{name}.jsonl.gz")
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


# -- the traps --------------------------------------------------------------------------------


def traps(folder: Path, vectors: Vectors) -> dict[str, dict[str, float]]:
    """Shares of trap pairs at or above each threshold by plain cosine, by category."""
    rows = lines(folder / "traps_pairs.jsonl.gz")
    one, other = (vectors.of([row[side] for row in rows]) for side in ("a", "b"))
    cosines = (one * other).sum(1)
    kinds: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        wanted = "paraphrase" if row["same_answer"] else row["category"]
        kinds.setdefault(wanted, []).append(at)
    return {
        kind: {
            "pairs": len(at),
            **{f"{t:.2f}": float((cosines[at] >= t).mean()) for t in THRESHOLDS},
        }
        for kind, at in sorted(kinds.items())
    }


# -- the report -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    stream: str
    order: int
    max_error: float
    noise: float


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", nargs="?", default=os.environ.get("MNEME_DATA", str(SAMPLES)))
    parser.add_argument("--embedder", choices=EMBEDDERS, default="wordllama")
    parser.add_argument(
        "--vectors", type=Path, default=Path("quality-vectors"), help="cache folder"
    )
    parser.add_argument("--streams", nargs="*", default=STREAMS)
    parser.add_argument("--orders", type=int, default=3)
    parser.add_argument("--first-order", type=int, default=1, help="seed of the first order")
    parser.add_argument("--max-error", type=float, nargs="*", default=[0.01])
    parser.add_argument("--noise", type=float, default=0.0, help="share of wrong comparisons")
    parser.add_argument(
        "--priors", type=Path, help="folder of priors without-<stream>.json: leave one domain out"
    )
    parser.add_argument("--no-thresholds", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plots", type=Path, help="folder for plots; needs matplotlib")
    return parser.parse_args()


def prior_for(stream: str, priors: Path | None) -> Prior:
    if priors is None:
        return shipped_prior()
    return read_prior((priors / f"without-{stream}.json").read_text("utf-8"))


def runs(stream: Stream, args: argparse.Namespace) -> Iterator[tuple[Job, Replay]]:
    for max_error in args.max_error:
        for order in range(args.first_order, args.first_order + args.orders):
            prior = prior_for(stream.name, args.priors)
            policy = LearnedPolicy(max_error, seed=order, prior=prior)
            replay = replay_learned(stream.shuffled(order), policy, noise=args.noise, seed=order)
            yield Job(stream.name, order, max_error, args.noise), replay


def summary(figures: list[dict[str, float]]) -> str:
    hit = np.array([f["hit"] for f in figures])
    error = np.array([f["error"] for f in figures])
    count = sum(f["queries"] for f in figures)
    hits = round(sum(f["hit"] * f["queries"] for f in figures))
    wrong = round(sum(f["error"] * f["queries"] for f in figures))
    low, high = interval(hits - wrong, hits)
    return (
        f"hit {hit.mean():6.2%} error {error.mean():6.3%} (worst {error.max():6.3%}) "
        f"second half {np.mean([f['hit_second_half'] for f in figures]):6.2%} "
        f"audited {np.mean([f['audited'] for f in figures]):5.2%} "
        f"precision {1 - wrong / max(hits, 1):6.2%} [{low:.2%}, {high:.2%}] of {hits:,}/{count:,}"
    )


def of_thresholds(stream: Stream, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a threshold; of all steps, those best in hindsight are printed."""
    order = stream.shuffled(args.first_order)
    rows = []
    for threshold in STEPS:
        figures = replay_threshold(order, threshold).figures()
        rows.append({"stream": stream.name, "threshold": threshold, **figures})
    for max_error in args.max_error:
        fit = [row for row in rows if row["error"] <= max_error]
        best = max(fit, key=lambda row: row["hit"], default=rows[-1])
        print(f"  cosine {best['threshold']:.2f}    {summary([best])}  best for {max_error}")
    yield from rows


def of_learned(stream: Stream, args: argparse.Namespace, replays: list[Replay]) -> Iterator[Any]:
    """One row an order and budget; `replays` takes the replays."""
    rows = []
    for job, replay in runs(stream, args):
        replays.append(replay)
        rows.append({**asdict(job), **replay.figures()})
    for max_error in args.max_error:
        mine = [row for row in rows if row["max_error"] == max_error]
        took = np.mean([row["decision_us"] for row in mine])
        print(f"  learned {max_error:.3f}  {summary(mine)}  {took:.0f} µs a decision", flush=True)
    yield from rows


def overall(learned: list[dict[str, Any]], max_error: float) -> None:
    """Means over streams, each of which counts alike."""
    mine = [row for row in learned if row["max_error"] == max_error]
    names = dict.fromkeys(row["stream"] for row in mine)
    for key in ("hit", "error", "hit_second_half"):
        means = [np.mean([row[key] for row in mine if row["stream"] == name]) for name in names]
        print(f"mean {key} at {max_error}: {np.mean(means):.2%}, highest {max(means):.2%}")
    print(f"worst run at {max_error}: {max(row['error'] for row in mine):.3%}")


def main() -> None:
    args = parsed()
    folder = Path(args.folder)
    print(f"data: {folder}" + (" (shippable samples)" if folder == SAMPLES else ""))
    vectors = Vectors(args.embedder, args.vectors)
    out: dict[str, Any] = {"embedder": args.embedder, "learned": [], "threshold": []}
    replays: dict[str, list[Replay]] = {}
    for name in args.streams:
        if not (folder / f"stream_{name}.jsonl.gz").exists():
            print(f"{name}: not in {folder}")
            continue
        stream = read_stream(folder, name, vectors)
        print(f"{name}: {len(stream.texts):,} queries, ideal hit rate {stream.ideal:.1%}")
        out["learned"] += of_learned(stream, args, replays.setdefault(name, []))
        if not args.no_thresholds:
            out["threshold"] += of_thresholds(stream, args)
    if replays:
        for max_error in args.max_error:
            overall(out["learned"], max_error)
    if (folder / "traps_pairs.jsonl.gz").exists() and not args.no_thresholds:
        out["traps"] = traps(folder, vectors)
        for kind, shares in out["traps"].items():
            print(f"  traps {kind:14s}", "  ".join(f"{k} {v:.2f}" for k, v in shares.items()))
    if args.json:
        args.json.write_text(json.dumps(out, indent=1), "utf-8")
    if args.plots:
        from quality_plots import plot

        plot(replays, out, args.plots)


if __name__ == "__main__":
    main()
