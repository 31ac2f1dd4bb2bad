"""Long housekeeping keeps nobody from the cache."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cold import DIM, MANY, Gate, few_are_many, filled, is_cold, opened, warm

from mneme import MemoryStore, SemanticCache, SQLiteStore
from mneme._core.keeper import CHUNK
from mneme._core.live import BURIED_AT_ONCE
from mneme.records import Changes
from mneme.testing import HashEmbedder, ManualClock, entry


class Slow(MemoryStore):
    """One that gives space back for as long as it is told to, and defers what it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.waiting, self.most_waiting = 0, 0
        self.most_removed = 0

    def compact(self) -> None:
        self.begun.set()
        assert self.may_end.wait(30)

    def commit(self, changes: Changes) -> int:
        self.waiting += len(changes.removed)
        self.most_removed = max(self.most_removed, len(changes.removed))
        self.most_waiting = max(self.waiting, self.most_waiting)
        return super().commit(changes)

    def flush(self) -> None:
        self.waiting = 0


def test_puts_go_on_while_a_store_gives_space_back() -> None:
    """`compact` takes as long as the disk does: others put and get meanwhile."""
    store = Slow()
    with SemanticCache(store=store, embedder=HashEmbedder()) as cache:
        compacting = threading.Thread(target=cache.compact)
        compacting.start()
        assert store.begun.wait(30)
        putting = threading.Thread(target=cache.put, args=("a question", "an answer"))
        putting.start()
        putting.join(10)
        hit = cache.get("a question")
        store.may_end.set()
        compacting.join()
        assert hit is not None


def test_vacuum_leaves_room_for_what_others_put() -> None:
    """What it removes is written bit by bit, not queued before the puts of others."""
    store, clock = Slow(), ManualClock()
    with SemanticCache(store=store, embedder=HashEmbedder(), clock=clock) as cache:
        cache.put_many({f"question {n}": "an answer" for n in range(3 * CHUNK)}, ttl=1)
        clock.advance(2)
        assert cache.vacuum(compact=False) == 3 * CHUNK
        assert cache.stats().expirations == 3 * CHUNK
        cache._core.sweeping.wait()
        assert store.most_waiting == BURIED_AT_ONCE
        assert list(store.scan()) == []


def test_nobodys_put_removes_what_had_died_before_the_cache_was_opened() -> None:
    """It leaves the store bit by bit once something is put."""
    store, clock = Slow(), ManualClock()
    dead = [entry(f"old {n}", expires_at=clock() - 1) for n in range(3 * BURIED_AT_ONCE)]
    store.commit(Changes(tuple(dead)))
    with SemanticCache(store=store, embedder=HashEmbedder(8), clock=clock) as cache:
        cache.put("a question", "an answer")
        cache._core.sweeping.wait()
        assert store.most_removed == BURIED_AT_ONCE
        assert [one.prompt for one in store.scan()] == ["a question"]
        assert cache.vacuum(compact=False) == len(dead)
        assert cache.vacuum(compact=False) == 0


def test_what_is_put_again_is_not_removed() -> None:
    """Not by a sweep that was on its way, in memory and in the store."""
    store, clock = Slow(), ManualClock()
    with SemanticCache(store=store, embedder=HashEmbedder(), clock=clock) as cache:
        cache.put_many({f"question {n}": "an answer" for n in range(2 * BURIED_AT_ONCE)}, ttl=1)
        clock.advance(2)
        with cache._core._commits:
            # The sweep cannot begin before.
            assert cache.vacuum(compact=False) == 2 * BURIED_AT_ONCE
            cache.put("question 1", "a new answer")
        cache._core.sweeping.wait()
        assert [one.prompt for one in store.scan()] == ["question 1"]
        assert cache.get("question 1").response == "a new answer"  # type: ignore[union-attr]


def test_a_store_that_cannot_remove_keeps_nobody_waiting(caplog: Any) -> None:
    """What is dead is tried to be removed with the next vacuum, and by closing."""

    class Broken(Slow):
        is_down = False

        def commit(self, changes: Changes) -> int:
            if self.is_down and changes.removed:
                raise OSError("it is down")
            return super().commit(changes)

    store, clock = Broken(), ManualClock()
    with SemanticCache(store=store, embedder=HashEmbedder(), clock=clock) as cache:
        cache.put_many({f"question {n}": "an answer" for n in range(5)}, ttl=1)
        clock.advance(2)
        store.is_down = True
        assert cache.vacuum(compact=False) == 5
        cache._core.sweeping.wait()
        assert "it is down" in caplog.text
        assert cache.get("question 1") is None
        store.is_down = False
        assert cache.vacuum(compact=False) == 0
        cache._core.sweeping.wait()
        assert list(store.scan()) == []


def test_memory_lets_go_of_what_was_cleared() -> None:
    """`clear_namespace` does not wait for it, and it happens without another call."""
    with SemanticCache(store=MemoryStore(), embedder=HashEmbedder()) as cache:
        cache.put_many({f"question {n}": "an answer" for n in range(3 * CHUNK)})
        assert cache.clear_namespace("default") == 3 * CHUNK
        assert cache.get("question 1") is None
        cache._core.sweeping.wait()
        assert cache._core.live.ledger._cleared == []


