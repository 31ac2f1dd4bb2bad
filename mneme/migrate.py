"""
A cache for another embedder: every entry of one store, embedded anew into another.

One flow, as everywhere in mneme: `reembed` runs it in the calling thread, `areembed` awaits it
on asyncio or trio with whatever blocks in worker threads.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from inspect import isawaitable, iscoroutinefunction
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

from mneme._core.face import check_embedder
from mneme._core.keys import check_namespace, key_of, normalize
from mneme._core.ports import drive, embeds_async, in_worker_thread, to_its_end
from mneme._core.settings import check_count
from mneme._core.vectors import as_units
from mneme.errors import EmbedderDimensionError, EmbeddingError
from mneme.records import Changes, Entry, Identity, Selection, Vector
from mneme.stores._address import open_store, owner_of
from mneme.stores._reader import open_source
from mneme.types import AnyEmbedder, Embedder, SearchableStore, Store

__all__ = ["areembed", "reembed"]

T = TypeVar("T")

Place: TypeAlias = str | os.PathLike[str] | Store
"""A path, the URL of a server, or a store."""

Progress: TypeAlias = Callable[[int, int], object]
"""``(done, total)``, called before the first batch and after each."""

PAUSES = (0.5, 2.0)
"""Seconds before the second and the third try of a batch that the embedder failed at."""

SET_ASIDE = 3
"""Entries that it fails at one after the other before the embedder is taken for down."""


def reembed(
    source: Place,
    dest: Place,
    new_embedder: Embedder,
    batch_size: int = 64,
    progress: bool | Progress = False,
    namespaces: Iterable[str] | None = None,
) -> int:
    """
    Put every entry of `source` into `dest` with a vector of `new_embedder`; how many this run
    did. A run that was interrupted, even killed, is taken up by running it again.

    Entries keep everything but their vector: identity, prompt, answer, metadata, tags and
    dates; those without one, or longer than the embedder's ``max_chars``, have none in
    `dest`. Counters come along. Labels and learned states do not: they are about the old
    vectors. `source` is only read, and done is what `dest` has at least as new.

    Args:
        source, dest: paths, addresses for `mneme.stores.open_store`, or stores; `dest` is
            made, is `new_embedder`'s, or is empty.
        new_embedder: of any dimension; `areembed` takes async ones.
        batch_size: texts in one call of the embedder and entries in one commit.
        progress: True shows it on stderr, with a bar where ``rich`` is installed; or
            ``(done, total) -> None``. The total takes one more reading of `source`.
        namespaces: only these; default: all.

    Raises:
        EmbedderMismatchError: `dest` holds another embedder's entries; it was not changed.
        EmbeddingError: the embedder failed, at three tries of each of three entries in a row,
            or in the end at some entry. What was done is kept; the others are not there yet.
        EmbedderDimensionError: it gives other shapes than it promises.
        StoreBackendError: a store failed or is not there. What was done is kept.
        TypeError, ValueError: an argument makes no sense.
    """
    check_embedder(new_embedder)
    if embeds_async(new_embedder):
        raise TypeError(
            f"{type(new_embedder).__name__} is async. Nothing was touched. "
            "Use areembed, or wrap it with mneme.to_sync_embedder."
        )
    job = _Job(source, dest, new_embedder, batch_size, namespaces)
    return drive(_run(job, _Here(), progress))


async def areembed(
    source: Place,
    dest: Place,
    new_embedder: AnyEmbedder,
    batch_size: int = 64,
    progress: bool | Progress = False,
    namespaces: Iterable[str] | None = None,
) -> int:
    """
    As `reembed`, awaited; `new_embedder` is async, or sync and then runs in worker threads.

    Batches are embedded one after the other: what is done is then always a beginning of
    `source`, and a provider's limit on requests is met by `batch_size` alone. Cancelling it
    keeps what is done.
    """
    check_embedder(new_embedder)
    job = _Job(source, dest, new_embedder, batch_size, namespaces)
    return await _run(job, _OnALoop(), progress)


# -- the flow ---------------------------------------------------------------------------------


class _Hands(Protocol):
    """How what blocks is done: in this thread, or in another."""

    async def call(self, work: Callable[..., T], *args: Any) -> T:
        """`work`; a cancelled caller does not wait for it."""
        ...

    async def store(self, work: Callable[..., T], *args: Any) -> T:
        """`work`, which is over when this returns."""
        ...


class _Here:
    async def call(self, work: Callable[..., T], *args: Any) -> T:
        return work(*args)

    store = call


class _OnALoop:
    async def call(self, work: Callable[..., T], *args: Any) -> T:
        return await in_worker_thread(work, *args)

    async def store(self, work: Callable[..., T], *args: Any) -> T:
        return await to_its_end(work, *args)


async def _run(job: _Job, hands: _Hands, progress: bool | Progress) -> int:
    done = total = 0
    try:
        await hands.store(job.open)
        with _telling(progress) as tell:
            if tell is not None:
                total = await hands.store(job.left)
                tell(0, total)
            while batch := await hands.store(job.batch):
                done += await _renew(job, hands, batch)
                if tell is not None:
                    tell(done, max(total, done))
            await hands.store(job.finish)
    finally:
        await hands.store(job.close)
    return done


async def _renew(job: _Job, hands: _Hands, batch: Sequence[Entry]) -> int:
    """Embed one batch and commit it; how many of its entries were done."""
    texts = [spoken(entry) for entry in batch if job.speaks(entry)]
    try:
        units = await _embedded(job, hands, texts)
    except EmbeddingError as exc:
        if len(batch) > 1:
            # One text may be what it fails at: the others are not to wait for that one.
            return sum([await _renew(job, hands, [entry]) for entry in batch])
        job.set_aside(exc)
        return 0
    await hands.store(job.commit, batch, units)
    return len(batch)


async def _embedded(job: _Job, hands: _Hands, texts: Sequence[str]) -> list[Vector]:
    """
    The vectors of `texts`.

    Raises:
        EmbeddingError: it failed at every try.
        EmbedderDimensionError: the embedder is not what it says.
    """
    for pause in (*PAUSES, None) if texts else ():
        try:
            return as_units(await _raw(job.embedder, hands, texts), len(texts), job.dim)
        except EmbedderDimensionError:
            raise
        except Exception as exc:  # an embedder may raise anything
            if pause is None:
                raise EmbeddingError(
                    f"the embedder {job.embedder.fingerprint!r} failed at {texts[0]!r:.60} "
                    f"({type(exc).__name__}: {str(exc).rstrip('.')})"
                ) from exc
            await hands.call(time.sleep, pause)
    return []


async def _raw(embedder: AnyEmbedder, hands: _Hands, texts: Sequence[str]) -> Any:
    embed_batch = getattr(embedder, "embed_batch", None)
    if embed_batch is not None:
        return await _called(embed_batch, hands, texts)
    return [await _called(embedder.embed, hands, text) for text in texts]


async def _called(embed: Callable[[Any], Any], hands: _Hands, given: Any) -> Any:
    if iscoroutinefunction(embed):
        return await embed(given)
    raw = await hands.call(embed, given)
    return await raw if isawaitable(raw) else raw


def spoken(entry: Entry) -> str:
    """
    What is embedded of `entry`: its prompt, with single spaces where its cache normalizes.

    The key tells: it is the digest of the normalized prompt, or else of something else.
    """
    is_normalized = entry.key == key_of(normalize(entry.prompt))
    return " ".join(entry.prompt.split()) if is_normalized else entry.prompt


# -- the work ---------------------------------------------------------------------------------


class _Job:
    """Two stores, and how far the way from one to the other has been gone."""

    source: Store
    dest: Store

    def __init__(
        self,
        source: Place,
        dest: Place,
        embedder: AnyEmbedder,
        batch_size: int,
        namespaces: Iterable[str] | None,
    ) -> None:
        check_count(batch_size, "batch_size")
        if isinstance(namespaces, str):
            raise ValueError(f"namespaces must be a list of names, got {namespaces!r}.")
        self.embedder = embedder
        self.dim = int(embedder.dim)
        self._max_chars: int | None = getattr(embedder, "max_chars", None)
        self._places = source, dest
        self._batch_size = batch_size
        self._names = None if namespaces is None else frozenset(map(check_namespace, namespaces))
        self._known: dict[Identity, float] = {}
        self._batches: Iterator[list[Entry]] = iter(())
        self._failures: list[EmbeddingError] = []
        self._in_a_row = 0
        self._opened = ExitStack()

    def open(self) -> None:
        """Open both stores, `source` first: where there is none, none is made of `dest`."""
        if _are_one(*self._places):
            raise ValueError("source and dest are one store. Nothing was changed. Use two.")
        source, dest = self._places
        if isinstance(source, (str, os.PathLike)):
            self.source = self._opened.enter_context(closing(open_source(source)[0]))
        else:
            self.source = source
            if (owner := owner_of(source)) is not None:
                source.claim(*owner)
        if isinstance(dest, (str, os.PathLike)):
            self.dest = self._opened.enter_context(closing(open_store(dest)))
        else:
            self.dest = dest
        self.dest.claim(self.embedder.fingerprint, self.dim)
        if not isinstance(self.dest, SearchableStore):
            self._known = {entry.identity: entry.created_at for entry in self.dest.scan()}
        self._batches = self._to_do()

    def close(self) -> None:
        """Let go of the stores that were opened here."""
        self._opened.close()

    def left(self) -> int:
        """How many entries are to be done."""
        return sum(map(len, self._to_do()))

    def batch(self) -> list[Entry]:
        """The next entries to be done; none: all are."""
        return next(self._batches, [])

    def _to_do(self) -> Iterator[list[Entry]]:
        names = self._names
        wanted = (one for one in self.source.scan() if names is None or one.namespace in names)
        lacking: list[Entry] = []
        while chunk := list(islice(wanted, self._batch_size)):
            lacking += self._missing(chunk)
            if len(lacking) >= self._batch_size:
                yield lacking[: self._batch_size]
                lacking = lacking[self._batch_size :]
        if lacking:
            yield lacking

    def _missing(self, entries: list[Entry]) -> list[Entry]:
        """Those of `entries` that `dest` does not have, or has as they were before."""
        known = self._known
        if isinstance(self.dest, SearchableStore):
            # It would hide what is dead, which would then be missing for ever.
            dead = Selection(dead_by=time.time())
            entries = [one for one in entries if not dead.has(one)]
            found = self.dest.fetch([one.identity for one in entries])
            known = {one.identity: one.created_at for one in found if one is not None}
        return [one for one in entries if known.get(one.identity, float("-inf")) < one.created_at]

    def speaks(self, entry: Entry) -> bool:
        """Whether `entry` is to have a vector in `dest`."""
        is_short = self._max_chars is None or len(entry.prompt) <= self._max_chars
        return entry.vector is not None and is_short

    def commit(self, batch: Sequence[Entry], units: Sequence[Vector]) -> None:
        vectors = iter(units)
        puts = [replace(one, vector=next(vectors) if self.speaks(one) else None) for one in batch]
        self.dest.commit(Changes(tuple(puts)))
        if units:
            self._in_a_row = 0

    def set_aside(self, exc: EmbeddingError) -> None:
        """Go on without an entry that the embedder fails at; not where it fails at all."""
        self._failures.append(exc)
        self._in_a_row += 1
        if self._in_a_row == SET_ASIDE:
            raise self._complaint("Stopped after three failures in a row")

    def finish(self) -> None:
        """Bring the counters of `dest` up to those of `source`: a second time adds nothing."""
        has = self.dest.counts()
        lacking = {
            (space, name): n - has.get((space, name), 0)
            for (space, name), n in self.source.counts().items()
            if (self._names is None or space in self._names) and n > has.get((space, name), 0)
        }
        if lacking:
            self.dest.commit(Changes(counts=lacking))
        if self._failures:
            raise self._complaint(f"Left out: {len(self._failures):,}")

    def _complaint(self, what: str) -> EmbeddingError:
        complaint = EmbeddingError(
            f"{self._failures[-1]}. {what}; what was done is in {self.dest.description}. "
            "Check the embedder and run it again: it goes on from there."
        )
        complaint.__cause__ = self._failures[-1].__cause__
        return complaint


def _are_one(source: Place, dest: Place) -> bool:
    if isinstance(source, (str, os.PathLike)) and isinstance(dest, (str, os.PathLike)):
        return str(source) == str(dest) or Path(source).resolve() == Path(dest).resolve()
    return source is dest


# -- telling ----------------------------------------------------------------------------------


@contextmanager
def _telling(progress: bool | Progress) -> Iterator[Progress | None]:
    """Whom to tell how far it has come, if anybody."""
    if progress is False:
        yield None
    elif progress is not True:
        yield progress
    else:
        try:
            from rich.console import Console
            from rich.progress import Progress as Bars
        except ModuleNotFoundError:
            yield _in_words
            return
        with Bars(console=Console(stderr=True)) as bars:
            task = bars.add_task("embedding", total=None)
            yield lambda done, total: bars.update(task, completed=done, total=total)


def _in_words(done: int, total: int) -> None:
    sys.stderr.write(f"embedded {done:,} of {total:,}\n")
