"""The cache itself: `SemanticCache` for sync code, `AsyncSemanticCache` for async."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, closing
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, BinaryIO, Literal, TypeAlias, TypeVar

from mneme import checkpoint
from mneme._core import flow
from mneme._core.calibration import Calibration
from mneme._core.core import Core
from mneme._core.freshness import as_seconds
from mneme._core.keys import Ask, check_namespace
from mneme._core.keys import normalize as normalize_prompt
from mneme._core.manner import Manner, Mode, PolicyName
from mneme._core.ports import (
    BlockingPort,
    LoopPort,
    drive,
    embeds_async,
    in_worker_thread,
    task_crew,
)
from mneme._core.settings import SelfCheck, Settings, check_count
from mneme._core.threshold import CalibratedThreshold, threshold_of
from mneme.errors import CheckpointError, IndexBackendUnavailableError, QuantizationError
from mneme.guards import DEFAULT_GUARDS
from mneme.indexes.exact import ExactIndex
from mneme.records import Entry, Explanation, Health, Hit, Identity, Label, Miss, Stats, Terms
from mneme.stores.sqlite import SQLiteStore
from mneme.types import (
    AnyEmbedder,
    Confidence,
    Guard,
    MetricsHook,
    Normalizer,
    SameAnswer,
    Store,
    Validator,
    Verifier,
)

__all__ = ["AnyCache", "AsyncSemanticCache", "SemanticCache"]

REFRESH_THREADS = 4

F = TypeVar("F", bound="_Face")


def _normalizer(wanted: bool | Normalizer) -> Normalizer:
    if callable(wanted):
        return wanted
    return normalize_prompt if wanted else str


class _Face:
    """What both faces have in common: the constructor, and all that only looks at memory."""

    _core: Core

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        embedder: AnyEmbedder,
        store: Store | None = None,
        similarity_threshold: float | Calibration | CalibratedThreshold | None = None,
        default_ttl: float | timedelta | None = None,
        max_entries: int | None = None,
        namespace_quotas: Mapping[str, int] | None = None,
        confidence_fn: Confidence | None = None,
        validator: Validator | None = None,
        guards: Iterable[Guard] = DEFAULT_GUARDS,
        policy: PolicyName = "threshold",
        max_error: float | None = None,
        same_answer: SameAnswer | None = None,
        mode: Mode = "serve",
        audit_rate: float | None = None,
        verify: Verifier | None = None,
        verify_band: tuple[float, float] = (0.1, 0.0),
        verify_timeout: float | timedelta | None = 2.0,
        seed: int = 0,
        metrics_hook: MetricsHook | None = None,
        normalize: bool | Normalizer = True,
        index_backend: Literal["auto", "numpy", "hnsw"] = "auto",
        index_options: Mapping[str, Any] | None = None,
        vector_dtype: Literal["float32"] = "float32",
        stale_check_interval: float | timedelta = 0.0,
        max_query_bytes: int = 32_768,
        max_response_bytes: int = 4 * 1_048_576,
        max_metadata_bytes: int = 65_536,
        embed_timeout: float | timedelta | None = None,
        store_timeout: float | timedelta | None = None,
        durability: Literal["commit", "group"] = "commit",
        require_namespace: bool = False,
        self_check: SelfCheck = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        A cache in one SQLite file (`path`) or in `store`: exactly one of the two.

        Args:
            embedder: text to vector; see `mneme.Embedder`.
            similarity_threshold: least cosine, 0 to 1, at which an answer is served; or a
                calibration made with this embedder, which is stored with the cache. Default:
                the stored calibration's, else 0.85.
            default_ttl: seconds an answer lives unless it says otherwise; None: for ever.
            max_entries: over this, what was not used goes first.
            namespace_quotas: the same for single namespaces.
            confidence_fn: ``(similarity, age_seconds, metadata) -> confidence``, which must
                reach the threshold; the default is the similarity itself.
            validator: ``response -> bool``: what may be stored, and served.
            guards: each ``(asked, cached) -> None`` or the reason why not to serve; the
                default is `mneme.guards.DEFAULT_GUARDS`, ``()`` turns them off.
            policy: ``"threshold"`` serves from `similarity_threshold` on; ``"learned"`` learns
                from every miss which answers are the same, and serves what is likely enough
                to be right for at most
            max_error: a share of all lookups to get a wrong answer (default 0.01).
            same_answer: ``(new, cached response) -> bool``; the default compares text, and
                the embeddings of answers that are more than a few words.
            mode: ``"shadow"`` serves nothing, and compares what would have been served with
                what was answered; see `labels`.
            audit_rate: share of semantic hits that also call the function, to see whether
                they were right (default 0.0; 0.015 for the learned policy, which chooses them).
            verify: ``(asked, cached prompt) -> bool``, asked near the threshold; what it
                refuses, raises on or is late with is a miss.
            verify_band: how far below and above the threshold it is asked.
            verify_timeout: seconds that `verify` and `same_answer` may take.
            seed: of the lots that audits are drawn by.
            metrics_hook: ``(event, attributes)``, called in line; what it raises is logged.
            normalize: True: case, spacing and final punctuation do not matter to the exact
                layer; False: every character does; or your own function.
            index_backend, index_options, vector_dtype: how vectors are searched and kept; this
                version has the exact numpy index and float32.
            stale_check_interval: seconds that another process's write may stay unseen;
                0: look each time.
            max_query_bytes, max_response_bytes, max_metadata_bytes: limits, in UTF-8.
            embed_timeout, store_timeout: seconds after which a lookup goes on without;
                None: no deadline of the cache's own.
            durability: of the file at `path`: ``"commit"`` returns from `put` when it is
                committed, ``"group"`` at once, and commits many together within 50 ms.
            require_namespace: refuse calls made outside any namespace.
            self_check: whether two unrelated sentences are embedded on opening, to warn where
                the threshold would take them for one; ``"later"``: at the first semantic hit.
            clock: seconds since the epoch.

        Raises:
            ValueError: a setting that makes no sense; the message names it.
            TypeError: `embedder` is not an embedder.
            EmbedderMismatchError, CorruptCacheError, SchemaMigrationError, StoreBackendError:
                the store cannot be used; it was not changed. An `AsyncSemanticCache` on a
                file raises these from ``async with`` or from its first call.
        """
        if (path is None) == (store is None):
            raise ValueError("pass exactly one of path= (a SQLite file) and store=.")
        if store is not None and durability != "commit":
            raise ValueError("durability= belongs to path=; give it to the store you made.")
        if index_backend not in ("auto", "numpy", "hnsw"):
            raise ValueError(f"index_backend must be auto, numpy or hnsw, got {index_backend!r}.")
        if index_backend == "hnsw":
            raise IndexBackendUnavailableError(
                "this version of mneme has no hnsw index. Use index_backend='auto'."
            )
        if index_options:
            raise ValueError(
                f"the numpy index takes no options, got {sorted(index_options)}. Leave them out."
            )
        if vector_dtype in ("float16", "int8"):
            raise QuantizationError(
                f"this version of mneme keeps no {vector_dtype} vectors. Use 'float32'."
            )
        if vector_dtype != "float32":
            raise ValueError(f"vector_dtype must be 'float32', got {vector_dtype!r}.")
        check_embedder(embedder)
        threshold = threshold_of(similarity_threshold, embedder.fingerprint, embedder.dim)
        settings = Settings.checked(
            similarity_threshold=None if similarity_threshold is None else threshold.value,
            default_ttl=default_ttl,
            max_entries=max_entries,
            namespace_quotas=namespace_quotas,
            confidence_fn=confidence_fn,
            validator=validator,
            guards=guards,
            manner=Manner.checked(
                policy=policy,
                max_error=max_error,
                same_answer=same_answer,
                mode=mode,
                audit_rate=audit_rate,
                verify=verify,
                verify_band=verify_band,
                verify_timeout=verify_timeout,
                seed=seed,
            ),
            metrics_hook=metrics_hook,
            normalize=_normalizer(normalize),
            stale_check_interval=stale_check_interval,
            max_query_bytes=max_query_bytes,
            max_response_bytes=max_response_bytes,
            max_metadata_bytes=max_metadata_bytes,
            embed_timeout=embed_timeout,
            store_timeout=store_timeout,
            require_namespace=require_namespace,
            self_check=self_check,
            clock=clock,
        )
        self._adopt(
            Core(
                settings,
                threshold=threshold,
                store=store
                if store is not None
                else SQLiteStore(path or "", durability=durability),
                embedder=embedder,
                index_factory=ExactIndex,
                index_backend="numpy",
            )
        )

    def _adopt(self, core: Core) -> None:
        """Become a face of `core`."""
        self._core = core

    @property
    def similarity_threshold(self) -> float:
        """The least cosine at which an answer is served."""
        return self._core.current_threshold

    def set_similarity_threshold(self, value: float | Calibration | CalibratedThreshold) -> None:
        """
        Serve from `value` on, from now on; audits of the hits are counted anew.

        Raises:
            ValueError: not a cosine from 0 to 1, or a calibration that found none.
            EmbedderMismatchError: a calibration made with another embedder.
        """
        self._core.set_threshold(value)

    def set_namespace_quota(self, namespace: str, quota: int | None) -> None:
        """
        Limit `namespace` to `quota` entries from now on; None lifts the limit.

        Raises:
            ValueError: not a whole number of at least 0.
        """
        check_namespace(namespace)
        if quota is not None:
            check_count(quota, "quota", least=0)
        self._core.check_open()
        self._core.set_quota(namespace, quota)

    def stats(self, namespace: str | None = None) -> Stats:
        """Counters and sizes, of one namespace or of all; reads memory only."""
        self._core.check_open()
        return self._core.stats(namespace)

    def health(self) -> Health:
        """Whether the cache can be relied on; reads memory only."""
        self._core.check_open()
        return self._core.health()

    def list_namespaces(self) -> list[str]:
        """The namespaces that hold entries, sorted; reads memory only."""
        self._core.check_open()
        return self._core.namespaces()

    def __repr__(self) -> str:
        state = "closed" if self._core.is_closed else f"{len(self._core.namespaces())} namespaces"
        return f"{type(self).__name__}({self._core.store.description}, {state})"

    def _ask(self, query: str, namespace: str | None) -> Ask:
        self._core.check_open()
        return self._core.ask(query, self._core.namespace(namespace))

    def _asks(
        self, queries: Iterable[str], namespace: str | None, embeddings: Sequence[Any] | None
    ) -> list[Ask]:
        if isinstance(queries, str):
            raise TypeError("pass a list of queries; a single one goes to the singular method.")
        asks = [self._ask(query, namespace) for query in queries]
        if embeddings is not None and len(embeddings) != len(asks):
            raise ValueError(
                f"{len(embeddings)} embeddings for {len(asks)} queries. Nothing was looked up or "
                "stored. Pass one for each, or none."
            )
        return asks

    def _identity(self, query: str, namespace: str | None) -> Identity:
        return self._core.answering(self._ask(query, namespace).identity)

    def _selector(
        self,
        tag: str | None,
        namespace: str | None,
        older_than: float | timedelta | None,
    ) -> Callable[[Entry], bool]:
        if tag is None and namespace is None and older_than is None:
            raise ValueError(
                "invalidate needs tag=, namespace= or older_than=. Nothing was removed. "
                "Use clear() to remove everything."
            )
        if namespace is not None:
            check_namespace(namespace)
        seconds = as_seconds(older_than, "older_than")
        horizon = None if seconds is None else self._core.clock() - seconds

        def is_wanted(entry: Entry) -> bool:
            return (
                (tag is None or tag in entry.tags)
                and (namespace is None or entry.namespace == namespace)
                and (horizon is None or entry.created_at < horizon)
            )

        return is_wanted


