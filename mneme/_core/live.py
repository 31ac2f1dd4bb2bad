"""The live entries in memory: ledger and indexes, changed together under one lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from mneme import _forks
from mneme._core.entries import Keeping
from mneme._core.freshness import freshness
from mneme._core.ledger import Ledger, Record
from mneme._core.making import maker
from mneme.records import Candidate, Entry, Identity, Key, Partition, Selection, Vector
from mneme.types import Index, Priced, SearchingMany

__all__ = ["BURIED_AT_ONCE", "MANY", "Indexing", "Live", "Plan"]

SWEPT_AT_ONCE = 500
"""Cleared entries that are let go of under one lock: half a millisecond."""

BURIED_AT_ONCE = 128
"""Entries that died of age and leave the store in one commit: some milliseconds of a file."""

MANY = 4_096
"""Entries from which a partition is large: others cost little to compare with as a whole."""


CHUNK = 512
"""Vectors that are read from the store at a time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What one commit will do: namespaces cleared, entries put, and identities that the store is
    to remove, and why.
    """

    puts: tuple[Entry, ...]
    asked: tuple[Identity, ...]
    victims: tuple[Identity, ...]
    doomed: tuple[Identity, ...]
    cleared: tuple[str, ...] = ()

    @property
    def removed(self) -> tuple[Identity, ...]:
        """All that leaves the store; what is removed and put in one go is a put."""
        if not (self.asked or self.victims or self.doomed):
            return ()
        gone = dict.fromkeys((*self.asked, *self.victims, *self.doomed))
        for entry in self.puts:
            gone.pop(entry.identity, None)
        return tuple(gone)


_planned = maker(Plan)

Vectors = Callable[[Sequence[Identity]], Sequence[Vector | None]]
"""Identities to the float32 vectors of their entries, in order."""


class Indexing(Protocol):
    """How vectors are searched and kept."""

    @property
    def vector_dtype(self) -> str: ...

    def with_dtype(self, dtype: str, /) -> Indexing: ...

    @property
    def may_be_outgrown(self) -> bool: ...

    def is_outgrown(self, index: Index, /) -> bool: ...

    def grown(self) -> Indexing: ...

    @property
    def is_plain(self) -> bool:
        """Whether what `make` gives compares exactly, in float32."""
        ...

    def make(self, dim: int, partition: Partition, /) -> Index:
        """An empty index for the vectors of `partition`."""
        ...


class Coming:
    """An index that is being made in place of another, and the keys it has heard of by itself."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.told: set[Key] = set()

    def hear(self, key: Key, vector: Vector | None) -> None:
        self.told.add(key)
        if vector is None:
            self.index.remove(key)
        else:
            self.index.add(key, vector)


