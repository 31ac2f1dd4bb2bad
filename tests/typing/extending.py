"""What implements mneme's Protocols, as mypy --strict and pyright strict must accept it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, assert_type

import numpy as np

from mneme import MemoryStore, SemanticCache, SQLiteStore, semantic_cache
from mneme.codecs import AutoCodec, PickleCodec, TypedCodec, codec_for
from mneme.indexes import ExactIndex
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
from mneme.testing import HashEmbedder, IndexContract, ManualClock, StoreContract, entry, unit
from mneme.types import (
    AnyEmbedder,
    AsyncEmbedder,
    Codec,
    Compactable,
    Confidence,
    Deferring,
    Embedder,
    Fetching,
    FlightLock,
    FlightLocks,
    Guard,
    Index,
    IndexFactory,
    MetricsHook,
    Normalizer,
    Outcome,
    Owned,
    Priced,
    Remembering,
    Rewrite,
    SameAnswer,
    SearchableStore,
    Searching,
    SearchingMany,
    Shrinkable,
    Store,
    Validator,
    VectorSource,
    Verifier,
)


class Upper:
    """A codec of one's own."""

    def encode(self, value: Any, /) -> Payload:
        return Payload("text", str(value).upper())

    def decode(self, payload: Payload, /) -> Any:
        return payload.data


class Nowhere:
    """A store of one's own."""

    blocking = False
    description = "nowhere"
    schema_version = 1
    bad_rows = 0

    def claim(self, fingerprint: str, dim: int) -> None:
        return None

    def scan(self) -> Iterator[Entry]:
        return iter(())

    def commit(self, changes: Changes) -> int:
        return changes.mark

    def mark(self) -> int:
        return 0

    def changes_since(self, mark: int) -> Changes | None:
        return None

    def counts(self) -> Mapping[tuple[str, str], int]:
        return {}

    def close(self) -> None:
        return None


class Faraway(Nowhere):
    """A store of one's own whose engine searches."""

    def fetch(self, identities: Sequence[Identity]) -> Sequence[Entry | None]:
        return [None for _ in identities]

    def search(
        self, partition: Partition, vector: Vector, *, k: int, at_least: float, now: float
    ) -> Sequence[Candidate]:
        return []

    def remove(self, chosen: Selection, limit: int) -> int:
        return 0

    def count(self, chosen: Selection) -> int:
        return 0

    def sizes(self) -> Mapping[str, int]:
        return {}

    def trim(self, limit: int, namespace: str | None = None) -> int:
        return 0


class Turn:
    """A lock of one's own."""

    def acquire(self) -> bool:
        return True

    def settle(self) -> None:
        return None

    def release(self) -> None:
        return None


class Orderly(Nowhere):
    """A store of one's own by which processes see who calls."""

    has_flight_locks = True

    def flight_lock(self, identity: Identity, /) -> FlightLock:
        return Turn()


class Flat:
    """An index of one's own."""

    memory_bytes = 0

    def __len__(self) -> int:
        return 0

    def add(self, key: Key, vector: Vector) -> None:
        return None

    def remove(self, key: Key) -> None:
        return None

    def search(
        self, vector: Vector, *, k: int, at_least: float = -1.0
    ) -> Sequence[tuple[Key, float]]:
        return []


def guard(asked: str, cached: str) -> str | None:
    return None if asked == cached else "another question"


def confidence(similarity: float, age_seconds: float, metadata: dict[str, Any]) -> float:
    return similarity - age_seconds


def hook(event: str, attrs: dict[str, Any]) -> None:
    return None


def is_whole(response: Any) -> bool:
    return bool(response)


a_guard: Guard = guard
a_confidence: Confidence = confidence
a_hook: MetricsHook = hook
a_validator: Validator = is_whole
a_same_answer: SameAnswer = lambda new, cached: bool(new == cached)  # noqa: E731
a_verifier: Verifier = lambda asked, cached: asked == cached  # noqa: E731
a_rewrite: Rewrite = lambda messages: str(messages[-1]["content"])  # noqa: E731
a_normalizer: Normalizer = str.casefold
a_searchable_store: SearchableStore = Faraway()
a_searching: Searching = Faraway()
an_index: Index = Flat()
many_at_once: SearchingMany = ExactIndex(8)
sources: list[VectorSource] = [MemoryStore(), SQLiteStore("a.db")]
fetching: list[Fetching] = [SQLiteStore("a.db"), a_searching]
locking: list[FlightLocks] = [Orderly(), SQLiteStore("a.db")]
priced: Priced = ExactIndex(8)
indexes: list[IndexFactory] = [ExactIndex, lambda dim: Flat()]
stores: list[Store] = [Nowhere(), MemoryStore(), SQLiteStore("a.db")]
codecs: list[Codec] = [Upper(), AutoCodec(), PickleCodec(), TypedCodec(int), codec_for(list[int])]
not_a_guard: Guard = is_whole  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
not_a_codec: Codec = Flat()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
not_a_store: Store = Upper()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


def known(outcome: Outcome, identity: Identity, one: Entry) -> bool:
    assert_type(one.identity, Identity)
    assert_type(outcome, Hit | Miss)
    return one.identity == identity


def kind_of(embedder: AnyEmbedder, store: Store) -> str:
    if isinstance(store, Compactable):
        store.compact()
    if isinstance(store, Shrinkable):
        assert_type(store.shrink(), bool)
    if isinstance(store, Deferring):
        store.flush()
    if isinstance(store, Remembering):
        assert_type(list(store.labels()), list[Label])
        assert_type(store.states(), Mapping[str, bytes])
    if isinstance(store, Owned):
        assert_type(store.owner(), tuple[str, int] | None)
    return "async" if isinstance(embedder, AsyncEmbedder) else embedder.fingerprint


@semantic_cache(embedder=HashEmbedder(), store=Nowhere(), codec=Upper())
def shouted(prompt: str) -> str:
    return prompt


class TestNowhere(StoreContract):
    def make_store(self, place: Any) -> Store:
        return Nowhere()


class TestFlat(IndexContract):
    RECALL = 0.9

    def make_index(self, dim: int) -> Index:
        return Flat()


clock = ManualClock()
embedder: Embedder = HashEmbedder(dim=16, name="small")
cache = SemanticCache(
    store=Nowhere(),
    embedder=embedder,
    clock=clock,
    guards=(guard,),
    confidence_fn=confidence,
    validator=is_whole,
    metrics_hook=hook,
)
clock.advance(60)
assert_type(clock(), float)
assert_type(unit(1.0, 2.0), Vector)
assert_type(entry("q", vector=np.ones(8, dtype=np.float32)), Entry)
