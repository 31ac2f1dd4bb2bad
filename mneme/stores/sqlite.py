"""
Entries in one SQLite file.

Beside ``cache.db`` stand SQLite's own ``-wal`` and ``-shm`` while it is open,
``cache.db-mark``, eight bytes by which processes see that another one has written, and of a
large cache ``cache.db-vectors``, by which it opens at once; see `mneme.stores._sidefile`. With
``single_flight="machine"`` also ``cache.db-flights``, which stays empty and is only locked.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from mneme import _forks
from mneme.errors import MnemeError
from mneme.records import Changes, Entry, Identity, Key, Label, Partition, Vector
from mneme.stores import _flight_lock
from mneme.stores._cold import ColdEntries
from mneme.stores._group import NOTHING, GroupCommit
from mneme.stores._named import entries_named
from mneme.stores._rows import check_text
from mneme.stores._sidekeeping import Directions, SideKeeper
from mneme.stores._sqlite_file import SQLiteFile
from mneme.stores._sqlite_schema import GIVES_BACK, SCHEMA_VERSION
from mneme.stores._sqlite_writes import LABEL_COLUMNS, seq_of
from mneme.stores._stored import STORED, VECTORS, fetched, stored_entry, stored_vector
from mneme.types import FlightLock

__all__ = ["SQLiteStore"]

BUSY_SECONDS = 5.0

GROUP_SECONDS = 0.01
"""How long a group commit collects; with the commit itself that stays under 50 ms."""

VECTORS_AT_ONCE = 400
"""Old versions of SQLite take no more than 999 values in a statement."""

_ENTRIES = f"SELECT {', '.join(STORED)} FROM live"
_VECTORS = ", ".join(f"e.{name}" for name in VECTORS)


class SQLiteStore(_forks.Forked):
    """
    The durable default: one file, any number of threads and processes.

    With ``durability="group"``, `commit` returns at once and many are committed together, at
    most 50 ms later: killing the process loses at most those 50 ms. With ``"commit"`` it
    returns once SQLite has committed: killing the process afterwards loses nothing. Either
    way a power cut may lose the last commits, never the file. It is made with mode 0600.

    Args:
        path: the file; its folder must exist.
        busy_timeout: seconds to wait for another process's commit.
        durability: ``"group"`` or ``"commit"``.

    Raises:
        CorruptCacheError: the file is damaged or not ours; it is left untouched.
        SchemaMigrationError: a later version of mneme wrote it; it is left untouched.
        StoreBackendError: it cannot be opened or written.
    """

    blocking = True
    schema_version = SCHEMA_VERSION

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: float = BUSY_SECONDS,
        durability: Literal["commit", "group"] = "group",
    ) -> None:
        if durability not in ("commit", "group"):
            raise ValueError(f"durability must be 'commit' or 'group', got {durability!r}.")
        self.path: Path = Path(path)
        if str(path) == ":memory:" or not str(path):
            raise ValueError(f"{str(path)!r} is no file. Use MemoryStore() to keep no file.")
        self._fingerprint = ""
        self._dim = 0
        self._file = SQLiteFile(self.path, busy_timeout)
        self._side = SideKeeper(self._file)
        self._group: GroupCommit | None = None
        if durability == "group":
            self._group = GroupCommit(self._file.write_group, GROUP_SECONDS)
        # For stores that nobody closes: runs when this one is collected, or at exit.
        self._finish = weakref.finalize(self, _finish, self._file, self._group)
        _forks.watch(self)

    @property
    def description(self) -> str:
        return str(self.path)

    @property
    def bad_rows(self) -> int:
        return self._file.bad_rows

    def claim(self, fingerprint: str, dim: int) -> None:
        self._fingerprint, self._dim = fingerprint, dim
        if self._file.is_claimed:
            self._flush()
        self._file.claim(fingerprint, dim)

    def scan(self) -> Iterator[Entry]:
        self._flush()
        for row in self._file.rows(f"{_ENTRIES} ORDER BY seq"):
            entry = stored_entry(row, self._dim)
            if entry is None:
                self._file.found_bad(row[0])
            else:
                yield entry

    def vectors(self, identities: Sequence[Identity], /) -> Sequence[Vector | None]:
        found = self._vectors(identities)
        if len(found) < len(set(identities)) and self._group is not None:
            # They may have been put a moment ago.
            self._flush()
            found = self._vectors(identities)
        return [found.get(identity) for identity in identities]

    def _vectors(self, identities: Sequence[Identity]) -> dict[Identity, Vector]:
        found: dict[Identity, Vector] = {}
        for at in range(0, len(identities), VECTORS_AT_ONCE):
            some = identities[at : at + VECTORS_AT_ONCE]
            places = ", ".join(["(?, ?)"] * len(some))
            rows = self._file.rows(
                # Joined: given pairs in a condition, SQLite reads the whole table.
                f"WITH asked (partition, key) AS (VALUES {places}) "
                f"SELECT {_VECTORS} FROM asked a CROSS JOIN live e "
                "ON e.partition = a.partition AND e.key = a.key WHERE e.vector IS NOT NULL",
                tuple(part for identity in some for part in identity),
            )
            for row in rows:
                vector = stored_vector(row, self._dim)
                if vector is None:
                    self._file.found_bad(row[0])
                else:
                    found[row[1], row[2]] = vector
        return found

    def fetch(self, identities: Sequence[Identity]) -> Sequence[Entry | None]:
        """The entry of each identity, in order and without its vector; None: there is none."""
        if not identities:
            return []
        # First: what is written meanwhile is in the file by the time that is read.
        coming = NOTHING if self._group is None else self._group.coming(identities)
        found = {entry.identity: replace(entry, vector=None) for entry in coming.puts}
        written = [one for one in identities if one not in found and one not in coming.removed]
        for _, entry in entries_named(self._file, written, self._dim):
            if entry.namespace not in coming.cleared:
                found[entry.identity] = entry
        return [found.get(identity) for identity in identities]

    def commit(self, changes: Changes) -> int:
        if self._group is None:
            return self._file.write(changes)
        marks = self._file.marks
        try:
            # Later it would hold up all that waits with it.
            for entry in changes.puts:
                check_text(entry)
        except UnicodeError:
            with self._file.errors():
                raise
        self._group.add(changes)
        if not (changes.puts or changes.removed or changes.cleared):
            return changes.mark
        return marks.promise(changes.mark)

    def flush(self) -> None:
        """Return when all that was committed so far is in the file."""
        self._flush()

    def _flush(self) -> None:
        if self._group is not None:
            self._group.flush()

    def mark(self) -> int:
        return self._file.mark()

    def changes_since(self, mark: int) -> Changes | None:
        told = self._file.marks.told
        self._flush()
        with self._file.reading() as connection:
            marks, seq = self._file.marks, seq_of(connection)
            since = marks.seq_at(mark)
            row = connection.execute("SELECT value FROM meta WHERE name = 'removals_from'")
            (oldest,) = row.fetchone() or (0,)
            if since is None or since > seq or since < int(oldest):
                return None
            cleared = connection.execute(
                "SELECT namespace FROM clears WHERE seq > ?", (since,)
            ).fetchall()
            rows = fetched(connection, f"{_ENTRIES} WHERE seq > ? ORDER BY seq", (since,))
            gone = connection.execute(
                "SELECT r.partition, r.key FROM removals r LEFT JOIN entries e "
                "ON e.partition = r.partition AND e.key = r.key "
                "WHERE r.seq > ? AND e.seq IS NULL",
                (since,),
            ).fetchall()
        entries = [stored_entry(row, self._dim) for row in rows]
        for row, entry in zip(rows, entries, strict=True):
            if entry is None:
                self._file.found_bad(row[0])
        return Changes(
            tuple(entry for entry in entries if entry is not None),
            tuple((Partition(partition), Key(key)) for partition, key in gone),
            mark=marks.catch_up(told, seq),
            cleared=tuple(name for (name,) in cleared),
        )

    def counts(self) -> Mapping[tuple[str, str], int]:
        self._flush()
        rows = self._file.rows("SELECT namespace, name, n FROM counts")
        return {(namespace, name): n for namespace, name, n in rows}

    def labels(self) -> Iterator[Label]:
        self._flush()
        rows = self._file.rows(f"SELECT {LABEL_COLUMNS} FROM labels ORDER BY id")
        return (Label(row[0], bool(row[1]), *row[2:]) for row in rows)

    def states(self) -> Mapping[str, bytes]:
        self._flush()
        return dict(self._file.rows("SELECT name, data FROM states"))

    def cold(self) -> ColdEntries | None:
        """What answers from the file until memory is filled; None where a scan is as good."""
        self._flush()
        return self._side.cold(self._fingerprint, self._dim)

    def distrust(self) -> None:
        """Do without the side file: it was found to be wrong."""
        self._side.discard()

    def keep_vectors(self, directions: Directions, *, later: bool = False) -> None:
        """Bring the side file up to date if that pays, now or in the background."""
        work = partial(self._side.keep, self._fingerprint, self._dim, dict(directions))
        if later:
            self._file.chores.do(work)
        else:
            with suppress(MnemeError):
                self._flush()
                work()

    def shrink(self) -> bool:
        """Give some pages of removed entries back to the disk; whether there are more."""
        self._flush()
        # What was cleared takes its space until its rows are gone.
        return self._file.sweep(anyway=True) or self._file.shrink()

    def compact(self) -> None:
        """Give the space of removed entries back to the disk. Others wait while it runs."""
        self._flush()
        while self._file.sweep(anyway=True):
            continue
        with self._file.lock:
            self._file.rows(GIVES_BACK)
            self._file.rows("VACUUM")
            self._file.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def has_flight_locks(self) -> bool:
        return _flight_lock.HAS_LOCKS

    def flight_lock(self, identity: Identity, /) -> FlightLock:
        path = Path(f"{self.path}-flights")
        return _flight_lock.SQLiteFlightLock(path, identity, self._flush)

    def in_child(self) -> None:
        if self._group is not None:
            self._group.in_child()

    def close(self) -> None:
        self._finish()

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self.path)!r})"


def _finish(file: SQLiteFile, group: GroupCommit | None) -> None:
    try:
        if group is not None and file.is_claimed:
            group.close()
    finally:
        file.close()
