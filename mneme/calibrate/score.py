"""Labelled pairs with their cosines, as one embedder gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mneme._core.ports import embeds_async
from mneme._core.vectors import as_unit, as_units
from mneme.calibrate.pairs import Pair
from mneme.embedders import to_async_embedder, to_sync_embedder
from mneme.errors import MnemeError
from mneme.records import Vector
from mneme.types import AnyEmbedder, Embedder, Guard

__all__ = ["Progress", "ScoredPairs", "ascore_pairs", "score_pairs", "similarities"]

Progress = Callable[[int, int], object]
"""Called with (texts embedded, texts in all)."""

BATCH = 64


@dataclass(frozen=True, slots=True, eq=False)
class ScoredPairs:
    """
    Pairs, their cosines in the same order, and the embedder that the cosines are of.

    ``similarities`` has the shape ``(len(pairs),)``; ``refused`` says for each pair whether a
    guard refuses it, so that it is no hit at any threshold.
    """

    pairs: tuple[Pair, ...]
    similarities: NDArray[np.float64]
    refused: NDArray[np.bool_]
    fingerprint: str
    dim: int
    vector_dtype: str = "float32"
    guarded: bool = False

    def __post_init__(self) -> None:
        shape = (len(self.pairs),)
        if self.similarities.shape != shape or self.refused.shape != shape:
            raise ValueError(
                f"{len(self.pairs)} pairs have {self.similarities.size} similarities and "
                f"{self.refused.size} refusals; each needs one."
            )
        if not np.isfinite(self.similarities).all():
            at = int(np.flatnonzero(~np.isfinite(self.similarities))[0])
            raise ValueError(f"the similarity of pair {at} is {float(self.similarities[at])!r}.")

    @property
    def same(self) -> NDArray[np.bool_]:
        """For each pair, whether one answer is right for both."""
        return np.array([pair.same for pair in self.pairs], dtype=bool)

    def labelled(self) -> Iterator[tuple[float, bool]]:
        """(cosine, whether right) of the pairs that may be hits, for `guaranteed_threshold`."""
        for pair, similarity, is_refused in zip(
            self.pairs, self.similarities.tolist(), self.refused.tolist(), strict=True
        ):
            if similarity >= 0.0 and not is_refused:
                yield similarity, pair.same


def score_pairs(
    pairs: Iterable[Pair],
    embedder: AnyEmbedder,
    *,
    guards: Sequence[Guard] = (),
    progress: Progress | None = None,
) -> ScoredPairs:
    """
    The pairs with their cosines; every text is embedded once, in batches where it can be.

    Args:
        embedder: the one that the cache will use. An async one runs on a loop of its own, so
            inside a running loop use `ascore_pairs`.
        guards: those of the cache; a pair that one of them refuses is never a hit.
        progress: called with (texts embedded, texts in all).

    Raises:
        ValueError: there are no pairs.
        EmbeddingError, EmbedderDimensionError: what the embedder gave is no vector of its.
    """
    sync = to_sync_embedder(embedder) if embeds_async(embedder) else embedder
    known = _checked(pairs)
    rows: list[Vector] = []
    texts = _texts(known)
    for chunk, embed in _calls(texts, sync):
        rows += _vectors(embed(), chunk, sync.dim)
        if progress is not None:
            progress(len(rows), len(texts))
    return _scored(known, texts, rows, sync, guards)


async def ascore_pairs(
    pairs: Iterable[Pair],
    embedder: AnyEmbedder,
    *,
    guards: Sequence[Guard] = (),
    progress: Progress | None = None,
) -> ScoredPairs:
    """
    As `score_pairs`, on asyncio and trio; a sync embedder runs in a worker thread.

    Raises:
        ValueError, EmbeddingError, EmbedderDimensionError: as `score_pairs`.
    """
    awaited: Any = embedder if embeds_async(embedder) else to_async_embedder(embedder)
    known = _checked(pairs)
    rows: list[Vector] = []
    texts = _texts(known)
    for chunk, embed in _calls(texts, awaited):
        found = embed()
        rows += _vectors(await found if inspect.isawaitable(found) else found, chunk, awaited.dim)
        if progress is not None:
            progress(len(rows), len(texts))
    return _scored(known, texts, rows, awaited, guards)


def similarities(
    pairs: Sequence[tuple[str, str]], embedder: Embedder, *, progress: Progress | None = None
) -> NDArray[np.float64]:
    """
    The cosine of each pair, shape ``(len(pairs),)``; every text is embedded once.

    Raises:
        TypeError: the embedder is async.
    """
    if embeds_async(embedder):
        raise TypeError("calibration needs a sync embedder. Wrap it with to_sync_embedder.")
    if not pairs:
        return np.zeros(0)
    made = [Pair(a, b, True) for a, b in pairs]
    return score_pairs(made, embedder, progress=progress).similarities


def _checked(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    known = tuple(pairs)
    if not known:
        raise ValueError("there are no pairs. Label some pairs of questions first.")
    return known


def _texts(pairs: Iterable[Pair]) -> list[str]:
    return list(dict.fromkeys(text for pair in pairs for text in (pair.a, pair.b)))


def _calls(texts: list[str], embedder: Any) -> Iterator[tuple[list[str], Callable[[], Any]]]:
    """Some texts at a time, and the call that embeds them: as a batch, or the only one."""
    embed_batch = getattr(embedder, "embed_batch", None)
    size = 1 if embed_batch is None else BATCH
    for at in range(0, len(texts), size):
        chunk = texts[at : at + size]
        if embed_batch is not None:
            yield chunk, lambda chunk=chunk: embed_batch(chunk)  # type: ignore[misc]
        else:
            yield chunk, lambda chunk=chunk: embedder.embed(chunk[0])  # type: ignore[misc]


def _vectors(raw: ArrayLike, chunk: list[str], dim: int) -> list[Vector]:
    """The vectors of a call; an error names the text, where it was one."""
    try:
        rows: Any = [raw] if len(chunk) == 1 and np.ndim(raw) < 2 else raw
        return [as_unit(rows[0], dim)] if len(chunk) == 1 else as_units(rows, len(chunk), dim)
    except MnemeError as exc:
        where = (
            repr(chunk[0][:80]) if len(chunk) == 1 else f"{len(chunk)} texts from {chunk[0][:80]!r}"
        )
        raise type(exc)(f"embedding {where}: {exc}") from exc


def _scored(
    pairs: tuple[Pair, ...],
    texts: list[str],
    rows: list[Vector],
    embedder: Any,
    guards: Sequence[Guard],
) -> ScoredPairs:
    places = {text: row for row, text in enumerate(texts)}
    # One by one: all pairs of vectors at once would take twice the memory of the vectors.
    cosines = [float(rows[places[pair.a]] @ rows[places[pair.b]]) for pair in pairs]
    refused = [any(guard(pair.a, pair.b) for guard in guards) for pair in pairs]
    return ScoredPairs(
        pairs,
        np.clip(np.array(cosines, dtype=np.float64), -1.0, 1.0),
        np.array(refused, dtype=bool),
        embedder.fingerprint,
        embedder.dim,
        guarded=bool(guards),
    )
