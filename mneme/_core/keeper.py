"""
What all faces of one cache share: settings, ledger, indexes, store, counters.

One lock orders writers, from the store's transaction to the change in memory. Lookups do not
take it, and it is never held while an embedder or the user's function runs.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol

from mneme import _forks
from mneme._core.admission import draft
from mneme._core.aliases import Aliases
from mneme._core.calibration import Calibration
from mneme._core.choose import Rules
from mneme._core.filling import Filling
from mneme._core.flights import Flights
from mneme._core.growing import Growing
from mneme._core.judges import Judges
from mneme._core.keys import Ask
from mneme._core.ledger import Ledger
from mneme._core.live import MANY, Indexing, Live
from mneme._core.making import maker
from mneme._core.settings import Settings
from mneme._core.store_errors import store_errors
from mneme._core.sweeping import Sweeping
from mneme._core.tally import Tally
from mneme._core.threshold import Threshold, threshold_of
from mneme._core.warming import Warmable, Warming
from mneme.codecs import AutoCodec
from mneme.errors import (
    CacheClosedError,
    MnemeError,
)
from mneme.records import (
    Changes,
    Entry,
    Identity,
    Label,
    Partition,
    Selection,
    Terms,
)
from mneme.types import AnyEmbedder, Deferring, Remembering, Searching, Store

__all__ = ["CHUNK", "DEFAULT_NAMESPACE", "Keeper", "TaskCrew"]

log = logging.getLogger("mneme")

REFRESH_THREADS = 4

DEFAULT_NAMESPACE = "default"

MANY_PUTS = 1_024
"""Entries of one commit that take longer to write than a single one may wait to be written."""

CHUNK = 512
"""Entries removed in one commit of a long removal: others get their turn in between."""

_changes = maker(Changes)


class TaskCrew(Protocol):
    """The task group of an open cache."""

    def is_here(self) -> bool:
        """Whether the caller runs on the loop that owns it."""
        ...

    def is_mine(self) -> bool:
        """Whether the calling task may end it."""
        ...

    async def at_rest(self) -> None: ...

    def start(self, job: Callable[[], Coroutine[Any, Any, object]]) -> None: ...


class Keeper(_forks.Forked):
    """The one shared state and its store. Methods that touch the store say so."""

    def __init__(
        self,
        settings: Settings,
        *,
        threshold: Threshold,
        store: Store,
        embedder: AnyEmbedder,
        indexing: Indexing,
        index_backend: str,
    ) -> None:
        self.settings = settings
        self.store = store
        self.embedder = embedder
        self.dim = int(embedder.dim)
        self.max_chars: int | None = getattr(embedder, "max_chars", None)
        self.index_backend = index_backend
        self.clock = settings.clock
        self.rules = Rules(
            threshold=threshold.value,
            guards=settings.guards,
            validator=settings.validator,
            confidence_fn=settings.confidence_fn,
        )
        self.threshold = threshold
        self.judges = Judges(settings.manner)
        self.judges.watch(threshold.value)
        self.aliases = Aliases()
        self.growing = Growing()
        self.codec = AutoCodec()
        self.flights = Flights()
        self.renewals = Flights()
        self.tally = Tally(settings.metrics_hook)
        self._is_plain = (
            settings.validator is None
            and settings.confidence_fn is None
            and settings.manner.mode == "serve"
            and not self.tally.has_hook
        )
        """Whether an exact hit is nobody's business but that of who asks."""
        self.usual_namespace = None if settings.require_namespace else DEFAULT_NAMESPACE
        self.thread_crew: Executor | None = None
        self.task_crew: TaskCrew | None = None
        self.is_open = False
        self.is_closed = False
        self.is_checked = settings.self_check is False
        self._warming: Warming | None = None
        self.engine: Searching | None = None
        """Who answers what memory does not hold; None: memory holds everything."""
        self._lasting: Searching | None = None
        """The `engine` from when memory is filled."""
        self._past: dict[Identity, Entry] = {}
        """What `engine` gave that was past its time: it may yet be served stale."""
        ledger = Ledger(settings.max_entries, settings.namespace_quotas)
        self.live = Live(ledger, self.dim, indexing)
        self.sweeping = Sweeping(self)
        self._to_forget: deque[Selection] = deque()
        self._partitions: dict[str, Partition] = {}
        self._mark = 0
        self._looked_at = float("-inf")
        self._commits = _forks.rlock(_forks.COMMITS)
        _forks.watch(self)

    # -- opening and closing (these touch the store) --------------------------------------------

    def open(self) -> None:
        """
        Claim the store for the embedder and bring its entries to memory; once.

        Raises:
            CacheClosedError: closed before.
            EmbedderMismatchError: the store was filled by another embedder.
        """
        if self.is_open:
            return
        with self._commits:
            self.check_open()
            if self.is_open:
                return
            with store_errors(self.store):
                self.store.claim(self.embedder.fingerprint, self.dim)
                cold = self.store.cold() if isinstance(self.store, Warmable) else None
                if cold is None:
                    self._rescan()
                    self._keep_vectors(later=True)
                else:
                    self.engine = self._warming = Warming(cold, self)
                self.tally.restore(self.store.counts())
                if isinstance(self.store, Remembering):
                    self._restore(self.store.states())
            weakref.finalize(self, _save_counts, self.store, self.tally)
            self.is_open = True
            if self._warming is None:
                self._forget_as_asked()
            else:
                for chosen in self._to_forget:
                    self._warming.forget(chosen)
                self._warming.begin()

    def _restore(self, states: Mapping[str, bytes]) -> None:
        """Go on with what was learned, and with the calibration that the store has kept."""
        chosen = self.threshold
        if chosen.calibration is not None:
            self.judges.keep("calibration", chosen.calibration.to_json().encode())
        elif self.settings.similarity_threshold is None and "calibration" in states:
            try:
                kept = Calibration.from_json(states["calibration"])
                chosen = threshold_of(kept, self.embedder.fingerprint, self.dim)
            except (ValueError, MnemeError) as exc:
                log.warning("the calibration kept in %s: %s", self.store.description, exc)
            self._use(chosen)
        self.judges.restore(states)

    def close(self) -> None:
        """Save what waits to be saved and let go of the store; calling it again does nothing."""
        if (warming := self._warming) is not None:
            # Not under the lock that it may need to come to an end.
            warming.end()
        self.sweeping.end()
        if self.store.blocking:
            # Its last step may be in the store; one in memory is nothing to wait for on a loop.
            self.sweeping.wait()
        with self._commits:
            if self.is_closed:
                return
            self.is_closed = True
            self.growing.close()
            try:
                if self.is_open:
                    self._save_last()
            finally:
                self.is_open = False
                with store_errors(self.store):
                    self.store.close()

    def _save_last(self) -> None:
        """Save what waits to be saved, before the store is let go of."""
        with store_errors(self.store):
            self._write_all()
            self._keep_vectors()

    def _write_all(self) -> None:
        """Store all that waits for a commit."""
        self._write((), (), closing=True)
        while self.live.buried:
            self._write((), (), buried=CHUNK)

    def check_open(self) -> None:
        if self.is_closed:
            raise CacheClosedError(
                f"this cache ({self.store.description}) is closed. What it had stored is safe. "
                "Open a new one, or close it later."
            )

    def is_behind(self) -> bool:
        """Whether somebody else has committed to the store since this cache last looked."""
        if self._warming is not None:
            # The store itself is asked.
            return False
        interval = self.settings.stale_check_interval
        if interval:
            now = self.clock()
            # A clock that was set back must not stop the looking.
            if 0.0 <= now - self._looked_at < interval:
                return False
            if self.store.mark() == self._mark:
                self._looked_at = now
        return self.store.mark() != self._mark

    def catch_up(self) -> None:
        """Bring to memory what others have committed."""
        self._looked_at = self.clock()
        with self._commits, store_errors(self.store):
            if self._warming is not None:
                return
            changes = self.store.changes_since(self._mark)
            if changes is None:
                self._rescan()
                return
            self.live.apply(changes.puts, changes.removed, changes.cleared)
            self._mark = changes.mark
        if changes.cleared:
            self.sweeping.begin()

    def _rescan(self) -> None:
        mark = self.store.mark()
        expired = self.live.replace_all(self.store.scan(), self.clock())
        self._mark = mark
        for namespace in expired:
            self.tally.gone(namespace, "expired")
        self._cool_no_more()

    # -- being filled while lookups go on --------------------------------------------------------

    def empty(self) -> Filling:
        """Memory to be filled; see `Warming`."""
        return Filling.like(self.live)

    def warmed(self, live: Filling, expired: Sequence[str], mark: int) -> None:
        """Go on with `live`, which stands at `mark` of the store."""
        with self._commits, store_errors(self.store):
            if self.is_closed or self._warming is None:
                return
            changes = self.store.changes_since(mark)
            if changes is None:
                self._rescan()
            else:
                live.apply(changes.puts, changes.removed, changes.cleared)
                self.live.take_over(live)
                self._mark = changes.mark
                for namespace in expired:
                    self.tally.gone(namespace, "expired")
                self._cool_no_more()
            self._keep_vectors(later=True)
        self.sweeping.begin()

    def scanned(self) -> None:
        """Fill memory by a scan; what was to fill it otherwise is not trusted any more."""
        with self._commits, store_errors(self.store):
            if self.is_closed or self._warming is None:
                return
            if isinstance(self.store, Warmable):
                self.store.distrust()
            self._rescan()
            self._keep_vectors(later=True)

    def _cool_no_more(self) -> None:
        if self._warming is not None:
            # In this order: what is to be forgotten is not found in between.
            self._warming = None
            self._forget_as_asked()
            self.engine = self._lasting
            self._past.clear()

    def be_warm(self) -> None:
        """Wait until memory is filled, for what cannot be done without."""
        if (warming := self._warming) is not None:
            warming.wait()
            if self._warming is warming:
                self.check_open()
                self.scanned()

    def _keep_vectors(self, *, later: bool = False) -> None:
        is_large = self._warming is None and len(self.live.ledger) >= MANY
        if is_large and isinstance(self.store, Warmable):
            self.store.keep_vectors(self.live.directions(), later=later)

    def hire(self) -> None:
        """Have threads for work in the background, until somebody dismisses them."""
        if self.thread_crew is None:
            self.thread_crew = ThreadPoolExecutor(REFRESH_THREADS, "mneme-refresh")

    # -- forks ----------------------------------------------------------------------------------

    def in_child(self) -> None:
        """Go on as a process of its own; the store opens anew when it is next needed."""
        for part in (self.tally, self.judges, self.flights, self.renewals):
            part.in_child()
        if self._warming is not None:
            self._warming.in_child()
        self.task_crew = None
        if self.thread_crew is not None:
            self.thread_crew = None
            self.hire()

    # -- keeping (these touch the store) --------------------------------------------------------

    def draft(self, ask: Ask, response: Any, terms: Terms) -> Entry | None:
        """See `admission.draft`."""
        quota = self.quota_of(ask.namespace)
        return draft(ask, response, terms, self.settings, now=self.clock(), quota=quota)

    def commit(self, puts: Sequence[Entry], removed: Sequence[Identity] = ()) -> int:
        """
        Store `puts` and remove `removed`, in one transaction of the store, then in memory;
        how many of `removed` were live. Touches the store.
        """
        self.open()
        if removed or self._to_forget or len(puts) >= MANY_PUTS:
            # What is to be forgotten is what was there before; who puts much has time.
            self.be_warm()
        with self._commits, store_errors(self.store):
            self.check_open()
            count = self._write(puts, removed)
            if puts and self._warming is not None:
                self._make_known(puts, self._warming)
        if len(puts) >= MANY_PUTS:
            self._see_written()
        if self.live.buried:
            self.sweeping.begin()
        return count

    def _make_known(self, puts: Sequence[Entry], warming: Warming) -> None:
        """Have lookups find `puts`, which ask the store as long as memory is being filled."""
        self._see_written()
        warming.recount()
        for entry in puts:
            self._past.pop(entry.identity, None)

    def settle(self) -> None:
        """Have the store write what it was given."""
        if isinstance(self.store, Deferring):
            with store_errors(self.store):
                self.store.flush()

    def _see_written(self) -> None:
        """Wait until the store has written what it was given; what fails is tried again."""
        try:
            self.settle()
        except MnemeError as exc:
            log.warning("what was put is not written yet, and will be tried again: %s", exc)

    def _write(
        self,
        puts: Sequence[Entry],
        removed: Sequence[Identity],
        *,
        cleared: Sequence[str] = (),
        buried: int = 0,
        closing: bool = False,
    ) -> int:
        if self._warming is None and self.store.mark() != self._mark:
            # What others have put again meanwhile is no longer ours to remove.
            self.catch_up()
        plan = self.live.plan(puts, removed, cleared, buried)
        leaving = plan.removed
        counts = self.tally.take_unsaved()
        labels, states = self.judges.take_unsaved(closing=closing)
        # Store before memory: when the store fails, nothing has changed anywhere.
        if plan.puts or leaving or cleared or counts or labels or states:
            changes = _changes(plan.puts, leaving, counts, self._mark, labels, states, plan.cleared)
            try:
                self._mark = self.store.commit(changes)
            except BaseException:
                self.tally.give_back(counts)
                self.judges.give_back(labels)
                raise
        if self._warming is None:
            count, evicted = self.live.carry_out(plan)
        else:
            # Memory hears of it with what others do, and then of who is too much.
            count, evicted = self.live.carry_out(replace(plan, puts=()))
        for entry in evicted:
            self.tally.gone(entry.namespace, "eviction")
        if self.tally.has_hook:
            for entry in plan.puts:
                self.tally.tell("put", namespace=entry.namespace)
        return count

    def save(self) -> None:
        """Store what waits for a commit: counters, labels, what was learned. Touches the store."""
        self.open()
        with self._commits, store_errors(self.store):
            self.check_open()
            self._write_all()

    def doom(self, identity: Identity, event: str | None = None) -> None:
        """Forget an entry now; the store hears of it with the next commit."""
        entry = self.live.doom(identity)
        if entry is not None and event is not None:
            self.tally.gone(entry.namespace, event)

    def labels(self) -> list[Label]:
        """All labels, saved or not, oldest first. Touches the store."""
        self.open()
        with self._commits, store_errors(self.store):
            saved = list(self.store.labels()) if isinstance(self.store, Remembering) else []
            return saved + self.judges.waiting()

    # -- housekeeping (these touch the store) ---------------------------------------------------

    def sweep_some(self) -> bool:
        """Let go of some of what was cleared from memory; whether there is more."""
        return self.live.sweep()

    def forget_where(self, chosen: Selection) -> None:
        """As `remove_where`, but in memory only: the store hears of it with the next commit."""
        self._to_forget.append(chosen)
        if (warming := self._warming) is not None:
            warming.forget(chosen)
        # Before memory is filled there is nothing to see yet; it is done then.
        if self.is_open and self._warming is None:
            self._forget_as_asked()

    def _forget_as_asked(self) -> None:
        while True:
            try:
                chosen = self._to_forget.popleft()
            except IndexError:
                return
            for identity in self.live.select(chosen):
                self.doom(identity)

    # -- at run time (memory only) --------------------------------------------------------------

    def _use(self, threshold: Threshold) -> None:
        self.threshold = threshold
        self.rules = replace(self.rules, threshold=threshold.value)
        self.judges.watch(threshold.value)

    def quota_of(self, namespace: str) -> int | None:
        return self.live.ledger.quotas.get(namespace)

    def sizes(self) -> Mapping[str, int]:
        """How many entries each namespace holds."""
        if (warming := self._warming) is not None:
            return warming.sizes()
        ledger = self.live.ledger
        return {namespace: ledger.size(namespace) for namespace in ledger.namespaces()}


def _save_counts(store: Store, tally: Tally) -> None:
    """For caches that nobody closes: runs when the core is collected, or at exit."""
    counts = tally.take_unsaved()
    try:
        if counts:
            with store_errors(store):
                store.commit(Changes(counts=counts))
    except MnemeError as exc:
        log.warning("counters since the last commit were not saved: %s", exc)
