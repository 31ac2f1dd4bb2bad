"""An offline embedder, and a clock that stands still."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from mneme.records import Vector

__all__ = ["HashEmbedder", "ManualClock"]

_WORD = re.compile(r"\w+")


class HashEmbedder:
    """
    Texts are as near as they share words; the same everywhere, with no model.

    Each word is a direction drawn from its hash, and a text is the sum of its words: two
    texts of n words that share m have a cosine of about m / n. Case and order do not matter.
    """

    def __init__(self, dim: int = 256, *, name: str = "hash") -> None:
        self.dim = dim
        self.fingerprint: str = f"mneme-testing:{name}:{dim}:l2"
        self.calls: int = 0
        """How many texts were embedded."""

    def embed(self, text: str, /) -> Vector:
        self.calls += 1
        words = _WORD.findall(text.casefold()) or [text]
        total = np.sum([_direction(word, self.dim) for word in words], axis=0)
        length = float(np.linalg.norm(total))
        return np.asarray(total / length if length else total, dtype=np.float32)

    def __repr__(self) -> str:
        return f"HashEmbedder(dim={self.dim})"


@lru_cache(maxsize=65_536)
def _direction(word: str, dim: int) -> Vector:
    seed = int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


class ManualClock:
    """Seconds since the epoch that pass only when told to; pass it as ``clock=``."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now: float = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds
