"""Vectors kept in less memory: the same answers, and a change at run time that nobody notices."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mneme import AsyncSemanticCache, MemoryStore, SemanticCache, SQLiteStore
from mneme.errors import StoreBackendError
from mneme.records import Changes, Entry, Identity, Vector
from mneme.testing import HashEmbedder, unit

DTYPES = ("float32", "float16", "int8")

WORDS = [
    "red",
    "green",
    "blue",
    "small",
    "large",
    "round",
    "flat",
    "old",
    "new",
    "loud",
    "quiet",
    "warm",
    "cold",
    "wet",
    "dry",
]


def question(number: int) -> str:
    return " ".join(WORDS[(number * step + step) % len(WORDS)] for step in (1, 2, 4, 7)) + str(
        number
    )


def fill(cache: SemanticCache, count: int = 120) -> None:
    cache.put_many({question(number): number for number in range(count)})
    for number in range(count):
        cache.put(question(number), -number, namespace=f"tenant {number % 3}")


class Found(NamedTuple):
    """An answer and its cosine; the last bits of a float32 are nobody's to promise."""

    response: str
    similarity: float

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Found)
            and other.response == self.response
            and abs(other.similarity - self.similarity) < 1e-6
        )

    __hash__ = None  # type: ignore[assignment]


def answers(cache: SemanticCache, count: int = 120) -> list[Any]:
    """What near questions get, with the cosine it was decided by."""
    found = []
    for number in range(count):
        for namespace in ("default", f"tenant {number % 3}"):
            hit = cache.get(f"please {question(number)}", namespace=namespace)
            found.append(None if hit is None else Found(hit.response, hit.similarity))
    return found


class Plain:
    """A store that keeps vectors and gives no single ones back."""

    blocking = False
    description = "a plain store"
    schema_version = 1
    bad_rows = 0

    def __init__(self) -> None:
        self._inner = MemoryStore()

    def claim(self, fingerprint: str, dim: int) -> None:
        self._inner.claim(fingerprint, dim)

    def scan(self) -> Iterator[Entry]:
        return self._inner.scan()

    def commit(self, changes: Changes) -> int:
        return self._inner.commit(changes)

    def mark(self) -> int:
        return self._inner.mark()

    def changes_since(self, mark: int) -> Changes | None:
        return self._inner.changes_since(mark)

    def counts(self) -> Mapping[tuple[str, str], int]:
        return self._inner.counts()

    def close(self) -> None:
        return None