def test_the_space_of_what_was_cleared_is_given_back(tmp_path: Path) -> None:
    """By `vacuum`, although nothing in memory has expired."""
    path = tmp_path / "cache.db"
    with SemanticCache(path, embedder=HashEmbedder(), self_check=False) as cache:
        cache.put_many({f"question {n}": "an answer" * 100 for n in range(3 * CHUNK)})
        cache.clear()
        assert cache.vacuum() == 0
    assert path.stat().st_size < 500_000
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (0,)
        assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)


@pytest.mark.parametrize("durability", ["group", "commit"])
def test_closing_removes_the_rest(durability: Any, tmp_path: Path) -> None:
    """Rows of what `vacuum` has forgotten are out of the closed file, and their space with them."""
    clock, path = ManualClock(), tmp_path / "cache.db"
    settings: Any = {"embedder": HashEmbedder(), "clock": clock, "durability": durability}
    with SemanticCache(path, **settings) as cache:
        cache.put_many([(f"question {n}", "x" * 2_000) for n in range(2 * CHUNK)], ttl=10)
        cache.put("keep", "this")
    full = path.stat().st_size
    clock.advance(100)
    with SemanticCache(path, **settings) as cache:
        # Nothing is swept before.
        cache._core.sweeping.end()
        assert cache.vacuum() == 2 * CHUNK
        cache.close()
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM entries").fetchone() == (1,)
            assert connection.execute("PRAGMA freelist_count").fetchone() == (0,)
    assert path.stat().st_size < full / 4


def test_nothing_is_served_of_a_vacuum_that_was_cut_short(tmp_path: Path) -> None:
    """Killed before the rows are removed, they are dead, and leave the file another time."""
    clock, path, killed = ManualClock(), tmp_path / "cache.db", tmp_path / "killed.db"
    with SemanticCache(path, embedder=HashEmbedder(), clock=clock) as cache:
        cache.put_many([(f"question {n}", "an answer") for n in range(CHUNK)], ttl=10)
        clock.advance(100)
        cache._core.sweeping.end()
        assert cache.vacuum() == CHUNK
        for end in ("", "-wal"):
            shutil.copy(f"{path}{end}", f"{killed}{end}")
    with SemanticCache(killed, embedder=HashEmbedder(), clock=clock) as cache:
        assert cache.get("question 1") is None
        assert cache.stats().entries == 0
        assert cache.vacuum() == CHUNK
    with closing(sqlite3.connect(killed)) as connection:
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (0,)


def test_others_write_while_a_file_shrinks(tmp_path: Path) -> None:
    """Space is given back in steps; another process writes in between, and all of it is kept."""
    path = tmp_path / "cache.db"
    store = SQLiteStore(path, durability="commit")
    other = SQLiteStore(path, durability="commit")
    for one in (store, other):
        one.claim("contract:embedder:8:l2", 8)
    some = [entry(f"question {n}", "x" * 20_000) for n in range(400)]
    store.commit(Changes(tuple(some)))
    store.commit(Changes(removed=tuple(one.identity for one in some[:-1])))
    steps = 0
    while store.shrink():
        steps += 1
        other.commit(Changes((entry(f"later {steps}"),)))
    assert steps > 3
    assert len(list(store.scan())) == steps + 1
    store.close()
    other.close()
    assert path.stat().st_size < 20_000 * 100


def test_a_file_of_before_is_packed_anew_to_give_space_back_from_then_on(tmp_path: Path) -> None:
    """`shrink` does nothing to it, `compact` lays it out for that."""
    path = tmp_path / "cache.db"
    store = SQLiteStore(path, durability="commit")
    store.claim("contract:embedder:8:l2", 8)
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("VACUUM")
    store = SQLiteStore(path, durability="commit")
    store.claim("contract:embedder:8:l2", 8)
    some = [entry(f"question {n}", "x" * 20_000) for n in range(100)]
    store.commit(Changes(tuple(some)))
    store.commit(Changes(removed=tuple(one.identity for one in some)))
    assert not store.shrink()
    store.compact()
    store.commit(Changes(tuple(some)))
    store.commit(Changes(removed=tuple(one.identity for one in some)))
    while store.shrink():
        continue
    store.close()
    assert path.stat().st_size < 20_000 * 50


class TestBeforeMemoryIsFilled:
    """`clear_namespace` and `clear` of a file that was just opened wait for nothing."""

    @pytest.fixture(autouse=True)
    def _few_are_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        few_are_many(monkeypatch)

    @pytest.mark.parametrize("durability", ["group", "commit"])
    def test_clearing_does_not_wait(
        self, durability: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody sees what was cleared: not this cache, another, nor memory once it is filled."""
        path, gate = tmp_path / "cache.db", Gate(monkeypatch)
        filled(path)
        settings: Any = {"embedder": HashEmbedder(DIM), "self_check": False}
        with (
            SemanticCache(path, durability=durability, **settings) as cache,
            opened(path) as other,
        ):
            assert cache.get("question 3") is not None
            assert cache.clear_namespace("nobody's") == 0
            assert cache.clear_namespace("default") == 2 * MANY
            assert is_cold(cache)
            assert cache.get("question 3") is None
            assert other.get("question 3") is None
            assert cache.stats().entries == cache.clear() == 0
            gate.open()
            cache.put("question 5", "a new answer")
            warm(cache)
            assert cache.stats().entries == 1
            assert cache.get("question 3") is None
        with opened(path) as cache:
            assert cache.stats().entries == 1
