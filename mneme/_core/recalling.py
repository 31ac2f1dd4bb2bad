"""What memory answers at once: the exact layer, and what was found to fit before."""

from __future__ import annotations

from dataclasses import replace

from mneme import context
from mneme._core.aliases import Alias
from mneme._core.choose import Rules, Unusable, as_hit, plain_hit
from mneme._core.housekeeping import Housekeeping
from mneme._core.keys import Ask, Counts
from mneme._core.store_errors import store_errors
from mneme.errors import StoreBackendError
from mneme.records import Entry, Hit, Identity, Partition
from mneme.types import Searching

__all__ = ["Recalling"]


class Recalling(Housekeeping):
    """The exact layer. Lookups take no lock and touch no store."""

    def rules_for(self, ask: Ask) -> Rules:
        threshold = self.rules.threshold if ask.threshold is None else ask.threshold
        tightening = self.judges.of(ask).tightening
        if tightening is not None:
            threshold = max(threshold, tightening.threshold)
        if threshold == self.rules.threshold and ask.limits is None:
            return self.rules
        return replace(self.rules, threshold=threshold, limits=ask.limits)

    def recall(self, ask: Ask, *, stale: bool = False) -> Hit | None:
        """The exact layer: a fresh hit, or with `stale` one that is past its time."""
        ledger = self.live.ledger
        record = ledger.recall(ask.partition, ask.prompt)
        if record is None:
            record = ledger.find(ask.partition, ask.key)
            if record is None and stale and (past := self._past.get(ask.identity)) is not None:
                return self.exact(past, ask, stale=True)
            if record is None:
                return self._recall_alias(ask) if len(self.aliases) and not stale else None
        hit = self.exact(record.entry, ask, stale=stale)
        if hit is not None:
            record.used = True
        return hit

    def exact(self, entry: Entry, ask: Ask, *, stale: bool = False) -> Hit | None:
        """`entry`, whose question is that of `ask`, as a hit; None if it is not to be served."""
        is_plain = ask.threshold is None and ask.limits is None
        rules = self.rules if is_plain else self.rules_for(ask)
        try:
            hit = as_hit(entry, 1.0, "exact", rules, now=self.clock(), codec=ask.codec)
        except Unusable as refused:
            if refused.reason == "expired":
                self.doom(entry.identity, "expired")
            return None
        if (hit.ttl_seconds is not None and hit.ttl_seconds <= 0) is not stale:
            return None
        return hit

    def at_hand(self, ask: Ask, *also: Ask) -> Hit | None:
        """
        What memory answers at once, counted; None where the flow has to be asked. It is what
        the flow would say, without the flow's microseconds. `also` are the same question in
        other partitions, for where the first has no answer.
        """
        if not self.is_open or context.current_mode.get() != "serve" or self.judges.of(ask).shadows:
            return None
        try:
            if self.is_behind():
                return None
            hit = self.recall(ask)
            for other in also:
                hit = hit or self.recall(other)
        except StoreBackendError:
            # The flow tells of it.
            return None
        if hit is not None:
            self.tally.hit(hit, ask.counts)
        return hit

    def quick(self, prompt: str, namespace: str | None) -> Hit | None:
        """
        As `at_hand`, for what is asked most and in a third of the time: a prompt that is known
        by the letter, whose answer is text, and that nobody else has a say about.
        """
        if namespace is None:
            namespace = context.current_namespace.get() or self.usual_namespace
        if type(namespace) is not str or (partition := self._partitions.get(namespace)) is None:
            return None
        entry = self.plain_entry(namespace, partition, prompt)
        return None if entry is None else plain_hit(entry, self.clock())

    def plain_entry(
        self, namespace: str, partition: Partition, prompt: object, counts: Counts | None = None
    ) -> Entry | None:
        """The entry of exactly this prompt, if its text is the answer and it is fresh; counted."""
        if not (self._is_plain and self.is_open and context.is_plain.get()):
            return None
        shelf = self.live.by_prompt.get(partition)
        if shelf is None or type(prompt) is not str:
            return None
        record = shelf.get(prompt)
        if record is None:
            return None
        entry = record.entry
        if entry.payload.kind != "text":
            return None
        if entry.expires_at is not None and self.clock() >= entry.expires_at:
            return None
        try:
            if self.store.mark() != self._mark and self.is_behind():
                return None
        except StoreBackendError:
            # The flow tells of it.
            return None
        record.used = True
        self.tally.tick(namespace, counts)
        return entry

    def _recall_alias(self, ask: Ask) -> Hit | None:
        """The answer of an entry that was found to fit before."""
        alias = self.aliases.get(ask.identity)
        record = self.live.find(*alias.entry) if alias is not None else None
        if alias is None or record is None:
            return None
        hit = self.fitting(record.entry, ask, alias)
        if hit is not None:
            record.used = True
        return hit

    def fitting(self, entry: Entry, ask: Ask, alias: Alias) -> Hit | None:
        """`entry`, which by `alias` answers `ask`, as a hit; None if it is not to be served."""
        try:
            hit = as_hit(
                entry,
                alias.similarity,
                "semantic",
                self.rules_for(ask),
                now=self.clock(),
                codec=ask.codec,
            )
        except Unusable:
            return None
        return None if hit.ttl_seconds is not None and hit.ttl_seconds <= 0 else hit

    def answering(self, identity: Identity) -> Identity:
        """The entry that the exact layer answers `identity` with: its own, or by an alias."""
        alias = self.aliases.get(identity)
        if alias is None or self.live.find(*identity) is not None:
            return identity
        self.aliases.drop(identity)
        return alias.entry

    def may_be_fetched(self, ask: Ask) -> bool:
        """Whether `engine` may have what memory could not answer."""
        return True

    def fetched(self, ask: Ask) -> Hit | None:
        """The exact layer's hit, asked of the engine. Touches the store."""
        if (engine := self.engine) is None:
            # It is not needed any more: memory has been filled meanwhile.
            return self.recall(ask)
        with store_errors(self.store):
            return self.found(engine, ask)

    def found(self, engine: Searching, ask: Ask) -> Hit | None:
        """As `fetched`: its own entry, or the one that was found to fit before."""
        alias = self.aliases.get(ask.identity)
        wanted = [ask.identity] if alias is None else [ask.identity, alias.entry]
        own, *others = engine.fetch(wanted)
        if own is not None:
            hit = self.exact(own, ask)
            if hit is None:
                self._past[ask.identity] = own
            return hit
        if alias is None or others[0] is None:
            return None
        return self.fitting(others[0], ask, alias)
