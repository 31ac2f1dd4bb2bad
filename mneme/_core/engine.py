"""
The core over a store whose engine searches: no process holds its entries.

Memory keeps what was just fetched, without vectors. With a `stale_check_interval` the exact
layer answers from it; without one every lookup asks the engine.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mneme import _forks
from mneme._core.core import NEIGHBOURS, Core
from mneme._core.judge import Judge
from mneme._core.keeper import CHUNK
from mneme._core.keys import Ask
from mneme._core.ledger import Ledger
from mneme._core.live import Live
from mneme._core.questions import Questions
from mneme._core.settings import Settings
from mneme._core.store_errors import store_errors
from mneme.errors import StoreBackendError
from mneme.records import Candidate, Changes, Entry, Hit, Identity, Partition, Selection, Vector
from mneme.types import SearchableStore

__all__ = ["EngineCore"]

log = logging.getLogger("mneme")

NEAR = 10_000
"""Entries that are kept near."""

MOST_USED = 10_000
"""Identities that are remembered as used until the next commit."""

RECOUNT_SECONDS = 5.0
"""How long what `stats` says of an engine's sizes may be out of date while lookups are made."""


class EngineCore(Core):
    """A `Core` whose entries are in an engine."""

    engine: SearchableStore

    def __init__(self, settings: Settings, **parts: Any) -> None:
        super().__init__(settings, **parts)
        engine = self.store
        assert isinstance(engine, SearchableStore)
        self.engine = engine
        # What is near may be out of date, and only `recall` knows for how long it may be.
        self._is_plain = False
        self.index_backend = "engine"
        self.quotas = dict(self.settings.namespace_quotas)
        self.live = Live(Ledger(NEAR), self.dim, parts["indexing"])
        self._limited: set[str] = set()
        """Namespaces whose quota has changed: the next commit keeps it."""
        self._sizes: dict[str, int] = {}
        self._counted_at = float("-inf")
        self._used: dict[Identity, None] = {}
        self._forgotten: list[Selection] = []
        self.questions = Questions(self.store.description, self.clock)
        self._drops = 0
        """How often others' changes were heard of: what was fetched before may be out of date."""
        self._failed = 0
        """How often it could not be opened."""
        self._memory = _forks.lock()

    def open(self) -> None:
        """As `Keeper.open`; who waited while another tried in vain does not try again."""
        if self.is_open:
            return
        failed = self._failed
        with self._commits:
            if failed != self._failed:
                raise StoreBackendError(
                    f"{self.store.description} could not be opened a moment ago. "
                    "It was not asked again. Check the server."
                )
            try:
                super().open()
            except StoreBackendError:
                self._failed += 1
                raise

    def open_to_ask(self) -> None:
        with self.questions.one():
            self.open()

    def in_child(self) -> None:
        super().in_child()
        self.questions.in_child()

    # -- lookups (these touch the store) -------------------------------------------------------

    def is_behind(self) -> bool:
        interval = self.settings.stale_check_interval
        return bool(interval) and not 0.0 <= self.clock() - self._looked_at < interval

    def catch_up(self) -> None:
        """Forget what others have changed of what is kept near."""
        looked_at = self.clock()
        with self.questions.one(), store_errors(self.store):
            if self.store.mark() != self._mark:
                self._drop(self.store.changes_since(self._mark))
        self._looked_at = looked_at

    def _drop(self, changes: Changes | None) -> None:
        if changes is None:
            mark = self.store.mark()
            self._forget_near(Selection())
            self._mark = mark
            return
        for namespace in changes.cleared:
            self._forget_near(Selection(namespace))
        with self._memory:
            self._drops += 1
            self.live.apply((), [*changes.removed, *(entry.identity for entry in changes.puts)])
        self._mark = changes.mark

    def recall(self, ask: Ask, *, stale: bool = False) -> Hit | None:
        """From memory, which is trusted only for as long as it may be behind."""
        if not stale and not self.settings.stale_check_interval:
            return None
        hit = super().recall(ask, stale=stale)
        if hit is not None:
            self._note(ask.identity)
        return hit

    def fetched(self, ask: Ask) -> Hit | None:
        """The exact layer's hit, asked of the engine."""
        drops = self._drops
        alias = self.aliases.get(ask.identity)
        wanted = [ask.identity] if alias is None else [ask.identity, alias.entry]
        with self.questions.one(), store_errors(self.store):
            if self._forgotten:
                self._remove_forgotten()
            found = self.engine.fetch(wanted)
            if not 0.0 <= self.clock() - self._counted_at <= RECOUNT_SECONDS:
                self._recount()
        kept = [None if one is None or self._is_forgotten(one) else one for one in found]
        self.live.apply((), [it for it, one in zip(wanted, kept, strict=True) if one is None])
        self._keep_near([one for one in kept if one is not None], drops)
        if (own := kept[0]) is not None:
            hit = self.exact(own, ask)
        elif alias is not None and (other := kept[1]) is not None:
            hit = self.fitting(other, ask, alias)
        else:
            return None
        if hit is not None:
            self._note(ask.identity if own is not None else wanted[-1])
        return hit

    def may_hold(self, ask: Ask) -> bool:
        return bool(self._sizes.get(ask.namespace))

    def near(
        self, partition: Partition, vector: Vector, at_least: float = -1.0
    ) -> tuple[Candidate, ...]:
        with self.questions.one(), store_errors(self.store):
            found = self.engine.search(
                partition, vector, k=NEIGHBOURS, at_least=at_least, now=self.clock()
            )
        self._forget_older(found)
        return tuple(one for one in found if not self._is_forgotten(one.entry))

    def _forget_older(self, found: Sequence[Candidate]) -> None:
        """Nobody gets the old after the new: not from what is near, nor from what comes there."""
        older = [one.entry.identity for one in found if self._is_near(one.entry) is not True]
        if older:
            with self._memory:
                self._drops += 1
                self.live.apply((), older)

    def _is_near(self, entry: Entry) -> bool | None:
        """None: another one is, of the same question."""
        record = self.live.find(*entry.identity)
        if record is None:
            return False
        return True if record.entry == replace(entry, vector=None) else None

    def refit(self, judge: Judge) -> None:
        # Which entries are gone is the engine's to know; notes on them age out.
        judge.refit(lambda identity: True)

    def note_use(self, entry: Entry) -> None:
        super().note_use(entry)
        self._note(entry.identity)

    def _note(self, identity: Identity) -> None:
        if len(self._used) < MOST_USED:
            self._used[identity] = None

    def was_late(self) -> None:
        self.questions.was_late()

    def _keep_near(self, entries: Sequence[Entry], drops: int) -> None:
        """Keep what was fetched, unless others' changes were heard of since `drops`."""
        with self._memory:
            if drops != self._drops:
                return
            # Of two that differ nobody here knows the newer one: the engine does, next time.
            differ = [one.identity for one in entries if self._is_near(one) is None]
            if differ:
                self._drops += 1
                self.live.apply((), differ)
            near = [replace(one, vector=None) for one in entries if one.identity not in differ]
            self.live.carry_out(self.live.plan(near, ()))

    def _forget_near(self, chosen: Selection) -> None:
        with self._memory:
            self._drops += 1
            self.live.apply((), self.live.select(chosen))

    def _is_forgotten(self, entry: Entry) -> bool:
        return any(chosen.has(entry) for chosen in self._forgotten)

    # -- keeping (these touch the store) -------------------------------------------------------

    def _rescan(self) -> None:
        self._mark = self.store.mark()
        self._recount()
        self._evict(set(self._sizes))

    def _recount(self) -> None:
        self._counted_at = self.clock()
        self._sizes = dict(self.engine.sizes())

    def commit(self, puts: Sequence[Entry], removed: Sequence[Identity] = ()) -> int:
        self.open()
        with store_errors(self.store):
            self.check_open()
            count = self._write(puts, removed)
            self.questions.answered()
            return count

    def _write(
        self,
        puts: Sequence[Entry],
        removed: Sequence[Identity],
        *,
        cleared: Sequence[str] = (),
        buried: int = 0,
        closing: bool = False,
    ) -> int:
        drops = self._drops
        self._remove_forgotten()
        latest = tuple({entry.identity: entry for entry in puts}.values())
        gone = [one for one in self.engine.fetch(removed) if one is not None] if removed else []
        used, self._used = tuple(self._used), {}
        counts = self.tally.take_unsaved()
        labels, states = self.judges.take_unsaved(closing=closing)
        changes = Changes(
            latest, tuple(removed), counts, self._mark, labels, states, tuple(cleared), used
        )
        if latest or removed or cleared or counts or labels or states or used:
            try:
                self._mark = self.store.commit(changes)
            except BaseException:
                self.tally.give_back(counts)
                self.judges.give_back(labels)
                raise
        self.live.apply((), removed)
        self._keep_near(latest, drops)
        self._evict({entry.namespace for entry in latest})
        self._recount_only({entry.namespace for entry in (*latest, *gone)})
        for entry in latest:
            self.tally.tell("put", namespace=entry.namespace)
        return len(gone)

    def _save_last(self) -> None:
        try:
            super()._save_last()
        except StoreBackendError as exc:
            # No answer waits for a server that is away: who closes is not to fail for counters.
            log.warning("counters since the last commit were not saved: %s", exc)

    def _evict(self, namespaces: set[str]) -> None:
        """Keep the limits of the `namespaces` that were put into, and those that were changed."""
        limited, self._limited = self._limited | namespaces, set()
        for namespace in sorted(limited):
            if (quota := self.quotas.get(namespace)) is not None:
                self._trim(quota, namespace, namespace)
        if self.settings.max_entries is not None and namespaces:
            # Counted where the put was that made it necessary.
            self._trim(self.settings.max_entries, None, min(namespaces))
        self._recount_only(limited & self.quotas.keys())

    def _recount_only(self, namespaces: set[str]) -> None:
        if self.settings.max_entries is not None:
            # Whose entries were evicted is not known.
            self._recount()
            return
        for namespace in namespaces:
            self._sizes[namespace] = self.engine.count(Selection(namespace))

    def _trim(self, limit: int, namespace: str | None, counted_in: str) -> None:
        for _ in range(self.engine.trim(limit, namespace)):
            self.tally.gone(counted_in, "eviction")

    def doom(self, identity: Identity, event: str | None = None) -> None:
        """Forget it here: the engine lets go of what has died by itself."""
        if self.live.doom(identity) is not None:
            self.live.carry_out(self.live.plan((), ()))

    # -- housekeeping (these touch the store) --------------------------------------------------

    def remove_where(self, chosen: Selection) -> int:
        self.open()
        self._forget_near(chosen)
        count = 0
        with store_errors(self.store):
            self.check_open()
            while gone := self.engine.remove(chosen, CHUNK):
                count += gone
            self._recount()
            self._counted_at = float("-inf")
        return count

    def vacuum(self, namespace: str | None, compact: bool) -> int:
        count = self.remove_where(Selection(namespace, dead_by=self.clock()))
        for _ in range(count):
            self.tally.gone(namespace or "", "expired")
        self.commit(())
        if compact:
            self.compact()
        return count

    def forget_where(self, chosen: Selection) -> None:
        """As `remove_where`, but without waiting: the engine hears of it with the next question."""
        until = math.nextafter(self.clock(), math.inf)
        self._forgotten.append(replace(chosen, created_before=until))
        self._forget_near(chosen)

    def _remove_forgotten(self) -> None:
        for chosen in list(self._forgotten):
            while self.engine.remove(chosen, CHUNK):
                pass
            with suppress(ValueError):
                # Another thread was at it as well.
                self._forgotten.remove(chosen)
            self._counted_at = float("-inf")

    def count_where(self, chosen: Selection) -> int:
        self.open()
        with store_errors(self.store):
            return self.engine.count(chosen)

    # -- telling -------------------------------------------------------------------------------

    def quota_of(self, namespace: str) -> int | None:
        return self.quotas.get(namespace)

    def set_quota(self, namespace: str, quota: int | None) -> None:
        if quota is None:
            self.quotas.pop(namespace, None)
        else:
            self.quotas[namespace] = quota
            self._limited.add(namespace)

    def sizes(self) -> Mapping[str, int]:
        return {namespace: size for namespace, size in self._sizes.items() if size}

    def oldest_age(self) -> float | None:
        return None
