"""What the words of two texts say about whether they ask for one answer, as numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mneme._core.wording import wording

__all__ = ["BUCKETS", "EVIDENCE", "Gist", "Rarity", "Words", "evidence", "gist"]

Words = frozenset[int]

BUCKETS = 1 << 15
"""Words are known by a digest of this many values: tables over all words have a fixed size."""

EVIDENCE = (
    "words_rarest_apart",
    "words_apart",
    "trigrams_shared",
    "numbers_conflict",
    "numbers_one_sided",
    "negation_differs",
    "words_same",
)
"""Names of what `evidence` gives, in its order."""

COMMONEST = 9.0
"""The logarithm of how much rarer a word can be for it to count: one entry in some 8,000."""


class Gist:
    """One text, read once: digests of its words, its numbers, its trigrams, its negation."""

    __slots__ = ("content", "is_negated", "numbers", "trigrams", "words")

    def __init__(self, text: str) -> None:
        read = wording(text)
        digests = [_digest(word) for word in read.words]
        kinds = read.classes
        self.words: Words = frozenset(digests)
        self.content: Words = frozenset(
            [one for one, kind in zip(digests, kinds, strict=True) if kind in "cn-"]
        )
        self.numbers = frozenset(
            [word for word, kind in zip(read.words, kinds, strict=True) if kind == "n"]
        )
        self.is_negated = read.negations % 2 == 1
        self.trigrams = read.trigrams


@lru_cache(maxsize=8_192)
def gist(text: str) -> Gist:
    """The text's gist; that of the 8,192 last asked for is remembered."""
    return Gist(text)


@lru_cache(maxsize=65_536)
def _digest(word: str) -> int:
    return crc32(word.encode("utf-8", "surrogatepass")) % BUCKETS


class Rarity:
    """How rare a word is among the texts of the cache: ln((texts + 1) / (texts with it + ½))."""

    def __init__(self) -> None:
        self.texts = 0
        self.having: NDArray[np.int32] = np.zeros(BUCKETS, np.int32)

    def add(self, words: Words) -> None:
        self.texts += 1
        self.having[list(words)] += 1

    def of(self, words: Iterable[int]) -> list[float]:
        top, having = self.texts + 1.0, self.having
        return [math.log(top / (having.item(word) + 0.5)) for word in words]


def evidence(one: Gist, other: Gist, rarity: Rarity) -> list[float]:
    """
    Seven numbers, named in `EVIDENCE`, from 0 to about 1; the same for either order.

    Shares of words are by rarity: of what both texts say, how much only one of them says.
    """
    shared = one.content & other.content
    mine, theirs = rarity.of(one.content - shared), rarity.of(other.content - shared)
    apart, sum_mine, sum_theirs = mine + theirs, sum(mine), sum(theirs)
    whole = (sum(rarity.of(shared)) + sum_mine + sum_theirs) or 1.0
    my_numbers, their_numbers = one.numbers - other.numbers, other.numbers - one.numbers
    trigrams = len(one.trigrams) + len(other.trigrams)
    return [
        max(apart, default=0.0) / COMMONEST,
        max(sum_mine, sum_theirs) / whole,
        2 * len(one.trigrams & other.trigrams) / (trigrams or 1),
        float(bool(my_numbers and their_numbers)),
        float(bool(my_numbers) != bool(their_numbers)),
        float(one.is_negated != other.is_negated),
        float(not apart),
    ]
