"""Equal calls in several processes: one of them calls, and nobody hangs, whatever becomes of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.asker import Asker
from support.forks import forked
from support.worlds import THREADS, WORLDS, World

from mneme import SQLiteStore
from mneme.records import Key, Partition

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)
IDENTITY = (Partition(b"p" * 16), Key(b"k" * 16))


@contextmanager
def _asking(path: Path, world: World, durability: str = "group") -> Iterator[list[Asker]]:
    """Three processes that ask one question: the first calls, and the others wait for it."""
    with ExitStack() as stack:
        askers = [stack.enter_context(Asker(path, str(world), durability)) for _ in range(3)]
        assert [asker.says() for asker in askers] == ["ready"] * 3
        for asker, said in zip(askers, ("calls", "waits", "waits"), strict=True):
            asker.tell("q")
            assert asker.says() == said
        yield askers


@pytest.mark.parametrize(
    ("world", "durability"), [*((world, "group") for world in WORLDS), (THREADS, "commit")], ids=str
)
def test_one_call_for_all_processes(world: World, durability: str, tmp_path: Path) -> None:
    """Three processes ask the same at once: one calls, and all have its answer."""
    with _asking(tmp_path / "cache.db", world, durability) as askers:
        askers[0].tell("the answer")
        assert [asker.says() for asker in askers] == ["has the answer"] * 3
    lock = tmp_path / "cache.db-flights"
    assert (lock.stat().st_mode & 0o777, lock.stat().st_size) == (0o600, 0)


def test_other_questions_wait_for_nobody(tmp_path: Path) -> None:
    """While one process calls for a question, another process calls for another one."""
    with _asking(tmp_path / "cache.db", THREADS) as askers:
        with Asker(tmp_path / "cache.db", "threads", "group") as other:
            assert other.says() == "ready"
            other.tell("another question")
            assert other.says() == "calls"
            other.tell("another answer")
            assert other.says() == "has another answer"
        askers[0].tell("the answer")
        assert [asker.says() for asker in askers] == ["has the answer"] * 3


@IN_EACH_WORLD
def test_a_process_that_is_killed_while_it_calls(world: World, tmp_path: Path) -> None:
    """Those who waited for it call for themselves, none after the other."""
    with _asking(tmp_path / "cache.db", world) as (leader, *others):
        leader.kill()
        assert [asker.says() for asker in others] == ["calls"] * 2
        for at, asker in enumerate(others):
            asker.tell(f"answer {at}")
            assert asker.says() == f"has answer {at}"


def test_a_process_that_is_killed_and_has_a_child(tmp_path: Path) -> None:
    """What a call has forked does not go on holding up the others when the caller is dead."""
    with _asking(tmp_path / "cache.db", THREADS) as (leader, *others):
        leader.tell("fork")
        child = int(leader.says())
        try:
            leader.kill()
            assert [asker.says() for asker in others] == ["calls"] * 2
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_child_lets_go_of_nothing(tmp_path: Path) -> None:
    """In a forked child the parent's lock is over, and the parent still has it."""
    store, other = SQLiteStore(tmp_path / "cache.db"), SQLiteStore(tmp_path / "cache.db")
    held = store.flight_lock(IDENTITY)
    assert held.acquire()

    def child() -> list[bool]:
        held.release()
        return [held.acquire(), store.flight_lock(IDENTITY).acquire()]

    assert forked(child) == [False, False]
    assert not other.flight_lock(IDENTITY).acquire()
    held.release()
    again = other.flight_lock(IDENTITY)
    # The child dies with the lock, and nothing is left of it.
    assert forked(lambda: store.flight_lock(IDENTITY).acquire())
    assert again.acquire()
    again.release()
