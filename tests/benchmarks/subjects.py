"""
The caches that are measured, each with the same few methods.

Imported in the environment of each package: only the standard library, numpy and the package
itself may be imported here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["SUBJECTS", "Mneme", "Unsupported", "answer"]

NOW = time.time
BATCH = 10_000
"""Entries of one `put_many`."""

LARGEST = 100_000_000

ANSWER = "You will find it in the settings, below the name of your account. " * 7


class Unsupported(Exception):
    """This package has no such thing."""


def answer(number: int) -> str:
    """430 characters, other ones for each entry."""
    return f"{number:07} {ANSWER}"[:430]


class Table:
    """An embedder that looks up what it was given, and costs next to nothing."""

    fingerprint = "benchmark"

    def __init__(self, dim: int, known: dict[str, Any] | None = None) -> None:
        self.dim = dim
        self.known = known or {}

    def embed(self, text: str) -> Any:
        return self.known[text]


class AsyncTable(Table):
    async def embed(self, text: str) -> Any:
        return self.known[text]


class Mneme:
    """The package of this repository."""

    package = "mneme-toolkit"
    has_put_many = True
    settings: dict[str, Any] = {"guards": (), "self_check": False}  # noqa: RUF012

    def __init__(self) -> None:
        import mneme

        self.mneme = mneme
        self.version = version(self.package)

    def cache(
        self,
        dim: int,
        path: Path | None = None,
        *,
        known: dict[str, Any] | None = None,
        age: Callable[[], float] | None = None,
        **settings: Any,
    ) -> Any:
        """A cache in a file, or in memory; its clock is `age` seconds ahead."""
        if age is not None:
            settings["clock"] = lambda: time.time() + age()
        return self._made("SemanticCache", Table(dim, known), path, settings)

    def async_cache(self, path: Path, dim: int, known: dict[str, Any], **settings: Any) -> Any:
        """A cache for ``async with``, whose embedder knows `known`."""
        return self._made("AsyncSemanticCache", AsyncTable(dim, known), path, settings)

    def _made(self, kind: str, embedder: Table, path: Path | None, settings: Any) -> Any:
        place = {"store": self.mneme.MemoryStore()} if path is None else {"path": path}
        settings = {"similarity_threshold": 0.9, **self.settings, **settings}
        return getattr(self.mneme, kind)(embedder=embedder, **place, **settings)

    def fill(self, cache: Any, texts: Sequence[str], vectors: Any, **terms: Any) -> None:
        """Store an answer to each text, in the quickest way there is."""
        for start in range(0, len(texts), BATCH):
            own = texts[start : start + BATCH]
            pairs = [(text, answer(start + at)) for at, text in enumerate(own)]
            cache.put_many(pairs, embeddings=vectors[start : start + BATCH], **terms)

    @property
    def default_guards(self) -> Any:
        return self.mneme.SemanticCache.__init__.__kwdefaults__["guards"]

    def settle(self, cache: Any) -> None:
        """Return when nothing that was put waits to be written."""
        store = cache._core.store
        if hasattr(store, "_flush"):
            store._flush()

    def sweep(self, cache: Any) -> None:
        """Return when all that a call has left to be done in the background is done."""
        cache._core.sweeping.wait()


class MnemeCache(Mneme):
    """mneme-cache, which has the same import name and nearly the same methods."""

    package = "mneme-cache"
    has_put_many = False
    settings: dict[str, Any] = {}  # noqa: RUF012

    def cache(
        self,
        dim: int,
        path: Path | None = None,
        *,
        known: dict[str, Any] | None = None,
        age: Callable[[], float] | None = None,
        **settings: Any,
    ) -> Any:
        # It asks `time.time` itself, and this process is for nothing but this cache.
        time.time = NOW if age is None else lambda: NOW() + age()
        return self._made("SemanticCache", Table(dim, known), path, _understood(settings))

    def async_cache(self, path: Path, dim: int, known: dict[str, Any], **settings: Any) -> Any:
        return super().async_cache(path, dim, known, **_understood(settings))

    def fill(self, cache: Any, texts: Sequence[str], vectors: Any, **terms: Any) -> None:
        for at, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
            cache.put(text, answer(at), embedding=vector, **terms)

    @property
    def default_guards(self) -> Any:
        raise Unsupported("mneme-cache has no guards")

    def settle(self, cache: Any) -> None:
        pass

    def sweep(self, cache: Any) -> None:
        pass


def _understood(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` without what would be the default of this repository's package."""
    if settings.pop("durability", "commit") != "commit":
        raise Unsupported("mneme-cache has no group commits")
    if settings.pop("answers", "memory") != "memory":
        raise Unsupported("mneme-cache keeps every answer in memory")
    return settings


