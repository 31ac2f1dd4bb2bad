"""From the nearest entries to one row of features for each answer that they could give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mneme._core.learned.lexical import EVIDENCE, Gist, evidence, gist
from mneme._core.learned.notes import EntryId, Note, Notes
from mneme._core.learned.words import Pair, WordModel

__all__ = ["FEATURES", "Neighbour", "Option", "View", "view"]

SHARPNESS = 20.0
"""A neighbour's vote for its group is exp(20 · cosine): 0.035 closer counts double."""

LIMIT = 8.0
"""Logits beyond this say no more."""

FEATURES = (
    "cosine",
    "cosine_squared",
    "margin",
    "support",
    "vote",
    "density_of_query",
    "density_of_entry",
    "csls",
    "log_entries",
    "log_group_size",
    "above_rival",
    "above_rival_of_group",
    "purity_of_group",
    "log_groups",
    "effect_of_group",
    "words_told_apart",
    "words_told_shared",
    *EVIDENCE,
    "cosine_over_0.7",
    "cosine_over_0.8",
    "margin_over_0.15",
    "margin_times_support",
    "pair",
    "pair_vote",
    "pair_others",
    "pair_if_alone",
)
"""The columns of a row, in order; `fit_prior.py` and the shipped prior name them so."""


@dataclass(slots=True)
class Neighbour:
    """
    A near entry, as the index found it.

    One that ``may_serve`` not (a guard refused it, it is stale) still tells of its surroundings.
    """

    entry: EntryId
    similarity: float
    text: str
    may_serve: bool = True


@dataclass(slots=True)
class Option:
    """One answer that may be served: the best neighbour of its group, and its row."""

    at: int
    group: int
    row: list[float]


@dataclass(slots=True)
class View:
    """What was seen around a query: neighbours that are known, best first, and the options."""

    asked: Gist
    neighbours: tuple[Neighbour, ...]
    groups: tuple[int, ...]
    pairs: tuple[Pair, ...]
    options: tuple[Option, ...]


def view(
    text: str, neighbours: Sequence[Neighbour], notes: Notes, words: WordModel, most: int
) -> View:
    """The query among its neighbours, with rows for at most `most` options."""
    asked = gist(text)
    known = [(near, note) for near in neighbours if (note := notes.of.get(near.entry)) is not None]
    known.sort(key=lambda one: -one[0].similarity)
    if not known:
        return View(asked, (), (), (), ())
    cosines = [near.similarity for near, _ in known]
    mean = sum(cosines) / len(cosines)
    pairs = [
        words.compare(asked.words, note.words, cosine, cosine - mean)
        for (_, note), cosine in zip(known, cosines, strict=True)
    ]
    groups = [notes.group_of(note) for _, note in known]
    surroundings = _Surroundings(notes, cosines, mean, pairs, groups)
    options: list[Option] = []
    met: set[int] = set()
    for at, ((near, note), number) in enumerate(zip(known, groups, strict=True)):
        if near.may_serve and number not in met and len(options) < most:
            met.add(number)
            said = evidence(asked, gist(near.text), notes.rarity)
            options.append(Option(at, number, surroundings.row(at, note, said)))
    near_ones = tuple([near for near, _ in known])
    return View(asked, near_ones, tuple(groups), tuple(pairs), tuple(options))


class _Surroundings:
    """What all options of one query have in common."""

    def __init__(
        self,
        notes: Notes,
        cosines: list[float],
        mean: float,
        pairs: list[Pair],
        groups: list[int],
    ) -> None:
        self.cosines = cosines
        self.mean = mean
        self.pairs = pairs
        self.groups = groups
        self.known = notes.groups
        best = cosines[0]
        self.votes = [math.exp(SHARPNESS * (cosine - best)) for cosine in cosines]
        self.odds = [math.exp(_bounded(pair.logit, 20.0)) for pair in pairs]
        self.all_votes = sum(self.votes)
        self.all_odds = sum(self.odds)
        self.log_entries = math.log1p(len(notes))
        self.log_groups = math.log(len(set(groups)))

    def row(self, at: int, note: Note, said: list[float]) -> list[float]:
        number, cosine, pair = self.groups[at], self.cosines[at], self.pairs[at]
        members = [i for i, group in enumerate(self.groups) if group == number]
        group = self.known[number]
        support = len(members) / len(self.groups)
        margin = cosine - self._best_of_others(number)
        vote = sum([self.votes[i] for i in members])
        odds = sum([self.odds[i] for i in members])
        others = self.all_odds - odds
        best_pair = _bounded(max([self.pairs[i].logit for i in members]), LIMIT)
        return [
            cosine,
            cosine * cosine,
            margin,
            support,
            _bounded(math.log((vote + 1e-3) / (max(self.all_votes - vote, 0.0) + 1e-3)), 6.0),
            self.mean,
            note.density,
            2.0 * cosine - self.mean - note.density,
            self.log_entries,
            math.log1p(group.size),
            _above(cosine, note.rival, cosine),
            _above(cosine, group.rival, note.density),
            (group.same + 0.5) / (group.seen + 1.0),
            self.log_groups,
            group.effect,
            pair.told_apart,
            pair.told_shared,
            *said,
            max(cosine - 0.7, 0.0),
            max(cosine - 0.8, 0.0),
            max(margin - 0.15, 0.0),
            margin * support,
            best_pair,
            _bounded(math.log((odds + 1e-3) / (max(others, 0.0) + 1.0)), LIMIT),
            _bounded(math.log(max(others, 0.0) + 1e-2), LIMIT),
            best_pair if group.size == 1 else 0.0,
        ]

    def _best_of_others(self, number: int) -> float:
        """The highest cosine in another group; where all are one, a little below the lowest."""
        for cosine, group in zip(self.cosines, self.groups, strict=True):
            if group != number:
                return cosine
        return self.cosines[-1] - 0.05


def _above(cosine: float, rival: float, without: float) -> float:
    return cosine - (without if math.isnan(rival) else rival)


def _bounded(value: float, limit: float) -> float:
    return min(max(value, -limit), limit)
