"""An entry with its vector, and without."""

from __future__ import annotations

from typing import Any, cast

from mneme.records import Entry, Vector

__all__ = ["give_vector", "with_vector"]


class _Unfrozen:
    """An `Entry` while it is filled: `dataclasses.replace` takes four times as long."""

    __slots__ = Entry.__slots__


def with_vector(entry: Entry, vector: Vector | None) -> Entry:
    """`entry` with `vector` in place of its own."""
    copy: Any = _Unfrozen()
    copy.namespace = entry.namespace
    copy.partition = entry.partition
    copy.key = entry.key
    copy.prompt = entry.prompt
    copy.payload = entry.payload
    copy.vector = vector
    copy.created_at = entry.created_at
    copy.expires_at = entry.expires_at
    copy.dies_at = entry.dies_at
    copy.metadata = entry.metadata
    copy.tags = entry.tags
    copy.__class__ = Entry
    return cast(Entry, copy)


def give_vector(entry: Entry, vector: Vector) -> None:
    """Complete `entry`, which nobody else has seen yet."""
    object.__setattr__(entry, "vector", vector)
