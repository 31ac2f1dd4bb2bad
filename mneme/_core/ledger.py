"""
What is live: every entry by identity, in the order in which it may have to go.

Eviction is second chance (Corbató 1968; also called CLOCK): entries stand in a queue by age,
a hit sets one bit, and the entry at the head goes unless its bit is set, in which case the
bit is cleared and it moves to the tail. It keeps what is used, as LRU does, but a hit writes
one attribute and moves nothing, so lookups need no lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mneme.records import Entry, Identity, Key, Partition

__all__ = ["Ledger", "Record"]

_OVERHEAD = 400
"""Bytes of Python objects around one entry and its vector, measured with `tracemalloc`."""

_TEXT_OVERHEAD = 200
"""Bytes more of them where prompt and answer are in memory."""


class Record:
    """An entry and whether it was used since the eviction hand last passed it."""

    __slots__ = ("entry", "used")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.used = False


Queue = OrderedDict[Record, None]


class Ledger:
    """
    The live entries. Not locked: the core serializes writers; readers only use `recall`,
    `find` and `records`, which are single dictionary operations.
    """

    def __init__(
        self, max_entries: int | None = None, quotas: Mapping[str, int] | None = None
    ) -> None:
        self.max_entries = max_entries
        # Who has no limit has no hand that goes round. May hold records that `clear` has made
        # nobody's, until `sweep` comes to them.
        self._live: Queue | None = None if max_entries is None else OrderedDict()
        self._cleared: list[dict[Key, Record]] = []
        self._count = 0
        self.by_prompt: dict[Partition, dict[str, Record]] = {}
        self._by_key: dict[Partition, dict[Key, Record]] = {}
        self._sizes: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._partitions: dict[str, set[Partition]] = {}
        self.quotas: dict[str, int] = {}
        self._queues: dict[str, Queue] = {}
        for namespace, quota in (quotas or {}).items():
            self.set_quota(namespace, quota)

    def __len__(self) -> int:
        return self._count

    # -- reading -----------------------------------------------------------------------------

    def recall(self, partition: Partition, prompt: str) -> Record | None:
        """The record of exactly this prompt, before any normalizing."""
        shelf = self.by_prompt.get(partition)
        return shelf.get(prompt) if shelf is not None else None

    def find(self, partition: Partition, key: Key) -> Record | None:
        shelf = self._by_key.get(partition)
        return shelf.get(key) if shelf is not None else None

    def keys(self, partition: Partition) -> list[Key]:
        """A snapshot of the keys of `partition`."""
        return list(self._by_key.get(partition, ()))

    def records(self) -> list[Record]:
        """A snapshot of all records; where there is a limit, those that may have to go first."""
        if self._live is None:
            return [one for shelf in list(self._by_key.values()) for one in list(shelf.values())]
        records = list(self._live)
        return [one for one in records if self._has(one)] if self._cleared else records

    def _has(self, record: Record) -> bool:
        """Whether it is live; what was cleared stands on no shelf."""
        return self.find(record.entry.partition, record.entry.key) is record

    def partitions(self, namespace: str) -> set[Partition]:
        return set(self._partitions.get(namespace, ()))

    def namespaces(self) -> list[str]:
        return sorted(name for name, size in self._sizes.items() if size)

    def size(self, namespace: str | None = None) -> int:
        return self._count if namespace is None else self._sizes.get(namespace, 0)

    def memory_bytes(self, namespace: str | None = None) -> int:
        """An estimate of what the entries occupy, without the vectors that the index holds."""
        if namespace is not None:
            return self._bytes.get(namespace, 0)
        return sum(self._bytes.values())

    # -- writing -----------------------------------------------------------------------------

    def set_quota(self, namespace: str, quota: int | None) -> None:
        """Limit `namespace` to `quota` entries; ``None`` lifts the limit."""
        if quota is None:
            self.quotas.pop(namespace, None)
            self._queues.pop(namespace, None)
            return
        self.quotas[namespace] = quota
        if namespace not in self._queues:
            own = [one for one in self.records() if one.entry.namespace == namespace]
            if self._live is None:
                own.sort(key=lambda one: one.entry.created_at)
            self._queues[namespace] = OrderedDict.fromkeys(own)

    def put(self, entry: Entry) -> None:
        """Make `entry` live, in place of an older one of its identity."""
        namespace, partition = entry.namespace, entry.partition
        self.remove((partition, entry.key))
        record = Record(entry)
        if self._live is not None:
            self._live[record] = None
        self._count += 1
        shelf = self.by_prompt.setdefault(partition, {})
        if entry.prompt:
            shelf[entry.prompt] = record
        self._by_key.setdefault(partition, {})[entry.key] = record
        self._partitions.setdefault(namespace, set()).add(partition)
        self._sizes[namespace] = self._sizes.get(namespace, 0) + 1
        self._bytes[namespace] = self._bytes.get(namespace, 0) + _weight(entry)
        if (queue := self._queues.get(namespace)) is not None:
            queue[record] = None

    def remove(self, identity: Identity) -> Entry | None:
        """Forget an entry; the entry that was live, if one was."""
        record = self.find(*identity)
        if record is None:
            return None
        if self._live is not None:
            del self._live[record]
        self._count -= 1
        entry = record.entry
        namespace, partition = entry.namespace, entry.partition
        by_prompt, by_key = self.by_prompt[partition], self._by_key[partition]
        del by_key[entry.key]
        if by_prompt.get(entry.prompt) is record:
            del by_prompt[entry.prompt]
        if not by_key:
            del self._by_key[partition], self.by_prompt[partition]
            self._partitions[namespace].discard(partition)
        self._sizes[namespace] -= 1
        self._bytes[namespace] -= _weight(entry)
        if not self._sizes[namespace]:
            del self._sizes[namespace], self._bytes[namespace], self._partitions[namespace]
        if (queue := self._queues.get(namespace)) is not None:
            queue.pop(record, None)
        return entry

    def clear(self, namespace: str) -> int:
        """Forget all entries of `namespace` in no time, however many; their number."""
        count = self._sizes.pop(namespace, 0)
        for partition in self._partitions.pop(namespace, ()):
            del self.by_prompt[partition]
            self._cleared.append(self._by_key.pop(partition))
        self._bytes.pop(namespace, None)
        if namespace in self._queues:
            self._queues[namespace] = OrderedDict()
        self._count -= count
        return count

    def sweep(self, limit: int) -> bool:
        """Let go of at most `limit` entries that were cleared; whether there are more."""
        while self._cleared and limit > 0:
            shelf = self._cleared[-1]
            while shelf and limit > 0:
                limit -= 1
                _, record = shelf.popitem()
                if self._live is not None:
                    # Eviction may have come to it before.
                    self._live.pop(record, None)
            if not shelf:
                self._cleared.pop()
        return bool(self._cleared)

    def plan(
        self, puts: Sequence[Entry], namespaces: Iterable[str] = ()
    ) -> tuple[list[Entry], list[Identity]]:
        """
        What to keep of `puts`, and whom to evict so that every limit holds afterwards.

        Of a batch that is larger than a limit the last ones are kept. Quotas are checked for
        the namespaces of `puts` and for `namespaces`. Nothing is changed but second chances.
        """
        kept, gone = _latest(puts), dict[Identity, None]()
        limit = self.max_entries
        if self.quotas:
            kept = self._within_quotas(kept)
        if limit is not None:
            kept = kept[max(0, len(kept) - limit) :]
        if self.quotas:
            gone = self._over_quotas(kept, {entry.namespace for entry in puts}.union(namespaces))
        excess = 0 if limit is None else self._count + len(kept) - len(gone) - limit
        if self._live is not None and excess > 0:
            spared = {entry.identity for entry in kept}
            excess -= sum(self.find(*identity) is not None for identity in spared)
            gone.update(dict.fromkeys(self._victims(self._live, excess, spared | gone.keys())))
        return kept, list(gone)

    def _within_quotas(self, puts: list[Entry]) -> list[Entry]:
        """Of each namespace the last of `puts`, as many as its quota allows."""
        for namespace in {entry.namespace for entry in puts} & self.quotas.keys():
            own = [entry for entry in puts if entry.namespace == namespace]
            surplus = {e.identity for e in own[: max(0, len(own) - self.quotas[namespace])]}
            puts = [entry for entry in puts if entry.identity not in surplus]
        return puts

    def _over_quotas(self, puts: list[Entry], namespaces: set[str]) -> dict[Identity, None]:
        """Whom to evict so that `puts` are within the quotas of `namespaces`."""
        gone: dict[Identity, None] = {}
        spared = {entry.identity for entry in puts}
        for namespace in sorted(namespaces & self.quotas.keys()):
            coming = sum(
                entry.namespace == namespace and self.find(*entry.identity) is None
                for entry in puts
            )
            excess = self._sizes.get(namespace, 0) + coming - self.quotas[namespace]
            gone.update(dict.fromkeys(self._victims(self._queues[namespace], excess, spared)))
        return gone

    def _victims(self, queue: Queue, count: int, spared: set[Identity]) -> Iterator[Identity]:
        """`count` identities in eviction order. Two rounds at most: the first clears bits."""
        left, looks = count, 2 * len(queue)
        chosen: set[Identity] = set()
        while left > 0 and looks > 0 and queue:
            looks -= 1
            record = next(iter(queue))
            if self._cleared and not self._has(record):
                del queue[record]
                continue
            queue.move_to_end(record)
            identity = record.entry.identity
            if identity in spared or identity in chosen:
                continue
            if record.used:
                record.used = False
                continue
            chosen.add(identity)
            left -= 1
            yield identity


def _latest(puts: Sequence[Entry]) -> list[Entry]:
    """The last of `puts` for each identity, in the order of these."""
    if len(puts) < 2:
        return list(puts)
    latest: dict[Identity, Entry] = {}
    for entry in puts:
        # Out and in again, so that a later answer to one question is late in the batch.
        identity = entry.identity
        latest.pop(identity, None)
        latest[identity] = entry
    return list(latest.values())


def _weight(entry: Entry) -> int:
    if not entry.prompt:
        # They stay in the store.
        return _OVERHEAD
    text = len(entry.prompt) + len(entry.payload.data) + len(entry.metadata)
    return _OVERHEAD + _TEXT_OVERHEAD + text
