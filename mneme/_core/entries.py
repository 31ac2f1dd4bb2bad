"""An entry with its vector, and as memory keeps it."""

from __future__ import annotations

from typing import Any, cast

from mneme.records import Entry, Payload, PayloadKind, Vector

__all__ = ["Keeping", "give_vector", "with_vector"]

ELSEWHERE = Payload(cast(PayloadKind, "elsewhere"), "")
"""The answer that is left in the store: of a kind that no codec reads."""

MOST_SHARED = 4_096
"""Partitions, namespaces and tags of which one object is kept; then it begins anew."""


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


class Keeping:
    """
    What memory keeps of entries: no vectors, which the index holds; without `answers` nothing
    but whose an entry is and when it ends. Of what many have in common it keeps one object.
    """

    def __init__(self, *, answers: bool = True) -> None:
        self.answers = answers
        self._one: dict[Any, Any] = {}

    def __call__(self, entry: Entry) -> Entry:
        """`entry` as it is kept; of one that is kept already, an equal one."""
        one = self._one
        if len(one) > MOST_SHARED:
            one.clear()
        share, has_answer = one.setdefault, self.answers
        tags, expires_at, dies_at = entry.tags, entry.expires_at, entry.dies_at
        copy: Any = _Unfrozen()
        copy.namespace = share(entry.namespace, entry.namespace)
        copy.partition = share(entry.partition, entry.partition)
        copy.key = entry.key
        copy.prompt = entry.prompt if has_answer else ""
        copy.payload = entry.payload if has_answer else ELSEWHERE
        copy.vector = None
        copy.created_at = entry.created_at
        copy.expires_at = expires_at
        copy.dies_at = expires_at if dies_at == expires_at else dies_at
        copy.metadata = entry.metadata if has_answer and entry.metadata != "{}" else "{}"
        copy.tags = share(tags, tags) if tags else ()
        copy.__class__ = Entry
        return cast(Entry, copy)
