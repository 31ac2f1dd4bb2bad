"""
Many processes on one store, and a model that knows what each of them may see.

    python tests/faults/many_processes.py --seconds 60 --writers 4 --readers 4
    python tests/faults/many_processes.py --store postgres --writers 2 --readers 2

Writers put, replace, delete and clear; each owns a namespace, whose keys nobody else writes.
On a board that all processes map into memory a writer notes the number of each operation
before it begins and after it has returned. A reader looks at the board before and after each
lookup, by the same words or by the vector alone, and knows from that which numbers are right:

- none that never began, and none that is older than the last that had returned
  (``--interval`` seconds ago, where a store or its settings allow for that);
- none older than what this reader has seen before;
- nothing only if it was removed, and nothing of another key.

Writers read what they wrote, and in the end the store holds what the board says and no more.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mneme import SemanticCache
from mneme.testing import HashEmbedder

KEYS = 40
"""Keys of each writer."""

DIM = 64
COLUMNS = 3
BEGUN, DONE, REMOVED = range(COLUMNS)

STORES = {
    "sqlite": "mneme.stores.sqlite:SQLiteStore",
    "postgres": "mneme.stores.postgres:PostgresStore",
    "redis": "mneme.stores.redis:RedisStore",
}
"""Where to find what opens a store; each takes the place it is at (``--at``)."""


@dataclass
class Task:
    """What all processes of a run know."""

    store: str = "sqlite"
    at: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the store."""
    interval: float = 0.0
    seconds: float = 60.0
    writers: int = 4
    readers: int = 4
    board: str = ""
    seed: int = 0


@dataclass
class Report:
    """What one process did, and what was wrong."""

    operations: int = 0
    hits: int = 0
    wrong: list[str] = field(default_factory=list)

    def check(self, holds: bool, what: str) -> None:
        if not holds and len(self.wrong) < 20:
            self.wrong.append(what)


def open_cache(task: Task) -> SemanticCache:
    """A cache on the store of `task`, which this process has for itself."""
    module, _, name = STORES[task.store].partition(":")
    store = getattr(import_module(module), name)(task.at, **task.settings)
    return SemanticCache(
        store=store,
        embedder=HashEmbedder(DIM),
        self_check=False,
        # The other half is for the store: to commit what waits.
        stale_check_interval=task.interval / 2,
    )


def board_of(task: Task, mode: Any = "r+") -> Any:
    """Numbers of operations: odd ones put, even ones removed, zero is before the first."""
    return np.memmap(task.board, np.int64, mode, shape=(task.writers, KEYS, COLUMNS))


def vector_of(writer: int, key: int) -> Any:
    """Far from that of every other key."""
    vector = np.random.default_rng((writer, key)).standard_normal(DIM)
    return vector / np.linalg.norm(vector)


def write(task: Task, writer: int, start: Any, said: Any) -> None:
    report, chance = Report(), random.Random(f"{task.seed} writer {writer}")
    mine = board_of(task)[writer]
    space, count = f"of {writer}", 0
    with open_cache(task) as cache:
        start.wait()
        until = time.monotonic() + task.seconds
        while time.monotonic() < until:
            count += 2
            report.operations += 1
            key, what = chance.randrange(KEYS), chance.random()
            if what < 0.01:
                mine[:, BEGUN] = mine[:, REMOVED] = count
                cache.clear_namespace(space)
                mine[:, DONE] = count
                report.check(cache.get(f"key {key}", namespace=space) is None, "cleared and there")
            elif what < 0.25:
                mine[key, BEGUN] = mine[key, REMOVED] = count
                cache.delete(f"key {key}", namespace=space)
                mine[key, DONE] = count
                report.check(cache.get(f"key {key}", namespace=space) is None, "deleted and there")
            else:
                mine[key, BEGUN] = count + 1
                put(cache, writer, key, count + 1)
                mine[key, DONE] = count + 1
                hit = cache.get(f"key {key}", namespace=space)
                report.check(
                    hit is not None and hit.response == [writer, key, count + 1],
                    f"put {count + 1}, read {hit}",
                )
    said.put(asdict(report))


def put(cache: SemanticCache, writer: int, key: int, number: int) -> None:
    stored = cache.put(
        f"key {key}",
        [writer, key, number],
        embedding=vector_of(writer, key),
        namespace=f"of {writer}",
    )
    assert stored


