"""Questions that were found to ask what an entry answers, kept in memory alone."""

from __future__ import annotations

from typing import NamedTuple

from mneme import _forks
from mneme.records import Identity

__all__ = ["Alias", "Aliases"]

MAX_ALIASES = 8_192


class Alias(NamedTuple):
    """The entry, and the cosine at which it was found."""

    entry: Identity
    similarity: float


class Aliases:
    """
    From the identity of a question to the entry that answers it; the oldest give way.

    Holds names and no answers: once the entry is gone the alias leads nowhere.
    """

    def __init__(self) -> None:
        self._of: dict[Identity, Alias] = {}
        self._lock = _forks.lock()

    def get(self, identity: Identity) -> Alias | None:
        return self._of.get(identity)

    def add(self, identity: Identity, alias: Alias) -> None:
        if identity == alias.entry:
            return
        with self._lock:
            self._of[identity] = alias
            if len(self._of) > MAX_ALIASES:
                del self._of[next(iter(self._of))]

    def drop(self, identity: Identity) -> None:
        self._of.pop(identity, None)

    def clear(self) -> None:
        with self._lock:
            self._of.clear()

    def __len__(self) -> int:
        return len(self._of)
