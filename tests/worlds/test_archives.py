"""A cache travels in one archive, and what has expired leaves the file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import pytest

from mneme import (
    AsyncSemanticCache,
    CheckpointError,
    EmbedderMismatchError,
    MemoryStore,
    Miss,
    SemanticCache,
)
from mneme.checkpoint import read
from mneme.testing import HashEmbedder, ManualClock

QUESTION = "how do I reset my password"


def test_a_cache_travels_from_memory_to_a_file(tmp_path: Path) -> None:
    """Entries, namespaces, metadata, tags, lifetimes and counters arrive."""
    clock = ManualClock()
    archive = tmp_path / "cache.mneme"
    with SemanticCache(store=MemoryStore(), embedder=HashEmbedder(), clock=clock) as cache:
        cache.put(QUESTION, {"so": ["a", 1]}, metadata={"k": 1}, tags=["t"], ttl=60)
        cache.put(QUESTION, "theirs", namespace="other")
        assert cache.get(QUESTION) is not None
        assert cache.dumps(archive) == 2
    clock.advance(30)
    path = tmp_path / "cache.db"
    with SemanticCache.loads(archive, path, HashEmbedder(), clock=clock) as copy:
        hit = copy.get(f"please {QUESTION}")
        assert hit is not None
        assert (hit.response, hit.metadata, hit.ttl_seconds) == ({"so": ["a", 1]}, {"k": 1}, 30)
        assert copy.list_namespaces() == ["default", "other"]
        assert copy.stats().hits_exact == 1
        assert copy.invalidate(tag="t") == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "cache.db",
        "cache.db-mark",
        "cache.mneme",
    ]


def test_loading_makes_a_new_file_or_none(tmp_path: Path) -> None:
    """A file that is there is not touched, and a refused archive leaves nothing behind."""
    archive, path = tmp_path / "cache.mneme", tmp_path / "cache.db"
    with SemanticCache(store=MemoryStore(), embedder=HashEmbedder()) as cache:
        cache.put(QUESTION, "so")
        cache.dumps(archive)
    path.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="new file"):
        SemanticCache.loads(archive, path, HashEmbedder())
    assert path.read_bytes() == b"mine"
    path.unlink()
    with pytest.raises(EmbedderMismatchError):
        SemanticCache.loads(archive, path, HashEmbedder(name="another"))
    archive.write_bytes(archive.read_bytes()[:-10])
    with pytest.raises(CheckpointError):
        SemanticCache.loads(archive, path, HashEmbedder())
    assert [one.name for one in tmp_path.iterdir()] == ["cache.mneme"]


def test_a_cache_is_loaded_into_a_store() -> None:
    """`store=` takes the archive in, is open afterwards, and has to be empty before."""
    archive, store = BytesIO(), MemoryStore()
    with SemanticCache(store=MemoryStore(), embedder=HashEmbedder()) as cache:
        cache.put(QUESTION, "so")
        cache.dumps(archive)
    with SemanticCache.loads(archive, store=store, embedder=HashEmbedder()) as copy:
        hit = copy.get(QUESTION)
        assert hit is not None
        assert hit.response == "so"
        copy.put("another question", "mine")
    with pytest.raises(CheckpointError, match="holds entries already"):
        SemanticCache.loads(archive, store=store, embedder=HashEmbedder())
    assert len(list(store.scan())) == 2


def test_loading_needs_one_place_and_an_embedder(tmp_path: Path) -> None:
    """Two places, none, or no embedder are mistakes, and nothing is made."""
    both: dict[str, Any] = {"path": tmp_path / "a", "store": MemoryStore()}
    for places in (both, {}):
        with pytest.raises(ValueError, match="exactly one of path="):
            SemanticCache.loads(BytesIO(), embedder=HashEmbedder(), **places)
    with pytest.raises(TypeError, match=r"Pass embedder=\.$"):
        SemanticCache.loads(BytesIO(), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_settings_that_make_no_sense_leave_no_file(anyio_backend_name: str, tmp_path: Path) -> None:
    """Then `loads` can be called again as it was, with a setting that does."""
    archive, path = tmp_path / "cache.mneme", tmp_path / "cache.db"
    with SemanticCache(store=MemoryStore(), embedder=HashEmbedder()) as cache:
        cache.put(QUESTION, "so")
        cache.dumps(archive)
    with pytest.raises(ValueError, match="similarity_threshold"):
        SemanticCache.loads(archive, path, HashEmbedder(), similarity_threshold=85)

    async def main() -> None:
        with pytest.raises(ValueError, match="similarity_threshold"):
            await AsyncSemanticCache.loads(archive, path, HashEmbedder(), similarity_threshold=85)

    anyio.run(main, backend=anyio_backend_name)
    assert [one.name for one in tmp_path.iterdir()] == ["cache.mneme"]
    SemanticCache.loads(archive, path, HashEmbedder()).close()


def test_what_was_learned_travels(tmp_path: Path) -> None:
    """Labels, also those that no commit has saved yet, and what the policy made of them."""
    archive = tmp_path / "cache.mneme"
    learns: dict[str, Any] = {"embedder": HashEmbedder(), "policy": "learned", "max_error": 0.05}
    with SemanticCache(store=MemoryStore(), **learns) as cache:
        for number in range(40):
            miss = cache.lookup(f"how do I reset my password, attempt {number % 7} {number}")
            if isinstance(miss, Miss):
                cache.fill(miss, "so" if number % 2 else "otherwise")
        labels = cache.labels()
        cache.dumps(archive)
    assert labels
    with SemanticCache.loads(archive, tmp_path / "cache.db", **learns) as copy:
        assert copy.labels() == labels
    with read(archive) as opened:
        assert [name for name in opened.states if name.startswith("policy")]


def test_the_async_face_does_the_same(anyio_backend_name: str, tmp_path: Path) -> None:
    """`dumps` and `loads` are awaited there, and block no loop."""

    async def main() -> None:
        archive = tmp_path / "cache.mneme"
        async with AsyncSemanticCache(tmp_path / "a.db", embedder=HashEmbedder()) as cache:
            await cache.put(QUESTION, "so")
            assert await cache.dumps(archive) == 1
        copy = await AsyncSemanticCache.loads(archive, tmp_path / "b.db", HashEmbedder())
        async with copy:
            hit = await copy.get(QUESTION)
            assert hit is not None
            assert hit.response == "so"
        again = await AsyncSemanticCache.loads(
            archive, store=MemoryStore(), embedder=HashEmbedder()
        )
        async with again:
            assert await again.get(QUESTION) is not None

    anyio.run(main, backend=anyio_backend_name)


def test_what_expired_while_closed_leaves_the_file(tmp_path: Path) -> None:
    """`vacuum` counts what had expired by the time of opening, and gives its space back."""
    clock = ManualClock()
    path = tmp_path / "cache.db"
    with SemanticCache(path, embedder=HashEmbedder(), clock=clock) as cache:
        cache.put_many([(f"question {n}", "x" * 1_000) for n in range(500)], ttl=10)
        cache.put("keep", "this")
    before = path.stat().st_size
    clock.advance(100)
    with SemanticCache(path, embedder=HashEmbedder(), clock=clock) as cache:
        assert cache.vacuum() == 500
        assert cache.stats().expirations == 500
        assert cache.stats().entries == 1
        assert cache.vacuum() == 0
    assert path.stat().st_size < before / 4


def test_spacing_does_not_move_the_vector() -> None:
    """With `normalize` on, a reworded question may be spaced as it likes; without it may not."""
    heard: list[str] = []

    class Listening(HashEmbedder):
        def embed(self, text: str, /) -> object:  # type: ignore[override]
            heard.append(text)
            return super().embed(text)

    for prompt, normalize in (("  What\n is   IT ", True), (" What  is", False)):
        SemanticCache(
            store=MemoryStore(), embedder=Listening(), normalize=normalize, self_check=False
        ).get(prompt)
    assert heard == ["What is IT", " What  is"]


def test_options_that_the_index_does_not_have_are_refused() -> None:
    """An option is never taken and then ignored."""
    for nothing in (None, {}):
        SemanticCache(store=MemoryStore(), embedder=HashEmbedder(), index_options=nothing)
    with pytest.raises(ValueError, match=r"no options, got \['ef'\]"):
        SemanticCache(store=MemoryStore(), embedder=HashEmbedder(), index_options={"ef": 64})
