"""
The layout of a cache file: made new, recognized, and brought forward from older versions.

One number, ``seq``, counts the changes of a file: every put, removal and clearing takes the
next. It is the primary key of ``entries``, so that what was put since a mark is the end of
the table; an entry is dead once its namespace was cleared at a later number (``live`` leaves
those out), and its row is removed whenever there is time.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from pathlib import Path

from mneme.errors import (
    CorruptCacheError,
    EmbedderMismatchError,
    MultiProcessLockError,
    SchemaMigrationError,
)
from mneme.stores._rows import COLUMNS
from mneme.stores._stored import STORED, add_sums

__all__ = ["APPLICATION_ID", "GIVES_BACK", "SCHEMA_VERSION", "bind", "check_header", "prepare"]

APPLICATION_ID = 0x6D6E656D
"""``mnem``: in the header of every file that is ours (https://sqlite.org/fileformat2.html)."""

SCHEMA_VERSION = 2

PAGE_BYTES = 16_384
"""Of 4 KB pages an entry with a vector of 1.5 KB wastes half; of these a twentieth."""

AGAIN_AFTER = 0.005
"""Seconds between two attempts at what SQLite does not wait for."""

GIVES_BACK = "PRAGMA auto_vacuum = INCREMENTAL"
"""Lays a file out so that it gives pages back bit by bit, once it is new or rewritten."""

_ENTRIES = """CREATE TABLE entries (
    seq INTEGER PRIMARY KEY, partition BLOB NOT NULL, key BLOB NOT NULL, namespace TEXT NOT NULL,
    prompt TEXT NOT NULL, kind TEXT NOT NULL, payload NOT NULL, metadata TEXT NOT NULL,
    tags TEXT NOT NULL, created_at REAL NOT NULL, expires_at REAL, dies_at REAL,
    body_sum INTEGER NOT NULL, vector_sum INTEGER NOT NULL, vector BLOB,
    UNIQUE (partition, key))"""

_CHANGED_IN_2 = (
    _ENTRIES,
    "CREATE INDEX entries_by_namespace ON entries (namespace)",
    "CREATE TABLE removals (seq INTEGER PRIMARY KEY, partition BLOB NOT NULL, key BLOB NOT NULL)",
    """CREATE TABLE clears (namespace TEXT PRIMARY KEY, seq INTEGER NOT NULL,
        is_swept INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID""",
    "CREATE INDEX clears_to_sweep ON clears (seq) WHERE NOT is_swept",
    """CREATE VIEW live AS SELECT * FROM entries e WHERE NOT EXISTS
        (SELECT 1 FROM clears c WHERE c.namespace = e.namespace AND c.seq > e.seq)""",
)

_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    *_CHANGED_IN_2,
    """CREATE TABLE counts (namespace TEXT NOT NULL, name TEXT NOT NULL, n INTEGER NOT NULL,
        PRIMARY KEY (namespace, name)) WITHOUT ROWID""",
    """CREATE TABLE labels (id INTEGER PRIMARY KEY, similarity REAL NOT NULL,
        is_right INTEGER NOT NULL, namespace TEXT NOT NULL, source TEXT NOT NULL,
        created_at REAL NOT NULL, chance_right REAL)""",
    "CREATE TABLE states (name TEXT PRIMARY KEY, data BLOB NOT NULL)",
)

_BARE = ", ".join(COLUMNS[:-1])

# As bytes: text that is no UTF-8 would not reach a function at all.
_RAW = ", ".join(
    f"CAST({name} AS BLOB)"
    if name in ("namespace", "prompt", "kind", "payload", "metadata", "tags")
    else name
    for name in COLUMNS[:-1]
)

_FROM_1 = (
    "DROP INDEX entries_by_seq",
    "DROP INDEX removals_by_seq",
    "ALTER TABLE entries RENAME TO entries_of_1",
    "DROP TABLE removals",
    *_CHANGED_IN_2,
    f"""INSERT INTO entries ({", ".join(STORED)})
        SELECT n, {_BARE}, body_sum(n, {_RAW}, length(vector)),
            vector_sum(n, partition, key, vector), vector
        FROM (SELECT row_number() OVER (ORDER BY seq, rowid) AS n, * FROM entries_of_1)
        ORDER BY n""",
    "DROP TABLE entries_of_1",
    "DELETE FROM meta WHERE name = 'removals_from'",
    "INSERT OR REPLACE INTO meta SELECT 'seq', coalesce(max(seq), 0) FROM entries",
)


def check_header(path: Path, head: bytes) -> None:
    """
    Refuse a file that is not ours, or too new, by its first 100 bytes, so that it is not touched.

    Raises:
        CorruptCacheError: not a cache file.
        SchemaMigrationError: a later version of mneme wrote it.
    """
    if _is_blank(head):
        return
    if head[:16] != b"SQLite format 3\0" or head[68:72] != APPLICATION_ID.to_bytes(4, "big"):
        raise CorruptCacheError(
            f"{path} is not a mneme cache. The file was not touched. Use another path."
        )
    _check_version(path, int.from_bytes(head[60:64], "big"))


