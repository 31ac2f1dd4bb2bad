"""Changes that are written in groups are all written, in order, failures or not."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from mneme.errors import StoreBackendError
from mneme.records import Changes
from mneme.stores._group import GroupCommit, _left
from mneme.testing import ManualClock, entry


class Writer:
    """Keeps what it is given, or fails while told to."""

    def __init__(self) -> None:
        self.written: list[Changes] = []
        self.fails = False
        self.tried = threading.Event()

    def __call__(self, changes: Changes) -> None:
        try:
            if self.fails:
                raise StoreBackendError("down")
            self.written.append(changes)
        finally:
            self.tried.set()


@pytest.fixture
def no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writing thread never comes to run."""
    monkeypatch.setattr(GroupCommit, "_begin", lambda group: None)


def test_what_is_added_is_written_by_itself() -> None:
    """Nobody need flush: the group is written after its delay."""
    writer = Writer()
    group = GroupCommit(writer, delay=0.001)
    group.add(Changes(puts=(entry("a"),)))
    assert writer.tried.wait(10)
    group.close()
    assert [one.prompt for changes in writer.written for one in changes.puts] == ["a"]


def test_a_caller_writes_where_the_writing_thread_gets_no_turn(no_turn: None) -> None:
    """A whole delay late, the next `add` writes; a failure there is not the caller's."""
    writer, now = Writer(), [0.0]
    group = GroupCommit(writer, delay=60, clock=lambda: now[0])
    group.add(Changes(puts=(entry("a"),)))
    now[0] = 120.0
    group.add(Changes(puts=(entry("b"),)))
    assert writer.written == []
    now[0] = 120.1
    writer.fails = True
    group.add(Changes(puts=(entry("c"),)))
    assert writer.written == []
    writer.fails = False
    now[0] = 240.0
    group.add(Changes(puts=(entry("d"),)))
    assert writer.written == []
    now[0] = 241.0
    group.add(Changes(puts=(entry("e"),)))
    assert [one.prompt for one in writer.written[0].puts] == ["a", "b", "c", "d", "e"]
    group.close()


def test_a_group_is_one_write_of_the_last_states() -> None:
    """Puts and removals of one identity come down to the last, and counts add up."""
    writer = Writer()
    group = GroupCommit(writer, delay=60)
    group.add(Changes(puts=(entry("a", "old"), entry("b")), counts={("n", "misses"): 1}))
    group.add(Changes(puts=(entry("a", "new"),), removed=(entry("b").identity,)))
    group.add(Changes(removed=(entry("c").identity,), counts={("n", "misses"): 2}))
    group.add(Changes(puts=(entry("c"),)))
    group.flush()
    (changes,) = writer.written
    assert [(one.prompt, one.payload.data) for one in changes.puts] == [
        ("a", "new"),
        ("c", "a memory"),
    ]
    assert changes.removed == (entry("b").identity,)
    assert dict(changes.counts) == {("n", "misses"): 3}
    group.flush()
    assert len(writer.written) == 1
    group.close()


def test_a_failed_write_is_kept_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """What could not be written waits, behind what came later, until it can."""
    writer = Writer()
    writer.fails = True
    group = GroupCommit(writer, delay=0.001)
    group.add(Changes(puts=(entry("a", "old"), entry("b")), removed=(entry("c").identity,)))
    assert writer.tried.wait(10)
    # The second try says that the first has been logged.
    writer.tried.clear()
    assert writer.tried.wait(10)
    with pytest.raises(StoreBackendError):
        group.flush()
    group.add(Changes(puts=(entry("a", "new"), entry("c"))))
    writer.fails = False
    group.close()
    last: dict[str, object] = {}
    for changes in writer.written:
        last |= {one.prompt: one.payload.data for one in changes.puts}
        assert entry("c").identity not in changes.removed or "c" not in last
    assert last == {"a": "new", "b": "a memory", "c": "a memory"}
    assert "will be tried again" in caplog.text


def test_failed_writes_are_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, no_turn: None
) -> None:
    """A disk that stays full does not fill the log, too."""
    writer, clock = Writer(), ManualClock(0.0)
    writer.fails = True
    # No thread of its own: it would wait for a day.
    group = GroupCommit(writer, delay=86_400.0, clock=clock)
    group.add(Changes(puts=(entry("a"),)))
    for seconds, lines in ((0.0, 1), (59.0, 1), (1.0, 2), (1.0, 2)):
        clock.advance(seconds)
        group.try_flush()
        assert caplog.text.count("will be tried again") == lines
    writer.fails = False
    group.close()


def test_a_store_that_falls_behind_makes_callers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the limit an add writes, and its failure reaches the caller."""
    monkeypatch.setattr("mneme.stores._group.MAX_WAITING", 2)
    writer = Writer()
    group = GroupCommit(writer, delay=60)
    group.add(Changes(puts=(entry("a"), entry("b"))))
    group.add(Changes(puts=(entry("c"),)))
    assert not writer.written
    writer.fails = True
    with pytest.raises(StoreBackendError, match="down"):
        group.add(Changes(puts=(entry("d"),)))
    writer.fails = False
    group.close()
    assert len(writer.written[0].puts) == 4


def test_one_large_commit_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who made it has other things to do while it is written, unless writing fails."""
    monkeypatch.setattr("mneme.stores._group.MAX_WAITING", 2)
    writer = Writer()
    group = GroupCommit(writer, delay=60)
    large = Changes(puts=(entry("a"), entry("b"), entry("c")))
    group.add(large)
    assert not writer.written
    group.flush()
    assert len(writer.written) == 1
    writer.fails = True
    group.add(Changes(puts=(entry("d"),)))
    with pytest.raises(StoreBackendError, match="down"):
        group.flush()
    with pytest.raises(StoreBackendError, match="down"):
        group.add(large)
    writer.fails = False
    group.close()


