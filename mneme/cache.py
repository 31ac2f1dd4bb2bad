"""The cache itself: `SemanticCache` for sync code, `AsyncSemanticCache` for async."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, BinaryIO, TypeAlias

from mneme._core import flow
from mneme._core.archives import checked, dumped, restored, unmade
from mneme._core.core import Core
from mneme._core.face import (
    Face,
    Pairs,
    VectorDtype,
    asked_pairs,
    face_of,
    terms_of,
)
from mneme._core.ports import (
    BlockingPort,
    LoopPort,
    drive,
    embeds_async,
    in_worker_thread,
    task_crew,
    to_its_end,
)
from mneme._core.requantizing import requantize
from mneme.records import Explanation, Hit, Label, Miss, Selection
from mneme.types import AnyEmbedder, Store

__all__ = ["AnyCache", "AsyncSemanticCache", "SemanticCache"]


class SemanticCache(Face):
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
        if core.settings.open_later:
            return
        core.open()
        if not core.is_checked and core.settings.self_check is True:
            drive(flow.self_check(self._port))

    def as_async(self) -> AsyncSemanticCache:
        """The async face of the same cache: same entries, same counters, one `close`."""
        return face_of(self._core, object.__new__(AsyncSemanticCache))

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
        hit = self._core.quick(query, namespace)
        if hit is not None:
            return hit
        found = self.lookup(query, embedding=embedding, namespace=namespace)
        return found if isinstance(found, Hit) else None

    def lookup(
        self, query: str, *, embedding: Any = None, namespace: str | None = None
    ) -> Hit | Miss:
        """As `get`, but a `Miss` says why, and `fill` stores its answer without embedding."""
        ask = self._ask(query, namespace)
        hit = self._core.at_hand(ask)
        return hit if hit is not None else drive(flow.look(self._port, ask, embedding))

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
        asked, vectors = asked_pairs(self, pairs, embeddings, namespace)
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
        return self._core.remove_where(Selection())

    def labels(self) -> list[Label]:
        """
        What audits, shadow mode and the learned policy found out, oldest first: whether the
        answers of near questions were right. For `mneme.calibrate`; holds no text.
        """
        self._core.check_open()
        return self._core.labels()

    def vacuum(self, *, namespace: str | None = None, compact: bool = True) -> int:
        """
        Forget what has expired; the number. Its rows leave the store bit by bit in the
        background, and their space goes back to the disk if `compact`; `close` sees to the rest.
        """
        return self._core.vacuum(namespace, compact)

    def compact(self) -> None:
        """
        Give all space of removed entries back to the disk, and return when that is done. A file
        is written anew, and others that write wait meanwhile.
        """
        self._core.compact()

    def requantize(self, vector_dtype: VectorDtype) -> None:
        """
        Keep vectors in memory as `vector_dtype` from now on; lookups go on meanwhile.

        The indexes are made anew from the store, which always keeps float32, one partition
        after the other.

        Raises:
            ValueError: there is no such dtype; nothing was changed.
            StoreBackendError: the store cannot be read; call it again when it can.
        """
        requantize(self._core, vector_dtype)

    def dumps(self, dest: str | os.PathLike[str] | BinaryIO) -> int:
        """
        Write everything to one archive, which any store can take in; the number of entries.

        Raises:
            CheckpointError: `dest` cannot be written; an archive that was there is untouched.
        """
        return dumped(self._core, dest)

    @classmethod
    def loads(
        cls,
        source: str | os.PathLike[str] | BinaryIO,
        path: str | os.PathLike[str] | None = None,
        embedder: AnyEmbedder | None = None,
        *,
        store: Store | None = None,
        **settings: Any,
    ) -> SemanticCache:
        """
        A cache in a new file at `path` or in an empty `store`, filled from an archive of
        `dumps`; the embedder is required, and `settings` are those of the constructor.

        Raises:
            CheckpointError: `source` is no whole archive, `path` exists, or `store` holds
                entries; nothing was made or changed.
            EmbedderMismatchError: another embedder filled it.
            ValueError: path and store are given both, or neither, or a setting makes no sense;
                no file was made, and `store` may have taken in the archive.
        """
        owner = checked(path, store, embedder)
        restored(source, path, store, owner)
        try:
            return cls(path, store=store, embedder=owner, **settings)
        except BaseException:
            unmade(path)
            raise

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
        self._core.hire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncSemanticCache(Face):
    """
    A semantic cache for async code, on asyncio and trio; any number of tasks and loops.

    The methods are those of `SemanticCache`, awaited. On a file, the constructor touches
    nothing: ``async with`` or the first call opens it, in a worker thread.
    """

    def _adopt(self, core: Core) -> None:
        super()._adopt(core)
        self._port = LoopPort(core)
        self._crew = AsyncExitStack()
        if not core.store.blocking and not core.settings.open_later:
            core.open()

    def as_sync(self) -> SemanticCache:
        """
        The sync face of the same cache: same entries, same counters, one `close`.

        Raises:
            TypeError: the embedder is async.
        """
        return face_of(self._core, object.__new__(SemanticCache))

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
        hit = self._core.quick(query, namespace)
        if hit is not None:
            return hit
        found = await self.lookup(query, embedding=embedding, namespace=namespace)
        return found if isinstance(found, Hit) else None

    async def lookup(
        self, query: str, *, embedding: Any = None, namespace: str | None = None
    ) -> Hit | Miss:
        """See `SemanticCache.lookup`."""
        ask = self._ask(query, namespace)
        hit = self._core.at_hand(ask)
        return hit if hit is not None else await flow.look(self._port, ask, embedding)

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
        asked, vectors = asked_pairs(self, pairs, embeddings, namespace)
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
        chosen = self._selector(tag, namespace, older_than)
        return await self._port.run(self._core.remove_where, chosen)

    async def clear_namespace(self, namespace: str) -> int:
        """See `SemanticCache.clear_namespace`."""
        chosen = self._selector(None, namespace, None)
        return await self._port.run(self._core.remove_where, chosen)

    async def clear(self) -> int:
        """See `SemanticCache.clear`."""
        return await self._port.run(self._core.remove_where, Selection())

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

    async def requantize(self, vector_dtype: VectorDtype) -> None:
        """See `SemanticCache.requantize`."""
        await self._port.run(requantize, self._core, vector_dtype)

    async def dumps(self, dest: str | os.PathLike[str] | BinaryIO) -> int:
        """See `SemanticCache.dumps`."""
        return await self._port.run(dumped, self._core, dest)

    @classmethod
    async def loads(
        cls,
        source: str | os.PathLike[str] | BinaryIO,
        path: str | os.PathLike[str] | None = None,
        embedder: AnyEmbedder | None = None,
        *,
        store: Store | None = None,
        **settings: Any,
    ) -> AsyncSemanticCache:
        """See `SemanticCache.loads`."""
        owner = checked(path, store, embedder)
        await in_worker_thread(restored, source, path, store, owner)
        try:
            return cls(path, store=store, embedder=owner, **settings)
        except BaseException:
            await to_its_end(unmade, path)
            raise

    async def close(self) -> None:
        """
        Let what runs in the background end, save counters, close the store; from any task.

        Where another task than this one has entered the cache, that one is to leave it, too.
        """
        crew = self._core.task_crew
        try:
            if crew is None or crew.is_mine():
                await self._crew.aclose()
            else:
                # Only who has opened a task group may end it.
                self._core.task_crew = None
                await crew.at_rest()
        finally:
            # Shielded: a cancelled owner is no reason to lose counters.
            await self._port.run(self._core.close, shield=True)

    async def __aenter__(self) -> AsyncSemanticCache:
        self._core.check_open()
        if not self._core.settings.open_later:
            if not self._core.is_open:
                await self._port.run(self._core.open)
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
