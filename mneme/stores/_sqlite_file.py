"""One cache file, open: its connection and lock, for all threads of a process."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mneme import _forks
from mneme.errors import (
    CorruptCacheError,
    MnemeError,
    MultiProcessLockError,
    StoreBackendError,
)
from mneme.records import Changes
from mneme.stores._chores import CHECKPOINT_EVERY, Chores
from mneme.stores._sqlite_mark import Mark
from mneme.stores._sqlite_schema import bind, check_header, prepare
from mneme.stores._sqlite_writes import seq_of, shrink, skip_to, sweep, write
from mneme.stores._standing import Standing
from mneme.stores._stored import fetched

__all__ = ["SQLiteFile"]

log = logging.getLogger("mneme")

SWEPT_AT_ONCE = 128
"""Rows of cleared namespaces removed in one transaction: some two milliseconds."""

KEPT_PAGES = 4_000
"""
Pages, 64 MB, that one transaction may change before some are written ahead of its end. With
the two megabytes of SQLite's cache, random keys would write most pages of an index many times.
No multiple of 256: SQLite would take that for no limit.
"""

SHRUNK_AT_ONCE = 64
"""Pages given back in one transaction: about a millisecond."""


class SQLiteFile(_forks.Forked):
    """What all threads of a process share of a file. It knows no entries."""

    def __init__(self, path: Path, busy_timeout: float) -> None:
        self.path = path
        self._refusals: int = 0
        self._bad: set[Any] = set()
        self.lock: Any = _forks.rlock(_forks.STORE)
        self.connection: sqlite3.Connection | None = None
        self._busy_timeout = busy_timeout
        self._mark: Mark | None = None
        self._owner: tuple[str, int] | None = None
        self._standing: Standing | None = None
        self._is_closed = False
        self._may_sweep = True
        """Whether rows of cleared namespaces may be left, those of killed processes included."""
        self.chores: Chores = Chores(self)
        _forks.watch(self)

    # -- opening and closing --------------------------------------------------------------------

    @property
    def is_claimed(self) -> bool:
        return self._owner is not None

    def claim(self, fingerprint: str, dim: int) -> None:
        """
        Open or make the file, and see that it belongs to this embedder.

        Raises:
            EmbedderMismatchError: another has filled it; it was not changed.
            CorruptCacheError: it is damaged or not ours; it is left untouched.
            SchemaMigrationError: a later version of mneme wrote it; it is left untouched.
            StoreBackendError: it cannot be opened.
        """
        with self.lock:
            is_new = self.connection is None
            if is_new:
                self._open()
        try:
            with self.transaction() as connection:
                bind(connection, self.path, fingerprint, dim)
        except BaseException:
            if is_new:
                # Refused: nothing of ours stays beside the file.
                self._let_go()
            raise
        self._owner = fingerprint, dim

    def _open(self) -> None:
        if self._is_closed:
            raise StoreBackendError(f"{self.path}: this store is closed. Make a new one.")
        self._check()
        with self.errors():
            # Made by us so that it, and with it -wal and -shm, is readable by its owner only.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = self.connect()
            try:
                prepare(connection, self.path, self._busy_timeout)
                # A checkpoint takes as long as the disk does: not in somebody's commit.
                connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
                connection.execute(f"PRAGMA cache_spill = {KEPT_PAGES}").fetchall()
                self._open_mark(connection)
            except BaseException:
                connection.close()
                raise
        self.connection = connection
        self._may_sweep = True
        self._standing = self._stands_now()

    def _open_mark(self, connection: sqlite3.Connection) -> None:
        before, path = self._standing, Path(f"{self.path}-mark")
        connection.execute("BEGIN IMMEDIATE")
        if self._owner is not None:
            # Before anything is changed: it may be another's file by now.
            bind(connection, self.path, *self._owner)
        seq = seq_of(connection)
        if self._mark is None:
            self._mark = Mark(path, seq)
        elif before is not None and self._stands_now().files == before.files:
            self._mark.settle(seq)
        else:
            # This is another file: no mark of it may be one that was told of the last.
            seq = max(self._mark.highest_seq, seq) + 1
            skip_to(connection, seq)
            self._mark = Mark(path, seq, self._mark)
        connection.execute("COMMIT")

    def connect(self) -> sqlite3.Connection:
        """A connection of its own to the file."""
        return sqlite3.connect(
            self.path,
            timeout=self._busy_timeout,
            isolation_level=None,
            check_same_thread=False,
        )

    def _check(self) -> None:
        """Read the header alone, so that a file that is not ours is not touched at all."""
        try:
            if self.path.exists() and not self.path.is_file():
                # Opening a pipe would wait, and a device would swallow what is written.
                raise OSError(errno.EINVAL, "it is no regular file")
            with open(self.path, "rb") as file:
                head = file.read(100)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise StoreBackendError(
                f"{self.path} cannot be opened: {exc.strerror}. Nothing was changed. "
                "Check the path and its permissions."
            ) from exc
        if head:
            check_header(self.path, head)

    def _disconnect(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            with self.errors():
                connection.close()

    def _let_go(self) -> None:
        self.chores.rest()
        with self.lock:
            self._mark = None
            self._disconnect()

    def close(self) -> None:
        """Close the connection for good; calling it again does nothing."""
        self._is_closed = True
        self._let_go()

    # -- opening anew -----------------------------------------------------------------------------

    def before_fork(self) -> None:
        """
        Close the file, which both sides open anew when they next need it: SQLite's connections
        and what it notes of locks must not reach a child (https://sqlite.org/howtocorrupt.html).
        """
        connection = self.connection
        # Not where this very thread, or one that did not stop in time, is at work.
        if connection is not None and self.lock.acquire(blocking=False):
            try:
                if not connection.in_transaction:
                    self._disconnect()
            finally:
                self.lock.release()

    def in_child(self) -> None:
        self.chores.in_child()

    def _stands_now(self) -> Standing:
        return Standing.of(self.path, f"{self.path}-mark")

    def _see_to_it(self) -> None:
        """Open what a fork has closed, or what the path leads to now; as a rule do nothing."""
        before, now, mark = self._standing, self._stands_now(), self._mark
        if self.connection is not None:
            if now == before:
                return
            if before is not None and now.pid != before.pid:
                raise StoreBackendError(
                    f"{self.path} was open when process {before.pid} forked, in the midst of a "
                    "commit or past Python. Nothing was changed. Open a cache after forking."
                )
        self._disconnect()
        try:
            self._open()
        except BaseException:
            self._disconnect()
            self._standing, self._mark = before, mark
            raise

    # -- reading ----------------------------------------------------------------------------------

    @property
    def opened(self) -> sqlite3.Connection:
        """
        The connection, which is opened anew where it must be.

        Raises:
            StoreBackendError: there is none.
        """
        with self.lock:
            if self._owner is not None and not self._is_closed:
                self._see_to_it()
            if self.connection is None:
                raise self._not_open()
            return self.connection

    @property
    def marks(self) -> Mark:
        """
        The mark.

        Raises:
            StoreBackendError: the file is not open.
        """
        if self._mark is None:
            raise self._not_open()
        return self._mark

    def _not_open(self) -> StoreBackendError:
        return StoreBackendError(f"{self.path}: this store is not open. Open a cache on it.")

    def rows(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """All rows that `statement` gives."""
        with self.lock, self.errors():
            return fetched(self.opened, statement, values)

    @property
    def bad_rows(self) -> int:
        """How many rows were found that cannot be used, and how often SQLite called it damaged."""
        return self._refusals + len(self._bad)

    def found_bad(self, seq: Any) -> None:
        """
        Count the row `seq` as one that is not as it was written, however often it is met. Where
        the layout itself is damaged a row may have no number.
        """
        if not self._bad:
            log.warning(
                "%s: row %s is damaged and counts as absent, and others may. The file was left "
                "as it is. Run python -m mneme salvage to have a new one without them.",
                self.path,
                seq,
            )
        self._bad.add(seq)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The block sees the file as it stands when it begins to read."""
        with self.lock, self.errors():
            connection = self.opened
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    def mark(self) -> int:
        """See `Store.mark`."""
        return 0 if self._mark is None else self._mark.now()

    # -- writing ----------------------------------------------------------------------------------

    def write(self, changes: Changes) -> int:
        """One transaction; the mark for who stood at `changes.mark`."""
        return self._write(changes, tells=True)

    def write_group(self, changes: Changes) -> None:
        """One transaction of what those who made it have been given marks for already."""
        self._write(changes, tells=False)

    def _write(self, changes: Changes, *, tells: bool) -> int:
        with self.lock:
            before = seq = 0
            try:
                with self.transaction() as connection:
                    marks, before = self.marks, seq_of(connection)
                    seq = write(connection, changes, before)
                    if seq > before:
                        marks.begin(before, seq)
            except BaseException:
                if self._mark is not None and self._mark.fail():
                    self._take_back()
                raise
            if seq == before:
                return changes.mark
            marks.end(seq)
            self._may_sweep = self._may_sweep or bool(changes.cleared)
            self.chores.written(changes)
            return marks.tell(changes.mark, before, seq) if tells else changes.mark

    def _take_back(self) -> None:
        """
        Have the mark say what the file holds. SQLite rolls back by itself where a disk fails,
        and lets others write before the mark can be withdrawn; were it left, each lookup would
        look for what was never written.
        """
        with suppress(MnemeError), self.transaction() as connection:
            self.marks.settle(seq_of(connection))

    def sweep(self, *, anyway: bool = False) -> bool:
        """
        Remove some rows of cleared namespaces; whether there may be more of them. Those that
        another process has cleared since this one opened the file are its own, or `anyway` ours.
        """
        with self.lock:
            if self._may_sweep or anyway:
                with self.transaction() as connection:
                    self._may_sweep = sweep(connection, SWEPT_AT_ONCE)
            return self._may_sweep

    def shrink(self) -> bool:
        """Give some pages back in which nothing is; whether there are more of them."""
        with self.lock:
            with self.transaction() as connection:
                left = shrink(connection, SHRUNK_AT_ONCE)
            # A page that is moved is written, as an entry is.
            self.chores.wrote(SHRUNK_AT_ONCE if left else CHECKPOINT_EVERY)
        return left > 0

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The block is written whole or not at all; others that write wait for it."""
        with self.lock, self.errors():
            connection = self.opened
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    if self._mark is not None:
                        self._mark.withdraw()
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def errors(self) -> Iterator[None]:
        """The one place where the driver's errors become mneme's."""
        try:
            yield
        except sqlite3.DatabaseError as exc:
            code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                self._refusals += 1
                raise CorruptCacheError(
                    f"{self.path} is damaged ({exc}). It was left as it is. "
                    "Restore a copy, run python -m mneme salvage, or use another path."
                ) from exc
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise MultiProcessLockError(
                    f"{self.path} was held by another process for over {self._busy_timeout} s. "
                    "Nothing was changed. Try again, or raise busy_timeout."
                ) from exc
            raise self._unavailable(exc) from exc
        except (UnicodeError, OverflowError) as exc:
            raise StoreBackendError(
                f"{self.path} cannot hold what it was given: {exc}. Nothing was changed. "
                "Leave out half surrogate pairs, and integers of more than 64 bits."
            ) from exc
        except (OSError, sqlite3.Error) as exc:
            raise self._unavailable(exc) from exc

    def _unavailable(self, exc: Exception) -> StoreBackendError:
        return StoreBackendError(
            f"{self.path} cannot be used: {exc}. Nothing was changed. "
            "Check that its folder exists and can be written, and that the disk has room."
        )