def test_a_forgotten_group_is_collected() -> None:
    """The thread that writes keeps nothing alive."""
    writer = Writer()
    group = GroupCommit(writer, delay=0.001)
    group.add(Changes(puts=(entry("a"),)))
    assert writer.tried.wait(10)
    thread, alive = group._thread, weakref.ref(group)
    filled = group._filled
    del group
    while alive() is not None:
        gc.collect()
    filled.set()
    assert thread is not None
    thread.join(10)
    assert not thread.is_alive()


def test_much_is_written_without_waiting_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay collects a group; once there is a group there is no sense in it."""
    monkeypatch.setattr("mneme.stores._group.SOON", 2)
    writer = Writer()
    group = GroupCommit(writer, delay=60)
    group.add(Changes(puts=(entry("a"),)))
    group.add(Changes(puts=(entry("b"),)))
    assert writer.tried.wait(30)
    group.close()
    assert [one.prompt for changes in writer.written for one in changes.puts] == ["a", "b"]


def test_what_fails_is_not_tried_at_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is down is asked once a delay, however much waits."""
    monkeypatch.setattr("mneme.stores._group.SOON", 2)
    writer = Writer()
    writer.fails = True
    group = GroupCommit(writer, delay=60)
    group.add(Changes(puts=(entry("a"),)))
    group.try_flush()
    group.add(Changes(puts=(entry("b"), entry("c"))))
    assert not group._hurry.is_set()
    writer.fails = False
    group.close()
    assert [one.prompt for one in writer.written[0].puts] == ["a", "b", "c"]


def test_a_caller_that_helps_writes_only_a_little(
    no_turn: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came to put one entry, not to see to all that waits."""
    monkeypatch.setattr("mneme.stores._group.HELPED_AT_ONCE", 2)
    writer, now = Writer(), [0.0]
    group = GroupCommit(writer, delay=60, clock=lambda: now[0])
    for name in "abcd":
        group.add(Changes(puts=(entry(name),)))
    now[0] = 121.0
    group.add(Changes(puts=(entry("e"),)))
    assert [one.prompt for changes in writer.written for one in changes.puts] == ["a", "b"]
    group.close()


def test_long_answers_count_for_more(no_turn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is held in memory: its size is limited, not only its number."""
    monkeypatch.setattr("mneme.stores._group.MAX_WAITING", 10)
    writer = Writer()
    group = GroupCommit(writer, delay=60)
    for name in "abcdefghij":
        group.add(Changes(puts=(entry(name),)))
    assert not writer.written
    group.flush()
    group.add(Changes(puts=(entry("a", "x" * 11 * 4_096),)))
    group.add(Changes(puts=(entry("b"),)))
    assert [len(changes.puts) for changes in writer.written] == [10, 2]
    group.close()


def test_what_came_while_others_were_written_waits_no_whole_delay(no_turn: None) -> None:
    """The delay is counted from when it came, not from when the last write was done."""
    now = [0.0]
    group = GroupCommit(Writer(), delay=60, clock=lambda: now[0])
    assert _left(weakref.ref(group), 60) == 60
    group.add(Changes(puts=(entry("a"),)))
    now[0] = 45.0
    assert _left(weakref.ref(group), 60) == 15
    now[0] = 75.0
    assert _left(weakref.ref(group), 60) == 0
    group.close()


def test_what_is_coming_can_be_asked_for() -> None:
    """The last word on each that was asked for, until it is written; also while it is."""
    seen: list[Changes] = []
    asked = [entry(name).identity for name in ("a", "b", "gone", "other")]

    def write(changes: Changes) -> None:
        seen.append(group.coming(asked))

    group = GroupCommit(write, delay=60)
    assert group.coming(asked) == Changes()
    group.add(Changes(puts=(entry("a", "old"), entry("c"), entry("gone"))))
    group.add(Changes(puts=(entry("a", "new"), entry("b")), removed=(entry("gone").identity,)))
    group.add(Changes(cleared=("elsewhere",), removed=(entry("c").identity,)))
    coming = group.coming(asked)
    assert coming.puts == (entry("a", "new"), entry("b"))
    assert coming.removed == (entry("gone").identity,)
    assert coming.cleared == ("elsewhere",)
    group.flush()
    assert seen == [coming]
    assert group.coming(asked) == Changes()
    group.close()


def test_what_could_not_be_written_is_still_coming() -> None:
    """Until a later attempt succeeds; a child of a fork has nothing to write."""
    writer = Writer()
    group = GroupCommit(writer, delay=60)
    asked = [entry("a").identity]
    writer.fails = True
    group.add(Changes(puts=(entry("a"),)))
    with pytest.raises(StoreBackendError):
        group.flush()
    assert group.coming(asked).puts == (entry("a"),)
    writer.fails = False
    group.flush()
    assert group.coming(asked) == Changes()
    group.add(Changes(puts=(entry("a"),)))
    group.in_child()
    assert group.coming(asked) == Changes()
    group.close()
