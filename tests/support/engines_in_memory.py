"""An engine that searches, in this process: what `EngineCore` is tested with at leisure."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mneme import MemoryStore
from mneme.records import Candidate, Changes, Entry, Identity, Partition, Selection, Vector

__all__ = ["MemoryEngine"]


class MemoryEngine(MemoryStore):
    """
    A `SearchableStore` over a dictionary, by comparing with all.

    ``asked`` counts its round trips by name; ``fails`` is raised by all of them, and
    ``waits`` is waited for by lookups.
    """

    blocking = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.fails: Exception | None = None
        self.waits: threading.Event | None = None

    def _ask(self, name: str) -> None:
        self.asked[name] += 1
        if self.fails is not None:
            raise self.fails
        if self.waits is not None:
            self.waits.wait()

    def mark(self) -> int:
        self._ask("mark")
        return super().mark()

    def commit(self, changes: Changes) -> int:
        self._ask("commit")
        gone = [entry.identity for entry in self._all() if entry.namespace in changes.cleared]
        mark = super().commit(replace(changes, removed=(*gone, *changes.removed)))
        with self._lock:
            for identity in changes.used:
                if (entry := self._entries.pop(identity, None)) is not None:
                    self._entries[identity] = entry
        return mark

    def fetch(self, identities: Sequence[Identity]) -> Sequence[Entry | None]:
        self._ask("fetch")
        found = [self._entries.get(identity) for identity in identities]
        return [None if one is None else replace(one, vector=None) for one in found]

    def search(
        self, partition: Partition, vector: Vector, *, k: int, at_least: float, now: float
    ) -> Sequence[Candidate]:
        self._ask("search")
        dead = Selection(dead_by=now)
        found = [
            Candidate(replace(entry, vector=None), float(entry.vector @ vector))
            for entry in self._all()
            if entry.partition == partition and entry.vector is not None and not dead.has(entry)
        ]
        found.sort(key=lambda one: -one.similarity)
        return [one for one in found if one.similarity >= at_least][:k]

    def remove(self, chosen: Selection, limit: int) -> int:
        self._ask("remove")
        gone = [entry.identity for entry in self._all() if chosen.has(entry)][:limit]
        super().commit(Changes(removed=tuple(gone)))
        return len(gone)

    def count(self, chosen: Selection) -> int:
        self._ask("count")
        return sum(map(chosen.has, self._all()))

    def sizes(self) -> Mapping[str, int]:
        self._ask("sizes")
        return Counter(entry.namespace for entry in self._all())

    def trim(self, limit: int, namespace: str | None = None) -> int:
        self._ask("trim")
        own = [entry for entry in self._all() if namespace in (None, entry.namespace)]
        gone = [entry.identity for entry in own[: max(0, len(own) - limit)]]
        super().commit(Changes(removed=tuple(gone)))
        return len(gone)

    def _all(self) -> list[Entry]:
        return list(self.scan())
