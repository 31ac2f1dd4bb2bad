"""What may go wrong while a cache opens cold: nothing that a lookup would see."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.cold import (
    DIM,
    MANY,
    Gate,
    filled,
    is_cold,
    keeps,
    opened,
    side_file,
    vectors,
    warm,
)
from support.forks import forked
from support.worlds import PATIENCE

from mneme import Hit, SemanticCache
from mneme.stores._cold import ColdEntries
from mneme.stores._sidefile import PAGE, SideWriter
from mneme.testing import HashEmbedder

pytestmark = pytest.mark.usefixtures("few_are_many")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    filled(tmp_path / "cache.db")
    return tmp_path / "cache.db"


def _right(cache: SemanticCache, *, may_miss: bool = False) -> None:
    """Every answer is that of its question, and none is missing unless that is allowed."""
    for at, vector in enumerate(vectors(2 * MANY)):
        exact = cache.get(f"question {at}")
        assert exact is not None
        assert exact.response == f"answer {at}"
        found = cache.lookup(f"asked {at}", embedding=vector)
        if isinstance(found, Hit):
            assert found.response == f"answer {at}"
        else:
            assert may_miss
    cache._core.aliases.clear()


@pytest.mark.parametrize("size", [0, 7, 4_095, 4_096, 6_000, -1])
def test_a_side_file_that_is_cut_off(path: Path, size: int) -> None:
    """It is as if it were not there, and replaced."""
    whole = side_file(path).read_bytes()
    side_file(path).write_bytes(whole[:size])
    with opened(path) as cache:
        _right(cache)
    assert len(side_file(path).read_bytes()) == len(whole)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_gives_no_wrong_answer(tmp_path: Path, data: st.DataObject) -> None:
    """While it is cold it may hide an answer; once memory is filled it does not even do that."""
    path = tmp_path / "cache.db"
    if not path.exists():
        filled(path)
        shutil.copy(side_file(path), tmp_path / "whole")
    whole = bytearray((tmp_path / "whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        bit = data.draw(st.integers(0, 8 * len(whole) - 1))
        whole[bit // 8] ^= 1 << bit % 8
    side_file(path).unlink(missing_ok=True)
    side_file(path).write_bytes(whole)
    with opened(path) as cache:
        _right(cache, may_miss=True)
        warm(cache)
        _right(cache)


def test_a_damaged_side_file_is_replaced(path: Path) -> None:
    """The file that was found to be wrong does not stay."""
    whole = bytearray(side_file(path).read_bytes())
    # The first array is that of the vectors.
    whole[PAGE + 3] ^= 0x40
    side_file(path).write_bytes(whole)
    with opened(path) as cache:
        warm(cache)
        _right(cache)
    assert side_file(path).read_bytes() != bytes(whole)


def test_an_older_copy_of_the_cache_file(path: Path, tmp_path: Path) -> None:
    """A side file that is ahead of it is thrown away, before the copy comes to that number."""
    with opened(path) as cache:
        cache.clear()
        warm(cache)
        cache.put_many([(f"b {at}", "b") for at in range(MANY)], embeddings=vectors(MANY, 8))
    shutil.copy(path, tmp_path / "copy")
    with opened(path) as cache:
        pairs = [(f"question {at}", f"answer {at}") for at in range(2 * MANY)]
        cache.put_many(pairs, embeddings=vectors(2 * MANY))
        warm(cache)
    ahead = side_file(path).read_bytes()
    os.replace(tmp_path / "copy", path)
    with opened(path) as cache:
        assert not is_cold(cache)
        assert cache.stats().entries == MANY
    assert not side_file(path).exists() or side_file(path).read_bytes() != ahead


def test_anothers_side_file(path: Path, tmp_path: Path) -> None:
    """That of another cache file, moved there by hand, is not used."""
    filled(tmp_path / "other.db", MANY)
    os.replace(side_file(tmp_path / "other.db"), side_file(path))
    with opened(path) as cache:
        assert not is_cold(cache)
        _right(cache)


def test_another_process_replaces_it(path: Path, gate: Gate) -> None:
    """Those that have the old one mapped go on with it."""
    with opened(path) as cold:
        _right(cold)
        with opened(path, scanning=True) as other:
            some = [(f"more {at}", "answer") for at in range(2 * MANY)]
            other.put_many(some, embeddings=vectors(2 * MANY, 3))
        with opened(path) as third:
            assert keeps(third)
            _right(cold)
            assert is_cold(cold)
        gate.open()
        warm(cold)
        _right(cold)


def test_two_open_it_at_once(path: Path, gate: Gate) -> None:
    """Each answers, and sees what the other has written."""
    with opened(path) as one, opened(path) as two:
        _right(one)
        _right(two)
        gate.open()
        one.put("new", "answer", embedding=vectors(1, 5)[0])
        hit = two.get("new")
        assert hit is not None
        assert hit.response == "answer"


def test_what_fails_while_memory_is_filled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is filled by a scan."""

    def pages(cold: ColdEntries) -> Any:
        raise OSError("no more memory")

    monkeypatch.setattr(ColdEntries, "pages", pages)
    with opened(path) as cache:
        warm(cache)
        _right(cache)
        assert cache.stats().entries == 2 * MANY


