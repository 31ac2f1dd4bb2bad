"""An entry with its vector, and as memory keeps it."""

from __future__ import annotations

from typing import Any, cast

from mneme._core.making import maker
from mneme.records import Entry, Payload, PayloadKind, Vector

__all__ = ["Keeping", "give_vector", "make_entry"]

ELSEWHERE = Payload(cast(PayloadKind, "elsewhere"), "")
"""The answer that is left in the store: of a kind that no codec reads."""

MOST_SHARED = 4_096
"""Partitions, namespaces and tags of which one object is kept; then it begins anew."""


make_entry = maker(Entry)
"""As `Entry`, for what makes one for each put or each row."""


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
        return make_entry(
            namespace=share(entry.namespace, entry.namespace),
            partition=share(entry.partition, entry.partition),
            key=entry.key,
            prompt=entry.prompt if has_answer else "",
            payload=entry.payload if has_answer else ELSEWHERE,
            vector=None,
            created_at=entry.created_at,
            expires_at=expires_at,
            dies_at=expires_at if dies_at == expires_at else dies_at,
            metadata=entry.metadata if has_answer and entry.metadata != "{}" else "{}",
            tags=share(tags, tags) if tags else (),
        )