@pytest.fixture(params=["memory", "file", "group"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryStore | SQLiteStore:
    if request.param == "memory":
        return MemoryStore()
    durability = "commit" if request.param == "file" else "group"
    return SQLiteStore(tmp_path / "a.db", durability=durability)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_answers_are_those_of_float32(store: Any, dtype: Any) -> None:
    """Hits, misses and their similarities, in every store."""
    with SemanticCache(
        store=MemoryStore(), embedder=HashEmbedder(64), similarity_threshold=0.8
    ) as plain:
        fill(plain)
        wanted, full = answers(plain), plain.stats().index_memory_bytes
    with SemanticCache(
        store=store, embedder=HashEmbedder(64), similarity_threshold=0.8, vector_dtype=dtype
    ) as cache:
        fill(cache)
        assert answers(cache) == wanted
        assert cache.stats().vector_dtype == cache.health().vector_dtype == dtype
        assert cache.stats().index_memory_bytes < 0.6 * full


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_requantizing_changes_no_answer(store: Any, dtype: Any) -> None:
    """There and back, and with entries put and removed since."""
    with SemanticCache(store=store, embedder=HashEmbedder(64), similarity_threshold=0.8) as cache:
        fill(cache)
        wanted, full = answers(cache), cache.stats().index_memory_bytes
        cache.requantize(dtype)
        assert cache.stats().vector_dtype == cache.health().vector_dtype == dtype
        assert cache.stats().index_memory_bytes < 0.6 * full
        assert answers(cache) == wanted
        cache.delete(question(7))
        cache.put("an entirely different matter", "new")
        hit = cache.get("an entirely different matter indeed")
        assert hit is not None
        assert hit.response == "new"
        cache.requantize("float32")
        assert cache.stats().vector_dtype == "float32"
        hit = cache.get("an entirely different matter indeed")
        assert hit is not None
        assert hit.response == "new"
        assert cache.stats().index_memory_bytes <= full + 64 * 4


def test_a_store_that_gives_no_vectors() -> None:
    """The cosine in fewer bytes decides; requantizing reads everything once."""
    with SemanticCache(
        store=Plain(), embedder=HashEmbedder(64), similarity_threshold=0.75, vector_dtype="int8"
    ) as cache:
        fill(cache)
        hits = [found for found in answers(cache) if found is not None]
        assert len(hits) > 100
        cache.requantize("float32")
        exact = [found for found in answers(cache) if found is not None]
        for one, other in zip(hits, exact, strict=True):
            assert one[0] == other[0]
            assert one[1] == pytest.approx(other[1], abs=0.02)


class Hesitant(MemoryStore):
    """Gives vectors only after something has happened meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Any = lambda: None

    def vectors(self, identities: Sequence[Identity], /) -> Sequence[Vector | None]:
        found = super().vectors(identities)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return found


def test_what_changes_meanwhile() -> None:
    """Entries put, replaced and removed while the store is read are as they were put last."""
    store = Hesitant()
    with SemanticCache(store=store, embedder=HashEmbedder(8), similarity_threshold=0.99) as cache:
        for number in range(8):
            cache.put(f"q{number}", number, embedding=unit(*[0.0] * number, 1.0))

        def change() -> None:
            cache.delete("q0")
            cache.put("q1", "moved", embedding=unit(1.0))
            cache.put("q8", "new", embedding=unit(1.0, 1.0))
            cache.put("q9", "gone", embedding=unit(1.0, -1.0))
            cache.delete("q9")
            # The old index answers until the new one is whole.
            hit = cache.get("?", embedding=unit(0.0, 0.0, 1.0))
            assert hit is not None
            assert hit.response == 2

        store.meanwhile = change
        cache.requantize("int8")
        said = []
        for wanted in (unit(1.0), unit(0.0, 1.0), unit(1.0, 1.0), unit(1.0, -1.0)):
            hit = cache.get("?", embedding=wanted)
            said.append(None if hit is None else hit.response)
        assert said == ["moved", None, "new", None]
        assert cache.stats().entries == 8


def test_clearing_meanwhile() -> None:
    """A partition that is emptied while it is read stays empty."""
    store = Hesitant()
    with SemanticCache(store=store, embedder=HashEmbedder(8)) as cache:
        cache.put("q", "old", embedding=unit(1.0))
        store.meanwhile = cache.clear
        cache.requantize("int8")
        assert cache.get("?", embedding=unit(1.0)) is None
        assert cache.stats().index_memory_bytes == 0


def test_threads_look_up_meanwhile() -> None:
    """Every lookup finds its entry, whatever state the indexes are in."""
    with SemanticCache(
        store=MemoryStore(), embedder=HashEmbedder(64), similarity_threshold=0.8
    ) as cache:
        fill(cache)
        wanted, wrong, done = answers(cache, 40), [], threading.Event()

        def look() -> None:
            while not done.is_set():
                wrong.extend([None] * (answers(cache, 40) != wanted))

        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        for dtype in ("int8", "float16", "float32", "int8"):
            cache.requantize(dtype)  # type: ignore[arg-type]
        done.set()
        for thread in threads:
            thread.join()
        assert not wrong


class Fragile(MemoryStore):
    """A store whose vectors cannot be read."""

    def vectors(self, identities: Sequence[Identity], /) -> Sequence[Vector | None]:
        raise StoreBackendError("the disk is gone. Nothing was read. Check it.")


def test_a_store_that_is_down() -> None:
    """A lookup is decided by the cosine there is; requantizing raises and breaks nothing."""
    with SemanticCache(
        store=Fragile(), embedder=HashEmbedder(64), similarity_threshold=0.8, vector_dtype="int8"
    ) as cache:
        cache.put("a b c d e", 1)
        assert cache.get("a b c d e f") is not None
        with pytest.raises(StoreBackendError):
            cache.requantize("float16")
        assert cache.get("a b c d e f") is not None


@pytest.mark.parametrize("face", [SemanticCache, AsyncSemanticCache])
def test_dtypes_that_there_are(face: Any) -> None:
    """Others are refused by the constructor, which names them."""
    with pytest.raises(ValueError, match="vector_dtype must be one of"):
        face(store=MemoryStore(), embedder=HashEmbedder(8), vector_dtype="int4")


@pytest.mark.anyio
async def test_asynchronously(tmp_path: Path) -> None:
    """The same for the other face, off its loop."""
    async with AsyncSemanticCache(
        tmp_path / "a.db", embedder=HashEmbedder(64), similarity_threshold=0.8, vector_dtype="int8"
    ) as cache:
        await cache.put("a b c d e", 1)
        for dtype in ("float16", "float32", "int8"):
            hit = await cache.get("a b c d e f")
            assert hit is not None
            assert hit.similarity == pytest.approx((5 / 6) ** 0.5, abs=0.2)
            await cache.requantize(dtype)  # type: ignore[arg-type]
            assert cache.stats().vector_dtype == dtype
        with pytest.raises(ValueError, match="one of"):
            await cache.requantize("int4")  # type: ignore[arg-type]
        assert cache.stats().vector_dtype == "int8"
