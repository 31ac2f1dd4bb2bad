"""
What all faces of one cache share: settings, ledger, indexes, store, counters.

One lock orders writers, from the store's transaction to the change in memory. Lookups do not
take it, and it is never held while an embedder or the user's function runs.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from mneme import context
from mneme._core.admission import draft
from mneme._core.aliases import Aliases
from mneme._core.calibration import Calibration
from mneme._core.choose import Choice, Rules, Trial, Unusable, as_hit, choose
from mneme._core.flights import Flights
from mneme._core.freshness import freshness
from mneme._core.judge import Judge
from mneme._core.judges import Judges
from mneme._core.keys import Ask, Counts, check_namespace, check_prompt, partition_of
from mneme._core.ledger import Ledger
from mneme._core.live import Live
from mneme._core.settings import Settings
from mneme._core.tally import Tally
from mneme._core.threshold import Threshold, threshold_of
from mneme.codecs import AutoCodec
from mneme.errors import (
    CacheClosedError,
    MnemeError,
    NamespaceRequiredError,
    StoreBackendError,
)
from mneme.records import (
    Candidate,
    Changes,
    Entry,
    Explanation,
    Health,
    Hit,
    Identity,
    Label,
    Miss,
    MissReason,
    Partition,
    Stats,
    Terms,
    Vector,
    Verdict,
)
from mneme.types import AnyEmbedder, Codec, Compactable, IndexFactory, Remembering, Store

__all__ = ["Core", "core_of"]

log = logging.getLogger("mneme")

NEIGHBOURS = 8
"""How many of the nearest entries a lookup considers when it refuses the first."""

DEFAULT_NAMESPACE = "default"

MAX_REMEMBERED_PARTITIONS = 4_096

CHUNK = 512
"""Entries removed in one commit of a long removal: others get their turn in between."""


class TaskCrew(Protocol):
    """The task group of an open cache."""

    def is_here(self) -> bool:
        """Whether the caller runs on the loop that owns it."""
        ...

    def start(self, job: Callable[[], Coroutine[Any, Any, object]]) -> None: ...


class Core:
    """The one shared core. Methods that touch the store say so; the rest only use memory."""

    def __init__(
        self,
        settings: Settings,
        *,
        threshold: Threshold,
        store: Store,
        embedder: AnyEmbedder,
        index_factory: IndexFactory,
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
        self.codec = AutoCodec()
        self.flights = Flights()
        self.renewals = Flights()
        self.tally = Tally(settings.metrics_hook)
        self.thread_crew: Executor | None = None
        self.task_crew: TaskCrew | None = None
        self.is_open = False
        self.is_closed = False
        self.is_checked = settings.self_check is False
        ledger = Ledger(settings.max_entries, settings.namespace_quotas)
        self.live = Live(ledger, self.dim, index_factory)
        self._to_forget: deque[Callable[[Entry], bool]] = deque()
        self._partitions: dict[str, Partition] = {}
        self._mark = 0
        self._looked_at = float("-inf")
        self._commits = threading.RLock()

    # -- opening and closing (these touch the store) ------------------------------------------

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
            with _store_errors(self.store):
                self.store.claim(self.embedder.fingerprint, self.dim)
                self._rescan()
                self.tally.restore(self.store.counts())
                if isinstance(self.store, Remembering):
                    self._restore(self.store.states())
            weakref.finalize(self, _save_counts, self.store, self.tally)
            self.is_open = True
            self._forget_as_asked()

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

    def _use(self, threshold: Threshold) -> None:
        self.threshold = threshold
        self.rules = replace(self.rules, threshold=threshold.value)
        self.judges.watch(threshold.value)

    def close(self) -> None:
        """Save what waits to be saved and let go of the store; calling it again does nothing."""
        with self._commits:
            if self.is_closed:
                return
            self.is_closed = True
            try:
                if self.is_open:
                    with _store_errors(self.store):
                        self._write((), (), closing=True)
            finally:
                self.is_open = False
                with _store_errors(self.store):
                    self.store.close()

    def check_open(self) -> None:
        if self.is_closed:
            raise CacheClosedError(
                f"this cache ({self.store.description}) is closed. What it had stored is safe. "
                "Open a new one, or close it later."
            )

    def is_behind(self) -> bool:
        """Whether somebody else has committed to the store since this cache last looked."""
        interval = self.settings.stale_check_interval
        if interval:
            now = self.clock()
            # A clock that was set back must not stop the looking.
            if 0.0 <= now - self._looked_at < interval:
                return False
            self._looked_at = now
        return self.store.mark() != self._mark

    def catch_up(self) -> None:
        """Bring to memory what others have committed."""
        with self._commits, _store_errors(self.store):
            changes = self.store.changes_since(self._mark)
            if changes is None:
                self._rescan()
                return
            self.live.apply(changes.puts, changes.removed)
            self._mark = changes.mark

    def _rescan(self) -> None:
        mark = self.store.mark()
        expired = self.live.replace_all(self.store.scan(), self.clock())
        self._mark = mark
        for namespace in expired:
            self.tally.gone(namespace, "expired")

    # -- asking -------------------------------------------------------------------------------

    def namespace(self, name: str | None = None) -> str:
        """
        The namespace a call belongs to: named, else opened around it, else ``"default"``.

        Raises:
            NamespaceRequiredError: there is neither, and the cache requires one.
        """
        if name is not None:
            return check_namespace(name)
        opened = context.current_namespace.get()
        if opened is not None:
            return opened
        if self.settings.require_namespace:
            raise NamespaceRequiredError(
                "this cache requires a namespace, and the call was made outside any. "
                "Nothing was looked up or stored. "
                "Use `with mneme.namespace(...)` or pass `namespace=`."
            )
        return DEFAULT_NAMESPACE

    def ask(
        self,
        prompt: object,
        namespace: str,
        *,
        partition: Partition | None = None,
        codec: Codec | None = None,
        threshold: float | None = None,
        semantic: bool = True,
        counts: Counts | None = None,
        judge: Judge | None = None,
    ) -> Ask:
        """
        The question, checked.

        Raises:
            TypeError: the prompt is not text.
            Unaskable: (a `ValueError`) blank, too long, or not encodable.
        """
        text = check_prompt(prompt, self.settings.max_query_bytes)
        if partition is None:
            partition = self._partitions.get(namespace)
            if partition is None:
                partition = partition_of(namespace)
                if len(self._partitions) >= MAX_REMEMBERED_PARTITIONS:
                    self._partitions.clear()
                self._partitions[namespace] = partition
        if self.max_chars is not None and len(text) > self.max_chars:
            # The embedder would cut it off, and a cut-off prompt must never match.
            semantic = False
        return Ask(
            namespace,
            partition,
            text,
            codec or self.codec,
            self.settings.normalize,
            threshold,
            semantic,
            counts,
            judge,
        )

    def rules_for(self, ask: Ask) -> Rules:
        threshold = self.rules.threshold if ask.threshold is None else ask.threshold
        tightening = self.judges.of(ask).tightening
        if tightening is not None:
            threshold = max(threshold, tightening.threshold)
        if threshold == self.rules.threshold:
            return self.rules
        return replace(self.rules, threshold=threshold)

    def recall(self, ask: Ask, *, stale: bool = False) -> Hit | None:
        """The exact layer: a fresh hit, or with `stale` one that is past its time."""
        ledger = self.live.ledger
        record = ledger.recall(ask.partition, ask.prompt)
        if record is None:
            record = ledger.find(ask.partition, ask.key)
            if record is None:
                return self._recall_alias(ask) if len(self.aliases) and not stale else None
        entry = record.entry
        rules = self.rules if ask.threshold is None else self.rules_for(ask)
        try:
            hit = as_hit(entry, 1.0, "exact", rules, now=self.clock(), codec=ask.codec)
        except Unusable as refused:
            if refused.reason == "expired":
                self.doom(entry.identity, "expired")
            return None
        if (hit.ttl_seconds is not None and hit.ttl_seconds <= 0) is not stale:
            return None
        record.used = True
        return hit

    def _recall_alias(self, ask: Ask) -> Hit | None:
        """The answer of an entry that was found to fit before."""
        alias = self.aliases.get(ask.identity)
        record = self.live.find(*alias.entry) if alias is not None else None
        if alias is None or record is None:
            return None
        try:
            hit = as_hit(
                record.entry,
                alias.similarity,
                "semantic",
                self.rules_for(ask),
                now=self.clock(),
                codec=ask.codec,
            )
        except Unusable:
            return None
        if hit.ttl_seconds is not None and hit.ttl_seconds <= 0:
            return None
        record.used = True
        return hit

    def near(self, partition: Partition, vector: Vector) -> tuple[Candidate, ...]:
        """The nearest live entries of `partition`, best first."""
        return self.live.near(partition, vector, NEIGHBOURS)

    def judge(self, ask: Ask, vector: Vector, candidates: Sequence[Candidate]) -> Hit | Miss:
        """The semantic layer's word on `candidates`."""
        judge = self.judges.of(ask)
        choice = judge.choose(ask, self.rules_for(ask), candidates, self.clock())
        return self._outcome(ask, vector, candidates, choice)

    def weighed(self, ask: Ask, vector: Vector, candidates: Sequence[Candidate]) -> Hit | Miss:
        """As `judge`, for `explain`: nothing is counted, kept back or drawn by lot."""
        choice = self.judges.of(ask).weigh(ask, self.rules_for(ask), candidates, self.clock())
        return self._outcome(ask, vector, candidates, choice)

    def _outcome(
        self, ask: Ask, vector: Vector, candidates: Sequence[Candidate], choice: Choice
    ) -> Hit | Miss:
        for candidate, verdict in zip(candidates, choice.verdicts, strict=False):
            if verdict.reason == "expired":
                self.doom(candidate.entry.identity, "expired")
        if choice.hit is not None and choice.entry is not None:
            record = self.live.find(choice.entry.partition, choice.entry.key)
            if record is not None:
                record.used = True
            return choice.hit
        return Miss(
            choice.reason,
            ask.namespace,
            choice.nearest_similarity,
            vector,
            ask,
            choice.stale,
            choice.would_serve,
            choice.trial,
        )

    def answering(self, identity: Identity) -> Identity:
        """The entry that the exact layer answers `identity` with: its own, or by an alias."""
        alias = self.aliases.get(identity)
        if alias is None or self.live.find(*identity) is not None:
            return identity
        self.aliases.drop(identity)
        return alias.entry

    def shadowed(self, ask: Ask, hit: Hit) -> Miss:
        """In shadow mode the exact layer serves nothing either: `hit` as a miss."""
        record = self.live.find(ask.partition, ask.key)
        trial = None
        if record is not None:
            same = Candidate(record.entry, 1.0)
            trial = Trial("shadow", (same,), same, served=True)
        return Miss("shadow", ask.namespace, 1.0, None, ask, None, hit, trial)

    def doubtful(
        self, ask: Ask, outcome: Hit | Miss, candidates: Sequence[Candidate]
    ) -> tuple[Candidate, Hit] | None:
        """The best candidate in the band in which the verifier is asked, and its answer."""
        rules, manner = self.rules_for(ask), self.judges.of(ask).manner
        below, above = manner.verify_band
        if isinstance(outcome, Hit):
            # What the learned policy serves has been weighed by more than its cosine.
            if manner.policy == "learned" or outcome.similarity >= rules.threshold + above:
                return None
        elif outcome.reason not in ("below_threshold", "uncertain"):
            return None
        choice = choose(
            ask.prompt,
            candidates[:1],
            replace(rules, threshold=rules.threshold - below),
            now=self.clock(),
            codec=ask.codec,
        )
        return None if choice.hit is None else (candidates[0], choice.hit)

    def learn(self, ask: Ask, trial: Trial, same: Mapping[Identity, bool], *, kept: bool) -> Judge:
        """
        Hear which cached answers were the `same` as a new one, and whether that was `kept`;
        the judge that has learned from it.
        """
        judge = self.judges.of(ask)
        before = self.rules_for(ask).threshold
        label = judge.learn(trial, same, ask, self.clock(), kept=kept)
        if (after := self.rules_for(ask).threshold) > before:
            self.tally.tightened(ask.namespace, after, judge.said)
        if label is not None:
            self.judges.told(label)
            if trial.served:
                self.tally.labelled(label)
        return judge

    def refit(self, judge: Judge) -> None:
        """Fit what `judge` has learned to all its labels: some ten milliseconds."""
        judge.refit(lambda identity: self.live.find(*identity) is not None)

    def labels(self) -> list[Label]:
        """All labels, saved or not, oldest first. Touches the store."""
        self.open()
        with self._commits, _store_errors(self.store):
            saved = list(self.store.labels()) if isinstance(self.store, Remembering) else []
            return saved + self.judges.waiting()

    def miss(self, ask: Ask, reason: MissReason) -> Miss:
        """A miss that the semantic layer had no say in."""
        return Miss(reason, ask.namespace, ask=ask, stale=self.recall(ask, stale=True))

    def told_uncacheable(self, namespace: str | None = None) -> None:
        """A call whose prompt the cache will not take went past it."""
        self.tally.miss(Miss("uncacheable", namespace or self.namespace()))

    def told(self, outcome: Hit | Miss, ask: Ask) -> Hit | Miss:
        """`outcome`, once counters, hook and observers have heard of it."""
        if isinstance(outcome, Hit):
            self.tally.hit(outcome, ask.counts)
        else:
            self.tally.miss(outcome, ask.counts)
        return outcome

    def explanation(
        self, ask: Ask, outcome: Hit | Miss, candidates: Sequence[Candidate]
    ) -> Explanation:
        """`outcome` with the verdict on every candidate, those after a taken one included."""
        rules = self.rules_for(ask)
        verdicts: list[Verdict] = []
        if self.judges.of(ask).manner.policy == "learned":
            verdicts += self.judges.of(ask).weigh(ask, rules, candidates, self.clock()).verdicts
            candidates = ()
        for candidate in candidates:
            verdicts += choose(
                ask.prompt, [candidate], rules, now=self.clock(), codec=ask.codec
            ).verdicts
        judge = self.judges.of(ask)
        if judge.manner.policy == "learned":
            source = f"learned policy, at most {judge.manner.max_error:.2%} wrong"
        elif ask.threshold is not None:
            source = "set for this function"
        else:
            source = self.threshold.source
        if rules.threshold > (ask.threshold or self.threshold.value):
            source = f"tightened: {judge.said}"
        return Explanation(
            ask.prompt, ask.namespace, rules.threshold, outcome, tuple(verdicts), source
        )

    # -- keeping ------------------------------------------------------------------------------

    def draft(self, ask: Ask, response: Any, terms: Terms) -> Entry | None:
        """See `admission.draft`."""
        quota = self.live.ledger.quotas.get(ask.namespace)
        return draft(ask, response, terms, self.settings, now=self.clock(), quota=quota)

    def commit(self, puts: Sequence[Entry], removed: Sequence[Identity] = ()) -> int:
        """
        Store `puts` and remove `removed`, in one transaction of the store, then in memory;
        how many of `removed` were live. Touches the store.
        """
        self.open()
        with self._commits, _store_errors(self.store):
            self.check_open()
            return self._write(puts, removed)

    def _write(
        self, puts: Sequence[Entry], removed: Sequence[Identity], *, closing: bool = False
    ) -> int:
        if self.store.mark() != self._mark:
            # What others have put again meanwhile is no longer ours to remove.
            self.catch_up()
        plan = self.live.plan(puts, removed)
        counts = self.tally.take_unsaved()
        labels, states = self.judges.take_unsaved(closing=closing)
        # Store before memory: when the store fails, nothing has changed anywhere.
        if plan.puts or plan.removed or counts or labels or states:
            changes = Changes(plan.puts, plan.removed, counts, self._mark, labels, states)
            try:
                self._mark = self.store.commit(changes)
            except BaseException:
                self.tally.give_back(counts)
                self.judges.give_back(labels)
                raise
        count, evicted = self.live.carry_out(plan)
        for entry in evicted:
            self.tally.gone(entry.namespace, "eviction")
        for entry in plan.puts:
            self.tally.tell("put", namespace=entry.namespace)
        return count

    def doom(self, identity: Identity, event: str | None = None) -> None:
        """Forget an entry now; the store hears of it with the next commit."""
        entry = self.live.doom(identity)
        if entry is not None and event is not None:
            self.tally.gone(entry.namespace, event)

    # -- housekeeping (these touch the store) -------------------------------------------------

    def remove_where(self, wanted: Callable[[Entry], bool]) -> int:
        """Remove the entries that `wanted` says; their number. Commits a chunk at a time."""
        identities = self._select(wanted)
        return sum(
            self.commit((), identities[at : at + CHUNK]) for at in range(0, len(identities), CHUNK)
        )

    def vacuum(self, namespace: str | None, compact: bool) -> int:
        """Remove what has died of age; the number. `compact` also gives disk space back."""
        now = self.clock()

        def has_died(entry: Entry) -> bool:
            if namespace is not None and entry.namespace != namespace:
                return False
            return freshness(now, entry.expires_at, entry.dies_at) == "expired"

        identities = self._select(has_died)
        # What has left memory before, and not yet the store, leaves it now too.
        count = len(identities) + self.live.doomed(namespace)
        for at in range(0, len(identities), CHUNK):
            for identity in identities[at : at + CHUNK]:
                self.doom(identity, "expired")
            self.commit(())
        self.commit(())
        if compact:
            self.compact()
        return count

    def forget_where(self, wanted: Callable[[Entry], bool]) -> None:
        """As `remove_where`, but in memory only: the store hears of it with the next commit."""
        self._to_forget.append(wanted)
        # Before the store is open there is nothing to see yet; `open` does it then.
        if self.is_open:
            self._forget_as_asked()

    def _forget_as_asked(self) -> None:
        while True:
            try:
                wanted = self._to_forget.popleft()
            except IndexError:
                return
            for identity in self.live.select(wanted):
                self.doom(identity)

    def count_where(self, wanted: Callable[[Entry], bool]) -> int:
        return len(self.live.select(wanted))

    def _select(self, wanted: Callable[[Entry], bool]) -> list[Identity]:
        self.open()
        if self.store.mark() != self._mark:
            # What others have put a moment ago is to be removed as well.
            self.catch_up()
        return self.live.select(wanted)

    def compact(self) -> None:
        with self._commits, _store_errors(self.store):
            self.check_open()
            if isinstance(self.store, Compactable):
                self.store.compact()

    # -- at run time (memory only) ------------------------------------------------------------

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
        return self.live.ledger.namespaces()

    def stats(self, namespace: str | None = None) -> Stats:
        ledger, total = self.live.ledger, self.tally.total
        index_bytes = self.live.index_bytes(namespace)
        return Stats(
            namespace=namespace,
            entries=ledger.size(namespace),
            hits_exact=total("hits_exact", namespace),
            hits_semantic=total("hits_semantic", namespace),
            misses=total("misses", namespace),
            evictions=total("evictions", namespace),
            expirations=total("expirations", namespace),
            failed_open=total("failed_open", namespace),
            embedder_fingerprint=self.embedder.fingerprint,
            vector_dtype="float32",
            memory_bytes_estimate=ledger.memory_bytes(namespace) + index_bytes,
            index_memory_bytes=index_bytes,
            labels_right=total("labels_right", namespace),
            labels_wrong=total("labels_wrong", namespace),
            error_bound=self._error_bound(),
        )

    def _error_bound(self) -> float | None:
        tightening = self.judges.default.tightening
        bound = None if tightening is None else tightening.bound
        return bound.upper if bound is not None and bound.hits else None

    def health(self) -> Health:
        ledger = self.live.ledger
        created = [record.entry.created_at for record in ledger.records()]
        bad_rows = self.store.bad_rows
        return Health(
            healthy=self.is_open and not bad_rows,
            schema_version=self.store.schema_version,
            integrity_ok=not bad_rows,
            # Another embedder's store does not open, so an open one is this embedder's.
            embedder_fingerprint_match=self.is_open,
            entries=len(created),
            namespaces=len(ledger.namespaces()),
            oldest_entry_age_seconds=max(0.0, self.clock() - min(created)) if created else None,
            index_backend=self.index_backend,
            store_backend=type(self.store).__name__,
            vector_dtype="float32",
            bad_rows=bad_rows,
            failed_open=self.tally.total("failed_open"),
            error_bound=self._error_bound(),
            tightened=self.judges.default.said,
        )


class Face(Protocol):
    """What users hold of a core."""

    @property
    def _core(self) -> Core: ...


def core_of(face: Face) -> Core:
    """The core behind a face, for decorators, middleware and transports."""
    return face._core


def _save_counts(store: Store, tally: Tally) -> None:
    """For caches that nobody closes: runs when the core is collected, or at exit."""
    counts = tally.take_unsaved()
    try:
        if counts:
            with _store_errors(store):
                store.commit(Changes(counts=counts))
    except MnemeError as exc:
        log.warning("counters since the last commit were not saved: %s", exc)


@contextmanager
def _store_errors(store: Store) -> Iterator[None]:
    """A third party's store may raise anything; from here on it is a `StoreBackendError`."""
    try:
        yield
    except MnemeError:
        raise
    except Exception as exc:
        raise StoreBackendError(
            f"{store.description}: {type(exc).__name__}: {exc}. "
            "Nothing was changed in memory. Check the store."
        ) from exc
