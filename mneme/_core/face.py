"""What both faces of a cache have in common: the constructor, and all that only looks at memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeAlias, TypeVar

from mneme._core.calibration import Calibration
from mneme._core.core import Core
from mneme._core.engine import EngineCore
from mneme._core.freshness import as_seconds
from mneme._core.keys import Ask, check_namespace
from mneme._core.keys import normalize as normalize_prompt
from mneme._core.kinds import Answers, core_for
from mneme._core.manner import Manner, Mode, PolicyName
from mneme._core.settings import SelfCheck, Settings, check_count
from mneme._core.threshold import CalibratedThreshold, threshold_of
from mneme.guards import DEFAULT_GUARDS
from mneme.indexes._making import Indexing
from mneme.records import Health, Identity, Selection, Stats, Terms
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

__all__ = ["Face", "Pairs", "VectorDtype", "asked_pairs", "check_embedder", "face_of", "terms_of"]

F = TypeVar("F", bound="Face")

VectorDtype: TypeAlias = Literal["float32", "float16", "int8"]


def _normalizer(wanted: bool | Normalizer) -> Normalizer:
    if callable(wanted):
        return wanted
    return normalize_prompt if wanted else str


class Face:
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
        vector_dtype: VectorDtype = "float32",
        answers: Answers = "memory",
        stale_check_interval: float | timedelta = 0.0,
        max_query_bytes: int = 32_768,
        max_response_bytes: int = 4 * 1_048_576,
        max_metadata_bytes: int = 65_536,
        embed_timeout: float | timedelta | None = None,
        store_timeout: float | timedelta | None = None,
        durability: Literal["commit", "group"] = "group",
        require_namespace: bool = False,
        self_check: SelfCheck = True,
        open_later: bool = False,
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
                they were right (default 0.0; 0.01 for the learned policy, which chooses them).
            verify: ``(asked, cached prompt) -> bool``, asked near the threshold; what it
                refuses, raises on or is late with is a miss.
            verify_band: how far below and above the threshold it is asked.
            verify_timeout: seconds that `verify` and `same_answer` may take.
            seed: of the lots that audits are drawn by.
            metrics_hook: ``(event, attributes)``, called in line; what it raises is logged.
            normalize: True: case, spacing and final punctuation do not matter to the exact
                layer; False: every character does; or your own function.
            index_backend: ``"numpy"`` compares exactly; ``"hnsw"`` searches a graph, which may
                miss (extra ``hnsw``); ``"auto"`` compares, and makes a graph of a partition
                that is searched too slowly so, where that extra is installed.
            index_options: of the graph: ``connectivity``, ``expansion_add``,
                ``expansion_search`` and ``dtype``; the exact index takes none.
            vector_dtype: how they are kept in memory: ``"float16"`` takes half of float32 and
                ``"int8"`` a quarter; the few that may answer are decided by their float32
                vectors, which the store keeps.
            answers: where they are between lookups: ``"memory"``, or ``"store"``, where each
                hit reads its answer and memory holds little beside the vectors.
            stale_check_interval: seconds that another process's write may stay unseen;
                0: look each time.
            max_query_bytes, max_response_bytes, max_metadata_bytes: limits, in UTF-8.
            embed_timeout, store_timeout: seconds after which a lookup goes on without;
                None: no deadline of the cache's own.
            durability: of the file at `path`: ``"group"`` returns from `put` at once, and
                commits many together within 50 ms; ``"commit"`` returns when it is committed.
            require_namespace: refuse calls made outside any namespace.
            self_check: whether two unrelated sentences are embedded on opening, to warn where
                the threshold would take them for one; ``"later"``: at the first semantic hit.
            open_later: whether a store that cannot be reached now is no error; it is opened by
                the first call that finds it, and until then lookups go on without.
            clock: seconds since the epoch.

        Raises:
            ValueError: a setting that makes no sense; the message names it.
            TypeError: `embedder` is not an embedder.
            IndexBackendUnavailableError: usearch, for ``"hnsw"``, is not installed.
            EmbedderMismatchError, CorruptCacheError, SchemaMigrationError, StoreBackendError:
                the store cannot be used; it was not changed. An `AsyncSemanticCache` on a
                file or a server raises these from ``async with`` or from its first call, and
                so does any cache with `open_later` from its first call.
        """
        if (path is None) == (store is None):
            raise ValueError("pass exactly one of path= (a SQLite file) and store=.")
        if store is not None and durability != "group":
            raise ValueError("durability= belongs to path=; give it to the store you made.")
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
            open_later=open_later,
            clock=clock,
        )
        if store is None:
            store = SQLiteStore(path or "", durability=durability)
        indexing = Indexing(store, index_backend, index_options or {}, vector_dtype)
        kind = core_for(store, answers)
        if kind is EngineCore and (index_backend, vector_dtype) != ("auto", "float32"):
            raise ValueError(
                f"{store.description} searches by itself, in float32. Leave index_backend= and "
                "vector_dtype= out."
            )
        self._adopt(
            kind(
                settings,
                threshold=threshold,
                store=store,
                embedder=embedder,
                indexing=indexing,
                index_backend=indexing.chosen,
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
    ) -> Selection:
        if tag is None and namespace is None and older_than is None:
            raise ValueError(
                "invalidate needs tag=, namespace= or older_than=. Nothing was removed. "
                "Use clear() to remove everything."
            )
        if namespace is not None:
            check_namespace(namespace)
        seconds = as_seconds(older_than, "older_than")
        horizon = None if seconds is None else self._core.clock() - seconds
        return Selection(namespace, tag, created_before=horizon)


Pairs: TypeAlias = Iterable[tuple[str, Any]] | Mapping[str, Any]

_USUAL = Terms()


def terms_of(
    metadata: Mapping[str, Any] | None, ttl: float | timedelta | None, tags: Iterable[str]
) -> Terms:
    """
    The terms that `put` was given, checked.

    Raises:
        ValueError: a negative TTL.
        TypeError: tags that are not text, or one text where a list is meant.
        ValueError: a tag holds half of a surrogate pair.
    """
    if tags == () and ttl is None:
        return _USUAL if metadata is None else Terms(metadata=metadata)
    named = (tags,) if isinstance(tags, str) else tuple(tags)
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in named):
        raise TypeError(f"tags must be a list of text, got {tags!r}.")
    for tag in named:
        try:
            tag.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the tag {tag!r} holds half of a surrogate pair, which is not text. "
                "Nothing was stored. Decode it with errors='replace' first."
            ) from None
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


def face_of(core: Core, face: F) -> F:
    face._adopt(core)
    return face


def asked_pairs(
    face: Face, pairs: Pairs, embeddings: Sequence[Any] | None, namespace: str | None
) -> tuple[list[tuple[Ask, Any]], Sequence[Any]]:
    given = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
    asks = face._asks([query for query, _ in given], namespace, embeddings)
    vectors = embeddings if embeddings is not None else [None] * len(given)
    return [(ask, response) for ask, (_, response) in zip(asks, given, strict=True)], vectors
