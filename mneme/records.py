"""The plain values that travel through mneme; frozen, and without behaviour worth the name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NewType

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CacheInfo",
    "Candidate",
    "Changes",
    "Entry",
    "Explanation",
    "Health",
    "Hit",
    "Identity",
    "Key",
    "Label",
    "LabelSource",
    "Layer",
    "Miss",
    "MissReason",
    "Partition",
    "Payload",
    "PayloadKind",
    "Selection",
    "Stats",
    "Terms",
    "Vector",
    "Verdict",
]

Vector = NDArray[np.float32]
"""One embedding: float32, shape ``(dim,)``, L2-normalized once it has passed the border."""

Partition = NewType("Partition", bytes)
"""*Who and how*, hashed: namespace, function and every argument but the prompt. 16 bytes."""

Key = NewType("Key", bytes)
"""*What is asked*, as the exact layer knows it: the digest of the normalized prompt. 16 bytes."""

Identity = tuple[Partition, Key]
"""The one name an entry has everywhere: in the ledger, the index, the flights and the store."""

Layer = Literal["exact", "semantic"]

PayloadKind = Literal["text", "json", "bytes", "pickle"]

MissReason = Literal[
    "absent",
    "below_threshold",
    "uncertain",
    "unverified",
    "guarded",
    "invalid",
    "low_confidence",
    "expired",
    "stale",
    "too_old",
    "undecodable",
    "exact_only",
    "embedder_failed",
    "store_failed",
    "uncacheable",
    "audited",
    "shadow",
    "bypass",
    "refresh",
]

LabelSource = Literal["miss", "audit", "shadow"]


@dataclass(frozen=True, slots=True)
class Payload:
    """A response in the form that stores keep: text for ``text`` and ``json``, else bytes."""

    kind: PayloadKind
    data: str | bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One answered question.

    Times are seconds since the epoch. ``expires_at`` ends the time it is served as fresh,
    ``dies_at`` the time it may still be served stale; ``None`` means never.
    ``vector`` is ``None`` for an entry that only the exact layer may serve; it has no part in
    whether two entries are equal.
    """

    namespace: str
    partition: Partition
    key: Key
    prompt: str
    payload: Payload
    vector: Vector | None = field(compare=False)
    created_at: float
    expires_at: float | None = None
    dies_at: float | None = None
    metadata: str = "{}"
    tags: tuple[str, ...] = ()

    @property
    def identity(self) -> Identity:
        return self.partition, self.key