Pairs: TypeAlias = Iterable[tuple[str, Any]] | Mapping[str, Any]


def terms_of(
    metadata: Mapping[str, Any] | None, ttl: float | timedelta | None, tags: Iterable[str]
) -> Terms:
    """
    The terms that `put` was given, checked.

    Raises:
        ValueError: a negative TTL.
        TypeError: tags that are not text, or one text where a list is meant.
    """
    named = (tags,) if isinstance(tags, str) else tuple(tags)
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in named):
        raise TypeError(f"tags must be a list of text, got {tags!r}.")
    return Terms(ttl=as_seconds(ttl, "ttl"), metadata=metadata, tags=named)


def check_embedder(embedder: object) -> None:
    """
    Nothing, if `embedder` has what an embedder must have.

    Raises:
        TypeError: naming what is missing.
        ValueError: `dim` or `fingerprint` is of no use.
    """
    missing = [name for name in ("dim", "fingerprint", "embed") if not hasattr(embedder, name)]
    if missing or not callable(getattr(embedder, "embed", None)):
        lacks = ", ".join(missing) or "an embed() to call"
        raise TypeError(
            f"{type(embedder).__name__} is no embedder: it lacks {lacks}. "
            "It needs dim, fingerprint and embed(text); for a plain function use embedder_from."
        )
    dim, fingerprint = embedder.dim, embedder.fingerprint  # type: ignore[attr-defined]
    check_count(dim, "embedder.dim")
    if not isinstance(fingerprint, str) or not fingerprint:
        raise ValueError(f"embedder.fingerprint must be text that names it, got {fingerprint!r}.")


