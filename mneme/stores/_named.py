"""Entries of a cache file by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from mneme.records import Entry, Identity
from mneme.stores._sqlite_file import SQLiteFile
from mneme.stores._stored import BARE, STORED, bare_entry, stored_entry

__all__ = ["entries_named"]

ASKED_AT_ONCE = 64
"""Entries that are read by name in one statement."""

# Joined: given pairs in a condition, SQLite reads the whole table.
_NAMED = (
    "WITH asked (partition, key) AS (VALUES {places}) SELECT {columns} "
    "FROM asked a CROSS JOIN live e ON e.partition = a.partition AND e.key = a.key"
)
_BARE = ", ".join(f"e.{name}" for name in BARE).replace("e.length(", "length(e.")
_STORED = ", ".join(f"e.{name}" for name in STORED)


def entries_named(
    file: SQLiteFile,
    identities: Sequence[Identity],
    dim: int,
    columns: Literal["bare", "all"] = "bare",
) -> Iterator[tuple[int, Entry]]:
    """
    Those of `identities` that are in `file` and can be read, with their numbers, in no order;
    ``"bare"`` without their vectors.
    """
    names, read = (_STORED, stored_entry) if columns == "all" else (_BARE, bare_entry)
    for at in range(0, len(identities), ASKED_AT_ONCE):
        some = identities[at : at + ASKED_AT_ONCE]
        places = ", ".join(["(?, ?)"] * len(some))
        rows = file.rows(
            _NAMED.format(places=places, columns=names),
            tuple(part for identity in some for part in identity),
        )
        for row in rows:
            entry = read(row, dim)
            if entry is None:
                file.found_bad(row[0])
            else:
                yield row[0], entry
