"""Writers that are killed: what they were told is stored is stored, and nothing is in halves."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from faults.kill_loop import a_victim, killed, run
from support.remote import Remote

from mneme import SemanticCache
from mneme.testing import HashEmbedder

ROUNDS = int(os.environ.get("MNEME_TEST_KILLS", "20"))
"""How often a victim is killed; more finds rarer moments."""


@pytest.mark.parametrize("durability", ["commit", "group"])
def test_a_process_that_is_killed_at_work(durability: str, tmp_path: Path) -> None:
    """The file opens, holds what it held after one operation, and has lost no more than allowed."""
    report = run(ROUNDS, durability, tmp_path)
    # How much time lies in 50 ms depends on the machine: kill_loop.py measures it.
    wrong = [line for line in report.wrong if durability == "commit" or "ms before" not in line]
    assert wrong == []
    assert report.kills == ROUNDS
    assert report.operations > report.lost


def _beside(path: Path) -> list[Path]:
    return [one for one in path.parent.iterdir() if re.fullmatch(rf"{path.name}-\d+", one.name)]


@pytest.mark.parametrize("what", ["restore", "rescue"])
def test_a_process_that_is_killed_while_it_makes_a_file(what: str, tmp_path: Path) -> None:
    """A file that is restored or rescued is there as a whole, or it is not there."""
    source = tmp_path / "source"
    with SemanticCache(tmp_path / "cache.db", embedder=HashEmbedder(8)) as cache:
        cache.put_many({f"question {at}": at for at in range(300)})
        cache.dumps(source)
    if what == "rescue":
        source = (tmp_path / "cache.db").rename(tmp_path / "moved")
    chance = random.Random(0)
    with a_victim() as process:
        for at in range(max(3, ROUNDS // 4)):
            told = killed(process, (what, source, "commit", 1_000 * at), chance, 3).told
            for made in (Path(f"{source}-{number}") for number in told):
                assert made in _beside(source)
            for made in _beside(source):
                with SemanticCache(made, embedder=HashEmbedder(8)) as cache:
                    assert cache.stats().entries == 300
                    assert cache.get("question 299").response == 299  # type: ignore[union-attr]
                for part in tmp_path.glob(f"{made.name}*"):
                    part.unlink()


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