def test_a_cache_that_is_collected(path: Path, gate: Gate) -> None:
    """The thread that fills its memory ends."""
    cache = opened(path)
    thread = cache._core._warming._thread  # type: ignore[union-attr]
    assert thread is not None
    assert gate.is_reached.wait(PATIENCE)
    del cache
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_fork_while_memory_is_filled(path: Path, gate: Gate) -> None:
    """The child answers, writes, and fills its own memory."""
    with opened(path) as cache:
        assert gate.is_reached.wait(PATIENCE)

        def child() -> str:
            _right(cache)
            gate.open()
            cache.put("new", "answer of the child", embedding=vectors(1, 5)[0])
            warm(cache)
            _right(cache)
            return "fine"

        assert forked(child) == "fine"
        _right(cache)
        assert is_cold(cache)
        hit = cache.get("new")
        assert hit is not None
        assert hit.response == "answer of the child"


WRITER = """
import sys
import pytest
from pathlib import Path
from support.cold import few_are_many, opened, vectors, warm
from mneme.stores import _sidefile

few_are_many(pytest.MonkeyPatch())
path = Path(sys.argv[1])
finish = _sidefile.SideWriter.finish

def slow(writer, seq):
    print("writing", flush=True)
    sys.stdin.read()
    finish(writer, seq)

_sidefile.SideWriter.finish = slow
cache = opened(path)
some = [(f"more {at}", "x") for at in range(80)]
cache.put_many(some, embeddings=vectors(80, 3))
warm(cache)
cache.close()
"""


def test_killed_while_it_is_written(path: Path) -> None:
    """The old one stays and is used; what was begun is removed in time."""
    before = side_file(path).read_bytes()
    code = textwrap.dedent(WRITER)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        os.kill(writer.pid, signal.SIGKILL)
    (part,) = path.parent.glob("cache.db-vectors.*.part")
    assert oct(part.stat().st_mode)[-3:] == "600"
    assert side_file(path).read_bytes() == before
    os.utime(part, (0, 0))
    with opened(path) as cache:
        _right(cache)
        warm(cache)
        assert cache.stats().entries == 2 * MANY + 80
    assert side_file(path).read_bytes() != before
    assert not part.exists()


def test_a_disk_that_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No side file is written, nobody is told, and nothing is left behind."""
    side_file(path).unlink()

    def finish(writer: SideWriter, seq: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SideWriter, "finish", finish)
    with opened(path) as cache:
        _right(cache)
    assert not list(path.parent.glob("cache.db-vectors*"))


def test_threads_look_up_while_memory_is_filled(path: Path) -> None:
    """From empty to filled there is no moment in which an answer is not found."""
    for _ in range(5):
        with opened(path) as cache:
            threads = [threading.Thread(target=_right, args=(cache,)) for _ in range(3)]
            failed: list[Any] = []
            hook, threading.excepthook = threading.excepthook, failed.append
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(PATIENCE)
            finally:
                threading.excepthook = hook
            assert not failed
            warm(cache)


def test_compacting_and_another_dimension(path: Path) -> None:
    """The file may be rewritten; a cache of another embedder does not use the vectors."""
    with opened(path) as cache:
        cache.compact()
        _right(cache)
    with opened(path) as cache:
        _right(cache)
        cache.clear()
    other = SemanticCache(path, embedder=HashEmbedder(2 * DIM), self_check=False)
    assert not is_cold(other)
    other.put("q", "r", embedding=np.ones(2 * DIM))
    other.close()
