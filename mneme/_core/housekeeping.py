"""What a cache has done to it at times: entries chosen and removed, limits and thresholds set."""

from __future__ import annotations

import time
from typing import Any

from mneme._core.keeper import CHUNK, Keeper
from mneme._core.live import BURIED_AT_ONCE
from mneme._core.store_errors import store_errors
from mneme._core.threshold import threshold_of
from mneme._core.warming import Warming
from mneme.records import Identity, Selection
from mneme.types import Compactable, Shrinkable

__all__ = ["Housekeeping"]

LOOKED_AT_ONCE = 256
"""Entries of which the dead are let go of under one lock: a millisecond or two if all are."""

PAUSE = 0.0001
"""Seconds in between."""


class Housekeeping(Keeper):
    """A `Keeper` that removes what was chosen, and changes its ways at run time."""

    _is_to_shrink = False

    # -- removing (these touch the store) -------------------------------------------------------

    def remove_where(self, chosen: Selection) -> int:
        """Remove the entries that `chosen` says; their number. Commits a chunk at a time."""
        if chosen == Selection(chosen.namespace):
            return self._clear(chosen.namespace)
        identities = self._select(chosen)
        return sum(
            self.commit((), identities[at : at + CHUNK]) for at in range(0, len(identities), CHUNK)
        )

    def _clear(self, namespace: str | None) -> int:
        """Empty `namespace`, or all, in one commit; what memory held is let go of later."""
        self.open()
        with self._commits, store_errors(self.store):
            self.check_open()
            if (warming := self._warming) is not None:
                return self._clear_unseen(namespace, warming)
            if self.store.mark() != self._mark:
                # What others have put a moment ago counts as well.
                self.catch_up()
            filled = self.live.ledger.namespaces()
            cleared = [name for name in filled if namespace in (None, name)]
            count = self._write((), (), cleared=cleared) if cleared else 0
        self.sweeping.begin()
        return count

    def _clear_unseen(self, namespace: str | None, warming: Warming) -> int:
        """The same before memory is filled, which then hears of it as of what others do."""
        # What others have put a moment ago counts as well.
        warming.recount()
        sizes = warming.sizes()
        cleared = [name for name in sizes if namespace in (None, name)]
        if cleared:
            self._write((), (), cleared=cleared)
            # Lookups ask the store.
            self.settle()
            warming.recount()
            self._past.clear()
        return sum(sizes[name] for name in cleared)

    def vacuum(self, namespace: str | None, compact: bool) -> int:
        """
        Forget what has died of age; the number. The store removes it bit by bit, and then gives
        space back if it is to `compact`, in the background or when it is closed.
        """
        self._be_current()
        chosen = Selection(namespace, dead_by=self.clock())
        count = self.live.bury_doomed(namespace)
        # The youngest first: in an index the last row moves to where one goes, unless it is it.
        records = self.live.ledger.records()[::-1]
        for at in range(0, len(records), LOOKED_AT_ONCE):
            gone = self.live.bury(records[at : at + LOOKED_AT_ONCE], chosen)
            for space, number in gone.items():
                self.tally.gone(space, "expired", number)
            count += gone.total()
            if gone or not at % (4 * CHUNK):
                # Python gives others their turn 5 ms after they ask for it, if nobody rests.
                time.sleep(PAUSE)
        # What was put before is in the store by now, as others may rely on.
        self.settle()
        self._is_to_shrink |= compact
        self.sweeping.begin()
        return count

    def sweep_some(self) -> bool:
        """
        Let go of some of what is dead in memory, or else in the store, or give some of the
        space back; whether there is more.
        """
        if super().sweep_some():
            return True
        if not self.is_open or self._warming is not None:
            return False
        if self.live.buried:
            with self._commits, store_errors(self.store):
                if self.is_closed:
                    return False
                self._write((), (), buried=BURIED_AT_ONCE)
            # Written now, so that what others put meanwhile finds room.
            self.settle()
            return True
        with store_errors(self.store):
            return self._shrink()

    def _shrink(self) -> bool:
        if self._is_to_shrink:
            # First: a `vacuum` meanwhile asks for it again.
            self._is_to_shrink = False
            if not isinstance(self.store, Shrinkable):
                if isinstance(self.store, Compactable):
                    self.store.compact()
            elif self.store.shrink():
                self._is_to_shrink = True
        return self._is_to_shrink

    def _save_last(self) -> None:
        super()._save_last()
        with store_errors(self.store):
            while self._shrink():
                continue

    def count_where(self, chosen: Selection) -> int:
        self.be_warm()
        return len(self.live.select(chosen))

    def count_near(self, chosen: Selection) -> int:
        """How many of those that `chosen` says are in memory; waits for nothing."""
        if self._warming is not None and chosen == Selection(chosen.namespace):
            sizes = self.sizes()
            return (
                sum(sizes.values()) if chosen.namespace is None else sizes.get(chosen.namespace, 0)
            )
        return len(self.live.select(chosen))

    def _select(self, chosen: Selection) -> list[Identity]:
        self._be_current()
        return self.live.select(chosen)

    def _be_current(self) -> None:
        self.open()
        self.be_warm()
        if self.store.mark() != self._mark:
            # What others have put a moment ago is to be removed as well.
            self.catch_up()

    def compact(self) -> None:
        """Give the space back of all that is dead, for which the store may hold others up."""
        self.open()
        self.be_warm()
        while self.live.buried:
            self.check_open()
            self.sweep_some()
        # Not as a commit, which others would have to wait for.
        with store_errors(self.store):
            self.check_open()
            if isinstance(self.store, Compactable):
                self.store.compact()

    # -- at run time (memory only) --------------------------------------------------------------

    @property
    def current_threshold(self) -> float:
        """What is served from on: as set, or as audits have raised it."""
        tightening = self.judges.default.tightening
        raised = 0.0 if tightening is None else tightening.threshold
        return max(self.rules.threshold, raised)

    def set_threshold(self, given: Any) -> None:
        """See `SemanticCache.set_similarity_threshold`."""
        chosen = threshold_of(given, self.embedder.fingerprint, self.dim)
        self._use(chosen)
        if chosen.calibration is not None:
            self.judges.keep("calibration", chosen.calibration.to_json().encode())
        # What was near enough before may not be now.
        self.aliases.clear()

    def set_quota(self, namespace: str, quota: int | None) -> None:
        for identity in self.live.set_quota(namespace, quota):
            self.doom(identity, "eviction")

    def namespaces(self) -> list[str]:
        return sorted(self.sizes())
