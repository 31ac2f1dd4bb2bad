"""
Entries as rows of a cache file, with checksums that tell when a byte of one has changed.

There are two CRC-32 a row, as `zlib` has them: one of all but the vector, the length of which
it covers, and one of the vector, so that either can be read without the other. Both begin with
the row's number and its identity: what stands in another row's place is not taken for it.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from mneme.records import Entry, Vector
from mneme.stores._rows import COLUMNS, entry_of, row_of

__all__ = [
    "BARE", "STORED", "VECTORS", "add_sums", "bare_entry", "fetched", "is_whole", "stored_entry",
    "stored_row", "stored_vector",
]  # fmt: skip

STORED = ("seq", *COLUMNS[:-1], "body_sum", "vector_sum", "vector")
"""The columns of a row, as `stored_row` gives and `stored_entry` takes them."""

BARE = (*STORED[:-2], "length(vector)")
"""What `bare_entry` takes."""

VECTORS = ("seq", "partition", "key", "vector_sum", "vector")
"""What `is_whole` and `stored_vector` take."""

NO_SUM = -1
"""In place of the checksum of what is no entry."""

_NAN = float("nan")
_DATES_AND_LENGTH = struct.Struct("<3dq")


def stored_row(seq: int, entry: Entry) -> tuple[Any, ...]:
    """
    The row of `entry` under the number `seq`.

    Raises:
        UnicodeEncodeError: some text of the entry holds half of a surrogate pair.
    """
    partition, key, *rest, vector = row_of(entry)
    start = _start(seq, partition, key)
    length = None if vector is None else len(vector)
    sums = _body_sum(start, length, *rest), crc32(vector or b"", start)
    return (seq, partition, key, *rest, *sums, vector)


def stored_entry(row: Sequence[Any], dim: int) -> Entry | None:
    """The entry of a row of `STORED`, or ``None`` where the row is not as it was written."""
    seq, partition, key, *rest, body_sum, vector_sum, vector = row
    try:
        start = _start(seq, partition, key)
        length = None if vector is None else len(vector)
        if body_sum != _body_sum(start, length, *rest):
            return None
        if vector_sum != crc32(vector or b"", start):
            return None
    except (TypeError, ValueError):
        return None
    return entry_of((partition, key, *rest, vector), dim, is_checked=True)


def bare_entry(row: Sequence[Any], dim: int) -> Entry | None:
    """The entry of a row of `BARE`, without its vector; ``None`` as of `stored_entry`."""
    seq, partition, key, *rest, body_sum, length = row
    try:
        if length not in (None, 4 * dim):
            return None
        if body_sum != _body_sum(_start(seq, partition, key), length, *rest):
            return None
    except (TypeError, ValueError):
        return None
    return entry_of((partition, key, *rest, None), dim)


def is_whole(row: Sequence[Any], dim: int) -> bool:
    """Whether a row of `VECTORS` has the vector that was written."""
    seq, partition, key, vector_sum, vector = row
    try:
        return len(vector) == 4 * dim and vector_sum == crc32(vector, _start(seq, partition, key))
    except (TypeError, ValueError):
        return False


def stored_vector(row: Sequence[Any], dim: int) -> Vector | None:
    """The vector of a row of `VECTORS`, or ``None`` where it is not as it was written."""
    return np.frombuffer(row[-1], "<f4").astype(np.float32) if is_whole(row, dim) else None


def add_sums(connection: sqlite3.Connection) -> None:
    """
    Give SQL on `connection` both checksums: ``body_sum`` of `BARE` without its last but one, text
    as BLOB (else it fails for text that is no UTF-8), and ``vector_sum`` of `VECTORS` likewise.
    """
    connection.create_function("body_sum", len(BARE) - 1, _or_none(_body_sum_in_sql))
    connection.create_function("vector_sum", len(VECTORS) - 1, _or_none(_vector_sum_in_sql))


def fetched(connection: sqlite3.Connection, statement: str, values: Any = ()) -> list[Any]:
    """All rows that `statement` gives; text that is no UTF-8 comes as bytes."""
    try:
        return connection.execute(statement, values).fetchall()
    except sqlite3.OperationalError as exc:
        # The driver's own error, of one cell among all: SQLite's have a code.
        if getattr(exc, "sqlite_errorcode", None) is not None:
            raise
    connection.text_factory = _text_or_bytes
    try:
        return connection.execute(statement, values).fetchall()
    finally:
        connection.text_factory = str


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _start(seq: int, partition: bytes, key: bytes) -> int:
    """What both checksums of a row begin with."""
    return crc32(partition + key, seq & 0xFFFFFFFF ^ seq >> 32)


def _body_sum(
    start: int, length: int | None, namespace: str, prompt: str, kind: str,
    payload: str | bytes, metadata: str, tags: str, created_at: float,
    expires_at: float | None, dies_at: float | None,
) -> int:  # fmt: skip
    text = f"{namespace}\0{prompt}\0{kind}\0{metadata}\0{tags}\0"
    data = (text + payload).encode() if isinstance(payload, str) else text.encode() + payload
    # SQLite keeps NaN as NULL and -0.0 as 0.
    rest = _DATES_AND_LENGTH.pack(
        created_at + 0.0,
        _NAN if expires_at is None else expires_at + 0.0,
        _NAN if dies_at is None else dies_at + 0.0,
        -1 if length is None else length,
    )
    return crc32(data, crc32(rest, start))


def _body_sum_in_sql(seq: int, partition: Any, key: Any, *values: Any) -> int:
    namespace, prompt, kind, payload, metadata, tags, *dates, length = values
    texts = namespace.decode(), prompt.decode(), kind.decode(), payload
    rest = metadata.decode(), tags.decode(), *dates
    return _body_sum(_start(seq, partition, key), length, *texts, *rest)


def _vector_sum_in_sql(seq: int, partition: Any, key: Any, vector: Any) -> int:
    return crc32(vector or b"", _start(seq, partition, key))


def _or_none(compute: Callable[..., int]) -> Callable[..., int]:
    def checksum(*values: Any) -> int:
        try:
            return compute(*values)
        except (AttributeError, TypeError, ValueError):
            return NO_SUM

    return checksum
