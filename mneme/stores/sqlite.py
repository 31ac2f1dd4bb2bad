"""
Entries in one SQLite file.

Beside ``cache.db`` stand SQLite's own ``-wal`` and ``-shm`` while it is open, and
``cache.db-mark``: eight bytes that every process maps into memory and that change with every
commit, so that seeing whether somebody else has written costs no system call. It is written
just before the commit, while nobody else can write: written after it, a slow writer would
put it back behind a faster one. Who looks too early, or after a writer that was killed, finds
an older state in the file than the mark says, and looks again. It can be deleted while
nobody has the cache open.
"""

from __future__ import annotations

import errno
import mmap
import os
import sqlite3
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mneme import _forks
from mneme.errors import (
    CorruptCacheError,
    EmbedderMismatchError,
    MultiProcessLockError,
    SchemaMigrationError,
    StoreBackendError,
)
from mneme.records import Changes, Entry, Identity, Key, Label, Partition, Vector
from mneme.stores._group import GroupCommit
from mneme.stores._rows import COLUMNS, entry_of, row_of
from mneme.stores._standing import Standing

__all__ = ["SQLiteStore"]

APPLICATION_ID = 0x6D6E656D
"""``mnem``: in the header of every file that is ours (https://sqlite.org/fileformat2.html)."""

SCHEMA_VERSION = 1

BUSY_SECONDS = 5.0

GROUP_SECONDS = 0.02
"""How long a group commit collects; with the commit itself that stays under 50 ms."""

REMEMBERED_REMOVALS = 100_000
KEPT_LABELS = 100_000

