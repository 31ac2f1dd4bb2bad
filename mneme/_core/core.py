"""
What all faces of one cache share: settings, ledger, indexes, store, counters.

Two locks, never held while an embedder or the user's function runs. `_commits` orders
writers, from the store's transaction to the ledger's update; `_memory` guards the ledger and
the table of indexes for microseconds. Lookups take neither.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from mneme import context
from mneme._core.choose import Rules, Unusable, as_hit, choose
from mneme._core.flights import Flights
from mneme._core.freshness import as_seconds, deadlines, freshness
from mneme._core.keys import Ask, Counts, check_namespace, check_prompt, partition_of
from mneme._core.ledger import Ledger
from mneme._core.settings import Settings, check_threshold
from mneme._core.tally import Tally
from mneme.codecs import AutoCodec, check_json, dump_json
from mneme.errors import (
    CacheClosedError,
    CodecError,
    MnemeError,
    NamespaceQuotaExceededError,
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
    Miss,
    MissReason,
    Partition,
    Stats,
    Terms,
    Vector,
    Verdict,
)
from mneme.types import AnyEmbedder, Codec, Compactable, Index, IndexFactory, Store

__all__ = ["Core", "Unkeepable"]

log = logging.getLogger("mneme")

T = TypeVar("T")

NEIGHBOURS = 8
"""How many of the nearest entries a lookup considers when it refuses the first."""

DEFAULT_NAMESPACE = "default"

MAX_REMEMBERED_PARTITIONS = 4_096

CHUNK = 512
"""Entries removed in one commit of a long removal: others get their turn in between."""


class Unkeepable(ValueError):
    """A response or its metadata is over its limit; nothing was stored."""


class Core:
    """The one shared core. Methods that touch the store say so; the rest only use memory."""

    def __init__(
        self,
        settings: Settings,
        *,
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
            threshold=settings.similarity_threshold,
            guards=settings.guards,
            validator=settings.validator,
            confidence_fn=settings.confidence_fn,
        )
        self.codec = AutoCodec()
        self.flights = Flights()
        self.tally = Tally(settings.metrics_hook)
        self.thread_crew: Executor | None = None
        self.task_crew: Callable[[Callable[[], Any]], bool] | None = None
        self.is_open = False
        self.is_closed = False
        self._index_factory = index_factory
        self._ledger = Ledger(settings.max_entries, settings.namespace_quotas)
        self._indexes: dict[Partition, Index] = {}
        self._doomed: list[Identity] = []
        self._partitions: dict[str, Partition] = {}
        self._mark = 0
        self._looked_at = float("-inf")
        self._commits = threading.RLock()
        self._memory = threading.Lock()

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
            weakref.finalize(self, _save_counts, self.store, self.tally)
            self.is_open = True

    def close(self) -> None:
        """Save what waits to be saved and let go of the store; calling it again does nothing."""
        with self._commits:
            if self.is_closed:
                return
            self.is_closed = True
            try:
                if self.is_open:
                    with _store_errors(self.store):
                        self._write((), ())
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
            with self._memory:
                for identity in changes.removed:
                    self._forget(identity)
                for entry in changes.puts:
                    self._remember(entry)
            self._mark = changes.mark

    def _rescan(self) -> None:
        mark = self.store.mark()
        now = self.clock()
        entries = list(self.store.scan())
        with self._memory:
            quotas = self._ledger.quotas
            self._ledger = Ledger(self.settings.max_entries, quotas)
            self._indexes = {}
            for entry in entries:
                if freshness(now, entry.expires_at, entry.dies_at) == "expired":
                    self._doomed.append(entry.identity)
                else:
                    self._remember(entry)
            _, victims = self._ledger.plan((), quotas)
            for identity in victims:
                self._forget(identity)
            self._doomed.extend(victims)
        self._mark = mark

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
        )

    def rules_for(self, ask: Ask) -> Rules:
        if ask.threshold is None:
            return self.rules
        return replace(self.rules, threshold=ask.threshold)

    def recall(self, ask: Ask, *, stale: bool = False) -> Hit | None:
        """The exact layer: a fresh hit, or with `stale` one that is past its time."""
        ledger = self._ledger
        record = ledger.recall(ask.partition, ask.prompt)
        if record is None:
            record = ledger.find(ask.partition, ask.key)
            if record is None:
                return None
        entry = record.entry
        rules = self.rules if ask.threshold is None else self.rules_for(ask)
        try:
            hit = as_hit(entry, 1.0, "exact", rules, now=self.clock(), decode=_decoder(ask.codec))
        except Unusable as refused:
            if refused.reason == "expired":
                self.doom(entry.identity, "expired")
            return None
        if (hit.ttl_seconds is not None and hit.ttl_seconds <= 0) is not stale:
            return None
        record.used = True
        return hit

    def search_size(self, partition: Partition) -> int:
        """Floats that a search of `partition` reads."""
        index = self._indexes.get(partition)
        return len(index) * self.dim if index is not None else 0

    def near(self, partition: Partition, vector: Vector) -> tuple[Candidate, ...]:
        """The nearest live entries of `partition`, best first."""
        index = self._indexes.get(partition)
        if index is None:
            return ()
        ledger = self._ledger
        found = []
        for key, similarity in index.search(vector, k=NEIGHBOURS):
            record = ledger.find(partition, key)
            if record is not None:
                found.append(Candidate(record.entry, similarity))
        return tuple(found)

    def judge(self, ask: Ask, vector: Vector, candidates: Sequence[Candidate]) -> Hit | Miss:
        """The semantic layer's word on `candidates`."""
        choice = choose(
            ask.prompt,
            candidates,
            self.rules_for(ask),
            now=self.clock(),
            decode=_decoder(ask.codec),
        )
        for candidate, verdict in zip(candidates, choice.verdicts, strict=False):
            if verdict.reason == "expired":
                self.doom(candidate.entry.identity, "expired")
        if choice.hit is not None and choice.entry is not None:
            record = self._ledger.find(choice.entry.partition, choice.entry.key)
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
        )

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
        for candidate in candidates:
            verdicts += choose(
                ask.prompt, [candidate], rules, now=self.clock(), decode=_decoder(ask.codec)
            ).verdicts
        return Explanation(ask.prompt, ask.namespace, rules.threshold, outcome, tuple(verdicts))

    # -- keeping ------------------------------------------------------------------------------

    def draft(self, ask: Ask, response: Any, terms: Terms) -> Entry | None:
        """
        The entry to store, still without its vector; ``None`` if it is not to be kept: the
        validator refuses it, or its TTL is zero.

        Raises:
            CodecError: it would not come back equal.
            Unkeepable: (a `ValueError`) response or metadata over the limit.
            NamespaceQuotaExceededError: the namespace may keep nothing.
        """
        settings = self.settings
        if settings.validator is not None and not settings.validator(response):
            return None
        ttl = settings.default_ttl if terms.ttl is None else as_seconds(terms.ttl, "ttl")
        if ttl == 0:
            return None
        if self._ledger.quotas.get(ask.namespace) == 0:
            raise NamespaceQuotaExceededError(
                f"namespace {ask.namespace!r} has a quota of 0 entries. Nothing was stored. "
                "Raise it with set_namespace_quota, or lift it with None."
            )
        payload = ask.codec.encode(response)
        self._check_size("response", payload.data, settings.max_response_bytes)
        metadata = dict(terms.metadata or {})
        check_json(metadata, "metadata")
        written = dump_json(metadata)
        self._check_size("metadata", written, settings.max_metadata_bytes)
        now = self.clock()
        window = max(terms.stale_for, terms.stale_if_error)
        expires_at, dies_at = deadlines(now, ttl, window)
        return Entry(
            namespace=ask.namespace,
            partition=ask.partition,
            key=ask.key,
            prompt=ask.prompt,
            payload=payload,
            vector=None,
            created_at=now,
            expires_at=expires_at,
            dies_at=dies_at,
            metadata=written,
            tags=tuple(terms.tags),
        )

    @staticmethod
    def _check_size(name: str, data: str | bytes, limit: int) -> None:
        size = len(data.encode() if isinstance(data, str) else data)
        if size > limit:
            raise Unkeepable(
                f"the {name} has {size:,} bytes, the limit is {limit:,}. Nothing was stored. "
                f"Make it smaller or raise max_{name}_bytes."
            )

    def commit(self, puts: Sequence[Entry], removed: Sequence[Identity] = ()) -> int:
        """
        Store `puts` and remove `removed`, in one transaction of the store, then in memory;
        how many of `removed` were live. Touches the store.
        """
        self.open()
        with self._commits, _store_errors(self.store):
            self.check_open()
            return self._write(puts, removed)

    def _write(self, puts: Sequence[Entry], removed: Sequence[Identity]) -> int:
        # Store before memory: when the store fails, nothing has changed anywhere.
        doomed = len(self._doomed)
        with self._memory:
            kept, victims = self._ledger.plan(puts)
            gone = [*removed, *victims, *self._doomed[:doomed]]
        counts = self.tally.take_unsaved()
        if kept or gone or counts:
            # An identity that is doomed or removed and put again in one go is a put.
            coming = {entry.identity for entry in kept}
            leaving = tuple(identity for identity in gone if identity not in coming)
            try:
                self._mark = self.store.commit(Changes(tuple(kept), leaving, counts, self._mark))
            except BaseException:
                self.tally.give_back(counts)
                raise
        lost: dict[str, int] = {}
        with self._memory:
            del self._doomed[:doomed]
            count = sum(self._forget(identity) is not None for identity in removed)
            for identity in victims:
                if (entry := self._forget(identity)) is not None:
                    lost[entry.namespace] = lost.get(entry.namespace, 0) + 1
            for entry in kept:
                self._remember(entry)
        for namespace, number in lost.items():
            self.tally.gone(namespace, "eviction", number)
        for entry in kept:
            self.tally.tell("put", namespace=entry.namespace)
        return count

    def _remember(self, entry: Entry) -> None:
        vector = entry.vector
        if vector is not None:
            index = self._indexes.get(entry.partition)
            if index is None:
                index = self._indexes[entry.partition] = self._index_factory(self.dim)
            index.add(entry.key, vector)
        elif (index := self._indexes.get(entry.partition)) is not None:
            index.remove(entry.key)
        # The index holds the vector from here on: kept twice it would be most of the memory.
        self._ledger.put(replace(entry, vector=None))

    def _forget(self, identity: Identity) -> Entry | None:
        entry = self._ledger.remove(identity)
        partition, key = identity
        if (index := self._indexes.get(partition)) is not None:
            index.remove(key)
            if not len(index):
                del self._indexes[partition]
        return entry

    def doom(self, identity: Identity, event: str | None = None) -> None:
        """Forget an entry now; the store hears of it with the next commit."""
        with self._memory:
            entry = self._forget(identity)
            if entry is not None:
                self._doomed.append(identity)
        if entry is not None and event is not None:
            self.tally.gone(entry.namespace, event, 1)

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
        for at in range(0, len(identities), CHUNK):
            for identity in identities[at : at + CHUNK]:
                self.doom(identity, "expired")
            self.commit(())
        if compact:
            self.compact()
        return len(identities)

    def forget_where(self, wanted: Callable[[Entry], bool]) -> int:
        """As `remove_where`, but in memory only: the store hears of it with the next commit."""
        identities = [r.entry.identity for r in self._ledger.records() if wanted(r.entry)]
        for identity in identities:
            self.doom(identity)
        return len(identities)

    def count_where(self, wanted: Callable[[Entry], bool]) -> int:
        return sum(wanted(record.entry) for record in self._ledger.records())

    def _select(self, wanted: Callable[[Entry], bool]) -> list[Identity]:
        self.open()
        return [r.entry.identity for r in self._ledger.records() if wanted(r.entry)]

    def compact(self) -> None:
        with self._commits, _store_errors(self.store):
            self.check_open()
            if isinstance(self.store, Compactable):
                self.store.compact()

    # -- at run time (memory only) ------------------------------------------------------------

    def set_threshold(self, value: float) -> None:
        self.rules = replace(self.rules, threshold=check_threshold(value))

    def set_quota(self, namespace: str, quota: int | None) -> None:
        with self._memory:
            self._ledger.set_quota(namespace, quota)
            _, victims = self._ledger.plan((), [namespace])
        for identity in victims:
            self.doom(identity, "eviction")

    def namespaces(self) -> list[str]:
        return self._ledger.namespaces()

    def stats(self, namespace: str | None = None) -> Stats:
        ledger, total = self._ledger, self.tally.total
        if namespace is None:
            indexes = list(self._indexes.values())
        else:
            own = ledger.partitions(namespace)
            indexes = [ix for partition, ix in list(self._indexes.items()) if partition in own]
        index_bytes = sum(index.memory_bytes for index in indexes)
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
        )

    def health(self) -> Health:
        records = self._ledger.records()
        oldest = min((record.entry.created_at for record in records), default=None)
        bad_rows = self.store.bad_rows
        return Health(
            healthy=self.is_open and not bad_rows,
            schema_version=self.store.schema_version,
            integrity_ok=not bad_rows,
            embedder_fingerprint_match=self.is_open,
            entries=len(records),
            namespaces=len(self._ledger.namespaces()),
            oldest_entry_age_seconds=None if oldest is None else max(0.0, self.clock() - oldest),
            index_backend=self.index_backend,
            store_backend=type(self.store).__name__,
            vector_dtype="float32",
            bad_rows=bad_rows,
            failed_open=self.tally.total("failed_open"),
        )


def _decoder(codec: Codec) -> Callable[[Entry], Any]:
    def decode(entry: Entry) -> Any:
        try:
            return codec.decode(entry.payload)
        except (CodecError, ValueError, TypeError, KeyError) as exc:
            # The result's type has changed since it was stored: ask again and overwrite.
            raise Unusable("undecodable", str(exc)) from exc

    return decode


def _save_counts(store: Store, tally: Tally) -> None:
    """For caches that nobody closes: runs when the core is collected, or at exit."""
    counts = tally.take_unsaved()
    try:
        if counts:
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
