"""
The core of a cache whose answers stay in the store.

Memory holds what is searched, and of each entry whose it is and when it ends: enough to find,
to evict and to remove. Prompt, answer and metadata are read once an entry has been found near,
or is known by its key, so what is served is what the store has.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mneme._core.choose import Trial
from mneme._core.core import NEIGHBOURS, Core
from mneme._core.entries import Keeping
from mneme._core.keys import Ask
from mneme._core.live import Live
from mneme._core.settings import Settings
from mneme._core.store_errors import store_errors
from mneme.records import Candidate, Entry, Hit, Identity, Miss, Partition, Vector
from mneme.types import Fetching, Searching

__all__ = ["LeanCore"]

PAST = 128
"""Answers past their time that are kept: who found one is about to come back for it."""


class LeanCore(Core):
    """A `Core` that looks into its store for every answer."""

    def __init__(self, settings: Settings, **parts: Any) -> None:
        super().__init__(settings, **parts)
        assert isinstance(self.store, Fetching)
        self.live = Live(self.live.ledger, self.dim, parts["indexing"], Keeping(answers=False))
        self._lasting = self._proposed = _Proposed(self, self.store)
        self._past: OrderedDict[Identity, Entry] = OrderedDict()

    def _rescan(self) -> None:
        super()._rescan()
        self.engine = self._lasting

    @property
    def searches_itself(self) -> bool:
        return self._warming is None

    def near_many(
        self, partition: Partition, vectors: Vector, at_least: float
    ) -> list[tuple[Candidate, ...]]:
        with store_errors(self.store):
            return self._proposed.search_many(partition, vectors, NEIGHBOURS, at_least)

    @property
    def has_missed_something(self) -> bool:
        """Whether the store stands elsewhere than memory, even if it is not time to look yet."""
        return self.store.mark() != self._mark

    def recall(self, ask: Ask, *, stale: bool = False) -> Hit | None:
        """Nothing, but what was just found past its time and is still what memory knows of."""
        past = self._past.get(ask.identity) if stale else None
        if past is None:
            return None
        record = self.live.find(*ask.identity)
        is_same = record is not None and record.entry == self.live.keeps(past)
        if self._warming is None and not is_same:
            return None
        return self.exact(past, ask, stale=True)

    def may_be_fetched(self, ask: Ask) -> bool:
        if self._warming is not None or self.live.find(*ask.identity) is not None:
            return True
        alias = self.aliases.get(ask.identity)
        return alias is not None and self.live.find(*alias.entry) is not None

    def found(self, engine: Searching, ask: Ask) -> Hit | None:
        hit = super().found(engine, ask)
        if len(self._past) > PAST:
            # The newest is that of a caller who has not come back for it yet.
            self._past.popitem(last=False)
        if hit is not None:
            alias = self.aliases.get(ask.identity)
            record = self.live.find(*ask.identity)
            if record is None and alias is not None:
                record = self.live.find(*alias.entry)
            if record is not None:
                record.used = True
        return hit

    def shadowed(self, ask: Ask, hit: Hit) -> Miss:
        miss = super().shadowed(ask, hit)
        if miss.trial is None:
            return miss
        # Memory has no answer to compare with.
        known = miss.trial.best.entry
        answered = replace(known, prompt=hit.prompt, payload=ask.codec.encode(hit.response))
        same = Candidate(answered, 1.0)
        return replace(miss, trial=Trial("shadow", (same,), same, served=True))


class _Proposed:
    """`Searching`: memory says which entries, the store what they are."""

    def __init__(self, core: LeanCore, store: Fetching) -> None:
        self._core: LeanCore = weakref.proxy(core)
        self._store = store

    def fetch(self, identities: Sequence[Identity]) -> Sequence[Entry | None]:
        # What was removed or has been evicted may not have left the store yet.
        known = [one for one in identities if self._core.live.find(*one) is not None]
        found = dict(zip(known, self._store.fetch(known), strict=True))
        return [found.get(one) for one in identities]

    def search(
        self, partition: Partition, vector: Vector, *, k: int, at_least: float, now: float
    ) -> Sequence[Candidate]:
        return self.search_many(partition, vector[None], k, at_least)[0]

    def search_many(
        self, partition: Partition, vectors: Vector, k: int, at_least: float
    ) -> list[tuple[Candidate, ...]]:
        """What `search` gives for each of `vectors`, shape ``(m, dim)``."""
        found = self._read(partition, vectors, k, at_least)
        if any(None in its for its in found) and self._core.has_missed_something:
            self._core.catch_up()
            found = self._read(partition, vectors, k, at_least)
        return [tuple([one for one in its if one is not None]) for its in found]

    def _read(
        self, partition: Partition, vectors: Vector, k: int, at_least: float
    ) -> list[list[Candidate | None]]:
        """The nearest; None in place of one that is gone, or was put again, which may be far."""
        live = self._core.live
        near = live.near_many(partition, vectors, k, at_least)
        wanted = list({one.entry.identity: None for its in near for one in its})
        known = dict(zip(wanted, self._store.fetch(wanted), strict=True))

        def borne_out(one: Candidate) -> Candidate | None:
            entry = known[one.entry.identity]
            if entry is None or live.keeps(entry) != one.entry:
                return None
            return Candidate(entry, one.similarity)

        return [[borne_out(one) for one in its] for its in near]
