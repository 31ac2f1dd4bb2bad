"""What a cache has done to it at times: entries chosen and removed, limits and thresholds set."""

from __future__ import annotations

from typing import Any

from mneme._core.keeper import CHUNK, Keeper
from mneme._core.store_errors import store_errors
from mneme._core.threshold import threshold_of
from mneme.records import Identity, Selection
from mneme.types import Compactable, Deferring

__all__ = ["Housekeeping"]


class Housekeeping(Keeper):
    """A `Keeper` that removes what was chosen, and changes its ways at run time."""

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
        """Empty `namespace`, or all, in one commit."""
        self.open()
        self.be_warm()
        with self._commits, store_errors(self.store):
            self.check_open()
            if self.store.mark() != self._mark:
                # What others have put a moment ago counts as well.
                self.catch_up()
            filled = self.live.ledger.namespaces()
            cleared = [name for name in filled if namespace in (None, name)]
            count = self._write((), (), cleared=cleared) if cleared else 0
        while self.live.sweep():
            continue
        return count

    def vacuum(self, namespace: str | None, compact: bool) -> int:
        """Remove what has died of age; the number. `compact` also gives disk space back."""
        identities = self._select(Selection(namespace, dead_by=self.clock()))
        # What has left memory before, and not yet the store, leaves it now too.
        count = len(identities) + self.live.doomed(namespace)
        for at in range(0, len(identities), CHUNK):
            for entry in self.live.doom_all(identities[at : at + CHUNK]):
                self.tally.gone(entry.namespace, "expired")
            self.commit(())
            self._settle()
        self.commit(())
        if compact:
            self.compact()
        return count

    def _settle(self) -> None:
        """Let the store write what waits, so that what others put meanwhile finds room."""
        if isinstance(self.store, Deferring):
            with store_errors(self.store):
                self.store.flush()

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
        self.open()
        self.be_warm()
        if self.store.mark() != self._mark:
            # What others have put a moment ago is to be removed as well.
            self.catch_up()
        return self.live.select(chosen)

    def compact(self) -> None:
        self.be_warm()
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