def read(task: Task, reader: int, start: Any, said: Any) -> None:
    report, chance = Report(), random.Random(f"{task.seed} reader {reader}")
    board = board_of(task)
    sight = Sight(task)
    with open_cache(task) as cache:
        start.wait()
        until = time.monotonic() + task.seconds
        while time.monotonic() < until:
            report.operations += 1
            writer, key = chance.randrange(task.writers), chance.randrange(KEYS)
            cell = board[writer, key]
            least = sight.before(writer, key, int(cell[DONE]))
            by_words = chance.random() < 0.5
            prompt = f"key {key}" if by_words else "in other words"
            hit = cache.get(prompt, embedding=vector_of(writer, key), namespace=f"of {writer}")
            removed, begun = int(cell[REMOVED]), int(cell[BEGUN])
            where = f"key {key} of {writer}, {least} returned, {begun} begun, {removed} removed"
            if hit is None:
                # An even number removes: it is the last that returned, or one came later.
                is_right = least % 2 == 0 or removed > least
                report.check(is_right, f"{where}: nothing found")
                continue
            report.hits += 1
            its_writer, its_key, number = hit.response
            report.check((its_writer, its_key) == (writer, key), f"{where}: found {hit.response}")
            report.check(least <= number <= begun, f"{where}: found {number}")
            sight.saw(writer, key, number)
    said.put(asdict(report))


class Sight:
    """What a reader must see at least."""

    def __init__(self, task: Task) -> None:
        self._interval = task.interval
        self._seen = np.zeros((task.writers, KEYS), np.int64)
        self._coming: dict[tuple[int, int], list[tuple[float, int]]] = {}

    def before(self, writer: int, key: int, done: int) -> int:
        """The least number that a lookup which begins now may find; `done` has returned."""
        if self._interval:
            now = time.monotonic()
            coming = self._coming.setdefault((writer, key), [])
            coming.append((now, done))
            done = 0
            while coming and now - coming[0][0] >= self._interval:
                done = coming.pop(0)[1]
        self.saw(writer, key, done)
        return int(self._seen[writer, key])

    def saw(self, writer: int, key: int, number: int) -> None:
        self._seen[writer, key] = max(number, self._seen[writer, key])


def compare_in_the_end(task: Task) -> list[str]:
    """How the store differs from the board."""
    expected = {
        (writer, key): int(cell[DONE])
        for writer, row in enumerate(board_of(task))
        for key, cell in enumerate(row)
        if cell[DONE] % 2
    }
    wrong = []
    with open_cache(task) as cache:
        for writer in range(task.writers):
            for key in range(KEYS):
                hit = cache.get(f"key {key}", namespace=f"of {writer}")
                found = None if hit is None else hit.response[2]
                if found != expected.get((writer, key)):
                    wrong.append(
                        f"key {key} of {writer} is {found}, not {expected.get((writer, key))}"
                    )
        entries = cache.stats().entries
        if entries != len(expected):
            wrong.append(f"{entries} entries, not {len(expected)}")
        if not cache.health().healthy:
            wrong.append(f"not healthy: {cache.health()}")
    return wrong


def run(task: Task) -> dict[str, Any]:
    """Run writers and readers; what they did, and all that was wrong."""
    np.memmap(task.board, np.int64, "w+", shape=(task.writers, KEYS, COLUMNS)).flush()
    processes = multiprocessing.get_context("spawn")
    start, said = processes.Barrier(task.writers + task.readers), processes.Queue()
    works = [(write, at) for at in range(task.writers)] + [(read, at) for at in range(task.readers)]
    running = [processes.Process(target=work, args=(task, at, start, said)) for work, at in works]
    for process in running:
        process.start()
    reports: list[dict[str, Any]] = []
    with closing(said):
        while len(reports) < len(running):
            # Once more after the end of a process that may have said something at last.
            has_died = any(process.exitcode not in (None, 0) for process in running)
            try:
                reports.append(said.get(timeout=1))
            except Exception:
                if has_died:
                    break
    for process in running:
        if len(reports) < len(running):
            process.kill()
        process.join()
    wrong = [line for report in reports for line in report["wrong"]]
    wrong += ["a process died"] * (len(running) - len(reports))
    writes = sum(report["operations"] for report in reports if not report["hits"])
    return {
        "task": asdict(task),
        "operations": sum(report["operations"] for report in reports),
        "hits": sum(report["hits"] for report in reports),
        "writes": writes,
        "wrong": wrong + compare_in_the_end(task),
    }


def place_for(store: str, folder: Path) -> str:
    """Where there is nothing yet: a file in `folder`, or a server that ends with this process."""
    if store == "sqlite":
        return str(folder / "cache.db")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    engines = import_module("support.engines")
    return str(getattr(engines, f"{store}_url")())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--store", choices=STORES, default="sqlite")
    parser.add_argument("--at", help="where it is; else a new file, or a server for this run")
    parser.add_argument("--settings", type=json.loads, default={}, help="of the store, as JSON")
    parser.add_argument("--interval", type=float, default=0.0, help="seconds that may be stale")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.store == "sqlite" and not given.interval:
        # What waits in a group is not seen at once.
        given.settings = {"durability": "commit", **given.settings}
    with TemporaryDirectory() as folder:
        at = given.at or place_for(given.store, Path(folder))
        board = str(Path(folder) / "board")
        report = run(Task(**{**vars(given), "at": at, "board": board}))
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.exit(bool(report["wrong"]))


if __name__ == "__main__":
    main()