@dataclass(frozen=True, slots=True)
class Label:
    """
    Whether the answer of a near question turned out to be the right one. Holds no text.

    ``similarity`` is the cosine of the two questions, ``chance_right`` what the learned
    policy had said (``None`` without it). ``source`` says how it became known: a ``"miss"``
    called the function anyway, an ``"audit"`` to check a hit, ``"shadow"`` on every call.
    ``created_at`` is in seconds since the epoch.
    """

    similarity: float
    right: bool
    namespace: str
    source: LabelSource
    created_at: float
    chance_right: float | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """
    What one commit does, or what others did since a mark.

    In this order: the namespaces ``cleared`` are emptied, then identities ``removed``, then
    entries put.
    """

    puts: tuple[Entry, ...] = ()
    removed: tuple[Identity, ...] = ()
    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Counter increments by (namespace, counter name)."""
    mark: int = 0
    """Where the store stands once these are applied."""
    labels: tuple[Label, ...] = ()
    states: Mapping[str, bytes] = field(default_factory=dict)
    """What policies have learned, by name; each replaces what stood under its name."""
    cleared: tuple[str, ...] = ()
    used: tuple[Identity, ...] = ()
    """Entries that answered since the last commit; a store that evicts spares them."""


@dataclass(frozen=True, slots=True)
class Selection:
    """
    Which entries are meant: those that meet all that is given. Nothing given: all.

    ``created_before`` is in seconds since the epoch; ``dead_by`` chooses what is neither
    fresh nor stale at that time.
    """

    namespace: str | None = None
    tag: str | None = None
    created_before: float | None = None
    dead_by: float | None = None

    def has(self, entry: Entry) -> bool:
        """Whether `entry` is meant."""
        return (
            (self.namespace is None or entry.namespace == self.namespace)
            and (self.tag is None or self.tag in entry.tags)
            and (self.created_before is None or entry.created_at < self.created_before)
            and (self.dead_by is None or _is_dead(entry, self.dead_by))
        )


def _is_dead(entry: Entry, now: float) -> bool:
    is_stale = entry.expires_at is not None and now >= entry.expires_at
    return is_stale and (entry.dies_at is None or now >= entry.dies_at)


@dataclass(frozen=True, slots=True)
class Terms:
    """
    The terms on which one answer is kept.

    ``ttl`` is in seconds (``None``: the cache's default). ``stale_for`` and ``stale_if_error``
    are seconds past expiry in which the old answer may still be served: while a refresh runs,
    or when the function fails.
    """

    ttl: float | None = None
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] | None = None
    stale_for: float = 0.0
    stale_if_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry that is near, with its cosine in [-1, 1]."""

    entry: Entry
    similarity: float


@dataclass(frozen=True, slots=True)
class Hit:
    """
    An answer from the cache.

    ``similarity`` and ``confidence`` are at most 1 (an exact hit has similarity 1.0).
    ``prompt`` is the question that the answer was given to; ``ttl_seconds`` is what is left
    of its lifetime (``None``: no end, negative: served stale).
    """

    response: Any
    similarity: float
    confidence: float
    age_seconds: float
    layer: Layer
    namespace: str
    metadata: dict[str, Any]
    prompt: str = ""
    ttl_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Miss:
    """
    No answer, and why. Falsy, so ``if found:`` reads as it should.

    ``nearest_similarity`` is the best cosine that was refused, where one was measured: in a
    partition of thousands, one below the threshold is not looked for (`explain` does).
    ``vector`` and ``ask`` let `fill` store the answer without embedding again; ``stale`` is
    an expired answer that would have been a hit, ``would_serve`` one that was kept back by
    shadow mode or to be audited. `fill` compares the new answer with what ``trial`` names.
    """

    reason: MissReason
    namespace: str
    nearest_similarity: float | None = None
    vector: Vector | None = field(default=None, repr=False, compare=False)
    ask: Any = field(default=None, repr=False, compare=False)
    stale: Hit | None = field(default=None, repr=False)
    would_serve: Hit | None = field(default=None, repr=False)
    trial: Any = field(default=None, repr=False, compare=False)

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided about one candidate; ``reason`` is ``None`` where it was taken."""

    prompt: str
    similarity: float
    reason: MissReason | None
    detail: str = ""

    def __str__(self) -> str:
        word = "taken" if self.reason is None else self.reason.replace("_", " ")
        note = f" ({self.detail})" if self.detail else ""
        return f"{self.similarity:7.4f}  {word}{note}: {self.prompt!r}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a lookup considered, and why it was taken or refused; ``str()`` reads as a report."""

    prompt: str
    namespace: str
    threshold: float
    outcome: Hit | Miss
    verdicts: tuple[Verdict, ...] = ()
    source: str = ""
    """Where the threshold came from, or what decides in its place."""

    def __str__(self) -> str:
        if isinstance(self.outcome, Hit):
            end = f"hit ({self.outcome.layer})"
        else:
            end = f"miss ({self.outcome.reason.replace('_', ' ')})"
        lines = [
            f"{self.prompt!r} in namespace {self.namespace!r}: {end}",
            f"  threshold {self.threshold:.4f}" + (f" ({self.source})" if self.source else ""),
        ]
        return "\n".join(lines + [f"  {verdict}" for verdict in self.verdicts])


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the store was made, and sizes now (bytes), of one namespace or of all."""

    namespace: str | None
    entries: int
    hits_exact: int
    hits_semantic: int
    misses: int
    evictions: int
    expirations: int
    failed_open: int
    embedder_fingerprint: str
    vector_dtype: str
    memory_bytes_estimate: int
    index_memory_bytes: int
    labels_right: int = 0
    """Answers of near questions that were found right, and wrong, by audits or in shadow mode."""
    labels_wrong: int = 0
    error_bound: float | None = None
    """Upper bound on the share of wrong answers among semantic hits; None before any audit."""

    @property
    def hits(self) -> int:
        return self.hits_exact + self.hits_semantic

    @property
    def hit_rate(self) -> float:
        """Hits over lookups, 0.0 before the first lookup."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else 0.0


class CacheInfo(NamedTuple):
    """As `functools.lru_cache` has it; ``currsize`` counts this function's live entries."""

    hits: int
    misses: int
    maxsize: int | None
    currsize: int


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the cache can be relied on now; ``healthy`` sums up the rest."""

    healthy: bool
    schema_version: int
    integrity_ok: bool
    embedder_fingerprint_match: bool
    entries: int
    namespaces: int
    oldest_entry_age_seconds: float | None
    index_backend: str
    store_backend: str
    vector_dtype: str
    bad_rows: int = 0
    failed_open: int = 0
    error_bound: float | None = None
    """As in `Stats`."""
    tightened: str = ""
    """Why audits have raised the threshold; empty where they have not."""
