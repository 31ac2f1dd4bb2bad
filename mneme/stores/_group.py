"""Many commits as one: what is handed in is written together, a moment later."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence

from mneme import _forks
from mneme.errors import MnemeError
from mneme.records import Changes, Identity
from mneme.stores._merge import merged

__all__ = ["GroupCommit"]

log = logging.getLogger("mneme")

LOG_EVERY = 60.0
"""Seconds between two log lines about writes that failed."""

MAX_WAITING = 8_192
"""Entries; a store that falls further behind makes its callers wait, as without grouping."""

WRITTEN_AT_ONCE = 4_096
"""
Entries in one write, more only where one commit has more. Each write waits a dozen times for
the interpreter lock, up to 5 ms each time while a caller is busy, and writes most pages of the
index of a file: one of fewer entries would cost much more an entry.
"""

HELPED_AT_ONCE = 128
"""Entries that a caller writes for the thread that should have: some two milliseconds."""

SOON = WRITTEN_AT_ONCE // 2
"""Entries that are not kept waiting for the delay to pass: more are on their way."""

ANSWER_BITS = 12
"""An entry counts once more for every 4 KB of its answer: what waits is held in memory."""


NOTHING = Changes()


class GroupCommit:
    """
    Collects changes and writes them in groups, within `delay` seconds of when they came.

    A thread of its own writes; where it does not get its turn (a caller in a tight loop can
    keep the interpreter lock to itself), the caller that finds it a whole delay late, or too
    much waiting, writes a group. One commit is never divided. A write that fails is tried
    again with the next; what waits is kept until then, and `add` raises what `write` raised
    once more waits than is sensible to keep.
    """

    def __init__(
        self,
        write: Callable[[Changes], object],
        delay: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._delay = delay
        self._clock = clock
        self._logged = float("-inf")
        self._waiting: deque[tuple[float, Changes]] = deque()
        self._in_hand: list[tuple[float, Changes]] = []
        """What is being written."""
        self._entries = 0
        self._added = 0
        self._written = 0
        self._is_failing = False
        self._lock = _forks.lock(_forks.GROUP)
        self._writing = _forks.lock(_forks.GROUP_WRITING)
        self._filled = threading.Event()
        self._closed = threading.Event()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, changes: Changes) -> None:
        """Take `changes`; they are written within the delay, or now if too many wait."""
        now, size = self._clock(), _size(changes)
        with self._lock:
            # One large commit may wait by itself: it is written while memory takes it in.
            before = self._entries + size if self._is_failing else self._entries
            self._waiting.append((now, changes))
            self._added += 1
            self._entries += size
            is_much = self._entries >= SOON and not self._is_failing
            too_many = before > MAX_WAITING
            is_late = now - self._waiting[0][0] > 2 * self._delay
            if self._thread is None and not self._closed.is_set():
                self._begin()
        if not self._filled.is_set():
            self._filled.set()
        if is_much and not self._hurry.is_set():
            self._hurry.set()
        if too_many:
            self._relieve()
        elif is_late and not self._writing.locked():
            self._try(self._help)

    def oldest_age(self) -> float:
        """For how long what came first has been waiting, in seconds."""
        with self._lock:
            return self._clock() - self._waiting[0][0] if self._waiting else 0.0

    def coming(self, identities: Sequence[Identity]) -> Changes:
        """What was done to `identities` and is not written yet; and what was cleared."""
        if self._written == self._added:
            return NOTHING
        wanted = set(identities)
        with self._lock:
            unwritten = [changes for _, changes in (*self._in_hand, *self._waiting)]
        return merged(
            Changes(
                tuple(entry for entry in changes.puts if entry.identity in wanted),
                tuple(identity for identity in changes.removed if identity in wanted),
                cleared=changes.cleared,
            )
            for changes in unwritten
        )

    def try_flush(self) -> None:
        """Write what waits; a failure is logged, and what waits goes on waiting."""
        self._try(self.flush)

    def flush(self) -> None:
        """Write what waits, and return when it is written."""
        self._filled.clear()
        if self._closed.is_set():
            # Its thread may not have seen it yet.
            self._filled.set()
        # What comes in meanwhile is not waited for.
        until = self._added
        while self._written < until:
            self._write_some()

    def close(self) -> None:
        """Write what waits, and stop."""
        self._closed.set()
        self._hurry.set()
        self._filled.set()
        try:
            self.flush()
        finally:
            with self._lock:
                # One that is just being made has been started by then.
                thread, self._thread = self._thread, None
            if thread is not None and thread is not threading.current_thread():
                thread.join()

    def in_child(self) -> None:
        """After a fork: what waits is the parent's to write, as its thread is the parent's."""
        self._waiting.clear()
        self._in_hand = []
        self._entries = 0
        self._written = self._added
        # Made anew: an event has a lock of its own.
        was_closed = self._closed.is_set()
        self._filled, self._closed = threading.Event(), threading.Event()
        self._hurry = threading.Event()
        if was_closed:
            self._closed.set()
        self._thread = None

    def _begin(self) -> None:
        self._thread = threading.Thread(
            target=_keep_writing,
            args=(weakref.ref(self), self._filled, self._closed, self._hurry, self._delay),
            name="mneme-group-commit",
            daemon=True,
        )
        self._thread.start()

    def _relieve(self) -> None:
        """Return when no more waits than is sensible, or a write has been made for it."""
        with self._writing:
            # Whoever was writing may have seen to it.
            if self._entries > MAX_WAITING:
                self._write_next(HELPED_AT_ONCE)

    def _help(self) -> None:
        """Write a little: who calls has not come to wait."""
        with self._writing:
            self._write_next(HELPED_AT_ONCE)

    def _write_some(self) -> None:
        with self._writing:
            self._write_next(WRITTEN_AT_ONCE)

    def _write_next(self, limit: int) -> None:
        taken = self._take(limit)
        if not taken:
            return
        try:
            self._write(merged(changes for _, changes in taken))
        except BaseException:
            # From now on, so that not every caller tries what has just failed.
            now = self._clock()
            with self._lock:
                self._waiting.extendleft((now, changes) for _, changes in reversed(taken))
                self._entries += sum(_size(changes) for _, changes in taken)
                self._in_hand = []
            self._is_failing = True
            self._filled.set()
            raise
        self._is_failing = False
        self._in_hand = []
        self._written += len(taken)

    def _take(self, limit: int) -> list[tuple[float, Changes]]:
        """What came first, until it is `limit` entries or more."""
        taken: list[tuple[float, Changes]] = []
        size = 0
        with self._lock:
            while self._waiting and size < limit:
                taken.append(self._waiting.popleft())
                size += _size(taken[-1][1])
            self._entries -= size
            self._in_hand = taken
        return taken

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except MnemeError as exc:
            if self._clock() - self._logged < LOG_EVERY:
                return
            self._logged = self._clock()
            log.warning("a group commit failed and will be tried again: %s", exc)


def _size(changes: Changes) -> int:
    size = len(changes.puts) + len(changes.removed)
    for entry in changes.puts:
        size += len(entry.payload.data) >> ANSWER_BITS
    return size or 1


def _left(group: weakref.ref[GroupCommit], delay: float) -> float:
    """Seconds until what came first has waited for `delay`."""
    alive = group()
    return delay if alive is None else max(0.0, delay - alive.oldest_age())


def _keep_writing(
    group: weakref.ref[GroupCommit],
    filled: threading.Event,
    closed: threading.Event,
    hurry: threading.Event,
    delay: float,
) -> None:
    # It holds no reference while it waits: a store that nobody uses may be collected.
    while True:
        filled.wait()
        hurry.wait(_left(group, delay))
        hurry.clear()
        if closed.is_set():
            return
        alive = group()
        if alive is None:
            return
        alive.try_flush()
        del alive
