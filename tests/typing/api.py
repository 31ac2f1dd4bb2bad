"""
Uses that mypy --strict and pyright strict must accept, and mistakes that they must find.

Never run. A mistake is marked by an ignore: where a checker stops finding it, the ignore is
unused, which is an error too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type

import numpy as np

import mneme
from mneme import (
    AsyncEmbedder,
    AsyncSemanticCache,
    Embedder,
    Explanation,
    Health,
    Hit,
    MemoryStore,
    Miss,
    SemanticCache,
    SQLiteStore,
    Stats,
    bypass,
    embedder_from,
    namespace,
    observe,
    refresh,
    semantic_cache,
    serialized,
    to_async_embedder,
    to_sync_embedder,
)
from mneme.decorator import AsyncCachedFunction, CachedFunction, CacheInfo
from mneme.records import Vector


class Model:
    """The least that an embedder must have."""

    dim = 3
    fingerprint = "test:model:3:l2"

    def embed(self, text: str, /) -> Vector:
        return np.ones(3, dtype=np.float32)


class Frozen:
    """Attributes may be read-only."""

    @property
    def dim(self) -> int:
        return 3

    @property
    def fingerprint(self) -> str:
        return "test:frozen:3:l2"

    def embed(self, text: str) -> list[float]:
        return [1.0, 0.0, 0.0]


class Remote:
    """An embedder that is awaited."""

    dim = 3
    fingerprint = "test:remote:3:l2"

    async def embed(self, text: str, /) -> list[float]:
        return [1.0, 0.0, 0.0]


class Unnamed:
    dim = 3

    def embed(self, text: str, /) -> Vector:
        return np.ones(3, dtype=np.float32)


@dataclass
class Answer:
    text: str


# -- embedders ---------------------------------------------------------------------------------

model: Embedder = Model()
frozen: Embedder = Frozen()
remote: AsyncEmbedder = Remote()
unnamed: Embedder = Unnamed()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

assert_type(to_async_embedder(Model()), AsyncEmbedder)
assert_type(to_sync_embedder(Remote()), Embedder)
assert_type(serialized(Model()), Model)


def one_at_a_time(embedder: AsyncEmbedder) -> None:
    assert_type(serialized(embedder), AsyncEmbedder)


def plain(text: str) -> list[float]:
    return [1.0]


async def awaited(text: str) -> list[float]:
    return [1.0]


assert_type(embedder_from(plain, dim=1, fingerprint="plain"), Embedder)
assert_type(embedder_from(awaited, dim=1, fingerprint="awaited"), AsyncEmbedder)
embedder_from(plain, dim=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


# -- decorated functions -----------------------------------------------------------------------


@semantic_cache(embedder=model, threshold=0.85)
def ask(prompt: str, *, model: str = "m", temperature: float = 0.0) -> Answer:
    return Answer(prompt)


assert_type(ask("hi"), Answer)
assert_type(ask("hi", model="other", temperature=0.5), Answer)
assert_type(ask.lookup("hi", model="m"), Hit | Miss)
assert_type(ask.explain("hi"), Explanation)
assert_type(ask.refresh("hi"), Answer)
assert_type(ask.invalidate("hi"), int)
assert_type(ask.cache_info(), CacheInfo)
assert_type(ask.cache_info().hits, int)
assert_type(ask.cache_info().maxsize, int | None)
assert_type(ask.cache, SemanticCache | AsyncSemanticCache)
ask.cache_clear()
as_before: Callable[[str], Answer] = ask

ask()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ask(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ask("hi", "m")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ask("hi", modell="m")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ask.lookup("hi", modell="m")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ask.explain(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ask.refresh()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ask.invalidate(prompt=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ask.cache_size()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
ask.cache = SemanticCache("a.db", embedder=model)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


@semantic_cache(
    cache=AsyncSemanticCache(store=MemoryStore(), embedder=remote),
    prompt="question",
    ignore=("client",),
    version=2,
    namespace="tenant",
    ttl=timedelta(hours=1),
    stale_for=60,
    stale_if_error=timedelta(days=1),
    cache_if=bool,
    tags=["a", "b"],
    single_flight=False,
)
async def ask_later(client: object, question: str) -> Answer:
    return Answer(question)


async def use_ask_later(client: object) -> None:
    assert_type(await ask_later(client, "hi"), Answer)
    assert_type(await ask_later.lookup(client, "hi"), Hit | Miss)
    assert_type(await ask_later.explain(client, "hi"), Explanation)
    assert_type(await ask_later.refresh(client, question="hi"), Answer)
    assert_type(await ask_later.invalidate(client, "hi"), int)
    assert_type(ask_later.cache_info(), CacheInfo)
    ask_later.cache_clear()
    await ask_later("hi")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await ask_later.lookup(client)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await ask_later(client, 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@semantic_cache(
    cache=SemanticCache("a.db", embedder=model), single_flight="machine", flight_timeout=10.0
)
def ask_once(prompt: str) -> str:
    return prompt


assert_type(ask_once("hi"), str)
semantic_cache(embedder=model, single_flight="host")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

as_awaited: AsyncCachedFunction[[object, str], Answer] = ask_later
as_called: CachedFunction[[str], Answer] = semantic_cache(embedder=model)(lambda prompt: Answer(""))
as_coroutine: Callable[[object, str], Coroutine[Any, Any, Answer]] = ask_later


@semantic_cache(embedder=model)
def stream(prompt: str) -> Iterator[str]:
    yield prompt


@semantic_cache(embedder=model)
def generator(prompt: str) -> Generator[int, str, bool]:
    yield 1
    return True


@semantic_cache(embedder=remote)
async def stream_later(prompt: str) -> AsyncIterator[str]:
    yield prompt


async def use_streams() -> None:
    for word in stream("hi"):
        assert_type(word, str)
    assert_type(generator("hi"), Generator[int, str, bool])
    async for later in stream_later("hi"):
        assert_type(later, str)
    assert_type(stream.lookup("hi"), Hit | Miss)
    stream(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Service:
    @semantic_cache(embedder=model)
    def ask(self, prompt: str, n: int = 1) -> Answer:
        return Answer(prompt)

    @semantic_cache(embedder=remote)
    async def ask_later(self, prompt: str) -> Answer:
        return Answer(prompt)

    # From its class alone: mypy binds what is taken from an instance, static or not, and knows
    # no cached class methods.
    @staticmethod
    @semantic_cache(embedder=model)
    def answer(prompt: str) -> str:
        return prompt

    @semantic_cache(embedder=model)
    def stream(self, prompt: str) -> Iterator[bytes]:
        yield prompt.encode()


class SubService(Service):
    def twice(self, prompt: str) -> list[Answer]:
        return [self.ask(prompt), self.ask.refresh(prompt, n=2)]


async def use_methods(service: Service) -> None:
    assert_type(service.ask("hi", n=2), Answer)
    assert_type(service.ask.lookup("hi"), Hit | Miss)
    assert_type(service.ask.refresh("hi"), Answer)
    assert_type(service.ask.invalidate("hi", 3), int)
    assert_type(service.ask.cache_info(), CacheInfo)
    assert_type(Service.ask(service, "hi"), Answer)
    assert_type(Service.ask.lookup(service, "hi"), Hit | Miss)
    assert_type(await service.ask_later("hi"), Answer)
    assert_type(await service.ask_later.lookup("hi"), Hit | Miss)
    assert_type(await Service.ask_later(service, "hi"), Answer)
    assert_type(Service.answer("hi"), str)
    assert_type(Service.answer.lookup("hi"), Hit | Miss)
    assert_type(next(service.stream("hi")), bytes)
    service.ask()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    service.ask(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    service.ask.lookup("hi", m=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Service.ask(5, "hi")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await service.ask_later()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def pick(request: dict[str, str]) -> str:
    return request["question"]


@semantic_cache(
    cache=SemanticCache(store=MemoryStore(), embedder=model), prompt=pick, namespace=pick
)
def picked(request: dict[str, str]) -> None:
    return None


assert_type(picked({"question": "hi"}), None)
semantic_cache(ask)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
semantic_cache(embeder=model)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
semantic_cache(embedder=model, ttl="1h")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
semantic_cache(embedder=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# -- the cache itself --------------------------------------------------------------------------


def use_cache(path: Path) -> None:
    with SemanticCache(
        path,
        embedder=model,
        similarity_threshold=0.9,
        default_ttl=timedelta(days=1),
        max_entries=1_000,
        namespace_quotas={"a": 10},
        confidence_fn=lambda similarity, age, metadata: similarity - age,
        validator=lambda response: bool(response),
        guards=[lambda asked, cached: None],
        metrics_hook=lambda event, attrs: None,
        normalize=str.casefold,
        answers="store",
        stale_check_interval=1,
        embed_timeout=1.5,
        store_timeout=timedelta(seconds=1),
        require_namespace=True,
        open_later=True,
        clock=lambda: 0.0,
    ) as cache:
        assert_type(cache, SemanticCache)
        hit = cache.get("q", namespace="n", bypass=False)
        assert_type(hit, Hit | None)
        assert_type(cache.put("q", {"a": 1}, metadata={"m": 1}, ttl=60, tags=("t",)), bool)
        assert_type(cache.put("q", "a", embedding=[1.0, 0.0]), bool)
        assert_type(cache.get_many(["q", "r"], embeddings=[[1.0]]), list[Hit | None])
        assert_type(cache.put_many({"q": 1, "r": "x"}), int)
        assert_type(cache.put_many([("q", 1), ("r", None)], namespace="n"), int)
        found = cache.lookup("q")
        assert_type(found, Hit | Miss)
        if isinstance(found, Miss):
            assert_type(cache.fill(found, "a"), bool)
            assert_type(found.nearest_similarity, float | None)
            assert_type(found.stale, Hit | None)
        else:
            assert_type(found.similarity, float)
            assert_type(found.metadata, dict[str, Any])
            assert_type(found.ttl_seconds, float | None)
        assert_type(str(cache.explain("q")), str)
        assert_type(cache.delete("q"), int)
        assert_type(cache.invalidate(tag="t", older_than=60.0), int)
        assert_type(cache.clear_namespace("n"), int)
        assert_type(cache.clear(), int)
        assert_type(cache.vacuum(namespace="n", compact=False), int)
        cache.compact()
        cache.set_similarity_threshold(0.5)
        assert_type(cache.similarity_threshold, float)
        cache.set_namespace_quota("n", None)
        use_stats(cache.stats(), cache.health())
        assert_type(cache.list_namespaces(), list[str])
        assert_type(cache.as_async(), AsyncSemanticCache)
        cache.get(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        cache.put("q")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        cache.get("q", "n")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        cache.similarity_threshold = 0.5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    cache.close()
    SemanticCache("a.db")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    SemanticCache("a.db", embedder=model, answers="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    SemanticCache("a.db", embedder=model, index_backend="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def use_async_cache() -> None:
    async with AsyncSemanticCache(store=SQLiteStore("a.db"), embedder=remote) as cache:
        assert_type(cache, AsyncSemanticCache)
        assert_type(await cache.get("q"), Hit | None)
        assert_type(await cache.put("q", b"a"), bool)
        assert_type(await cache.get_many(iter(["q"])), list[Hit | None])
        assert_type(await cache.put_many({"q": 1}, tags=["t"]), int)
        found = await cache.lookup("q")
        assert_type(found, Hit | Miss)
        if isinstance(found, Miss):
            assert_type(await cache.fill(found, "a", ttl=1), bool)
        assert_type(await cache.explain("q"), Explanation)
        assert_type(await cache.delete("q"), int)
        assert_type(await cache.invalidate(namespace="n"), int)
        assert_type(await cache.clear_namespace("n"), int)
        assert_type(await cache.clear(), int)
        assert_type(await cache.vacuum(), int)
        await cache.compact()
        use_stats(cache.stats("n"), cache.health())
        assert_type(cache.as_sync(), SemanticCache)
        cache.set_namespace_quota("n", 5)
    await cache.close()


def use_stats(stats: Stats, health: Health) -> None:
    assert_type(stats.hit_rate, float)
    assert_type(stats.hits, int)
    assert_type(stats.namespace, str | None)
    assert_type(health.healthy, bool)
    assert_type(health.oldest_entry_age_seconds, float | None)
    stats.misses = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


# -- blocks ------------------------------------------------------------------------------------


def use_blocks() -> None:
    with namespace("tenant-7") as name, bypass() as nothing, refresh():
        assert_type(name, str)
        assert_type(nothing, None)
    with observe() as seen:
        ask("hi")
    assert_type(seen, list[Hit | Miss])
    with namespace(7):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        pass


# -- errors ------------------------------------------------------------------------------------

every_error: list[type[mneme.MnemeError]] = [
    mneme.CacheClosedError,
    mneme.CheckpointError,
    mneme.CodecError,
    mneme.CorruptCacheError,
    mneme.EmbedderDimensionError,
    mneme.EmbedderMismatchError,
    mneme.EmbeddingError,
    mneme.IndexBackendUnavailableError,
    mneme.MultiProcessLockError,
    mneme.NamespaceQuotaExceededError,
    mneme.NamespaceRequiredError,
    mneme.QuantizationError,
    mneme.SchemaMigrationError,
    mneme.StoreBackendError,
]
assert_type(mneme.__version__, str)
