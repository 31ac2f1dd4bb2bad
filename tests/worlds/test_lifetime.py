"""The life of a cache: its settings, its faces, its owner and its end."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from support.embedders import AsyncSpy, Spy, cosine
from support.scenes import Scene, everywhere
from support.worlds import WORLDS, World, settled

from mneme import (
    AsyncSemanticCache,
    CacheClosedError,
    IndexBackendUnavailableError,
    MemoryStore,
    SemanticCache,
    SQLiteStore,
    semantic_cache,
)
from mneme.testing import ManualClock

FACES = pytest.mark.parametrize("face", [SemanticCache, AsyncSemanticCache])


@everywhere()
async def test_a_closed_cache_refuses_everything(s: Scene) -> None:
    """After `close` every method raises CacheClosedError, and closing again does nothing."""
    async with s.cache() as cache:
        miss = await cache.lookup("q")
        await cache.put("q", "r")
    await cache.close()
    for name, args in (
        ("get", ["q"]),
        ("lookup", ["q"]),
        ("explain", ["q"]),
        ("put", ["q", "r"]),
        ("fill", [miss, "r"]),
        ("get_many", [["q"]]),
        ("put_many", [{"q": "r"}]),
        ("delete", ["q"]),
        ("clear", []),
        ("clear_namespace", ["default"]),
        ("vacuum", []),
        ("compact", []),
        ("stats", []),
        ("health", []),
        ("list_namespaces", []),
        ("set_namespace_quota", ["default", 1]),
    ):
        with pytest.raises(CacheClosedError, match="Open a new one"):
            await getattr(cache, name)(*args)
    with pytest.raises(CacheClosedError):
        await cache.invalidate(tag="t")
    with pytest.raises(CacheClosedError):
        async with _entered(cache.cache):
            pass
    assert "closed" in repr(cache.cache)
    async with s.cache() as cache:
        assert (await cache.get("q")).response == "r"


class _entered:
    """A face's own ``with`` or ``async with``."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    async def __aenter__(self) -> Any:
        enter = getattr(self._cache, "__aenter__", None) or self._cache.__enter__
        return await settled(enter())

    async def __aexit__(self, *exc: Any) -> Any:
        leave = getattr(self._cache, "__aexit__", None) or self._cache.__exit__
        return await settled(leave(*exc))


@everywhere()
async def test_a_decorated_function_of_a_closed_cache_says_so(s: Scene) -> None:
    """Calling a function whose cache is closed raises; the function is not called."""
    calls = []

    async def ask(prompt: str) -> str:
        calls.append(prompt)
        return "r"

    cache = s.make()
    function = semantic_cache(cache=cache)(s.world.written(ask))
    await s.call(function, "q")
    await settled(cache.close())
    for method in (function, function.lookup, function.explain, function.invalidate):
        with pytest.raises(CacheClosedError):
            await s.call(method, "q")
    assert calls == ["q"]


@everywhere()
async def test_a_cache_without_an_owner_works(s: Scene) -> None:
    """Without ``with`` all works as well, and what was put is in the store at once."""
    s.durability = "commit"
    cache = s.make()
    assert await settled(cache.put("q", "r")) is True
    async with s.cache() as other:
        assert (await other.get("q")).response == "r"
    assert (await settled(cache.get("q"))).response == "r"
    await settled(cache.close())


@everywhere()
async def test_an_error_leaves_the_block_as_it_is(s: Scene) -> None:
    """An exception inside ``with cache`` comes out itself, in no group, and closes the cache."""
    error = LookupError("mine")
    with pytest.raises(LookupError) as caught:
        async with s.cache() as cache:
            raise error
    assert caught.value is error
    with pytest.raises(CacheClosedError):
        await cache.get("q")


@everywhere()
async def test_closing_inside_the_block(s: Scene) -> None:
    """A cache may be closed before its block ends."""
    async with s.cache() as cache:
        await cache.put("q", "r")
        await cache.close()
    async with s.cache() as cache:
        assert (await cache.get("q")).response == "r"


@pytest.mark.parametrize("opener", ["sync", "async"])
@pytest.mark.parametrize("world", [w for w in WORLDS if w.is_async], ids=str)
def test_faces_share_one_cache(world: World, opener: str, tmp_path: Path) -> None:
    """`as_async` and `as_sync` give the same entries, counters, settings and one `close`."""
    sync: SemanticCache
    face: AsyncSemanticCache
    if opener == "sync":
        sync = SemanticCache(tmp_path / "cache.db", embedder=Spy())
        face = sync.as_async()
    else:
        face = AsyncSemanticCache(tmp_path / "cache.db", embedder=Spy())
        sync = face.as_sync()
    sync.put("capital of france", "Paris")

    async def scenario() -> None:
        hit = await face.get("france capital of")
        assert hit is not None
        assert hit.response == "Paris"
        face.set_similarity_threshold(0.25)
        await face.put("red colour", "red")

    world.run(scenario)
    assert sync.similarity_threshold == 0.25
    assert sync.stats() == face.stats() == sync.as_async().as_sync().stats()
    assert (sync.stats().hits_semantic, sync.stats().entries) == (1, 2)
    if opener == "sync":
        sync.close()
    else:
        world.run(face.close)
    for one in (sync, face):
        with pytest.raises(CacheClosedError):
            one.stats()


def test_an_async_embedder_has_no_sync_face() -> None:
    """`SemanticCache` and `as_sync` refuse an async embedder, and name the remedy."""
    with pytest.raises(TypeError, match="to_sync_embedder"):
        SemanticCache(store=MemoryStore(), embedder=AsyncSpy())
    with pytest.raises(TypeError, match="to_sync_embedder"):
        AsyncSemanticCache(store=MemoryStore(), embedder=AsyncSpy()).as_sync()


