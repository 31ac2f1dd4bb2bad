"""Embedders that watch themselves, and those that go wrong in one way each."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from support.worlds import World, pause

from mneme.records import Vector
from mneme.testing import HashEmbedder

__all__ = ["AsyncSpy", "Spy", "Wrong", "cosine", "spy_for", "wrong_for"]


class Spy(HashEmbedder):
    """Remembers each text in the order in which it was asked, and how large batches were."""

    def __init__(self, dim: int = 256, *, name: str = "spy") -> None:
        super().__init__(dim, name=name)
        self.texts: list[str] = []
        self.batches: list[int] = []

    def embed(self, text: str, /) -> Any:
        self.texts.append(text)
        return super().embed(text)

    def embed_batch(self, texts: Sequence[str], /) -> Any:
        self.batches.append(len(texts))
        self.texts += texts
        return np.stack([super(Spy, self).embed(text) for text in texts])


class AsyncSpy(Spy):
    """The same vectors, awaited."""

    async def embed(self, text: str, /) -> Any:
        await pause()
        return super().embed(text)

    async def embed_batch(self, texts: Sequence[str], /) -> Any:
        await pause()
        return super().embed_batch(texts)


def spy_for(world: World, **options: Any) -> Spy:
    return AsyncSpy(**options) if world.is_async else Spy(**options)


class Wrong:
    """Gives `answer` of the text, whatever that is; sync."""

    def __init__(self, answer: Callable[[str], Any], dim: int = 8) -> None:
        self.dim = dim
        self.fingerprint = f"wrong:{dim}"
        self._answer = answer

    def embed(self, text: str, /) -> Any:
        return self._answer(text)


class _AsyncWrong(Wrong):
    async def embed(self, text: str, /) -> Any:
        await pause()
        return self._answer(text)


def wrong_for(world: World, answer: Callable[[str], Any], dim: int = 8) -> Wrong:
    return (_AsyncWrong if world.is_async else Wrong)(answer, dim)


def cosine(value: float, dim: int = 256) -> Vector:
    """A unit vector whose cosine to ``cosine(1.0)`` is `value`."""
    vector = np.zeros(dim, np.float32)
    vector[:2] = value, math.sqrt(1.0 - value * value)
    return vector


class InFlight:
    """How many are inside at once, and how many were at most."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> InFlight:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self.now -= 1
