"""Writers that are killed: what they were told is stored is stored, and nothing is in halves."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.remote import Remote

from mneme import SemanticCache
from mneme.testing import HashEmbedder

ROUNDS = int(os.environ.get("MNEME_TEST_KILLS", "20"))
"""How often a writer is killed; more finds rarer moments."""

VICTIM = Path(__file__).parents[1] / "support" / "victim.py"
BATCH = 3


@contextmanager
def _victim() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(VICTIM)],
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


def _killed(
    process: subprocess.Popen[str], path: Path, durability: str, first: int, puts: int
) -> list[int]:
    """What a writer had been told is stored, that was killed at some moment in its first `puts`."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([str(path), durability, first]) + "\n")
    process.stdin.flush()
    child = 0
    told: list[int] = []
    patience = random.randrange(1, puts)
    while (line := process.stdout.readline().strip()) != "dead":
        assert line, "the victim's parent has died"
        if line.startswith("child"):
            child = int(line.split()[1])
        else:
            told.append(int(line))
        if child and len(told) == patience:
            # Somewhere inside one of the next puts.
            for _ in range(random.randrange(20_000)):
                pass
            os.kill(child, signal.SIGKILL)
    return told


def _found(path: Path) -> set[int]:
    """The numbers that are in the file; a batch of which only a part is there fails."""
    with SemanticCache(path, embedder=HashEmbedder(8)) as cache:
        assert cache.health().healthy
        found: dict[int, int] = {}
        for record in cache._core.live.ledger.records():
            number = int(record.entry.prompt.split()[1])
            hit = cache.get(record.entry.prompt)
            assert hit is not None
            assert hit.response == number
            found[number] = found.get(number, 0) + 1
        near = cache.get("not among them", embedding=[1.0] * 8)
        assert (near is not None) is bool(found)
    assert all(count == (1 if number % 4 else BATCH) for number, count in found.items())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return set(found)


def test_every_acknowledged_put_survives_a_kill(tmp_path: Path) -> None:
    """After kill -9 at any moment the file opens, and has all that `put` returned from."""
    told: set[int] = set()
    with _victim() as process:
        for at in range(ROUNDS):
            if at % 20 == 0:
                # Not larger than it takes to open it quickly.
                path, told = tmp_path / f"{at}.db", set()
            first = max(told, default=0) + 2
            told.update(_killed(process, path, "commit", first, 40))
            found = _found(path)
            assert told <= found
            # At most the put that was running when the writer died is there unasked.
            assert len(found - told) <= 1
            told = found


def test_a_kill_in_group_commit_loses_only_the_end(tmp_path: Path) -> None:
    """With durability="group" what is lost is a tail: nothing is missing before what is found."""
    kept = at = 0
    puts = 2_000
    with _victim() as process:
        # A fast machine has done all these puts before the first commit is due: then more.
        while at < max(3, ROUNDS // 4) or not kept:
            told = _killed(process, tmp_path / f"{at}.db", "group", 1, puts)
            found = sorted(_found(tmp_path / f"{at}.db"))
            assert found == list(range(1, len(found) + 1))
            assert told == list(range(1, len(told) + 1))
            assert len(found) <= len(told) + 1
            kept += len(found)
            at += 1
            puts *= 1 if kept else 2
            assert puts < 2_000_000, "nothing is ever written"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_writer_killed_inside_its_commit(when: str, tmp_path: Path) -> None:
    """The mark says too much and nothing breaks: others see what there is, and go on writing."""
    path = tmp_path / "cache.db"
    mark = Path(f"{path}-mark")

    def is_ahead() -> bool:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("SELECT value FROM meta WHERE name = 'seq'").fetchone()
        return int.from_bytes(mark.read_bytes(), sys.byteorder) != 2 * int(found[0])

    durability: Any = "commit"
    with SemanticCache(path, embedder=HashEmbedder(8), durability=durability) as survivor:
        survivor.put("before", "A")
        with Remote(path, durability=durability) as writer:
            assert writer.put("between", "B") is True
            assert survivor.get("between") is not None
            assert not is_ahead()
            assert writer.die_in_commit(when) == -signal.SIGKILL
        assert is_ahead() is (when == "before")
        for _ in range(2):
            assert survivor.get("before") is not None
            assert (survivor.get("last words") is not None) is (when == "after")
        with SemanticCache(path, embedder=HashEmbedder(8), durability=durability) as newcomer:
            assert not is_ahead()
            assert (newcomer.get("last words") is not None) is (when == "after")
            assert survivor.put("next", "C") is True
            assert not is_ahead()
            assert newcomer.get("next") is not None
            assert newcomer.put("last", "D") is True
        assert survivor.get("last") is not None
