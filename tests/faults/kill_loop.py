"""
A process that works on a cache file, killed again and again; what is found must be right.

    python tests/faults/kill_loop.py --times 200 --durability group

The victim (``tests/support/victim.py``) puts, replaces, deletes, clears, vacuums and compacts,
and says of each operation when it has returned. After each ``kill -9`` the file must open, be
whole to SQLite, and hold what it held after one of the operations: after none earlier than the
last that had returned or, with ``--durability group``, had returned 50 ms before the kill.
An operation that was running may be done, not done or, where it removes many, done in part.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import victim
from support.victim import State, after, plan

from mneme import SemanticCache
from mneme.testing import HashEmbedder

PROMISED_MS = {"commit": 0.0, "group": 50.0}
MOST = {"commit": 40, "group": 600}
"""Operations before a kill: in a group they take less time."""

ROUNDS_A_FILE = 40
"""After which a new file is begun: it must not become larger than it takes to open it quickly."""


@dataclass
class Report:
    """How it went; ``lost`` counts operations that had returned and left no trace."""

    durability: str
    kills: int = 0
    operations: int = 0
    lost: int = 0
    oldest_lost_ms: float = 0.0
    """The longest before its kill that a lost operation had returned."""
    killed_in: dict[str, int] = field(default_factory=dict)
    """What was running, by its name; as far as it was not between two operations."""
    wrong: list[str] = field(default_factory=list)


class Death(NamedTuple):
    """The operations that had returned, and each one's milliseconds before the kill."""

    told: dict[int, float]


@contextmanager
def a_victim() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(victim.PATH)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def killed(
    process: subprocess.Popen[str],
    order: tuple[str, Path, str, int],
    chance: random.Random,
    most: int,
) -> Death:
    """A victim is given `order`, and killed at some moment in its first `most` operations."""
    assert process.stdin is not None
    assert process.stdout is not None
    what, path, durability, first = order
    process.stdin.write(json.dumps([what, str(path), durability, first]) + "\n")
    process.stdin.flush()
    child, dies_at = 0, 0
    told: dict[int, int] = {}
    patience = chance.randrange(most)
    while (line := process.stdout.readline().strip()) != "dead":
        assert line, "the victim's parent has died"
        if line.startswith("child"):
            child = int(line.split()[1])
        else:
            number, at = line.split()
            told[int(number)] = int(at)
        if child and not dies_at and len(told) >= patience:
            # Somewhere inside one of the next operations; some take microseconds, some longer.
            for _ in range(chance.randrange(chance.choice([500, 20_000, 200_000]))):
                pass
            dies_at = time.monotonic_ns()
            os.kill(child, signal.SIGKILL)
    return Death({number: (dies_at - at) / 1e6 for number, at in told.items()})


def state_of(path: Path) -> State:
    """
    What the file holds.

    Raises:
        AssertionError: the file, or an answer in it, is not what it must be.
    """
    with SemanticCache(path, embedder=HashEmbedder(8), self_check=False) as cache:
        assert cache.health().healthy, cache.health()
        found: State = {}
        for entry in list(cache._core.store.scan()):
            if entry.namespace == "dead":
                continue
            hit = cache.get(entry.prompt, namespace=entry.namespace)
            assert hit is not None, entry
            found[entry.namespace, entry.prompt] = hit.response
        assert len(found) == cache.stats().entries
        for space in {space for space, _ in found}:
            near = cache.get("other words", embedding=[1.0] * 8, namespace=space)
            assert near is not None
            assert found[space, near.prompt] == near.response
    with closing(sqlite3.connect(path)) as connection:
        verdict = connection.execute("PRAGMA integrity_check").fetchone()
    assert verdict == ("ok",), verdict
    return found


def check(report: Report, before: State, first: int, death: Death, found: State) -> None:
    """Find the operation after which the cache was as it is now."""
    last = first + len(death.told)
    states = [before]
    for number in range(first, last + 1):
        states.append(after(states[-1], number))
    # The latest that fits: many operations change nothing.
    done = next((at for at in range(len(states) - 1, -1, -1) if states[at] == found), None)
    if done is None:
        # A group may take only a part of a removal of many with it.
        parts = range(len(states) - 2, -1, -1)
        done = next((at for at in parts if _is_part(states, at, found, first + at)), None)
    if done is None:
        report.wrong.append(
            f"after {first} to {last} ({plan(last)[0]}): {_difference(states, found)}"
        )
        return
    lost = [death.told[first + at] for at in range(done, len(death.told))]
    report.lost += len(lost)
    report.oldest_lost_ms = max([report.oldest_lost_ms, *lost])
    if lost and max(lost) > PROMISED_MS[report.durability]:
        report.wrong.append(f"lost what had returned {max(lost):.1f} ms before the kill")


def _is_part(states: list[State], at: int, found: State, number: int) -> bool:
    """Whether `found` is what operation `number`, a removal of many, has half done."""
    if plan(number)[0] != "clear":
        return False
    return states[at + 1].items() <= found.items() <= states[at].items()


def _difference(states: list[State], found: State) -> str:
    nearest = min(states, key=lambda one: len(one.items() ^ found.items()))
    return f"{sorted(nearest.items() ^ found.items())[:4]}"


def run(times: int, durability: str, folder: Path, *, seed: int = 0) -> Report:
    """Kill so many times; the files are made in `folder`."""
    report, chance = Report(durability), random.Random(seed)
    path, state, number = folder / "cache.db", State(), 1
    with a_victim() as process:
        for at in range(times):
            if at % ROUNDS_A_FILE == 0:
                path, state, number = folder / f"{at}.db", State(), at
            order = ("work", path, durability, number)
            death = killed(process, order, chance, MOST[durability])
            report.kills += 1
            report.operations += len(death.told)
            running = plan(number + len(death.told))[0]
            report.killed_in[running] = report.killed_in.get(running, 0) + 1
            try:
                found = state_of(path)
            except Exception as exc:
                report.wrong.append(f"{type(exc).__name__}: {exc}")
                break
            check(report, state, number, death, found)
            state, number = found, number + len(death.told) + 1
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[1])
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--durability", choices=PROMISED_MS, default="commit")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        report = run(given.times, given.durability, Path(folder), seed=given.seed)
    sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()
