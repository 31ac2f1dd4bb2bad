"""
How many answers the policies serve, and how many of them are wrong.

Replays labelled streams through a cache with the learned policy and the guards that are on by
default, and through plain cosine thresholds, each from an empty cache, in several random orders.
A hit is right if the entry served is of the query's class; an audited hit calls the model and
counts as a miss. The labelled data is named by an argument or MNEME_DATA; without either, the
samples under examples/data are replayed, which are small: their figures say that it runs, not
how good it is.

    python tests/benchmarks/quality.py [FOLDER] --embedder minilm --orders 5 --json out.json

MiniLM was trained on Quora duplicates among others: read its QQP figures with that in mind.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from labelled import EMBEDDERS, STREAMS, Vectors, lines
from replays import Replay, Stream, interval, read_stream, replay_cache, replay_threshold

from mneme._core.learned.prior import Prior, read_prior, shipped_prior

SAMPLES = Path(__file__).parents[2] / "examples" / "data"
THRESHOLDS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.92, 0.95)
STEPS = tuple(step / 100 for step in range(70, 99))
"""Thresholds of which the best one is looked for in hindsight."""


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
    parser.add_argument("--prior", type=Path, help="a prior of fit_prior.py instead of the shipped")
    parser.add_argument("--half", type=int, choices=(0, 1), help="half of each stream's classes")
    parser.add_argument("--no-thresholds", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plots", type=Path, help="folder for plots; needs matplotlib")
    return parser.parse_args()


def prior_for(stream: str, args: argparse.Namespace) -> Prior:
    path = args.priors / f"without-{stream}.json" if args.priors else args.prior
    return shipped_prior() if path is None else read_prior(path.read_text("utf-8"))


def runs(stream: Stream, args: argparse.Namespace) -> Iterator[tuple[Job, Replay]]:
    for max_error in args.max_error:
        for order in range(args.first_order, args.first_order + args.orders):
            prior = prior_for(stream.name, args)
            shuffled = stream.shuffled(order)
            replay = replay_cache(shuffled, max_error, prior, noise=args.noise, seed=order)
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
        stream = read_stream(folder, name, vectors, args.half)
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
