"""Entries to the columns of a table and back; a row that cannot be read is no entry."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np

from mneme.records import Entry, Key, Partition, Payload, PayloadKind

__all__ = ["COLUMNS", "as_bytes", "as_text", "check_text", "death_of", "entry_of", "row_of"]

COLUMNS = (
    "partition", "key", "namespace", "prompt", "kind", "payload", "metadata", "tags",
    "created_at", "expires_at", "dies_at", "vector",
)  # fmt: skip

_KINDS: dict[Any, PayloadKind] = {kind: kind for kind in get_args(PayloadKind)}


def as_bytes(text: str) -> bytes:
    """UTF-8 of any `str`, lone surrogates included."""
    return text.encode("utf-8", "surrogatepass")


def as_text(data: bytes) -> str:
    """What `as_bytes` made bytes of."""
    return data.decode("utf-8", "surrogatepass")


def death_of(entry: Entry) -> float | None:
    """From when on it is neither fresh nor stale; ``None``: never."""
    if entry.expires_at is None:
        return None
    return max(entry.expires_at, entry.dies_at or entry.expires_at)


def check_text(entry: Entry) -> None:
    """
    Refuse what SQLite would refuse to write.

    Raises:
        UnicodeEncodeError: some text of the entry holds half of a surrogate pair.
    """
    for text in (entry.namespace, entry.prompt, entry.payload.data, entry.metadata, *entry.tags):
        if isinstance(text, str) and not text.isascii():
            text.encode()


def row_of(entry: Entry) -> tuple[Any, ...]:
    """The entry as values for `COLUMNS`, in their order."""
    vector = None if entry.vector is None else np.ascontiguousarray(entry.vector, "<f4").tobytes()
    return (
        entry.partition,
        entry.key,
        entry.namespace,
        entry.prompt,
        entry.payload.kind,
        entry.payload.data,
        entry.metadata,
        json.dumps(entry.tags, ensure_ascii=False) if entry.tags else "[]",
        entry.created_at,
        entry.expires_at,
        entry.dies_at,
        vector,
    )


def entry_of(row: Sequence[Any], dim: int, *, is_checked: bool = False) -> Entry | None:
    """
    The entry that `row` holds, or ``None`` where any column is not what it must be.
    `is_checked`: a checksum has shown that the vector is what was written.
    """
    (partition, key, namespace, prompt, kind, payload, metadata, tags,
     created_at, expires_at, dies_at, vector) = row  # fmt: skip
    # Written out: a hundred thousand rows are read before memory is filled.
    if not isinstance(partition, bytes) or len(partition) != 16:
        return None
    if not isinstance(key, bytes) or len(key) != 16:
        return None
    if not isinstance(namespace, str) or not isinstance(prompt, str):
        return None
    if not isinstance(metadata, str) or not isinstance(tags, str):
        return None
    # Of each kind one object: a row comes with its own.
    known = _KINDS.get(kind)
    if known is None or not isinstance(payload, str if kind in ("text", "json") else bytes):
        return None
    if not isinstance(created_at, float) or not math.isfinite(created_at):
        return None
    if expires_at is not None and not isinstance(expires_at, float):
        return None
    if dies_at is not None and not isinstance(dies_at, float):
        return None
    try:
        labels = [] if tags == "[]" else json.loads(tags)
        notes = {} if metadata == "{}" else json.loads(metadata)
    except ValueError:
        return None
    if not isinstance(labels, list) or not isinstance(notes, dict):
        return None
    unit = None
    if vector is not None:
        if not isinstance(vector, bytes) or len(vector) != 4 * dim:
            return None
        unit = np.frombuffer(vector, "<f4").astype(np.float32)
        # A flipped bit in a vector would change what it is near to.
        if not is_checked and not abs(float(unit @ unit) - 1.0) < 1e-3:
            return None
    return Entry(
        namespace=namespace,
        partition=Partition(partition),
        key=Key(key),
        prompt=prompt,
        payload=Payload(known, payload),
        vector=unit,
        created_at=created_at,
        expires_at=expires_at,
        dies_at=dies_at,
        metadata=metadata,
        tags=tuple(str(label) for label in labels),
    )
