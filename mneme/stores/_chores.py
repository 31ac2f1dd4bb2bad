"""What a cache file needs done now and then, and no caller should wait for."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any, Protocol

from mneme import _forks
from mneme.errors import MnemeError
from mneme.records import Changes

__all__ = ["CHECKPOINT_EVERY", "Chores"]

log = logging.getLogger("mneme")

CHECKPOINT_EVERY = 1_000
"""Entries, of large commits fewer; some tens of megabytes of SQLite's log."""

SCATTERED = 128
"""
Of the entries of one commit so many are counted in full, each with a page of the index of its
own; of more of them most share a page with another, and an eighth is counted.
"""

LONG_LOG = 4_096
"""Pages of the log from which its end is copied while nobody may write, so that it restarts."""

PAUSE = 0.005
"""Seconds between two transactions: others that write get their turn."""


Work = Callable[[Callable[[], bool]], object]
"""Is given a function to call now and then: whether to go on."""


class Kept(Protocol):
    """The file, as far as chores need it."""

    @property
    def lock(self) -> Any: ...

    def connect(self) -> sqlite3.Connection: ...

    def sweep(self) -> bool: ...


class Chores:
    """
    A thread that copies SQLite's log to the file, removes rows of cleared namespaces, and does
    what else is to be done in the background.

    It begins with the first work there is, and ends with `rest`. Both are only housekeeping:
    what fails is tried again with the next commits, and what is not done by the end may wait
    until the file is opened again.
    """

    def __init__(self, file: Kept) -> None:
        self._file = file
        self._written = 0
        self._work_to_do: Work | None = None
        self._is_due = threading.Event()
        self._rests = threading.Event()
        self._thread: threading.Thread | None = None
        # SQLite's connections must not reach a child: a fork waits until there is none.
        self._copying = _forks.lock(_forks.GROUP)

    def written(self, changes: Changes) -> None:
        """Hear of a commit. The caller holds the lock of the file."""
        if changes.cleared:
            self.begin()
        count = len(changes.puts) + len(changes.removed)
        self.wrote(1 + min(count, SCATTERED) + count // 8)

    def wrote(self, count: int) -> None:
        """Hear of what is about as much as `count` entries. The caller holds the same lock."""
        self._written += count
        if self._written >= CHECKPOINT_EVERY:
            self.begin()

    def begin(self) -> None:
        """See whether there is something to do, now. The caller holds the lock of the file."""
        self._written = 0
        self._is_due.set()
        if self._thread is None:
            self._rests.clear()
            self._thread = threading.Thread(target=self._work, name="mneme-chores", daemon=True)
            self._thread.start()

    def do(self, work: Work) -> None:
        """Have `work` done soon, in place of what was to be done before."""
        with self._file.lock:
            self._work_to_do = work
            self.begin()

    def rest(self) -> None:
        """Stop, and return when nothing is being done any more."""
        self._rests.set()
        self._is_due.set()
        thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def in_child(self) -> None:
        """After a fork: the thread is the parent's."""
        self._thread, self._written, self._work_to_do = None, 0, None
        # Made anew: an event has a lock of its own.
        self._is_due, self._rests = threading.Event(), threading.Event()

    def _work(self) -> None:
        while True:
            self._is_due.wait()
            self._is_due.clear()
            if self._rests.is_set():
                return
            try:
                self._do()
            except (MnemeError, sqlite3.Error) as exc:
                log.debug("will be done with the next commits: %s", exc)

    def _do(self) -> None:
        while self._file.sweep():
            if self._rests.wait(PAUSE):
                return
        with self._copying, closing(self._file.connect()) as connection:
            if _copy(connection) > LONG_LOG:
                with self._file.lock:
                    _copy(connection)
        work, self._work_to_do = self._work_to_do, None
        if work is not None:
            work(lambda: not self._rests.wait(PAUSE))


def _copy(connection: sqlite3.Connection) -> int:
    """Copy what the log holds to the file, as far as nobody reads it; the pages it had."""
    row = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(row[1])