class GPTCache:
    """GPTCache: its map in memory for exact gets, SQLite and a flat faiss index for others."""

    package = "gptcache"
    has_put_many = False

    def __init__(self) -> None:
        import gptcache

        self.gptcache = gptcache
        self.version = version(self.package)

    def cache(self, dim: int, path: Path | None = None, **settings: Any) -> Any:
        return GPTCacheFace(dim, path, settings.get("similarity_threshold", 0.9))

    def async_cache(self, *args: Any, **settings: Any) -> Any:
        raise Unsupported("GPTCache has no get that is awaited on its own")

    def fill(self, cache: Any, texts: Sequence[str], vectors: Any, **terms: Any) -> None:
        if terms:
            raise Unsupported("GPTCache has no namespaces")
        cache.fill(texts, vectors)

    def settle(self, cache: Any) -> None:
        pass


class GPTCacheFace:
    """`get` and `put` as the others have them."""

    def __init__(self, dim: int, path: Path | None, threshold: float) -> None:
        from gptcache import Cache, Config
        from gptcache.adapter import api
        from gptcache.manager import CacheBase, VectorBase, get_data_manager
        from gptcache.manager.data_manager import MapDataManager
        from gptcache.processor.pre import get_prompt
        from gptcache.similarity_evaluation import SearchDistanceEvaluation

        self._api, self._cache, self._vector = api, Cache(), None
        # Its similarity is 1 - d²/4, which for unit vectors is (1 + cosine) / 2. By default it
        # writes the whole index to disk at each twentieth put.
        config = Config(
            similarity_threshold=(1.0 + threshold) / 2.0,
            auto_flush=1_000_000_000,
            enable_token_counter=False,
            disable_report=True,
        )
        if path is None:
            self._manager = MapDataManager("there is no such file", LARGEST)
            self._cache.init(
                pre_embedding_func=get_prompt, data_manager=self._manager, config=config
            )
            return
        self._manager = get_data_manager(
            CacheBase("sqlite", sql_url=f"sqlite:///{path}"),
            VectorBase("faiss", dimension=dim, index_path=f"{path}.faiss", top_k=1),
            max_size=LARGEST,
        )
        self._cache.init(
            pre_embedding_func=get_prompt,
            embedding_func=lambda text, **_: self._vector,
            data_manager=self._manager,
            similarity_evaluation=SearchDistanceEvaluation(),
            config=config,
        )

    def fill(self, texts: Sequence[str], vectors: Any) -> None:
        keys = list(texts) if type(self._manager).__name__ == "MapDataManager" else vectors
        for start in range(0, len(texts), BATCH):
            own = list(texts[start : start + BATCH])
            answers = [answer(start + at) for at in range(len(own))]
            self._manager.import_data(
                own, answers, list(keys[start : start + BATCH]), [None] * len(own)
            )

    def get(self, query: str, *, embedding: Any = None) -> Any:
        self._vector = embedding
        return self._api.get(query, cache_obj=self._cache)

    def put(self, query: str, response: str, *, embedding: Any = None) -> None:
        self._vector = embedding
        self._api.put(query, response, cache_obj=self._cache)

    def close(self) -> None:
        pass


SUBJECTS: dict[str, Callable[[], Any]] = {
    "mneme": Mneme,
    "mneme-cache": MnemeCache,
    "gptcache": GPTCache,
}
