"""What a cache answers: from a question to a hit or a miss, and what is learned from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from mneme import context
from mneme._core.choose import Choice, Trial, choose
from mneme._core.judge import Judge
from mneme._core.keeper import DEFAULT_NAMESPACE
from mneme._core.keys import Ask, Counts, check_namespace, check_prompt, partition_of
from mneme._core.recalling import Recalling
from mneme._core.store_errors import store_errors
from mneme.errors import (
    NamespaceRequiredError,
)
from mneme.records import (
    Candidate,
    Entry,
    Explanation,
    Health,
    Hit,
    Identity,
    Miss,
    MissReason,
    Partition,
    Stats,
    Vector,
    Verdict,
)
from mneme.types import Codec

__all__ = ["Core", "core_of"]

NEIGHBOURS = 8
"""How many of the nearest entries a lookup considers when it refuses the first."""

MAX_REMEMBERED_PARTITIONS = 4_096


class Core(Recalling):
    """The one shared core. What it keeps is in `Keeper`, the exact layer in `Recalling`."""

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

    def floor(self, ask: Ask) -> float:
        """The cosine under which no entry matters to who judges `ask`; -1.0: all may."""
        manner = self.judges.of(ask).manner
        if manner.policy == "learned" or manner.mode == "shadow":
            return -1.0
        below = manner.verify_band[0] if manner.verify is not None else 0.0
        return self.rules_for(ask).threshold - below

    def open_to_ask(self) -> None:
        """As `open`, for who goes on without a store that is away."""
        self.open()

    def was_late(self) -> None:
        """Somebody has stopped waiting for the store."""

    def near(
        self, partition: Partition, vector: Vector, at_least: float = -1.0
    ) -> tuple[Candidate, ...]:
        """The nearest live entries of `partition`, best first, as in `Live.near`."""
        if (engine := self.engine) is not None:
            with store_errors(self.store):
                found = tuple(
                    engine.search(
                        partition, vector, k=NEIGHBOURS, at_least=at_least, now=self.clock()
                    )
                )
        else:
            found = self.live.near(partition, vector, NEIGHBOURS, at_least)
        if self.live.is_outgrown(partition):
            self.growing.see_to(partition, self.live, self.store)
        return found

    @property
    def searches_itself(self) -> bool:
        """Whether memory has all vectors, so that `near_many` may be asked."""
        return self.engine is None

    def near_many(
        self, partition: Partition, vectors: Vector, at_least: float
    ) -> list[tuple[Candidate, ...]]:
        """What `near` gives for each of `vectors`, shape ``(m, dim)``."""
        return self.live.near_many(partition, vectors, NEIGHBOURS, at_least)

    def may_hold(self, ask: Ask) -> bool:
        """Whether there is anything that a search for `ask` could find."""
        return self._warming is not None or self.live.is_searched(ask.partition)

    def judge(
        self, ask: Ask, vector: Vector, candidates: Sequence[Candidate], also: Ask | None = None
    ) -> Hit | Miss:
        """The semantic layer's word on `candidates`, which are those of `ask` and of `also`."""
        judge = self.judges.of(ask)
        choice = judge.choose(ask, self.rules_for(ask), candidates, self.clock())
        if not candidates and (self.may_hold(ask) or (also is not None and self.may_hold(also))):
            # All are below the floor, and none was near enough to be measured.
            choice.reason = "below_threshold"
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
            self.note_use(choice.entry)
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

    def note_use(self, entry: Entry) -> None:
        """An entry that was used goes later than others."""
        record = self.live.find(entry.partition, entry.key)
        if record is not None:
            record.used = True

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
        # What is not in memory yet is not gone.
        knows_all = self._warming is None
        judge.refit(lambda identity: not knows_all or self.live.find(*identity) is not None)

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

    # -- telling -------------------------------------------------------------------------------

    def stats(self, namespace: str | None = None) -> Stats:
        total, sizes = self.tally.total, self.sizes()
        index_bytes = self.live.index_bytes(namespace)
        return Stats(
            namespace=namespace,
            entries=sum(sizes.values()) if namespace is None else sizes.get(namespace, 0),
            hits_exact=total("hits_exact", namespace),
            hits_semantic=total("hits_semantic", namespace),
            misses=total("misses", namespace),
            evictions=total("evictions", namespace),
            expirations=total("expirations", namespace),
            failed_open=total("failed_open", namespace),
            embedder_fingerprint=self.embedder.fingerprint,
            vector_dtype=self.live.vector_dtype,
            memory_bytes_estimate=self.live.ledger.memory_bytes(namespace) + index_bytes,
            index_memory_bytes=index_bytes,
            labels_right=total("labels_right", namespace),
            labels_wrong=total("labels_wrong", namespace),
            error_bound=self._error_bound(),
        )

    def _error_bound(self) -> float | None:
        tightening = self.judges.default.tightening
        bound = None if tightening is None else tightening.bound
        return bound.upper if bound is not None and bound.hits else None

    def oldest_age(self) -> float | None:
        """Seconds since the oldest entry was put; None: there is none, or memory cannot tell."""
        created = [record.entry.created_at for record in self.live.ledger.records()]
        return max(0.0, self.clock() - min(created)) if created else None

    def health(self) -> Health:
        sizes, bad_rows = self.sizes(), self.store.bad_rows
        return Health(
            healthy=self.is_open and not bad_rows,
            schema_version=self.store.schema_version,
            integrity_ok=not bad_rows,
            # Another embedder's store does not open, so an open one is this embedder's.
            embedder_fingerprint_match=self.is_open,
            entries=sum(sizes.values()),
            namespaces=len(sizes),
            oldest_entry_age_seconds=self.oldest_age(),
            index_backend=self.index_backend,
            store_backend=type(self.store).__name__,
            vector_dtype=self.live.vector_dtype,
            bad_rows=bad_rows,
            failed_open=self.tally.total("failed_open"),
            error_bound=self._error_bound(),
            tightened=self.judges.default.said,
        )


class HasCore(Protocol):
    """What users hold of a core."""

    @property
    def _core(self) -> Core: ...


def core_of(face: HasCore) -> Core:
    """The core behind a face, for decorators, middleware and transports."""
    return face._core
