"""Filling memory bit by bit, from indexes that are there already and entries that are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from mneme._core.freshness import freshness
from mneme._core.ledger import Ledger
from mneme._core.live import Live
from mneme.records import Entry, Key, Partition, Vector
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
    """What is live, once all of it is here: `adopt` the indexes, `fill` in entries, `settle`."""

    @classmethod
    def like(cls, live: Live) -> Filling:
        """An empty one with the limits of `live`, which will take it over."""
        ledger = Ledger(live.ledger.max_entries, live.ledger.quotas)
        made = cls(ledger, live._dim, live._indexing)
        made._searched = Counter()
        return made

    _searched: Counter[Partition]
    """How many entries of each partition have a vector."""

    def adopt(self, partition: Partition, source: Indexed) -> None:
        """Take over the index of `partition`, whose entries `fill` will bring."""
        index = source.index(partition)
        if index is None or not self._indexing.is_plain:
            index = self._indexing.make(self._dim, partition)
            for key, vector in source.rows(partition):
                index.add(key, vector)
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
                    self._ledger.put(entry)
                else:
                    self._remember(entry)
                if is_indexed or entry.vector is not None:
                    self._searched[entry.partition] += 1
        return expired

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
