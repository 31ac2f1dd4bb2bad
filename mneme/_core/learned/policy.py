"""
Serve what is likely enough to be right, and learn from every answer what that is.

A decision scores the answers of the nearest entries and serves the best one if its chance of
being wrong fits an error budget (`budget`). Labels are free: a miss calls the model
anyway, and comparing its answer with those of the neighbours says which of them were right.
A few would-be hits are audited: they call the model too, so what is served is measured.

Not safe under concurrency: the owner holds a lock around each call. Costs: about 100 µs a
decision or label, some ten ms a refit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mneme._core.learned.budget import Budget
from mneme._core.learned.features import Neighbour, View, view
from mneme._core.learned.fit import (
    Array,
    Calibration,
    Posterior,
    Rows,
    chance,
    focused,
)
from mneme._core.learned.labels import Comparisons, Opinion
from mneme._core.learned.lexical import gist
from mneme._core.learned.notes import EntryId, Note, Notes, higher
from mneme._core.learned.prior import Prior, shipped_prior
from mneme._core.learned.vetoes import Vetoes
from mneme._core.learned.words import WordModel

__all__ = ["Decision", "LearnedPolicy", "Neighbour"]

OPTIONS = 2
"""Answers scored at most: the third best is hardly ever served, and costs as much."""

WARM_UP = 120
"""Labelled asks before anything is served."""

REFIT_EVERY = 50
PACE_EVERY = 25

KEPT_ROWS = 8_192
KEPT_SCORES = 1_000

OFFSET_SPREAD, SLOPE_SPREAD = 0.6, 0.3
LEAST_SCORE = -1.0
"""Calibration looks at no lower scores: they are never served, and would bend the line."""

MOST_AUDITED, LEAST_AUDITED = 0.3, 0.002
"""Bounds on the share of would-be hits of one chance that are audited."""

HEAVIEST_ROW, HEAVIEST_SCORE = 5.0, 3.0
"""An audit stands for all hits like it, within reason: one label must not turn the fit."""


@dataclass(slots=True, eq=False)
class Decision:
    """
    What to do with one ask. Not frozen: weighing, hearing guards and settling fill in the one
    object, because copies of it took a tenth of a decision's time.

    ``serve`` is the entry to serve, ``None`` for a miss. ``is_audit``: `candidate` would have
    been served, and is measured instead. ``chance_wrong`` of `candidate` is taken up to
    ``limit``. Where it is not served, the new answer is to be compared with that of each entry
    in ``compare``, and `LearnedPolicy.learned` told. ``vetoed`` names the guard that spoke
    against `candidate`, for which the score alone `said` the chance of a wrong answer.
    """

    serve: EntryId | None
    is_audit: bool
    candidate: EntryId | None
    similarity: float
    score: float
    chance_wrong: float
    limit: float
    compare: tuple[EntryId, ...]
    view: View = field(repr=False)
    features: Array = field(repr=False)
    scores: tuple[float, ...] = field(repr=False)
    best: int = field(repr=False)
    weight: float = field(repr=False)
    vetoed: str = ""
    said: float = 1.0


class LearnedPolicy:
    """
    Decisions under ``max_error``, the share of all asks that may get a wrong answer.

    Deterministic: the same calls after the same `seed` give the same decisions.
    """

    def __init__(
        self,
        max_error: float = 0.01,
        *,
        seed: int = 0,
        audit_rate: float = 0.01,
        prior: Prior | None = None,
    ) -> None:
        if not 0.0 < max_error < 1.0:
            raise ValueError(f"max_error is a share between 0 and 1, got {max_error!r}.")
        if not 0.0 <= audit_rate <= 1.0:
            raise ValueError(f"audit_rate is a share from 0 to 1, got {audit_rate!r}.")
        self.max_error = max_error
        self.audit_rate = audit_rate
        self.prior = prior or shipped_prior()
        self.random = np.random.default_rng(seed)
        self.notes = Notes()
        self.words = WordModel()
        self.vetoes = Vetoes()
        self.comparisons = Comparisons()
        self.posterior = Posterior(self.prior.weights, self.prior.covariance)
        self.calibration = Calibration(OFFSET_SPREAD, SLOPE_SPREAD)
        self.budget = Budget(max_error)
        self.labels = 0
        self.unfitted = 0
        self.rows: deque[tuple[NDArray[np.float32], float, float]] = deque(maxlen=KEPT_ROWS)
        self.scored: deque[tuple[float, float, float]] = deque(maxlen=KEPT_SCORES)

    # -- deciding -----------------------------------------------------------------------------

    def decide(self, text: str, neighbours: list[Neighbour]) -> Decision:
        """What to do with the ask `text`, given its nearest entries (8, in any order)."""
        return self.settle(self.weigh(text, neighbours))

    def settle(self, weighed: Decision) -> Decision:
        """Decide what was weighed: count it, spend on it, draw by lot whether to audit it."""
        chance_wrong = weighed.chance_wrong
        self._count(chance_wrong)
        limit = self.budget.limit
        is_hit = weighed.candidate is not None and self._is_hit(chance_wrong)
        weighed.limit = limit
        if not is_hit:
            weighed.serve = None
            return weighed
        audited = self._audited(chance_wrong)
        weighed.is_audit = bool(self.random.random() < audited)
        if weighed.is_audit:
            weighed.serve, weighed.weight = None, 1.0 / audited
        else:
            weighed.serve = weighed.candidate
            self.budget.spend(chance_wrong)
        return weighed

    def weigh(self, text: str, neighbours: list[Neighbour]) -> Decision:
        """As `decide`, but nothing is counted, spent or drawn by lot."""
        seen = view(text, neighbours, self.notes, self.words, OPTIONS)
        compare = tuple([near.entry for near in seen.neighbours])
        limit = self.budget.limit
        if not seen.options:
            nothing = np.empty((0, len(self.prior.weights)))
            return Decision(
                None, False, None, -1.0, -30.0, 1.0, limit, compare, seen, nothing, (), -1, 1.0
            )
        features = self.prior.scaled([option.row for option in seen.options])
        scores = self.posterior.scores(features).tolist()
        best = max(range(len(scores)), key=scores.__getitem__)
        chance_wrong = 1.0 - chance(self.calibration(scores[best]))
        near = seen.neighbours[seen.options[best].at]
        is_hit = self._is_hit(chance_wrong)
        return Decision(
            near.entry if is_hit else None,
            False,
            near.entry,
            near.similarity,
            scores[best],
            chance_wrong,
            limit,
            compare,
            seen,
            features,
            tuple(scores),
            best,
            1.0,
        )

    def heed(self, weighed: Decision, guard: str) -> Decision:
        """What was weighed, after hearing that `guard` speaks against its candidate."""
        weighed.vetoed, weighed.said = guard, weighed.chance_wrong
        weighed.chance_wrong = self.vetoes.chance_wrong(guard, weighed.said)
        if weighed.chance_wrong > weighed.limit:
            weighed.serve = None
        return weighed

    def _is_hit(self, chance_wrong: float) -> bool:
        return self.labels >= WARM_UP and chance_wrong <= self.budget.limit

    def withdrawn(self, decision: Decision) -> None:
        """Hear that what `decision` served did not go out (undecodable, refused later)."""
        if decision.serve is not None:
            self.budget.refund(decision.chance_wrong)

    def _count(self, chance_wrong: float) -> None:
        self.budget.ask(chance_wrong)
        if self.budget.asks % PACE_EVERY == 0:
            self.budget.pace()

    def _audited(self, chance_wrong: float) -> float:
        """
        The share of such would-be hits to audit: by the root of the chance of an error.

        That measures the errors served best for the number of audits (Neyman 1934).
        """
        if not self.audit_rate:
            return 0.0
        rate = self.audit_rate * math.sqrt(chance_wrong / self.max_error)
        return min(rate + LEAST_AUDITED, MOST_AUDITED)

    # -- learning -----------------------------------------------------------------------------

    def learned(self, decision: Decision, same: Mapping[EntryId, bool]) -> Opinion:
        """
        Learn which neighbours' answers were the `same` as the new one; what was not compared
        is left out. To be called once for a decision that did not serve.
        """
        seen = decision.view
        compared = [at for at, entry in enumerate(decision.compare) if entry in same]
        verdicts = [same[decision.compare[at]] for at in compared]
        groups = [seen.groups[at] for at in compared]
        options = list(zip(seen.options, decision.scores, strict=True))
        opinion = self.comparisons.weigh(
            groups, verdicts, {option.group: score for option, score in options}
        )
        for at, (option, score) in enumerate(options):
            if (right := opinion.chances.get(option.group)) is not None:
                self._label(decision, at, score, right)
        if decision.is_audit:
            served = seen.options[decision.best].group
            right = opinion.chances.get(served, chance(decision.score))
            self.budget.audit(decision.chance_wrong, 1.0 - right)
        if decision.vetoed:
            right = opinion.chances.get(seen.options[decision.best].group)
            if right is not None:
                self.vetoes.learn(decision.vetoed, decision.said, 1.0 - right)
        self.words.learn([seen.pairs[at] for at in compared], verdicts)
        for at in compared:
            self._met(decision.compare[at], opinion, seen, at)
        self.labels += 1
        self.unfitted += 1
        return opinion

    def _label(self, decision: Decision, at: int, score: float, right: float) -> None:
        is_best = at == decision.best
        weight = decision.weight if is_best else 1.0
        row = decision.features[at].astype(np.float32)
        self.rows.append((row, right, min(weight, HEAVIEST_ROW)))
        if is_best and score > LEAST_SCORE:
            self.scored.append((score, right, min(weight, HEAVIEST_SCORE)))
        group = self.notes.groups.get(self.notes.now(decision.view.options[at].group))
        if group is not None:
            expected = chance(score)
            group.surplus += right - expected
            group.curve += expected * (1.0 - expected)

    def _met(self, entry: EntryId, opinion: Opinion, seen: View, at: int) -> None:
        """Note on a neighbour and its group that an answer was compared with its own."""
        note = self.notes.of.get(entry)
        if note is None:
            return
        group = self.notes.groups[self.notes.group_of(note)]
        is_same = opinion.is_same(seen.groups[at])
        group.seen += 1
        group.same += is_same
        if not is_same:
            cosine = seen.neighbours[at].similarity
            note.rival = higher(note.rival, cosine)
            group.rival = higher(group.rival, cosine)

    def added(
        self,
        entry: EntryId,
        text: str,
        decision: Decision | None = None,
        opinion: Opinion | None = None,
    ) -> None:
        """
        Hear of a new entry: of the miss that `decision` made, labelled with `opinion`, or, put
        without being asked for, of neither.
        """
        asked = gist(text)
        seen = decision.view if decision is not None else None
        near = seen.neighbours if seen is not None else ()
        density = sum([one.similarity for one in near]) / len(near) if near else 0.0
        home = self._home(seen, opinion)
        note = Note(home, density, asked.words)
        if seen is not None and opinion is not None:
            group = self.notes.groups[home]
            for number, neighbour in zip(seen.groups, seen.neighbours, strict=True):
                if opinion.chances.get(number, 1.0) <= 0.5:
                    note.rival = higher(note.rival, neighbour.similarity)
            group.rival = higher(group.rival, note.rival)
        self.notes.add(entry, note, asked.content | asked.words)

    def _home(self, seen: View | None, opinion: Opinion | None) -> int:
        """The group of a new entry; others that its answer fits may turn out to be the same."""
        if seen is None or opinion is None or opinion.group is None:
            return self.notes.found()
        fitting = [number for number in opinion.chances if opinion.is_same(number)]
        home = self.notes.now(opinion.group)
        if home not in self.notes.groups:
            return self.notes.found()
        for other in sorted({self.notes.now(number) for number in fitting}):
            if other != home and other in self.notes.groups:
                self.notes.link(home, other, opinion.evidence)
        return home

    def removed(self, entry: EntryId) -> None:
        """Hear that an entry is gone. What was learned from it stays."""
        self.notes.remove(entry)

    # -- fitting ------------------------------------------------------------------------------

    @property
    def is_due(self) -> bool:
        """Whether `refit` would be worth its time."""
        return self.unfitted >= REFIT_EVERY

    def refit(self) -> None:
        """Fit score and calibration to all labels kept."""
        self.adopt(self.begin_refit().fitted())

    def begin_refit(self) -> Fit:
        """A copy of all that a fit needs, so that it may run while decisions go on."""
        self.unfitted = 0
        return Fit(copy(self.posterior), copy(self.calibration), list(self.rows), list(self.scored))

    def adopt(self, fit: Fit) -> None:
        """Go on with what `fit` has come to."""
        self.posterior, self.calibration = fit.posterior, fit.calibration


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Score and calibration, and the labels to fit them to."""

    posterior: Posterior
    calibration: Calibration
    rows: list[tuple[NDArray[np.float32], float, float]]
    scored: list[tuple[float, float, float]]

    def fitted(self) -> Fit:
        """Itself, fitted. Takes some ten milliseconds."""
        if self.rows:
            features, right, weight = zip(*self.rows, strict=True)
            rows = Rows(np.array(features, np.float64), np.array(right), np.array(weight))
            self.posterior.refit(focused(rows, self.posterior.weights))
        if len(self.scored) >= 20:
            scored = np.array(self.scored)
            self.calibration.refit(scored[:, 0], scored[:, 1], scored[:, 2])
        return self
