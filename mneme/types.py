"""The Protocols that mneme's parts meet at; implement one and it fits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from mneme.records import (
    Candidate,
    Changes,
    Entry,
    Hit,
    Identity,
    Key,
    Label,
    Miss,
    Partition,
    Payload,
    Selection,
    Vector,
)

__all__ = [
    "AnyEmbedder",
    "AsyncEmbedder",
    "Codec",
    "Compactable",
    "Confidence",
    "Deferring",
    "Embedder",
    "Fetching",
    "FlightLock",
    "FlightLocks",
    "Guard",
    "Index",
    "MetricsHook",
    "Normalizer",
    "Outcome",
    "Owned",
    "Priced",
    "Remembering",
    "Rewrite",
    "SameAnswer",
    "SearchableStore",
    "Searching",
    "SearchingMany",
    "Shrinkable",
    "Store",
    "Validator",
    "VectorSource",
    "Verifier",
]


@runtime_checkable
class Embedder(Protocol):
    """
    Text to vector, in the calling thread.

    ``fingerprint`` names everything that changes the vectors: provider, model, dimension,
    normalization. Optional beside these: ``embed_batch(texts)`` giving shape ``(n, dim)``,
    and ``max_chars``, past which a prompt is served by the exact layer alone.
    """

    @property
    def dim(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def embed(self, text: str, /) -> Any:
        """The embedding of `text`: float32, shape ``(dim,)``."""
        ...


@runtime_checkable
class AsyncEmbedder(Protocol):
    """Text to vector, awaited; otherwise as `Embedder`."""

    @property
    def dim(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def embed(self, text: str, /) -> Awaitable[Any]:
        """The embedding of `text`: float32, shape ``(dim,)``."""
        ...


AnyEmbedder: TypeAlias = Embedder | AsyncEmbedder

Outcome: TypeAlias = Hit | Miss
"""What a lookup comes to."""

Guard: TypeAlias = Callable[[str, str], str | None]
"""``(asked, cached) -> None``, or the reason why the cached answer may not be served."""

Validator: TypeAlias = Callable[[Any], bool]
"""``response -> bool``: whether it may be stored and served."""

Confidence: TypeAlias = Callable[[float, float, dict[str, Any]], float]
"""``(similarity, age_seconds, metadata) -> confidence``, compared with the threshold."""

SameAnswer: TypeAlias = Callable[[Any, Any], bool | Awaitable[bool]]
"""``(new response, cached response) -> bool``: whether they answer one question alike."""

Verifier: TypeAlias = Callable[[str, str], bool | Awaitable[bool]]
"""``(asked, cached) -> bool``: whether the answer to the cached prompt fits the asked one."""

Rewrite: TypeAlias = Callable[[Any], str | Awaitable[str | None] | None]
"""``messages -> question``: the last turn as a question that stands alone; None: it cannot."""

MetricsHook: TypeAlias = Callable[[str, dict[str, Any]], object]
"""``(event name, attributes)``; what it raises is logged and goes no further."""

Normalizer: TypeAlias = Callable[[str], str]
"""``prompt -> text``: prompts with equal text are one question to the exact layer."""


class Codec(Protocol):
    """Response to payload and back; raises `CodecError` for what would not come back equal."""

    def encode(self, value: Any, /) -> Payload: ...

    def decode(self, payload: Payload, /) -> Any: ...


class Store(Protocol):
    """
    Where entries outlive the process. Written once, synchronously; threads may share it.

    Promises (each one a test in `mneme.testing.StoreContract`):
    a `commit` is seen whole or not at all; what `commit` returned from is found by the next
    `scan`; a put of a known identity replaces it; removing what is absent is no error;
    `changes_since` an older mark gives every later change or ``None`` for "scan again";
    driver errors arrive as `StoreBackendError`.
    """

    @property
    def blocking(self) -> bool:
        """Whether calls wait for a disk or network, so that loops must not make them."""
        ...

    @property
    def description(self) -> str:
        """What messages call it: a file name, an address without its password."""
        ...

    @property
    def schema_version(self) -> int: ...

    @property
    def bad_rows(self) -> int:
        """How many rows could not be read since it was opened; they count as absent."""
        ...

    def claim(self, fingerprint: str, dim: int) -> None:
        """
        Bind the store to an embedder, or check that it already is.

        Raises:
            EmbedderMismatchError: it was filled by another; nothing was changed.
        """
        ...

    def scan(self) -> Iterator[Entry]:
        """Every entry, oldest commit first."""
        ...

    def commit(self, changes: Changes) -> int:
        """Apply all of `changes` or none; the mark at which they stand."""
        ...

    def mark(self) -> int:
        """
        A number that differs from an earlier one if anything was committed. No waiting, but for
        a `SearchableStore`, which may have to ask its engine.
        """
        ...

    def changes_since(self, mark: int) -> Changes | None:
        """What was committed after `mark`; ``None`` where that is no longer known."""
        ...

    def counts(self) -> Mapping[tuple[str, str], int]:
        """The sum of all committed counter increments, by (namespace, name)."""
        ...

    def close(self) -> None:
        """Flush and let go; calling it again does nothing."""
        ...


@runtime_checkable
class Compactable(Protocol):
    """A store that can give space back."""

    def compact(self) -> None: ...


@runtime_checkable
class Shrinkable(Protocol):
    """A store that can give space back bit by bit."""

    def shrink(self) -> bool:
        """
        Give back some of the space that nothing is in; whether there is more of it. Holds
        nobody up for more than some milliseconds.
        """
        ...


@runtime_checkable
class Deferring(Protocol):
    """A store whose ``commit`` may return before it has written."""

    def flush(self) -> None:
        """Return when all that was committed so far is written; others may commit meanwhile."""
        ...


@runtime_checkable
class Owned(Protocol):
    """A store that can say whose it is before anybody claims it."""

    def owner(self) -> tuple[str, int] | None:
        """Fingerprint and dim of the embedder that claimed it; None: nobody has. Only reads."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """A store that also keeps ``labels`` and ``states`` of `Changes`; others drop them."""

    def labels(self) -> Iterator[Label]:
        """The newest labels (at least 100,000 where there are so many), oldest first."""
        ...

    def states(self) -> Mapping[str, bytes]:
        """The last state committed under each name."""
        ...


@runtime_checkable
class VectorSource(Protocol):
    """A store that gives single vectors back, quickly enough for a lookup to ask."""

    def vectors(self, identities: Sequence[Identity], /) -> Sequence[Vector | None]:
        """The float32 vector of each identity, in order; None: no entry, or one without."""
        ...


class FlightLock(Protocol):
    """The right to call for one question, which one holder at a time has of all processes."""

    def acquire(self) -> bool:
        """Take it if nobody has it, without waiting; never again once it was released."""
        ...

    def settle(self) -> None:
        """Return when everybody can find what has been committed until now."""
        ...

    def release(self) -> None:
        """Let go of it, if it was taken; again does nothing. Quick, for loops call it."""
        ...


@runtime_checkable
class FlightLocks(Protocol):
    """A store by which processes see that another one is calling for a question."""

    @property
    def has_flight_locks(self) -> bool:
        """Whether there are such locks where this process runs."""
        ...

    def flight_lock(self, identity: Identity, /) -> FlightLock:
        """
        The lock of `identity`, not taken yet; only takes memory.

        It is nobody's again when its holder dies, however that comes about, and the child of
        a fork holds none.
        """
        ...


@runtime_checkable
class Fetching(Protocol):
    """What gives single entries back, quickly enough for a lookup to ask."""

    def fetch(self, identities: Sequence[Identity]) -> Sequence[Entry | None]:
        """
        The entry of each identity, in order and without its vector; None: there is none.

        What `commit` returned from is found. One that is dead may still be there; who asks
        looks at its dates.
        """
        ...


@runtime_checkable
class Searching(Fetching, Protocol):
    """What can answer lookups itself, without its entries being in this process."""

    def search(
        self, partition: Partition, vector: Vector, *, k: int, at_least: float, now: float
    ) -> Sequence[Candidate]:
        """
        At most `k` entries of `partition` with a cosine of `at_least`, best first.

        The cosine is that of the float32 vectors that were put, however the engine found them.
        Entries that are dead at `now` (seconds since the epoch) are not among them.
        """
        ...


@runtime_checkable
class SearchableStore(Searching, Store, Protocol):
    """
    A store whose engine searches, counts and evicts: no process holds its entries.

    Promises beside those of `Store` (each one a test in
    `mneme.testing.SearchableStoreContract`): what `commit` returned from is found by the next
    `fetch` and `search` of any process; a search sees one partition and nothing of others,
    however rare it is; dead entries are not found by a search; what was chosen to be removed
    is gone for every process.
    """

    def remove(self, chosen: Selection, limit: int) -> int:
        """Remove at most `limit` of the entries that `chosen` says; how many were removed."""
        ...

    def count(self, chosen: Selection) -> int:
        """How many entries `chosen` says; cheap for a whole namespace."""
        ...

    def sizes(self) -> Mapping[str, int]:
        """How many entries each namespace holds; those with none are left out."""
        ...

    def trim(self, limit: int, namespace: str | None = None) -> int:
        """
        Evict from `namespace`, or from all, until at most `limit` entries are left; how many
        went. Those go first that have not been put or `used` (see `Changes`) for longest.
        Cheap where nothing has to go.
        """
        ...


class Index(Protocol):
    """
    Unit vectors of one partition, searched by cosine.

    Promises (each one a test in `mneme.testing.IndexContract`): searching never misses a row
    that was there before the search began; adding a known key replaces its vector; threads
    may search while others add and remove.
    """

    def __len__(self) -> int: ...

    @property
    def memory_bytes(self) -> int: ...

    def add(self, key: Key, vector: Vector) -> None: ...

    def remove(self, key: Key) -> None:
        """Forget `key`; an unknown one is no error."""
        ...

    def search(
        self, vector: Vector, *, k: int, at_least: float = -1.0
    ) -> Sequence[tuple[Key, float]]:
        """At most `k` keys with a cosine of `at_least`, best first."""
        ...


@runtime_checkable
class SearchingMany(Protocol):
    """An index that answers many questions for less than as many searches."""

    def search_many(
        self, vectors: Vector, *, k: int, at_least: float = -1.0
    ) -> Sequence[Sequence[tuple[Key, float]]]:
        """What ``search`` gives for each of `vectors`, shape ``(m, dim)``, in order."""
        ...


@runtime_checkable
class Priced(Protocol):
    """An index that knows what a search costs."""

    @property
    def search_floats(self) -> int:
        """In numbers read by one matrix-vector product; 0 only where there are no rows."""
        ...


IndexFactory: TypeAlias = Callable[[int], Index]
"""``dim -> Index``: makes the index of one partition."""

Identities: TypeAlias = Sequence[Identity]
