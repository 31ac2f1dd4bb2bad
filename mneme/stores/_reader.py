"""A SQLite file that is only read: nothing is written to it, not even a mark."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mneme.errors import CorruptCacheError, EmbedderMismatchError, StoreBackendError
from mneme.records import Changes, Entry, Label
from mneme.stores._address import Address, is_url, open_store, owner_of, owner_of_file
from mneme.stores._rows import COLUMNS, entry_of
from mneme.stores._sqlite_schema import SCHEMA_VERSION
from mneme.stores._stored import STORED, fetched, stored_entry
from mneme.types import Store

__all__ = ["SQLiteReader", "open_source"]

PAGE = 256
"""Entries that are read at once; in between others may write, and the log be written back."""

_COLUMNS = ", ".join(COLUMNS)

# By layout; from the second on a row's number is its own, and cleared ones may be left.
_SCANS = {
    1: f"SELECT {_COLUMNS}, seq, rowid FROM entries WHERE (seq, rowid) > (?, ?) "
    "ORDER BY seq, rowid LIMIT ?",
    2: f"SELECT {', '.join(STORED)}, seq, 0 FROM live "
    "WHERE seq > ? AND ? <= 0 ORDER BY seq LIMIT ?",
}


def open_source(address: Address) -> tuple[Store, str, int]:
    """
    The store at `address`, open to be read, with fingerprint and dimension of its embedder.

    Raises:
        CorruptCacheError: nobody has ever opened a cache on it; or it is damaged.
        StoreBackendError, SchemaMigrationError, ValueError: it cannot be read.
    """
    store: Store = open_store(address) if is_url(address) else SQLiteReader(Path(address))
    try:
        owner = owner_of(store)
        if owner is None:
            raise CorruptCacheError(
                f"{store.description} does not say which embedder filled it: no cache was ever "
                "opened on it. It was not touched. Check the address."
            )
        store.claim(*owner)
    except BaseException:
        store.close()
        raise
    return store, *owner


class SQLiteReader:
    """
    The store in the SQLite file at `path`, for who takes its entries elsewhere.

    It neither waits for writers nor makes them wait. What is put while it scans comes or does
    not, and what is replaced may come twice.

    Raises:
        StoreBackendError, CorruptCacheError, SchemaMigrationError: `path` cannot be read.
    """

    blocking = True
    schema_version = SCHEMA_VERSION

    def __init__(self, path: Path) -> None:
        self.description: str = str(path)
        self.bad_rows: int = 0
        self._owner = owner_of_file(path)
        self._lock = threading.Lock()
        # Who may only read leaves SQLite's empty -wal and -shm behind; who may write, nothing.
        mode = "rw" if os.access(path, os.W_OK) else "ro"
        # Threads take turns.
        self._reader = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode={mode}", uri=True, check_same_thread=False
        )
        self._reader.execute("PRAGMA query_only = ON")

    def owner(self) -> tuple[str, int] | None:
        return self._owner

    def claim(self, fingerprint: str, dim: int) -> None:
        if (fingerprint, dim) != self._owner:
            raise EmbedderMismatchError(
                f"{self.description} was filled by {self._owner}, not by {fingerprint!r} ({dim}). "
                "It was not changed. Use that embedder."
            )

    def scan(self) -> Iterator[Entry]:
        after = (-1, -1)
        dim = self._owner[1] if self._owner is not None else 0
        ((layout,),) = self._rows("PRAGMA user_version")
        read = entry_of if layout == 1 else stored_entry
        while rows := self._rows(_SCANS[layout], (*after, PAGE)):
            after = rows[-1][-2:]
            for row in rows:
                entry = read(row[:-2], dim)
                if entry is None:
                    self.bad_rows += 1
                else:
                    yield entry

    def counts(self) -> Mapping[tuple[str, str], int]:
        return {(space, name): n for space, name, n in self._rows("SELECT * FROM counts")}

    def labels(self) -> Iterator[Label]:
        columns = "similarity, is_right, namespace, source, created_at, chance_right"
        rows = self._rows(f"SELECT {columns} FROM labels ORDER BY id")
        return (Label(row[0], bool(row[1]), *row[2:]) for row in rows)

    def states(self) -> Mapping[str, bytes]:
        return dict(self._rows("SELECT name, data FROM states"))

    def commit(self, changes: Changes) -> int:
        raise StoreBackendError(f"{self.description} is only read here. Open a SQLiteStore on it.")

    def mark(self) -> int:
        return 0

    def changes_since(self, mark: int) -> Changes | None:
        return None

    def close(self) -> None:
        with self._lock:
            self._reader.close()

    def _rows(self, statement: str, values: Any = ()) -> list[Any]:
        try:
            with self._lock:
                return fetched(self._reader, statement, values)
        except sqlite3.Error as exc:
            code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise CorruptCacheError(
                    f"{self.description} is damaged ({exc}). It was left as it is. "
                    "Restore a copy, or use another path."
                ) from exc
            raise StoreBackendError(
                f"{self.description} cannot be read: {exc}. It was not changed. "
                "Check its permissions and those of its folder."
            ) from exc
