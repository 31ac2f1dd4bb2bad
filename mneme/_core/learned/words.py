"""Which words matter: what each tells, by differing or staying, about the answer staying."""

from __future__ import annotations

from collections.abc import Sequence

from mneme._core.learned.fit import chance
from mneme._core.learned.lexical import BUCKETS, Words

__all__ = ["Pair", "WordModel"]

WORD_SPREAD = 0.1
"""Variance of what one word tells, as a logit, before it was seen."""

CENTRE, SCALE = 0.75, 10.0


class Pair:
    """An asked text beside a cached one: the logit that one answer fits both, and its parts."""

    __slots__ = ("inputs", "logit", "told_apart", "told_shared", "words")

    def __init__(
        self,
        inputs: tuple[float, float, float],
        words: list[int],
        told_apart: float,
        told_shared: float,
        logit: float,
    ) -> None:
        self.inputs = inputs
        self.words = words
        self.told_apart = told_apart
        self.told_shared = told_shared
        self.logit = logit


class WordModel:
    """
    Logistic regression of "the same answer" on the cosine and on words, learned pair by pair.

    Each miss labels up to eight pairs, so it knows after some hundred that "kitchen" for
    "bedroom" matters here and "could" for "can" does not. One step of Newton's method for
    each weight on its own (its curvature summed over all labels); no buffer, no refit.
    """

    def __init__(self) -> None:
        self.line = [-3.0, 1.5, 0.0]
        self.bent = [20.0, 20.0, 20.0]
        self.told: dict[int, float] = {}
        self.seen: dict[int, float] = {}

    def compare(self, asked: Words, cached: Words, cosine: float, lift: float) -> Pair:
        """`lift` is how far the cosine is above that of the neighbours on average."""
        told = self.told.get
        apart = asked ^ cached
        # A word that both have tells another thing than the same word in one of them alone.
        shared = [word + BUCKETS for word in asked & cached]
        told_apart = sum([told(word, 0.0) for word in apart])
        told_shared = sum([told(word, 0.0) for word in shared])
        inputs = (1.0, (cosine - CENTRE) * SCALE, lift * SCALE)
        first, second, third = self.line
        logit = first + second * inputs[1] + third * inputs[2] + told_apart + told_shared
        return Pair(inputs, [*apart, *shared], told_apart, told_shared, logit)

    def learn(self, pairs: Sequence[Pair], same: Sequence[bool]) -> None:
        for pair, is_same in zip(pairs, same, strict=True):
            right = chance(pair.logit)
            miss, curve = is_same - right, right * (1.0 - right)
            for word in pair.words:
                seen = self.seen[word] = self.seen.get(word, 1.0 / WORD_SPREAD) + curve
                self.told[word] = self.told.get(word, 0.0) + miss / seen
            for at, value in enumerate(pair.inputs):
                self.bent[at] += curve * value * value
                self.line[at] += miss * value / self.bent[at]