class SemanticCache(_Face):
    """
    A semantic cache for sync code; any number of threads may use it.

    Every lookup asks the exact layer, then the semantic one. What is down is a miss with a
    warning, never an error; `put` and the other writers raise.
    """

    def _adopt(self, core: Core) -> None:
        if embeds_async(core.embedder):
            raise TypeError(
                f"{type(core.embedder).__name__} is async and SemanticCache is not. "
                "Wrap it with mneme.to_sync_embedder, or use AsyncSemanticCache."
            )
        core.settings.manner.refuse_async()
        super()._adopt(core)
        self._port = BlockingPort(core)
        core.open()
        if not core.is_checked and core.settings.self_check is True:
            drive(flow.self_check(self._port))

    def as_async(self) -> AsyncSemanticCache:
        """The async face of the same cache: same entries, same counters, one `close`."""
        return _face_of(self._core, object.__new__(AsyncSemanticCache))

    def get(
        self,
        query: str,
        *,
        embedding: Any = None,
        namespace: str | None = None,
        bypass: bool = False,
    ) -> Hit | None:
        """
        The answer to `query` or to one that means the same; None if there is none.

        `embedding` (shape ``(dim,)``) spares the embedder; `namespace` defaults to the one
        that is open, else ``"default"``; `bypass` answers None without looking.

        Raises:
            ValueError: `query` is blank or over `max_query_bytes`.
            NamespaceRequiredError: no namespace, and the cache requires one.
        """
        if bypass:
            self._ask(query, namespace)
            return None
        found = self.lookup(query, embedding=embedding, namespace=namespace)
        return found if isinstance(found, Hit) else None

    def lookup(
        self, query: str, *, embedding: Any = None, namespace: str | None = None
    ) -> Hit | Miss:
        """As `get`, but a `Miss` says why, and `fill` stores its answer without embedding."""
        return drive(flow.look(self._port, self._ask(query, namespace), embedding))

    def get_many(
        self,
        queries: Iterable[str],
        *,
        embeddings: Sequence[Any] | None = None,
        namespace: str | None = None,
    ) -> list[Hit | None]:
        """`get` for each, in order, with one batch for the embedder."""
        asks = self._asks(queries, namespace, embeddings)
        found = drive(flow.look_many(self._port, asks, embeddings))
        return [outcome if isinstance(outcome, Hit) else None for outcome in found]

    def put(
        self,
        query: str,
        response: Any,
        *,
        embedding: Any = None,
        namespace: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl: float | timedelta | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """
        Store `response`, in place of an older one to the same normalized query.

        False if it is not kept: the validator refuses it, its TTL is zero, or bypass is on.

        Raises:
            ValueError: blank or oversized query, oversized response or metadata, negative TTL.
            CodecError: the response would not come back equal.
            EmbedderDimensionError, EmbeddingError: no usable vector.
            NamespaceQuotaExceededError: the namespace may keep nothing.
            StoreBackendError: the store failed. In all these cases nothing was stored.
        """
        ask, terms = self._ask(query, namespace), terms_of(metadata, ttl, tags)
        return drive(flow.put(self._port, ask, response, vector=embedding, terms=terms))

    def put_many(
        self,
        pairs: Pairs,
        *,
        embeddings: Sequence[Any] | None = None,
        namespace: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl: float | timedelta | None = None,
        tags: Iterable[str] = (),
    ) -> int:
        """`put` for each (query, response), in one embedder batch and one transaction."""
        asked, vectors = _asked_pairs(self, pairs, embeddings, namespace)
        return drive(flow.put_many(self._port, asked, vectors, terms_of(metadata, ttl, tags)))

    def fill(
        self,
        miss: Miss,
        response: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        ttl: float | timedelta | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """Store the answer to what `lookup` missed, without embedding again; as `put`."""
        terms = terms_of(metadata, ttl, tags)
        return drive(flow.answer(self._port, miss, response, terms))

    def explain(
        self, query: str, *, embedding: Any = None, namespace: str | None = None
    ) -> Explanation:
        """What `lookup` would answer now and why; counts nothing. Print it."""
        return drive(flow.explain(self._port, self._ask(query, namespace), embedding))

    def delete(self, query: str, *, namespace: str | None = None) -> int:
        """Remove the entry of this normalized query; how many there were, 0 or 1."""
        return self._core.commit((), [self._identity(query, namespace)])

    def invalidate(
        self,
        *,
        tag: str | None = None,
        namespace: str | None = None,
        older_than: float | timedelta | None = None,
    ) -> int:
        """
        Remove the entries that have all that is named; their number.

        Raises:
            ValueError: nothing is named.
        """
        return self._core.remove_where(self._selector(tag, namespace, older_than))

    def clear_namespace(self, namespace: str) -> int:
        """Remove all entries of `namespace`, those of decorated functions too; their number."""
        return self._core.remove_where(self._selector(None, namespace, None))

    def clear(self) -> int:
        """Remove everything; the number of entries. Counters stay."""
        return self._core.remove_where(lambda entry: True)

    def labels(self) -> list[Label]:
        """
        What audits, shadow mode and the learned policy found out, oldest first: whether the
        answers of near questions were right. For `mneme.calibrate`; holds no text.
        """
        self._core.check_open()
        return self._core.labels()

    def vacuum(self, *, namespace: str | None = None, compact: bool = True) -> int:
        """Remove what has expired, and give its space back if `compact`; the number."""
        return self._core.vacuum(namespace, compact)

    def compact(self) -> None:
        """Give the space of removed entries back to the disk."""
        self._core.compact()

    def dumps(self, dest: str | os.PathLike[str] | BinaryIO) -> int:
        """
        Write everything to one archive, which any store can take in; the number of entries.

        Raises:
            CheckpointError: `dest` cannot be written; an archive that was there is untouched.
        """
        return _dumped(self._core, dest)

    @classmethod
    def loads(
        cls,
        source: str | os.PathLike[str] | BinaryIO,
        path: str | os.PathLike[str],
        embedder: AnyEmbedder,
        **settings: Any,
    ) -> SemanticCache:
        """
        A cache in a new file at `path`, filled from an archive of `dumps`.

        Raises:
            CheckpointError: `source` is no whole archive, or `path` exists; nothing was made.
            EmbedderMismatchError: another embedder filled it.
        """
        check_embedder(embedder)
        _restored(source, path, embedder)
        return cls(path, embedder=embedder, **settings)

    def set_namespace_quota(self, namespace: str, quota: int | None) -> None:
        super().set_namespace_quota(namespace, quota)
        self._core.commit(())

    def close(self) -> None:
        """Let refreshes that run in the background end, save counters, close the store."""
        crew, self._core.thread_crew = self._core.thread_crew, None
        if crew is not None:
            crew.shutdown(wait=True)
        self._core.close()

    def __enter__(self) -> SemanticCache:
        self._core.check_open()
        if self._core.thread_crew is None:
            self._core.thread_crew = ThreadPoolExecutor(REFRESH_THREADS, "mneme-refresh")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncSemanticCache(_Face):
    """
    A semantic cache for async code, on asyncio and trio; any number of tasks and loops.

    The methods are those of `SemanticCache`, awaited. On a file, the constructor touches
    nothing: ``async with`` or the first call opens it, in a worker thread.
    """

    def _adopt(self, core: Core) -> None:
        super()._adopt(core)
        self._port = LoopPort(core)
        self._crew = AsyncExitStack()
        if not core.store.blocking:
            core.open()

    def as_sync(self) -> SemanticCache:
        """
        The sync face of the same cache: same entries, same counters, one `close`.

        Raises:
            TypeError: the embedder is async.
        """
        return _face_of(self._core, object.__new__(SemanticCache))

    async def get(
        self,
        query: str,
        *,
        embedding: Any = None,
        namespace: str | None = None,
        bypass: bool = False,
    ) -> Hit | None:
        """See `SemanticCache.get`."""
        if bypass:
            self._ask(query, namespace)
            return None
        found = await self.lookup(query, embedding=embedding, namespace=namespace)
        return found if isinstance(found, Hit) else None

    async def lookup(
        self, query: str, *, embedding: Any = None, namespace: str | None = None
    ) -> Hit | Miss:
        """See `SemanticCache.lookup`."""
        return await flow.look(self._port, self._ask(query, namespace), embedding)

    async def get_many(
        self,
        queries: Iterable[str],
        *,
        embeddings: Sequence[Any] | None = None,
        namespace: str | None = None,
    ) -> list[Hit | None]:
        """See `SemanticCache.get_many`."""
        asks = self._asks(queries, namespace, embeddings)
        found = await flow.look_many(self._port, asks, embeddings)
        return [outcome if isinstance(outcome, Hit) else None for outcome in found]

    async def put(
        self,
        query: str,
        response: Any,
        *,
        embedding: Any = None,
        namespace: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl: float | timedelta | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """See `SemanticCache.put`."""
        ask, terms = self._ask(query, namespace), terms_of(metadata, ttl, tags)
        return await flow.put(self._port, ask, response, vector=embedding, terms=terms)

    async def put_many(
        self,
        pairs: Pairs,
        *,
        embeddings: Sequence[Any] | None = None,
        namespace: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl: float | timedelta | None = None,
        tags: Iterable[str] = (),
    ) -> int:
        """See `SemanticCache.put_many`."""
        asked, vectors = _asked_pairs(self, pairs, embeddings, namespace)
        return await flow.put_many(self._port, asked, vectors, terms_of(metadata, ttl, tags))

    async def fill(
        self,
        miss: Miss,
        response: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        ttl: float | timedelta | None = None,
        tags: Iterable[str] = (),
    ) -> bool:
        """See `SemanticCache.fill`."""
        terms = terms_of(metadata, ttl, tags)
        return await flow.answer(self._port, miss, response, terms)

    async def explain(
        self, query: str, *, embedding: Any = None, namespace: str | None = None
    ) -> Explanation:
        """See `SemanticCache.explain`."""
        return await flow.explain(self._port, self._ask(query, namespace), embedding)

    async def delete(self, query: str, *, namespace: str | None = None) -> int:
        """See `SemanticCache.delete`."""
        return await self._port.commit((), [self._identity(query, namespace)])

    async def invalidate(
        self,
        *,
        tag: str | None = None,
        namespace: str | None = None,
        older_than: float | timedelta | None = None,
    ) -> int:
        """See `SemanticCache.invalidate`."""
        wanted = self._selector(tag, namespace, older_than)
        return await self._port.run(self._core.remove_where, wanted)

    async def clear_namespace(self, namespace: str) -> int:
        """See `SemanticCache.clear_namespace`."""
        wanted = self._selector(None, namespace, None)
        return await self._port.run(self._core.remove_where, wanted)

    async def clear(self) -> int:
        """See `SemanticCache.clear`."""
        return await self._port.run(self._core.remove_where, lambda entry: True)

    async def labels(self) -> list[Label]:
        """See `SemanticCache.labels`."""
        self._core.check_open()
        return await self._port.run(self._core.labels)

    async def vacuum(self, *, namespace: str | None = None, compact: bool = True) -> int:
        """See `SemanticCache.vacuum`."""
        return await self._port.run(self._core.vacuum, namespace, compact)

    async def compact(self) -> None:
        """See `SemanticCache.compact`."""
        await self._port.run(self._core.compact)

    async def dumps(self, dest: str | os.PathLike[str] | BinaryIO) -> int:
        """See `SemanticCache.dumps`."""
        return await self._port.run(_dumped, self._core, dest)

    @classmethod
    async def loads(
        cls,
        source: str | os.PathLike[str] | BinaryIO,
        path: str | os.PathLike[str],
        embedder: AnyEmbedder,
        **settings: Any,
    ) -> AsyncSemanticCache:
        """See `SemanticCache.loads`."""
        check_embedder(embedder)
        await in_worker_thread(_restored, source, path, embedder)
        return cls(path, embedder=embedder, **settings)

    async def close(self) -> None:
        """Let refreshes that run in the background end, save counters, close the store."""
        try:
            await self._crew.aclose()
        finally:
            # Shielded: a cancelled owner is no reason to lose counters.
            await self._port.run(self._core.close, shield=True)

    async def __aenter__(self) -> AsyncSemanticCache:
        self._core.check_open()
        await self._port.ready()
        if not self._core.is_checked and self._core.settings.self_check is True:
            await flow.self_check(self._port)
        if self._core.task_crew is None:
            await self._crew.enter_async_context(task_crew(self._core))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


AnyCache: TypeAlias = SemanticCache | AsyncSemanticCache
"""Either face; decorators, middleware and transports take both."""


def _face_of(core: Core, face: F) -> F:
    face._adopt(core)
    return face


def _asked_pairs(
    face: _Face, pairs: Pairs, embeddings: Sequence[Any] | None, namespace: str | None
) -> tuple[list[tuple[Ask, Any]], Sequence[Any]]:
    given = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
    asks = face._asks([query for query, _ in given], namespace, embeddings)
    vectors = embeddings if embeddings is not None else [None] * len(given)
    return [(ask, response) for ask, (_, response) in zip(asks, given, strict=True)], vectors


def _dumped(core: Core, dest: str | os.PathLike[str] | BinaryIO) -> int:
    core.check_open()
    # Opens the store, and saves the counts and removals that wait for a commit.
    core.commit(())
    store, embedder = core.store, core.embedder
    return checkpoint.write(
        dest,
        store.scan(),
        fingerprint=embedder.fingerprint,
        dim=core.dim,
        counts=store.counts(),
    )


def _restored(
    source: str | os.PathLike[str] | BinaryIO, path: str | os.PathLike[str], embedder: AnyEmbedder
) -> None:
    """Make the file at `path` whole or not at all: it gets its name once it is filled."""
    place = Path(path)
    if place.exists():
        raise CheckpointError(
            f"{place} exists. It was not touched. Load the archive into a new file."
        )
    with TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as folder:
        half_done = Path(folder) / place.name
        with closing(SQLiteStore(half_done)) as store:
            checkpoint.restore(
                source, store, fingerprint=embedder.fingerprint, dim=int(embedder.dim)
            )
        half_done.rename(place)
