"""Filling memory bit by bit, from indexes that are there already and entries that are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from mneme._core.freshness import freshness
from mneme._core.ledger import Ledger
from mneme._core.live import Live
from mneme.records import Entry, Identity, Key, Partition, Vector
from mneme.types import Index

__all__ = ["Filling", "Indexed"]


class Indexed(Protocol):
    """Indexes that are there already."""

    @property
    def partitions(self) -> Sequence[Partition]: ...

    def index(self, partition: Partition, /) -> Index | None:
        """The index of `partition`, which compares exactly and in float32."""
        ...

    def keys(self, partition: Partition, /) -> Iterable[Key]:
        """What `index` holds."""
        ...

    def rows(self, partition: Partition, /) -> Iterable[tuple[Key, Vector]]:
        """The same, with the vectors."""
        ...


class Filling(Live):
    """Once all is here what is live: `adopt` indexes, `fill` in entries, `complete`, `settle`."""

    @classmethod
    def like(cls, live: Live) -> Filling:
        """An empty one with the limits of `live`, which will take it over."""
        ledger = Ledger(live.ledger.max_entries, live.ledger.quotas)
        made = cls(ledger, live._dim, live._indexing, live.keeps)
        made._searched, made._later = Counter(), set()
        return made

    _searched: Counter[Partition]
    """How many entries of each partition have a vector."""
    _later: set[Identity]
    """Entries that no index had when this began."""

    def adopt(self, partition: Partition, source: Indexed) -> None:
        """Take over the index of `partition`, whose entries `fill` will bring; if it can be."""
        index = source.index(partition) if self._indexing.is_plain else None
        if index is not None:
            self._use(partition, index)

    def fill(self, page: Iterable[tuple[Entry, bool]], now: float) -> list[str]:
        """
        Take in entries, each with whether an index that was adopted has its vector; the
        namespaces of what has expired, one for each entry.
        """
        expired = []
        with self._lock:
            for entry, is_indexed in page:
                if freshness(now, entry.expires_at, entry.dies_at) == "expired":
                    expired.append(entry.namespace)
                    self._forget(entry.identity)
                    self._bury(entry)
                    continue
                if is_indexed:
                    self._ledger.put(self.keeps(entry))
                else:
                    self._remember(entry)
                    self._later.add(entry.identity)
                if is_indexed or entry.vector is not None:
                    self._searched[entry.partition] += 1
        return expired

    def complete(self, partition: Partition, source: Indexed) -> None:
        """
        When all entries are there: make the index of `partition` if it could not be adopted.

        Not before: of each key there is one object then, that of its entry.
        """
        if self._indexing.is_plain:
            return
        index = self._indexes.get(partition)
        if index is None:
            index = self._indexing.make(self._dim, partition)
            self._use(partition, index)
        for key, vector in source.rows(partition):
            record = self._ledger.find(partition, key)
            if record is not None and record.entry.identity not in self._later:
                index.add(record.entry.key, vector)

    def settle(self, source: Indexed) -> bool:
        """When all is filled: let go of rows that are nobody's; whether none is missing."""
        for partition in source.partitions:
            if (index := self._indexes.get(partition)) is None:
                continue
            gone = [one for one in source.keys(partition) if not self._ledger.find(partition, one)]
            if len(gone) < len(index):
                for key in gone:
                    index.remove(key)
            else:
                del self._indexes[partition]
                self._priced.pop(partition, None)
        found = {partition: len(index) for partition, index in self._indexes.items()}
        return found == self._searched
