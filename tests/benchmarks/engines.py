"""
What lookups, puts and removals cost where an engine searches, and what its searches miss.

    python tests/benchmarks/engines.py [--rows N] [--dim D] [--vectors FILE.npy] [--only NAME ...]
        [--json FILE]

Starts PostgreSQL and Redis from their wheels on loopback and prints a Markdown table; `--json`
also writes it for ``run.py --engines``, beside what that file has of other stores. Without
`--vectors` (float32, rows of unit length) the data is drawn: clusters of near-paraphrases, as
real questions have them. With fewer vectors than rows the rest are mixtures of two of them.
Recall is the share of what brute force finds at or above a similarity, of at most 8 an ask.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from support.engines import Postgres, Redis, running

from mneme.records import Changes, Entry, Key, Partition, Payload, Selection
from mneme.stores.postgres import PostgresStore
from mneme.stores.redis import RedisStore

NOW = 1_700_000_000.0
PARTITION = Partition(bytes(16))
ASKS, PUTS, K = 200, 200, 8
BATCH = 500
FLOORS = (0.80, 0.85, 0.90, 0.95)
ANSWER = "An answer of some four hundred characters, as models give them. " * 7
HEADS = (
    "store", "bulk rows/s", "put ms p50/p99", "fetch ms p50/p99",
    *(f"search ≥ {floor:.2f} ms p50/p99" for floor in FLOORS),
    "recall at " + " / ".join(f"{floor:.2f}" for floor in FLOORS), "clear rows/s", "bytes/row",
)  # fmt: skip


def drawn(rows: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Clusters of some ten: a direction each, and noise that leaves cosines of about 0.85."""
    centres = rng.standard_normal((max(1, rows // 10), dim))
    noise = 0.42 * rng.standard_normal((rows, dim))
    return centres[rng.integers(0, len(centres), rows)] + noise


def data(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Rows to store and vectors to ask with, all of unit length."""
    rng = np.random.default_rng(0)
    wanted = args.rows + ASKS + PUTS
    if args.vectors:
        found = np.load(args.vectors)
        real = found if isinstance(found, np.ndarray) else found[found.files[0]]
        real = real[rng.permutation(len(real))]
        more = max(0, wanted - len(real))
        pairs = rng.integers(0, len(real), (2, more))
        share = rng.uniform(0.55, 0.95, (more, 1))
        raw = np.concatenate([real, share * real[pairs[0]] + (1 - share) * real[pairs[1]]])
    else:
        raw = drawn(wanted, args.dim, rng)
    raw = raw[rng.permutation(len(raw))[:wanted]]
    units = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return units[: args.rows], units[args.rows :]


def entry(at: int, vector: Any, partition: Partition = PARTITION) -> Entry:
    return Entry(
        "default", partition, Key(at.to_bytes(16)), f"question {at}", Payload("text", ANSWER),
        vector, NOW,
    )  # fmt: skip


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def spread(seconds: Sequence[float]) -> str:
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return f"{p50:.2f} / {p99:.2f}"


def nearest(rows: np.ndarray, ask: np.ndarray, floor: float) -> set[Key]:
    """The keys of at most `K` rows at or above `floor`, by brute force."""
    cosines = rows @ ask
    best = np.argpartition(-cosines, K)[:K]
    return {Key(int(at).to_bytes(16)) for at in best if cosines[at] >= floor}


def measured(store: Any, rows: np.ndarray, asks: np.ndarray, size: Callable[[], int]) -> list[str]:
    before = size()
    batches = [
        Changes(puts=tuple(entry(at + n, row) for n, row in enumerate(rows[at : at + BATCH])))
        for at in range(0, len(rows), BATCH)
    ]
    fill = sum(timed(lambda changes=changes: store.commit(changes)) for changes in batches)
    del batches
    taken = size() - before
    say(f"filled at {len(rows) / fill:.0f} rows/s")
    puts = [
        timed(lambda at=at: store.commit(Changes(puts=(entry(10**9 + at, asks[ASKS + at]),))))
        for at in range(PUTS)
    ]
    store.commit(
        Changes(removed=tuple((PARTITION, Key((10**9 + at).to_bytes(16))) for at in range(PUTS)))
    )
    some = [int(at) for at in np.random.default_rng(1).integers(0, len(rows), ASKS)]
    fetches = [timed(lambda at=at: store.fetch([(PARTITION, Key(at.to_bytes(16)))])) for at in some]
    times, recalls = [], []
    for floor in FLOORS:
        seconds, found, there = [], 0, 0
        for ask in asks[:ASKS]:
            start = time.perf_counter()
            near = store.search(PARTITION, ask, k=K, at_least=floor, now=NOW)
            seconds.append(time.perf_counter() - start)
            truth = nearest(rows, ask, floor)
            there += len(truth)
            found += len(truth & {candidate.entry.key for candidate in near})
        times.append(spread(seconds))
        recalls.append(f"{found / there:.3f}" if there else "-")
        say(f"at {floor}: {times[-1]} ms, {found} of {there}")
    clear = timed(lambda: store.commit(Changes(cleared=("default",))))
    assert store.count(Selection()) == 0
    return [
        f"{len(rows) / fill:,.0f}", spread(puts), spread(fetches), *times, " / ".join(recalls),
        f"{len(rows) / clear:,.0f}", f"{taken / len(rows):,.0f}",
    ]  # fmt: skip


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def postgres_size(url: str) -> int:
    import psycopg

    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return int(row[0]) if row else 0


def redis_size(url: str) -> int:
    import redis

    with redis.Redis.from_url(url) as client:
        return int(client.info("memory")["used_memory"])


CASES: dict[str, tuple[Callable[[], Any], Callable[..., Any], Callable[[str], int]]] = {
    "PostgresStore": (Postgres, PostgresStore, postgres_size),
    "PostgresStore hnsw": (
        Postgres, lambda url, **o: PostgresStore(url, index="hnsw", **o), postgres_size,
    ),
    "RedisStore": (Redis, RedisStore, redis_size),
    "RedisStore exact": (
        Redis, lambda url, **o: RedisStore(url, index="exact", **o), redis_size,
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows, asks = data(args)
    title = f"{len(rows):,} × {rows.shape[1]}, batches of {BATCH}, {ASKS} asks, k = {K}"
    print(f"{title}\n")
    print("| " + " | ".join(HEADS) + " |\n" + "| --- " * len(HEADS) + "|", flush=True)
    for name in args.only:
        say(name)
        server, make, size = CASES[name]
        with running(server()) as there:
            store = make(there.url, timeout=60.0)
            store.claim("benchmark", rows.shape[1])
            figures = measured(store, rows, asks, lambda url=there.url, size=size: size(url))
            store.close()
        print("| " + " | ".join([name, *figures]) + " |", flush=True)
        if args.json:
            keep(args.json, title, dict(zip(HEADS, [name, *figures], strict=True)))


def keep(file: Path, title: str, row: dict[str, str]) -> None:
    """`row` under `title` in that file, in place of one of the same store."""
    tables = json.loads(file.read_text()) if file.exists() else {}
    others = [one for one in tables.get(title, ()) if one[HEADS[0]] != row[HEADS[0]]]
    tables[title] = [*others, row]
    file.write_text(json.dumps(tables, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
