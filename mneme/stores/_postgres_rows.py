"""Entries to the columns of PostgreSQL and back, and vectors in pgvector's binary form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format
from psycopg.types import TypeInfo

from mneme.records import Entry, Vector
from mneme.stores._rows import as_bytes, as_text, death_of, entry_of, row_of

__all__ = [
    "TYPES", "VECTOR_TYPES", "columns_of", "entry_from", "teach",
    "vector_row",
]  # fmt: skip

TYPES = ("bytea", "bytea", "bytea", "bytea", "text", "bytea", "bytea", "bytea[]",
         "float8", "float8", "float8", "float8", "int8")  # fmt: skip
"""Of what `columns_of` gives and the number of the commit."""

VECTOR_TYPES = ("bytea", "bytea", "float8", "vector")
"""Of what `vector_row` gives."""


def columns_of(entry: Entry) -> tuple[Any, ...]:
    """The entry without its vector, as ``entries`` keeps it up to ``dead_at``."""
    row = row_of(entry)
    data = entry.payload.data
    return (
        entry.partition,
        entry.key,
        as_bytes(entry.namespace),
        as_bytes(entry.prompt),
        entry.payload.kind,
        as_bytes(data) if isinstance(data, str) else data,
        as_bytes(entry.metadata),
        [as_bytes(tag) for tag in entry.tags],
        *row[8:11],
        death_of(entry),
    )


def vector_row(entry: Entry) -> tuple[Any, ...]:
    """The entry's vector, as ``vectors`` keeps it."""
    return entry.partition, entry.key, death_of(entry), entry.vector


def entry_from(row: Sequence[Any], dim: int) -> Entry | None:
    """The entry of a row of `COLUMNS` and its vector, or ``None`` where it cannot be read."""
    (partition, key, namespace, prompt, kind, payload, metadata, tags,
     created_at, expires_at, dies_at, vector) = row  # fmt: skip
    try:
        data = payload if kind in ("bytes", "pickle") else as_text(payload)
        texts = [as_text(part) for part in (namespace, prompt)]
        tag_list = json.dumps([as_text(tag) for tag in tags])
        notes = as_text(metadata)
    except (UnicodeDecodeError, TypeError, AttributeError):
        return None
    columns = (partition, key, *texts, kind, data, notes, tag_list, created_at, expires_at,
               dies_at, vector)  # fmt: skip
    return entry_of(columns, dim)


class _VectorDumper(Dumper):
    """``int16 dim, int16 0, float4[dim]``, big-endian (pgvector, ``vector_send``)."""

    format = Format.BINARY

    def dump(self, obj: Vector) -> bytes:
        return len(obj).to_bytes(2) + b"\0\0" + obj.astype(">f4").tobytes()


class _VectorLoader(Loader):
    format = Format.BINARY

    def load(self, data: Any) -> bytes:
        return np.frombuffer(data, ">f4", offset=4).astype("<f4").tobytes()


def teach(connection: psycopg.Connection[Any], oid: int, array_oid: int) -> None:
    """Let `connection` send and receive vectors, whose type has this `oid`."""
    TypeInfo("vector", oid, array_oid).register(connection)
    dumper = type("VectorDumper", (_VectorDumper,), {"oid": oid})
    connection.adapters.register_dumper(np.ndarray, dumper)
    connection.adapters.register_loader(oid, _VectorLoader)