_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE entries (
        partition BLOB NOT NULL, key BLOB NOT NULL, namespace TEXT NOT NULL,
        prompt TEXT NOT NULL, kind TEXT NOT NULL, payload NOT NULL, metadata TEXT NOT NULL,
        tags TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL, dies_at REAL,
        vector BLOB, seq INTEGER NOT NULL, UNIQUE (partition, key))""",
    "CREATE INDEX entries_by_seq ON entries (seq)",
    "CREATE TABLE removals (seq INTEGER NOT NULL, partition BLOB NOT NULL, key BLOB NOT NULL)",
    "CREATE INDEX removals_by_seq ON removals (seq)",
    """CREATE TABLE counts (namespace TEXT NOT NULL, name TEXT NOT NULL, n INTEGER NOT NULL,
        PRIMARY KEY (namespace, name)) WITHOUT ROWID""",
    """CREATE TABLE labels (id INTEGER PRIMARY KEY, similarity REAL NOT NULL,
        is_right INTEGER NOT NULL, namespace TEXT NOT NULL, source TEXT NOT NULL,
        created_at REAL NOT NULL, chance_right REAL)""",
    "CREATE TABLE states (name TEXT PRIMARY KEY, data BLOB NOT NULL)",
)

VECTORS_AT_ONCE = 400
"""Old versions of SQLite take no more than 999 values in a statement."""

_UPSERT = (
    f"INSERT OR REPLACE INTO entries ({', '.join(COLUMNS)}, seq) "
    f"VALUES ({', '.join('?' * len(COLUMNS))}, ?)"
)
_COUNT = (
    "INSERT INTO counts VALUES (?, ?, ?) "
    "ON CONFLICT (namespace, name) DO UPDATE SET n = n + excluded.n"
)
_LABEL = "similarity, is_right, namespace, source, created_at, chance_right"


class SQLiteStore(_forks.Forked):
    """
    The durable default: one file, any number of threads and processes.

    With ``durability="commit"``, `commit` returns once SQLite has committed: killing the
    process afterwards loses nothing; a power cut may lose the last commits, never the file.
    With ``"group"`` it returns at once and many are committed together, at most 50 ms later:
    killing the process loses at most those 50 ms. The file is made with mode 0600.

    Args:
        path: the file; its folder must exist.
        busy_timeout: seconds to wait for another process's commit.
        durability: ``"commit"`` or ``"group"``.

    Raises:
        CorruptCacheError: the file is damaged or not ours; it is left untouched.
        SchemaMigrationError: another version of mneme wrote it; it is left untouched.
        StoreBackendError: it cannot be opened or written.
    """

    blocking = True
    schema_version = SCHEMA_VERSION

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: float = BUSY_SECONDS,
        durability: Literal["commit", "group"] = "commit",
    ) -> None:
        if durability not in ("commit", "group"):
            raise ValueError(f"durability must be 'commit' or 'group', got {durability!r}.")
        self.path: Path = Path(path)
        if str(path) == ":memory:" or not str(path):
            raise ValueError(f"{str(path)!r} is no file. Use MemoryStore() to keep no file.")
        self.bad_rows: int = 0
        self._busy_timeout = busy_timeout
        self._lock = _forks.rlock(_forks.STORE)
        self._dim = 0
        self._fingerprint: str | None = None
        self._connection: sqlite3.Connection | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._standing: Standing | None = None
        self._map: memoryview | None = None
        self._mark_before_own_commit: int | None = None
        # Group commits move the mark long after `commit` has told one: while nobody else has
        # committed, the mark that is really there stands for the one that was told.
        self._real_mark = self._told_mark = -1
        self._group = GroupCommit(self._write, GROUP_SECONDS) if durability == "group" else None
        self._closed = False
        _forks.watch(self)

    @property
    def description(self) -> str:
        return str(self.path)

    def claim(self, fingerprint: str, dim: int) -> None:
        with self._lock:
            self._dim = dim
            is_new = self._connection is None
            if is_new:
                self._open()
            try:
                self._flush()
                self._bind(fingerprint, dim)
                self._fingerprint = fingerprint
            except BaseException:
                if is_new:
                    # Refused: nothing of ours stays beside the file.
                    self._let_go()
                raise

    def _bind(self, fingerprint: str, dim: int) -> None:
        with self._transaction() as connection:
            meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
            owner, its_dim = meta.get("fingerprint"), meta.get("dim")
            filled = connection.execute("SELECT 1 FROM entries LIMIT 1").fetchone()
            if (owner, its_dim) == (fingerprint, str(dim)):
                return
            if owner is not None and filled:
                raise EmbedderMismatchError(
                    f"{self.path} was filled by {owner!r} ({its_dim}), this cache uses "
                    f"{fingerprint!r} ({dim}). The file was not changed. "
                    "Use another path, or run python -m mneme migrate (reembed)."
                )
            connection.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                [("fingerprint", fingerprint), ("dim", str(dim))],
            )

    def scan(self) -> Iterator[Entry]:
        self._flush()
        with self._errors():
            rows = self._execute(f"SELECT {', '.join(COLUMNS)} FROM entries ORDER BY seq, rowid")
            for row in rows:
                entry = entry_of(row, self._dim)
                if entry is None:
                    self.bad_rows += 1
                else:
                    yield entry

    def vectors(self, identities: Sequence[Identity], /) -> Sequence[Vector | None]:
        self._flush()
        found: dict[Identity, bytes] = {}
        with self._errors(), self._lock:
            for at in range(0, len(identities), VECTORS_AT_ONCE):
                some = identities[at : at + VECTORS_AT_ONCE]
                places = ", ".join(["(?, ?)"] * len(some))
                rows = self._open_connection().execute(
                    "SELECT partition, key, vector FROM entries "
                    f"WHERE vector IS NOT NULL AND (partition, key) IN (VALUES {places})",
                    [part for identity in some for part in identity],
                )
                found |= {(row[0], row[1]): row[2] for row in rows if len(row[2]) == 4 * self._dim}
        return [
            np.frombuffer(found[one], "<f4").astype(np.float32) if one in found else None
            for one in identities
        ]

    def commit(self, changes: Changes) -> int:
        if self._group is None:
            return self._write(changes)
        if self._connection is None:
            self._open_connection()
        self._group.add(changes)
        return changes.mark

    def _flush(self) -> None:
        if self._group is not None:
            self._group.flush()

    def _write(self, changes: Changes) -> int:
        """One transaction; the mark for a caller who had seen everything up to `changes.mark`."""
        with self._lock:
            changed = bool(changes.puts or changes.removed)
            with self._transaction(marks=changed) as connection:
                seq = self._seq(connection)
                if changes.counts:
                    rows = [(space, name, n) for (space, name), n in changes.counts.items()]
                    connection.executemany(_COUNT, rows)
                _remember(connection, changes)
                if not changed:
                    return changes.mark
                before, seq = seq, seq + 1
                connection.executemany(
                    "DELETE FROM entries WHERE partition = ? AND key = ?", changes.removed
                )
                connection.executemany(
                    "INSERT INTO removals VALUES (?, ?, ?)",
                    [(seq, partition, key) for partition, key in changes.removed],
                )
                connection.executemany(_UPSERT, [(*row_of(entry), seq) for entry in changes.puts])
                connection.execute("INSERT OR REPLACE INTO meta VALUES ('seq', ?)", (str(seq),))
                self._forget_old_removals(connection, seq)
            # Only now: what did not come to be committed may yet be another's number.
            if self._real_mark == 2 * before:
                self._real_mark = 2 * seq
            return 2 * seq if changes.mark == 2 * before else changes.mark

    def mark(self) -> int:
        if (before := self._mark_before_own_commit) is not None:
            return before
        if (marks := self._map) is None:
            return 0
        mark = marks[0]
        return self._told_mark if mark == self._real_mark else mark

    def changes_since(self, mark: int) -> Changes | None:
        self._flush()
        with self._lock, self._errors():
            connection = self._open_connection()
            since = (self._real_mark if mark == self._told_mark else mark) // 2
            connection.execute("BEGIN")
            try:
                seq = self._seq(connection)
                oldest = self._meta(connection, "removals_from")
                if since > seq or since < int(oldest or 0):
                    return None
                rows = connection.execute(
                    f"SELECT {', '.join(COLUMNS)} FROM entries WHERE seq > ? ORDER BY seq", (since,)
                ).fetchall()
                gone = connection.execute(
                    "SELECT r.partition, r.key FROM removals r LEFT JOIN entries e "
                    "ON e.partition = r.partition AND e.key = r.key "
                    "WHERE r.seq > ? AND e.seq IS NULL",
                    (since,),
                ).fetchall()
            finally:
                connection.execute("ROLLBACK")
        entries = [entry_of(row, self._dim) for row in rows]
        self.bad_rows += entries.count(None)
        if self._group is not None:
            self._real_mark = self._told_mark = 2 * seq
        return Changes(
            tuple(entry for entry in entries if entry is not None),
            tuple((Partition(partition), Key(key)) for partition, key in gone),
            mark=2 * seq,
        )

    def counts(self) -> Mapping[tuple[str, str], int]:
        self._flush()
        with self._errors():
            rows = self._execute("SELECT namespace, name, n FROM counts")
            return {(namespace, name): n for namespace, name, n in rows}

    def labels(self) -> Iterator[Label]:
        self._flush()
        with self._errors():
            rows = self._execute(f"SELECT {_LABEL} FROM labels ORDER BY id")
        return (Label(row[0], bool(row[1]), *row[2:]) for row in rows)

    def states(self) -> Mapping[str, bytes]:
        self._flush()
        with self._errors():
            return dict(self._execute("SELECT name, data FROM states"))

    def compact(self) -> None:
        """Give the space of removed entries back to the disk. Others wait while it runs."""
        self._flush()
        with self._lock, self._errors():
            connection = self._open_connection()
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        if self._group is not None and self._fingerprint is not None:
            self._group.close()
        with self._lock:
            self._closed = True
            self._let_go()

    def _let_go(self) -> None:
        self._disconnect()
        self._map = None

    def _disconnect(self) -> None:
        if self._connection is not None and self._finalizer is not None:
            self._connection = None
            with self._errors():
                self._finalizer()

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self.path)!r})"

    # -- opening ------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._closed:
            raise StoreBackendError(f"{self.path}: this store is closed. Make a new one.")
        self._check_file()
        with self._errors():
            # Made by us so that it, and with it -wal and -shm, is readable by its owner only.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = sqlite3.connect(
                self.path,
                timeout=self._busy_timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._prepare(connection)
                self._map = self._open_marks(connection)
            except BaseException:
                connection.close()
                raise
        self._connection = connection
        if self._group is not None:
            self._real_mark = self._told_mark = self._map[0]
        self._finalizer = weakref.finalize(self, connection.close)
        self._standing = self._stands_now()

    def _check_file(self) -> None:
        """Read the header alone, so that a file that is not ours is not touched at all."""
        try:
            if self.path.exists() and not self.path.is_file():
                # Opening a pipe would wait, and a device would swallow what is written.
                raise OSError(errno.EINVAL, "it is no regular file")
            with open(self.path, "rb") as file:
                head = file.read(100)
        except FileNotFoundError:
            head = b""
        except OSError as exc:
            raise StoreBackendError(
                f"{self.path} cannot be opened: {exc.strerror}. Nothing was changed. "
                "Check the path and its permissions."
            ) from exc
        if not head:
            return
        if head[:16] != b"SQLite format 3\0" or head[68:72] != APPLICATION_ID.to_bytes(4, "big"):
            raise CorruptCacheError(
                f"{self.path} is not a mneme cache. The file was not touched. Use another path."
            )
        version = int.from_bytes(head[60:64], "big")
        if version != SCHEMA_VERSION:
            raise SchemaMigrationError(
                f"{self.path} has layout {version}, this version of mneme reads {SCHEMA_VERSION}. "
                "The file was not touched. Upgrade mneme-toolkit, or use another path."
            )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None:
            # All of it in one transaction, before WAL: the header is in the file itself from
            # the start, where `_check_file` reads it.
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("PRAGMA synchronous = NORMAL")

    def _open_marks(self, connection: sqlite3.Connection) -> memoryview:
        marks_path = f"{self.path}-mark"
        file = os.open(marks_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(file).st_size < 8:
                os.ftruncate(file, 8)
            marks = memoryview(mmap.mmap(file, 8)).cast("Q")
        finally:
            os.close(file)
        # No writer can be at work now, so whatever stands there and differs is a leftover.
        connection.execute("BEGIN IMMEDIATE")
        marks[0] = 2 * self._seq(connection)
        connection.execute("COMMIT")
        return marks

    # -- opening anew -------------------------------------------------------------------------

    def before_fork(self) -> None:
        """
        Close the file, which both sides open anew when they next need it: SQLite's connections
        and what it notes of locks must not reach a child (https://sqlite.org/howtocorrupt.html).
        """
        connection = self._connection
        # Not where this very thread, or one that did not stop in time, is at work.
        if connection is not None and self._lock.acquire(blocking=False):
            try:
                if not connection.in_transaction:
                    self._disconnect()
            finally:
                self._lock.release()

    def in_child(self) -> None:
        if self._group is not None:
            self._group.in_child()
        if self._connection is not None and self._finalizer is not None:
            self._finalizer.detach()

    def _stands_now(self) -> Standing:
        return Standing.of(self.path, f"{self.path}-mark")

    def _open_anew(self, fingerprint: str) -> None:
        """Open what a fork has closed, or what the path leads to now; as a rule do nothing."""
        before, now, marks = self._standing, self._stands_now(), self._map
        if self._connection is not None:
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
            self._bind(fingerprint, self._dim)
            if before is not None and marks is not None and now.files != before.files:
                self._skip_marks((marks[0] + 1) // 2)
        except BaseException:
            self._let_go()
            self._standing, self._map = before, marks
            raise

    def _skip_marks(self, told: int) -> None:
        """This is another file: no mark of it may be one that was told of the last."""
        with self._transaction(marks=True) as connection:
            seq = max(told, self._seq(connection)) + 1
            connection.executemany(
                "INSERT OR REPLACE INTO meta VALUES (?, ?)",
                [("seq", str(seq)), ("removals_from", str(seq))],
            )
        if self._map is not None:
            self._real_mark = self._told_mark = self._map[0]

    # -- transactions -------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, *, marks: bool = False) -> Iterator[sqlite3.Connection]:
        with self._errors():
            connection = self._open_connection()
            connection.execute("BEGIN IMMEDIATE")
            shared = self._map if marks else None
            if shared is not None:
                # Nobody else can commit from here on: readers of this process need not look.
                self._mark_before_own_commit = shared[0]
            try:
                yield connection
                if shared is not None:
                    shared[0] = 2 * self._seq(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._mark_before_own_commit = None

    def _execute(self, statement: str) -> list[Any]:
        with self._lock:
            return self._open_connection().execute(statement).fetchall()

    def _open_connection(self) -> sqlite3.Connection:
        with self._lock:
            if self._fingerprint is not None and not self._closed:
                self._open_anew(self._fingerprint)
            if self._connection is None:
                raise StoreBackendError(f"{self.path}: this store is not open. Open a cache on it.")
            return self._connection

    @staticmethod
    def _meta(connection: sqlite3.Connection, name: str) -> str | None:
        row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def _seq(self, connection: sqlite3.Connection) -> int:
        return int(self._meta(connection, "seq") or 0)

    def _forget_old_removals(self, connection: sqlite3.Connection, seq: int) -> None:
        horizon = seq - REMEMBERED_REMOVALS
        if horizon > 0 and seq % 1_000 == 0:
            connection.execute("DELETE FROM removals WHERE seq <= ?", (horizon,))
            connection.execute(
                "INSERT OR REPLACE INTO meta VALUES ('removals_from', ?)", (str(horizon),)
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The one place where the driver's errors become mneme's."""
        try:
            yield
        except sqlite3.DatabaseError as exc:
            code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                self.bad_rows += 1
                raise CorruptCacheError(
                    f"{self.path} is damaged ({exc}). It was left as it is. "
                    "Restore a copy, or use another path."
                ) from exc
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise MultiProcessLockError(
                    f"{self.path} was held by another process for over {self._busy_timeout} s. "
                    "Nothing was changed. Try again, or raise busy_timeout."
                ) from exc
            raise self._unavailable(exc) from exc
        except (OSError, sqlite3.Error) as exc:
            raise self._unavailable(exc) from exc

    def _unavailable(self, exc: Exception) -> StoreBackendError:
        return StoreBackendError(
            f"{self.path} cannot be used: {exc}. Nothing was changed. "
            "Check that its folder exists and can be written, and that the disk has room."
        )


def _remember(connection: sqlite3.Connection, changes: Changes) -> None:
    """Keep labels, the newest so many, and states."""
    if changes.labels:
        rows = [
            (one.similarity, one.right, one.namespace, one.source, one.created_at, one.chance_right)
            for one in changes.labels
        ]
        connection.executemany(f"INSERT INTO labels ({_LABEL}) VALUES (?, ?, ?, ?, ?, ?)", rows)
        connection.execute(
            "DELETE FROM labels WHERE id <= (SELECT max(id) FROM labels) - ?", (KEPT_LABELS,)
        )
    if changes.states:
        connection.executemany(
            "INSERT OR REPLACE INTO states VALUES (?, ?)", list(changes.states.items())
        )
