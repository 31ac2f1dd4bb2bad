"""What a commit writes to a cache file, in as few steps of SQLite as there can be."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any

from mneme.records import Changes
from mneme.stores._stored import STORED, stored_row

__all__ = ["LABEL_COLUMNS", "seq_of", "shrink", "skip_to", "sweep", "write"]

REMEMBERED_CHANGES = 1_000_000
"""How far back others are told of removals; whoever missed more scans again."""

KEPT_LABELS = 100_000

LABEL_COLUMNS = "similarity, is_right, namespace, source, created_at, chance_right"

_BATCHES = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
"""
Rows a statement, as far as SQLite takes so many values (999 in old versions). Between any two
steps of SQLite a thread has to wait for the interpreter lock, up to 5 ms in a busy process: a
row a step would make a commit take seconds.
"""

_PUT = f"INSERT OR REPLACE INTO entries ({', '.join(STORED)}) VALUES "
# Through their numbers: given pairs, SQLite reads the whole table.
_REMOVE = (
    "WITH gone (partition, key) AS (VALUES {}) DELETE FROM entries WHERE seq IN "
    "(SELECT e.seq FROM gone CROSS JOIN entries e USING (partition, key))"
)
_REMOVED = "INSERT INTO removals VALUES "
_COUNT = (
    "INSERT INTO counts VALUES (?, ?, ?) "
    "ON CONFLICT (namespace, name) DO UPDATE SET n = n + excluded.n"
)


def seq_of(connection: sqlite3.Connection) -> int:
    """The number of the last change."""
    row = connection.execute("SELECT value FROM meta WHERE name = 'seq'").fetchone()
    return 0 if row is None else int(row[0])


def skip_to(connection: sqlite3.Connection, seq: int) -> None:
    """Go on counting from `seq`; whoever knows of less scans again."""
    connection.executemany(
        "INSERT OR REPLACE INTO meta VALUES (?, ?)",
        [("seq", str(seq)), ("removals_from", str(seq))],
    )


def write(connection: sqlite3.Connection, changes: Changes, seq: int) -> int:
    """Write `changes` in the transaction that is open; `seq`, or the last of their numbers."""
    if changes.counts:
        counts = [(space, name, n) for (space, name), n in changes.counts.items()]
        connection.executemany(_COUNT, counts)
    if changes.labels or changes.states:
        _remember(connection, changes)
    before = seq
    if changes.cleared:
        clears = [(name, at) for at, name in enumerate(changes.cleared, seq + 1)]
        connection.executemany("INSERT OR REPLACE INTO clears VALUES (?, ?, 0)", clears)
        seq += len(clears)
    if changes.removed:
        count = len(changes.removed)
        _in_batches(connection, _REMOVE, count, 2, iter(changes.removed))
        gone = ((at, *identity) for at, identity in enumerate(changes.removed, seq + 1))
        _in_batches(connection, _REMOVED + "{}", count, 3, gone)
        seq += count
    if changes.puts:
        rows = (stored_row(at, entry) for at, entry in enumerate(changes.puts, seq + 1))
        _in_batches(connection, _PUT + "{}", len(changes.puts), len(STORED), rows)
        seq += len(changes.puts)
    if seq > before:
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('seq', ?)", (str(seq),))
        if seq // 1_000 > before // 1_000:
            _forget_old(connection, seq - REMEMBERED_CHANGES)
    return seq


def sweep(connection: sqlite3.Connection, limit: int) -> bool:
    """Remove at most `limit` rows of a cleared namespace; whether more may be left."""
    row = connection.execute(
        "SELECT namespace, seq FROM clears WHERE NOT is_swept ORDER BY seq LIMIT 1"
    ).fetchone()
    if row is None:
        return False
    removed = connection.execute(
        "DELETE FROM entries WHERE seq IN "
        "(SELECT seq FROM entries WHERE namespace = ? AND seq < ? LIMIT ?)",
        (*row, limit),
    ).rowcount
    if removed < limit:
        connection.execute("UPDATE clears SET is_swept = 1 WHERE namespace = ?", row[:1])
    return True


def shrink(connection: sqlite3.Connection, pages: int) -> int:
    """Give back at most so many pages in which nothing is; how many are left, if any can be."""
    if not connection.execute("PRAGMA auto_vacuum").fetchone()[0]:
        # Made before files were laid out for it.
        return 0
    for _ in range(pages):
        # The driver takes one step of a statement that gives no columns: of more than one page
        # it would give back the first.
        connection.execute("PRAGMA incremental_vacuum(1)")
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0])


def _in_batches(
    connection: sqlite3.Connection,
    statement: str,
    count: int,
    width: int,
    rows: Iterator[tuple[Any, ...]],
) -> None:
    """
    `statement` with each of `rows`, which are `count` of `width` values. They are made a batch
    at a time: others get the interpreter lock in between.
    """
    most = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // width
    for size in _BATCHES:
        if size > most:
            continue
        while count >= size:
            values = [value for row in islice(rows, size) for value in row]
            connection.execute(_with_places(statement, size, width), values)
            count -= size


@cache
def _with_places(statement: str, size: int, width: int) -> str:
    """The same few texts each time, which the driver keeps prepared."""
    return statement.format(", ".join([f"({', '.join('?' * width)})"] * size))


def _forget_old(connection: sqlite3.Connection, horizon: int) -> None:
    if horizon <= 0:
        return
    connection.execute("DELETE FROM removals WHERE seq <= ?", (horizon,))
    connection.execute("DELETE FROM clears WHERE seq <= ? AND is_swept", (horizon,))
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('removals_from', ?)", (str(horizon),))


def _remember(connection: sqlite3.Connection, changes: Changes) -> None:
    """Keep labels, the newest so many, and states."""
    if changes.labels:
        rows = [
            (one.similarity, one.right, one.namespace, one.source, one.created_at, one.chance_right)
            for one in changes.labels
        ]
        connection.executemany(
            f"INSERT INTO labels ({LABEL_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", rows
        )
        connection.execute(
            "DELETE FROM labels WHERE id <= (SELECT max(id) FROM labels) - ?", (KEPT_LABELS,)
        )
    if changes.states:
        connection.executemany(
            "INSERT OR REPLACE INTO states VALUES (?, ?)", list(changes.states.items())
        )
