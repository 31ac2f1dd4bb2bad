"""Forks of a process that has a cache open: both sides go on, and neither disturbs the other."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from support.forks import forked
from support.worlds import PATIENCE

from mneme import (
    MemoryStore,
    SemanticCache,
    SQLiteStore,
    StoreBackendError,
    _forks,
    semantic_cache,
    serialized,
)
from mneme.testing import HashEmbedder

Durability = Literal["commit", "group"]
IN_EACH_DURABILITY = pytest.mark.parametrize("durability", ["commit", "group"])
VECTOR = [1.0] * 8
FORKS = 10


def _open(path: Path, durability: Durability = "commit", **settings: Any) -> SemanticCache:
    return SemanticCache(path, embedder=HashEmbedder(8), durability=durability, **settings)


@contextmanager
def _busy(work: Any, threads: int = 3) -> Iterator[None]:
    """`work`, which is given a thread's number and a turn's, goes on in threads meanwhile."""
    stop = threading.Event()

    def run(thread: int) -> int:
        turn = 0
        while not stop.is_set():
            work(thread, turn)
            turn += 1
        return turn

    with ThreadPoolExecutor(threads) as pool, ExitStack() as stack:
        running = [pool.submit(run, at) for at in range(threads)]
        stack.callback(lambda: [one.result(PATIENCE) for one in running])
        stack.callback(stop.set)
        yield


def _integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


@IN_EACH_DURABILITY
def test_forks_while_threads_write(durability: Durability, tmp_path: Path) -> None:
    """Each child reads and writes, each thread of the parent goes on, and nothing is lost."""
    path = tmp_path / "cache.db"
    cache = _open(path, durability)
    written: dict[str, int] = {}

    def write(thread: int, turn: int) -> None:
        name = f"{thread} {turn % 50}"
        assert cache.put(name, turn, embedding=VECTOR)
        written[name] = turn
        assert cache.get(name).response == turn  # type: ignore[union-attr]

    def child(at: int) -> str:
        before = cache.get("before")
        assert before is not None
        assert before.response == "B"
        assert cache.put(f"child {at}", at, embedding=VECTOR)
        assert cache.get(f"child {at}") is not None
        near = cache.get("not among them", embedding=VECTOR)
        cache.close()
        return "near" if near is not None else "nothing near"

    with cache:
        cache.put("before", "B", embedding=VECTOR)
        with _busy(write):
            for at in range(FORKS):
                assert forked(lambda at=at: child(at)) == "near"
        for at in range(FORKS):
            assert cache.get(f"child {at}").response == at  # type: ignore[union-attr]
    with _open(path) as cache:
        for name, turn in written.items():
            assert cache.get(name).response == turn  # type: ignore[union-attr]
        assert cache.stats().entries == len(written) + FORKS + 1
        assert cache.health().healthy
    assert _integrity(path) == "ok"


@IN_EACH_DURABILITY
def test_each_side_sees_the_other(durability: Durability, tmp_path: Path) -> None:
    """A child is one more process on the file: puts and deletes show in the next lookup."""
    path = tmp_path / "cache.db"
    asked, told = multiprocessing.Pipe()
    with _open(path, durability) as cache:
        cache.put("q", "old")

        def child() -> list[Any]:
            assert told.recv() == "changed"
            seen = [hit and hit.response for hit in cache.get_many(["q", "gone", "p"])]
            cache.put("q", "from the child")
            cache.delete("p")
            cache.close()
            return seen

        cache.put("gone", "G")
        with ThreadPoolExecutor(1) as pool:
            saying = pool.submit(forked, child)
            cache.put("q", "new")
            cache.delete("gone")
            cache.put("p", "P")
            # Writes what waits for a group commit.
            cache.vacuum(compact=False)
            cache.labels()
            asked.send("changed")
            assert saying.result(PATIENCE) == ["new", None, "P"]
        assert cache.get("q").response == "from the child"  # type: ignore[union-attr]
        assert cache.get("p") is None


def test_what_waits_is_saved_once(tmp_path: Path) -> None:
    """Counters, labels and a group's entries that wait at a fork are the parent's to save."""
    path = tmp_path / "cache.db"
    cache = _open(path, "group")
    store: Any = cache._core.store
    store._group._delay = 3_600.0

    def child() -> int:
        assert cache.get("q") is not None
        cache.put("child", "C")
        cache.close()
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("SELECT count(*) FROM entries").fetchone()
        return int(found[0])

    with cache:
        cache.get("a miss")
        cache.put("q", "r")
        assert forked(child) == 1
        assert cache.get("q") is not None
    with _open(path) as again:
        stats = again.stats()
        assert (stats.entries, stats.hits_exact, stats.misses) == (2, 2, 1)


def test_a_call_that_runs_in_the_parent(tmp_path: Path) -> None:
    """A child does not wait for a call whose thread it does not have, nor for its embedder."""
    entered, leave = threading.Event(), threading.Event()
    embedder = serialized(_Waiting(entered, leave))
    cache = SemanticCache(tmp_path / "cache.db", embedder=embedder, self_check=False)

    @semantic_cache(cache=cache)
    def ask(prompt: str) -> str:
        return "answer"

    def child() -> str:
        leave.set()
        return ask("slow")

    with cache, ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, "slow")
        assert entered.wait(PATIENCE)
        assert forked(child) == "answer"
        leave.set()
        assert running.result(PATIENCE) == "answer"


class _Waiting(HashEmbedder):
    """Waits inside `embed` until it may go on."""

    def __init__(self, entered: threading.Event, leave: threading.Event) -> None:
        super().__init__(8)
        self._entered, self._leave = entered, leave

    def embed(self, text: str) -> Any:
        self._entered.set()
        assert self._leave.wait(PATIENCE)
        return super().embed(text)


@IN_EACH_DURABILITY
def test_a_fork_in_the_midst_of_a_commit(
    durability: Durability, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who does not let go in time does not hold the fork up; the child says what is wrong."""
    monkeypatch.setattr(_forks, "PATIENCE", 0.01)
    with _open(tmp_path / "cache.db", durability) as cache:
        cache.put("q", "r")
        store: Any = cache._core.store
        inside, leave = threading.Event(), threading.Event()

        def commit_slowly() -> None:
            with store._file.transaction():
                inside.set()
                assert leave.wait(PATIENCE)

        def child() -> list[str]:
            assert cache.get("q") is not None

            @semantic_cache(cache=cache)
            def ask(prompt: str) -> str:
                return "answered"

            assert ask("another") == "answered"
            with pytest.raises(StoreBackendError, match="Open a cache after forking") as caught:
                cache.labels()
            return [str(caught.value)]

        with ThreadPoolExecutor(1) as pool:
            committing = pool.submit(commit_slowly)
            assert inside.wait(PATIENCE)
            assert forked(child)
            leave.set()
            committing.result(PATIENCE)
        assert cache.put("p", "r") is True
        assert cache.get("p") is not None