def _is_blank(head: bytes) -> bool:
    """
    Whether it is a database of one page that never had a table: what another process has just
    begun to make, or has not come to make. In WAL there may be more of it than its header says.
    """
    return (
        head[:16] == b"SQLite format 3\0"
        and head[18:20] == b"\1\1"
        and head[28:32] == b"\0\0\0\1"
        and not any(head[40:44] + head[60:64] + head[68:72])
    )


def prepare(connection: sqlite3.Connection, path: Path, patience: float) -> None:
    """
    Give a new file its layout, an older one today's, and set the connection up; others who do
    the same are waited for, for `patience` seconds.
    """
    if not _version(connection):
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        # Makes the file, with one page; before a transaction, or it is too late for it.
        connection.execute(GIVES_BACK)
    connection.execute("BEGIN IMMEDIATE")
    version = _version(connection)
    if not version:
        # All of it in one transaction, before WAL: the header is in the file itself from
        # then on, where `check_header` reads it.
        for statement in _SCHEMA:
            connection.execute(statement)
        _name(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")
    _check_version(path, version or SCHEMA_VERSION)
    if version == 1:
        _bring_forward(connection, path)
    _use_wal(connection, time.monotonic() + patience)
    connection.execute("PRAGMA synchronous = NORMAL")


def _use_wal(connection: sqlite3.Connection, until: float) -> None:
    # Of several who go over to WAL at once SQLite refuses some, whatever its busy timeout.
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            return
        except sqlite3.OperationalError as exc:
            code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
            if code != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(AGAIN_AFTER)


def bind(connection: sqlite3.Connection, path: Path, fingerprint: str, dim: int) -> None:
    """
    Write down whose file it is, or see that it is this embedder's.

    Raises:
        EmbedderMismatchError: another has filled it; it was not changed.
    """
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    owner, its_dim = meta.get("fingerprint"), meta.get("dim")
    if (owner, its_dim) == (fingerprint, str(dim)):
        return
    if owner is not None and connection.execute("SELECT 1 FROM live LIMIT 1").fetchone():
        raise EmbedderMismatchError(
            f"{path} was filled by {owner!r} ({its_dim}), this cache uses "
            f"{fingerprint!r} ({dim}). The file was not changed. "
            "Use another path, or run python -m mneme migrate (reembed)."
        )
    connection.executemany(
        "INSERT OR REPLACE INTO meta VALUES (?, ?)",
        [("fingerprint", fingerprint), ("dim", str(dim))],
    )


def _bring_forward(connection: sqlite3.Connection, path: Path) -> None:
    """From layout 1, in one transaction: killed in it, the file is as it was before."""
    _have_it_alone(connection, path)
    while True:
        seen = connection.execute("PRAGMA data_version").fetchone()
        _back_up(connection, Path(f"{path}.v1.bak"))
        connection.execute("BEGIN EXCLUSIVE")
        if connection.execute("PRAGMA data_version").fetchone() == seen:
            break
        # Somebody came in between.
        connection.execute("ROLLBACK")
    try:
        if _version(connection) == 1:
            add_sums(connection)
            for statement in _FROM_1:
                connection.execute(statement)
            _name(connection)
            connection.execute("PRAGMA user_version = 2")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    # The rows are moved to larger pages, and the space of the old ones is given back.
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute(GIVES_BACK)
    connection.execute("VACUUM")


def _have_it_alone(connection: sqlite3.Connection, path: Path) -> None:
    # SQLite leaves WAL only for who has the file to himself.
    try:
        (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.OperationalError as exc:
        mode = str(exc)
    if mode != "delete":
        raise MultiProcessLockError(
            f"{path} has layout 1 and is open in another process, so it cannot be brought to "
            f"layout {SCHEMA_VERSION} ({mode}). The file was not changed. "
            "Close it there, and try again."
        )


def _back_up(connection: sqlite3.Connection, path: Path) -> None:
    """A copy with mode 0600, which stands under its name only once it is whole."""
    part = Path(f"{path}.part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    copy = sqlite3.connect(part)
    try:
        connection.backup(copy)
    finally:
        copy.close()
    os.replace(part, path)


def _name(connection: sqlite3.Connection) -> None:
    """A random name of the file's own, by which what lies beside it knows it."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('name', ?)", (secrets.token_hex(16),))


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _check_version(path: Path, version: int) -> None:
    if not 1 <= version <= SCHEMA_VERSION:
        raise SchemaMigrationError(
            f"{path} has layout {version}, this version of mneme reads 1 to {SCHEMA_VERSION}. "
            "The file was not touched. Upgrade mneme-toolkit, or use another path."
        )