@FACES
def test_the_constructor_of_an_async_cache_touches_no_file(face: Any, tmp_path: Path) -> None:
    """A file is made by the sync constructor, and for the async face by its first use only."""
    path = tmp_path / "cache.db"
    cache = face(path, embedder=Spy())
    assert path.exists() is (face is SemanticCache)
    if face is SemanticCache:
        cache.close()


@FACES
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"similarity_threshold": 85}, r"Did you mean 0\.85"),
        ({"similarity_threshold": math.nan}, "similarity_threshold"),
        ({"similarity_threshold": -0.01}, "similarity_threshold"),
        ({"default_ttl": -1}, "default_ttl"),
        ({"default_ttl": math.nan}, "default_ttl"),
        ({"max_entries": 0}, "max_entries"),
        ({"max_entries": 1.5}, "max_entries"),
        ({"max_entries": True}, "max_entries"),
        ({"namespace_quotas": {"a": -1}}, "namespace_quotas"),
        ({"namespace_quotas": {"": 1}}, "namespace"),
        ({"confidence_fn": 1}, "confidence_fn"),
        ({"validator": "yes"}, "validator"),
        ({"metrics_hook": object()}, "metrics_hook"),
        ({"guards": ["no"]}, "guard"),
        ({"stale_check_interval": -1}, "stale_check_interval"),
        ({"max_query_bytes": 0}, "max_query_bytes"),
        ({"max_response_bytes": -5}, "max_response_bytes"),
        ({"max_metadata_bytes": "1"}, "max_metadata_bytes"),
        ({"embed_timeout": math.nan}, "embed_timeout"),
        ({"store_timeout": -1}, "store_timeout"),
        ({"index_backend": "faiss"}, "index_backend"),
        ({"vector_dtype": "float64"}, "vector_dtype"),
        ({"path": "also.db"}, "exactly one"),
        ({"store": None}, "exactly one"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_setting_that_makes_no_sense(
    face: Any, settings: dict[str, Any], says: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """A wrong value is a ValueError of the constructor that names the setting; no file is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says):
        face(**{"store": MemoryStore(), "embedder": Spy(), **settings})
    assert list(tmp_path.iterdir()) == []


@FACES
def test_a_backend_that_is_not_installed(face: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has a name of its own, and says what installs it and what does without."""
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    for remedy in ("pip install 'mneme-toolkit[hnsw]'", "index_backend='auto'"):
        with pytest.raises(IndexBackendUnavailableError, match=re.escape(remedy)):
            face(store=MemoryStore(), embedder=Spy(), index_backend="hnsw")


@FACES
@pytest.mark.parametrize(
    ("broken", "kind", "says"),
    [
        (lambda: object(), TypeError, "dim, fingerprint, embed"),
        (lambda: _with(dim=0), ValueError, r"embedder\.dim"),
        (lambda: _with(dim=2.0), ValueError, r"embedder\.dim"),
        (lambda: _with(fingerprint=""), ValueError, r"embedder\.fingerprint"),
        (lambda: _with(fingerprint=None), ValueError, r"embedder\.fingerprint"),
        (lambda: _with(embed="no"), TypeError, "an embed"),
    ],
)
def test_what_is_no_embedder(
    face: Any, broken: Callable[[], Any], kind: type[Exception], says: str
) -> None:
    """An embedder that lacks something is refused by the constructor, which names what."""
    with pytest.raises(kind, match=says):
        face(store=MemoryStore(), embedder=broken())


def _with(**changes: Any) -> Spy:
    spy = Spy()
    spy.__dict__.update(changes)
    return spy


def test_a_store_object_for_a_file(tmp_path: Path) -> None:
    """`store=SQLiteStore(path)` is what `path` is short for."""
    with SemanticCache(store=SQLiteStore(tmp_path / "c.db"), embedder=Spy()) as cache:
        cache.put("q", "r")
    with SemanticCache(str(tmp_path / "c.db"), embedder=Spy()) as cache:
        assert cache.get("q") is not None
    with pytest.raises(ValueError, match="MemoryStore"):
        SQLiteStore(":memory:")


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_two_caches_of_one_memory_store(world: World) -> None:
    """Caches that share a `MemoryStore` see each other's puts, deletes and clears at once."""
    store = MemoryStore()

    async def scenario() -> None:
        one, two = (world.open(store=store, embedder=Spy(), clock=ManualClock()) for _ in range(2))
        await settled(one.put("q", "r", embedding=cosine(1.0)))
        assert (await settled(two.get("q"))).response == "r"
        assert (await settled(two.get("z", embedding=cosine(1.0)))).response == "r"
        assert await settled(two.delete("q")) == 1
        assert await settled(one.get("q")) is None
        await settled(one.put("p", "s"))
        assert await settled(two.clear()) == 1
        assert await settled(one.get("p")) is None

    world.run(scenario)


@pytest.mark.parametrize("world", [w for w in WORLDS if w.is_async], ids=str)
def test_a_cancelled_block_still_closes_the_cache(world: World, tmp_path: Path) -> None:
    """When the task around ``async with cache`` is cancelled, counters are saved all the same."""
    path = tmp_path / "cache.db"

    async def scenario() -> None:
        with anyio.CancelScope() as scope:
            async with AsyncSemanticCache(path, embedder=AsyncSpy()) as cache:
                await cache.get("q")
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        with pytest.raises(CacheClosedError):
            cache.stats()

    world.run(scenario)
    with SemanticCache(path, embedder=Spy()) as again:
        assert again.stats().misses == 1