def test_a_fork_that_python_does_not_see(tmp_path: Path) -> None:
    """A child that was made past `os.fork` is refused the file; what is in memory is served."""
    with _open(tmp_path / "cache.db") as cache:
        cache.put("q", "r")

        def child() -> bool:
            assert cache.get("q") is not None
            with pytest.raises(StoreBackendError, match="Open a cache after forking"):
                cache.put("p", "r")
            return True

        assert forked(child, ctypes.PyDLL(None).fork)
        assert cache.put("p", "r") is True


def test_a_pool_of_forked_processes(tmp_path: Path) -> None:
    """`multiprocessing` by fork with an open cache, as it is the default on Python 3.11."""
    path = tmp_path / "cache.db"
    with _open(path) as cache:
        cache.put("before", "B")
        global _shared
        _shared = cache
        with _forking_quietly(), multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(_in_pool, range(20)) == ["B"] * 20
        for at in range(20):
            assert cache.get(f"in a pool {at}").response == at  # type: ignore[union-attr]


_shared: SemanticCache


def _in_pool(at: int) -> Any:
    _shared.put(f"in a pool {at}", at)
    hit = _shared.get("before")
    return hit and hit.response


@contextmanager
def _forking_quietly() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def test_refreshing_in_a_child(tmp_path: Path) -> None:
    """The threads of an open cache stay with the parent; the child has some of its own."""
    done = multiprocessing.Event()
    with SemanticCache(store=MemoryStore(), embedder=HashEmbedder(8)) as cache:
        crew: Any = cache._core.thread_crew
        crew.submit(int).result(PATIENCE)

        def child() -> bool:
            own: Any = cache._core.thread_crew
            own.submit(done.set).result(PATIENCE)
            cache.close()
            return own is not crew

        assert forked(child) is True
        assert done.is_set()
        assert crew.submit(int).result(PATIENCE) == 0


def test_a_child_of_a_child(tmp_path: Path) -> None:
    """A process that forks, and whose child forks, as daemons do: each may use the cache."""
    path = tmp_path / "cache.db"
    with _open(path, "group") as cache:
        cache.put("parent", 0)

        def child() -> Any:
            cache.put("child", 1)
            below = forked(grandchild)
            cache.close()
            return below

        def grandchild() -> list[Any]:
            cache.put("grandchild", 2)
            found = [hit and hit.response for hit in cache.get_many(["parent", "child"])]
            cache.close()
            return found

        assert forked(child) == [0, 1]
        assert cache.get("grandchild").response == 2  # type: ignore[union-attr]


def test_what_fails_at_a_fork_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """An error of one who is told of a fork is logged, and all others are told."""

    class Bad(_forks.Forked):
        def before_fork(self) -> None:
            raise RuntimeError("not now")

    bad, store = Bad(), MemoryStore()
    _forks.watch(bad)
    with caplog.at_level(logging.ERROR, "mneme"):
        assert forked(lambda: len(list(store.scan()))) == 0
    assert "a fork may not have gone well" in caplog.text


def test_a_closed_store_is_left_closed(tmp_path: Path) -> None:
    """A fork opens nothing: neither what was never opened nor what was closed."""
    store = SQLiteStore(tmp_path / "cache.db")

    def child() -> str:
        with pytest.raises(StoreBackendError, match="not open"):
            list(store.scan())
        return "refused"

    assert forked(child) == "refused"
    store.claim("e", 8)
    store.close()
    assert forked(child) == "refused"
    assert not (tmp_path / "cache.db-wal").exists()