class Live:
    """
    What lookups see. Reading takes no lock; writing holds one for microseconds.

    Doomed entries have left memory already; the store hears of them with the next commit, so
    that finding an expired entry costs a lookup no write. Of those that died of age in numbers,
    the buried, it hears bit by bit: no commit of somebody else's carries them all.
    """

    def __init__(
        self, ledger: Ledger, dim: int, indexing: Indexing, keeps: Keeping | None = None
    ) -> None:
        self._ledger = ledger
        self.by_prompt = ledger.by_prompt
        self._dim = dim
        self._indexing = indexing
        self.keeps = keeps or Keeping()
        self._indexes: dict[Partition, Index] = {}
        self._priced: dict[Partition, Priced] = {}
        self._coming: dict[Partition, Coming] = {}
        self._doomed: dict[Identity, Entry] = {}
        self._buried: dict[Identity, Entry] = {}
        self._uncounted: Counter[str] = Counter()
        """How many of each namespace were found dead when memory was filled."""
        self._lock = _forks.lock(_forks.LIVE)

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def recall(self, partition: Partition, prompt: str) -> Record | None:
        """The record of exactly this prompt."""
        return self._ledger.recall(partition, prompt)

    def find(self, partition: Partition, key: Key) -> Record | None:
        return self._ledger.find(partition, key)

    def near(
        self, partition: Partition, vector: Vector, k: int, at_least: float = -1.0
    ) -> tuple[Candidate, ...]:
        """
        The nearest live entries of `partition`, best first.

        Only those with a cosine of `at_least`: in a large partition that is many times as
        fast. In a small one all are compared either way, and the nearest comes in any case.
        """
        index = self._indexes.get(partition)
        if index is None:
            return ()
        if len(index) >= MANY:
            return self._candidates(partition, index.search(vector, k=k, at_least=at_least))
        # What `ExactIndex` says in one search; others are asked for more than is wanted.
        search = getattr(index, "search_or_nearest", None)
        if search is not None:
            return self._candidates(partition, search(vector, k=k, at_least=at_least))
        pairs = index.search(vector, k=k, at_least=-1.0)
        near = [pair for pair in pairs[1:] if pair[1] >= at_least]
        return self._candidates(partition, [*pairs[:1], *near])

    def near_many(
        self, partition: Partition, vectors: Vector, k: int, at_least: float = -1.0
    ) -> list[tuple[Candidate, ...]]:
        """What `near` gives for each of `vectors`, shape ``(m, dim)``."""
        index = self._indexes.get(partition)
        if not isinstance(index, SearchingMany) or len(index) < MANY or len(vectors) == 1:
            return [self.near(partition, vector, k, at_least) for vector in vectors]
        found = index.search_many(vectors, k=k, at_least=at_least)
        return [self._candidates(partition, pairs) for pairs in found]

    def _candidates(
        self, partition: Partition, pairs: Iterable[tuple[Key, float]]
    ) -> tuple[Candidate, ...]:
        found = []
        for key, similarity in pairs:
            record = self._ledger.find(partition, key)
            if record is not None:
                found.append(Candidate(record.entry, similarity))
        return tuple(found)

    def search_size(self, partition: Partition) -> int:
        """What a search of `partition` costs, in floats read; 0: there is nothing to search."""
        priced = self._priced.get(partition)
        if priced is not None:
            return priced.search_floats
        index = self._indexes.get(partition)
        return len(index) * self._dim if index is not None else 0

    def is_searched(self, partition: Partition) -> bool:
        """Whether there is anything to search in `partition`."""
        index = self._indexes.get(partition)
        return index is not None and len(index) > 0

    def index_bytes(self, namespace: str | None = None) -> int:
        own = None if namespace is None else self._ledger.partitions(namespace)
        return sum(
            index.memory_bytes
            for partition, index in list(self._indexes.items())
            if own is None or partition in own
        )

    def select(self, chosen: Selection) -> list[Identity]:
        """The identities of the entries that `chosen` says."""
        return [r.entry.identity for r in self._ledger.records() if chosen.has(r.entry)]

    def plan(
        self,
        puts: Sequence[Entry],
        asked: Iterable[Identity],
        cleared: Iterable[str] = (),
        buried: int = 0,
    ) -> Plan:
        """
        What a commit of `puts` and what is `asked` for will do, with so many of the `buried`;
        changes nothing.
        """
        with self._lock:
            kept, victims = self._ledger.plan(puts)
            doomed = (*self._doomed, *islice(self._buried, buried))
            return _planned(tuple(kept), tuple(asked), tuple(victims), doomed, tuple(cleared))

    def carry_out(self, plan: Plan) -> tuple[int, list[Entry]]:
        """Do in memory what the store has done: removed as asked, and entries evicted."""
        with self._lock:
            for identity in plan.doomed:
                self._doomed.pop(identity, None)
                self._buried.pop(identity, None)
            count = 0
            for namespace in plan.cleared:
                count += self._clear(namespace)
            for identity in plan.asked:
                count += self._forget(identity) is not None
            evicted = [gone for gone in map(self._forget, plan.victims) if gone is not None]
            for entry in plan.puts:
                self._remember(entry)
        return count, evicted

    def doom(self, identity: Identity) -> Entry | None:
        """Forget an entry now, the store with the next commit; the entry, if it was live."""
        with self._lock:
            entry = self._forget(identity)
            if entry is not None:
                self._doomed[identity] = entry
        return entry

    def bury(self, records: Iterable[Record], chosen: Selection) -> Counter[str]:
        """
        Forget those of `records` that `chosen` says, which have died of age, and have the store
        hear of them bit by bit; how many were live, by namespace.
        """
        gone: Counter[str] = Counter()
        with self._lock:
            for record in records:
                entry = record.entry
                # Another may have been put in its place since somebody looked.
                if chosen.has(entry) and self._ledger.find(entry.partition, entry.key) is record:
                    identity = entry.identity
                    self._forget(identity)
                    self._buried[identity] = entry
                    gone[entry.namespace] += 1
        return gone

    def bury_doomed(self, namespace: str | None) -> int:
        """
        How many have left memory before, of age for the most part: when it was filled, and
        since, unless the store has heard of these.
        """
        with self._lock:
            mine = [i for i, one in self._doomed.items() if namespace in (None, one.namespace)]
            for identity in mine:
                self._buried[identity] = self._doomed.pop(identity)
            spaces = list(self._uncounted) if namespace is None else [namespace]
            return len(mine) + sum(self._uncounted.pop(space, 0) for space in spaces)

    @property
    def buried(self) -> int:
        """How many the store has yet to hear of bit by bit."""
        return len(self._buried)

    def apply(
        self,
        puts: Iterable[Entry],
        removed: Iterable[Identity],
        cleared: Iterable[str] = (),
    ) -> None:
        """What others have cleared, removed and put."""
        with self._lock:
            for namespace in cleared:
                self._clear(namespace)
            self._ledger.sweep(SWEPT_AT_ONCE)
            for identity in removed:
                self._forget(identity)
            for entry in puts:
                if not self._is_doomed(entry):
                    self._remember(entry)

    def sweep(self) -> bool:
        """Let go of some entries that were cleared; whether there are more."""
        with self._lock:
            return self._ledger.sweep(SWEPT_AT_ONCE)

    def _clear(self, namespace: str) -> int:
        for partition in self._ledger.partitions(namespace):
            # One that is being made of it comes too late: it is not asked for any more.
            for indexes in (self._indexes, self._priced, self._coming):
                indexes.pop(partition, None)
        return self._ledger.clear(namespace)

    def replace_all(self, entries: Iterable[Entry], now: float) -> list[str]:
        """
        Begin anew from what a store holds; what has expired or is too much is doomed. Gives
        the namespaces of what has expired, one for each entry.
        """
        expired: list[str] = []
        with self._lock:
            quotas = self._ledger.quotas
            self._ledger = Ledger(self._ledger.max_entries, quotas)
            self.by_prompt = self._ledger.by_prompt
            self._indexes, self._priced, self._coming = {}, {}, {}
            for entry in entries:
                if freshness(now, entry.expires_at, entry.dies_at) == "expired":
                    if not self._is_doomed(entry):
                        expired.append(entry.namespace)
                        self._bury(entry)
                elif not self._is_doomed(entry):
                    self._remember(entry)
            _, victims = self._ledger.plan((), quotas)
            for identity in victims:
                if (gone := self._forget(identity)) is not None:
                    self._doomed[identity] = gone
        return expired

    def take_over(self, other: Live) -> None:
        """
        Go on with what `other` has, which nobody else uses; what is too much by the limits, as
        they are here, is doomed.
        """
        with self._lock:
            quotas, ledger = self._ledger.quotas, other._ledger
            for namespace in {*quotas, *ledger.quotas}:
                if quotas.get(namespace) != ledger.quotas.get(namespace):
                    ledger.set_quota(namespace, quotas.get(namespace))
            self._ledger, self.by_prompt = ledger, ledger.by_prompt
            self._indexes, self._priced, self._coming = other._indexes, other._priced, {}
            self._buried.update(other._buried)
            self._uncounted.update(other._uncounted)
            _, victims = ledger.plan((), quotas)
            gone = (self._forget(identity) for identity in victims)
            self._doomed.update((entry.identity, entry) for entry in gone if entry is not None)

    def directions(self) -> dict[Partition, tuple[Vector, int]]:
        """Those of every index that has a sketch."""
        known = {
            partition: getattr(index, "directions", None)
            for partition, index in list(self._indexes.items())
        }
        return {partition: found for partition, found in known.items() if found is not None}

    def set_quota(self, namespace: str, quota: int | None) -> list[Identity]:
        """Limit `namespace` from now on; whom that evicts."""
        with self._lock:
            self._ledger.set_quota(namespace, quota)
            return self._ledger.plan((), [namespace])[1]

    # -- keeping vectors otherwise ---------------------------------------------------------------

    @property
    def vector_dtype(self) -> str:
        return self._indexing.vector_dtype

    def use_dtype(self, dtype: str) -> None:
        """Keep the vectors of indexes that are made from now on as `dtype`."""
        self._indexing = self._indexing.with_dtype(dtype)

    def searched(self) -> list[Partition]:
        """The partitions that have an index."""
        return list(self._indexes)

    def is_outgrown(self, partition: Partition) -> bool:
        """Whether `partition` is searched so slowly that it should get another kind of index."""
        if not self._indexing.may_be_outgrown:
            return False
        index = self._indexes.get(partition)
        return index is not None and self._indexing.is_outgrown(index)

    def rebuild(
        self,
        partition: Partition,
        vectors: Vectors,
        *,
        grown: bool = False,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """
        Make the index of `partition` anew, for as long as that `is_wanted`; lookups use the old
        one until it is done. A `grown` one is of the kind for partitions that have outgrown
        theirs.
        """
        indexing = self._indexing.grown() if grown else self._indexing
        # A graph takes a millisecond for each: others that write wait no longer than for a few.
        at_once = 4 if grown else CHUNK
        with self._lock:
            if partition not in self._indexes:
                return
            coming = self._coming[partition] = Coming(indexing.make(self._dim, partition))
            keys = self._ledger.keys(partition)
        for start in range(0, len(keys), CHUNK):
            if not is_wanted():
                with self._lock:
                    self._coming.pop(partition, None)
                return
            some = keys[start : start + CHUNK]
            # The store is asked without the lock, so what it says may be of a moment ago.
            found = list(zip(some, vectors([(partition, key) for key in some]), strict=True))
            for begin in range(0, len(found), at_once):
                with self._lock:
                    for key, vector in found[begin : begin + at_once]:
                        if vector is not None and key not in coming.told:
                            coming.index.add(key, vector)
        with self._lock:
            if self._coming.get(partition) is coming:
                del self._coming[partition]
                if partition in self._indexes:
                    self._use(partition, coming.index)

    def _use(self, partition: Partition, index: Index) -> None:
        self._indexes[partition] = index
        self._priced.pop(partition, None)
        if isinstance(index, Priced):
            self._priced[partition] = index

    def _bury(self, entry: Entry) -> None:
        """Leave out an entry that was found dead in the store."""
        self._buried[entry.identity] = self.keeps(entry)
        self._uncounted[entry.namespace] += 1

    def _is_doomed(self, entry: Entry) -> bool:
        """Whether it is the very entry that memory has let go of, not one put since."""
        gone = self._doomed.get(entry.identity) or self._buried.get(entry.identity)
        return gone is not None and gone == self.keeps(entry)

    def _remember(self, entry: Entry) -> None:
        partition, key, vector = entry.partition, entry.key, entry.vector
        index = self._indexes.get(partition)
        if vector is not None:
            if index is None:
                index = self._indexing.make(self._dim, partition)
                self._use(partition, index)
            index.add(key, vector)
        elif index is not None:
            index.remove(key)
        if self._coming and (coming := self._coming.get(partition)) is not None:
            coming.hear(key, vector)
        # The index holds the vector from here on: kept twice it would be most of the memory.
        self._ledger.put(self.keeps(entry))
        if self._doomed or self._buried:
            # An older entry of this identity may have been doomed while this was on its way.
            self._doomed.pop((partition, key), None)
            self._buried.pop((partition, key), None)

    def _forget(self, identity: Identity) -> Entry | None:
        partition, key = identity
        entry = self._ledger.remove(identity)
        if (coming := self._coming.get(partition)) is not None:
            coming.hear(key, None)
        if (index := self._indexes.get(partition)) is not None:
            index.remove(key)
            if not len(index):
                del self._indexes[partition]
                self._priced.pop(partition, None)
        return entry
