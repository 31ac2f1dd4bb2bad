"""
Who decides about near candidates, and what came of it.

By threshold or by what was learned; in shadow mode and for audits a hit is kept back, so that
the function is called and its answer can be compared with what would have been served.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from mneme import _forks
from mneme._core.choose import Choice, Rules, Trial, choose, refused
from mneme._core.freshness import freshness
from mneme._core.keys import Ask
from mneme._core.learned.features import Neighbour
from mneme._core.learned.policy import Decision, LearnedPolicy
from mneme._core.learned.state import dump, load
from mneme._core.manner import Manner
from mneme._core.tighten import Tightening
from mneme.records import (
    Candidate,
    Identity,
    Key,
    Label,
    LabelSource,
    MissReason,
    Partition,
    Vector,
    Verdict,
)
from mneme.types import Guard

__all__ = ["Judge"]

SAVE_EVERY = 1_000
"""Labels after which what was learned is saved with the next commit."""

KEPT_ANSWERS = 1_024
"""Vectors of answers that are remembered, to be compared with the next ones."""


class Judge:
    """
    One manner of judging, and what it has learned.

    Safe under threads. ``name`` is what its state is kept under.
    """

    def __init__(self, name: str, manner: Manner) -> None:
        self.name = name
        self.manner = manner
        self.shadows = manner.mode == "shadow"
        self.tightening: Tightening | None = None
        """What audits say of the threshold; of one that is set, not of one that is learned."""
        self.answers: OrderedDict[str, Vector] = OrderedDict()
        self._lock = _forks.lock()
        self._random = np.random.default_rng(manner.seed)
        self._unsaved = 0
        self._learned: LearnedPolicy | None = None
        if manner.policy == "learned":
            self._learned = LearnedPolicy(
                manner.max_error, seed=manner.seed, audit_rate=manner.audit_rate
            )

    @property
    def said(self) -> str:
        """Why the threshold was tightened; empty where it was not."""
        return "" if self.tightening is None else self.tightening.reason

    def watch(self, threshold: float) -> None:
        """Begin to count audits of the hits from `threshold` on; a saved count goes on."""
        manner = self.manner
        if manner.policy == "threshold" and manner.audit_rate:
            self.tightening = Tightening(threshold, manner.max_error)

    # -- deciding -----------------------------------------------------------------------------

    def choose(self, ask: Ask, rules: Rules, near: Sequence[Candidate], now: float) -> Choice:
        """The candidate to serve, or why none is; what to compare a new answer with."""
        if self._learned is not None:
            return self._choose_learned(self._learned, ask, rules, near, now)
        choice = choose(ask.prompt, near, rules, now=now, codec=ask.codec)
        if choice.hit is not None:
            if self.shadows:
                return _kept_back(choice, near, "shadow")
            if self.manner.audit_rate and self._random.random() < self.manner.audit_rate:
                return _kept_back(choice, near, "audited")
        elif self.shadows:
            # Below the threshold nothing is served; that is where a better one may lie.
            open_ = replace(rules, threshold=-1.0)
            nearest = choose(ask.prompt, near[:1], open_, now=now, codec=ask.codec)
            if nearest.hit is not None:
                return replace(choice, trial=Trial("shadow", (near[0],), near[0], served=False))
        return choice

    def weigh(self, ask: Ask, rules: Rules, near: Sequence[Candidate], now: float) -> Choice:
        """As `choose`, for `explain`: nothing is counted, kept back or drawn by lot."""
        learned = self._learned
        if learned is None:
            return choose(ask.prompt, near, rules, now=now, codec=ask.codec)
        weighed, best, refusal = self._weighed(learned, ask, rules, near, now)
        return self._served(weighed, best, refusal, ask, rules, near, now)

    def _choose_learned(
        self,
        learned: LearnedPolicy,
        ask: Ask,
        rules: Rules,
        near: Sequence[Candidate],
        now: float,
    ) -> Choice:
        weighed, best, refusal = self._weighed(learned, ask, rules, near, now)
        with self._lock:
            decision = learned.settle(weighed)
        choice = self._served(decision, best, refusal, ask, rules, near, now)
        if choice.hit is not None and not decision.is_audit and not self.shadows:
            return choice
        if decision.serve is not None:
            with self._lock:
                learned.withdrawn(decision)
        trial = Trial("miss", tuple(near), best, served=False, decision=decision)
        if choice.hit is None:
            return replace(choice, trial=trial)
        reason: MissReason = "shadow" if self.shadows else "audited"
        source: LabelSource = "shadow" if self.shadows else "audit"
        return replace(
            choice,
            hit=None,
            entry=None,
            reason=reason,
            nearest_similarity=choice.hit.similarity,
            would_serve=choice.hit,
            trial=replace(trial, source=source, served=True),
        )

    def _weighed(
        self,
        learned: LearnedPolicy,
        ask: Ask,
        rules: Rules,
        near: Sequence[Candidate],
        now: float,
    ) -> tuple[Decision, Candidate | None, str]:
        """
        What the policy thinks, the candidate that this is about, and what a built-in guard
        says against it: that is heeded as far as it has been right here.
        """
        with self._lock:
            names = self._meet(learned, near)
            weighed = learned.weigh(ask.spoken, _neighbours(near, names, now))
        best = None if weighed.candidate is None else near[names.index(weighed.candidate)]
        if best is None or weighed.serve is None:
            return weighed, best, ""
        refusal = refused(ask.prompt, best, filter(_is_built_in, rules.guards))
        if refusal is None:
            return weighed, best, ""
        with self._lock:
            return learned.heed(weighed, refusal.partition(":")[0]), best, refusal

    def _served(
        self,
        decision: Decision,
        best: Candidate | None,
        refusal: str,
        ask: Ask,
        rules: Rules,
        near: Sequence[Candidate],
        now: float,
    ) -> Choice:
        """What the rules other than the built-in guards leave of `decision`."""
        if best is None or (decision.serve is None and not decision.is_audit):
            return _unserved(decision, best, refusal, near)
        # A guard of the user's own has the last word.
        own = tuple([guard for guard in rules.guards if not _is_built_in(guard)])
        theirs = replace(rules, threshold=-1.0, guards=own)
        choice = choose(ask.prompt, [best], theirs, now=now, codec=ask.codec)
        if choice.hit is not None and rules.confidence_fn is None:
            sure = replace(choice.hit, confidence=1.0 - decision.chance_wrong)
            choice = replace(choice, hit=sure)
        return choice

    @staticmethod
    def _meet(learned: LearnedPolicy, near: Sequence[Candidate]) -> list[bytes]:
        """
        What the policy calls these entries, after hearing of those that came from elsewhere:
        another process, an earlier policy, a checkpoint.
        """
        names = [b"".join(one.entry.identity) for one in near]
        known = learned.notes.of
        for one, name in zip(near, names, strict=True):
            if name not in known:
                learned.added(name, one.entry.prompt)
        return names

    # -- learning -----------------------------------------------------------------------------

    def learn(
        self, trial: Trial, same: Mapping[Identity, bool], ask: Ask, now: float, *, kept: bool
    ) -> Label | None:
        """
        Hear which cached answers were the `same` as the new one, and whether that was kept;
        the label of the candidate that the trial was about.
        """
        if self._learned is not None and trial.decision is not None:
            self._teach(self._learned, trial.decision, same, ask, kept=kept)
        best = trial.best
        if best is None or (right := same.get(best.entry.identity)) is None:
            return None
        if self.tightening is not None and trial.source == "audit":
            with self._lock:
                self.tightening.add(best.similarity, not right)
                self._unsaved += 1
        chance = None if trial.decision is None else 1.0 - trial.decision.chance_wrong
        return Label(best.similarity, right, ask.namespace, trial.source, now, chance)

    def _teach(
        self,
        learned: LearnedPolicy,
        decision: Decision,
        same: Mapping[Identity, bool],
        ask: Ask,
        *,
        kept: bool,
    ) -> None:
        named = {b"".join(identity): is_same for identity, is_same in same.items()}
        with self._lock:
            # Where nothing could be compared, nothing was learned.
            told = not decision.compare or bool(named)
            opinion = learned.learned(decision, named) if told else None
            if kept:
                seen = decision if told else None
                learned.added(b"".join(ask.identity), ask.spoken, seen, opinion)
            self._unsaved += told

    @property
    def is_due(self) -> bool:
        return self._learned is not None and self._learned.is_due

    def refit(self, is_live: Callable[[Identity], bool]) -> None:
        """Fit to all labels; forget entries that are gone. Takes some ten milliseconds."""
        learned = self._learned
        if learned is None:
            return
        with self._lock:
            names = list(learned.notes.of)
        gone = [name for name in names if not is_live(_identity(name))]
        with self._lock:
            for name in gone:
                learned.removed(name)
            fit = learned.begin_refit()
        # Not under the lock: decisions on a loop wait for it.
        fit.fitted()
        with self._lock:
            learned.adopt(fit)

    # -- keeping ------------------------------------------------------------------------------

    def state(self, *, closing: bool = False) -> bytes | None:
        """What was learned, if it is time to save it."""
        if self._learned is None and self.tightening is None:
            return None
        every = SAVE_EVERY if self._learned is not None else 1
        if self._unsaved < (1 if closing else every):
            return None
        with self._lock:
            self._unsaved = 0
            if self._learned is not None:
                return dump(self._learned)
            assert self.tightening is not None
            return json.dumps(asdict(self.tightening)).encode()

    def restore(self, state: bytes) -> None:
        """
        Go on from a saved `state`.

        Raises:
            ValueError: it is damaged, or of another version's policy; nothing was changed.
        """
        manner = self.manner
        if self._learned is not None:
            self._learned = load(state, manner.max_error, manner.audit_rate)
        elif self.tightening is not None:
            try:
                kept = Tightening(**json.loads(state))
            except (TypeError, ValueError) as exc:
                raise ValueError(f"the counts of its audits cannot be read: {exc}") from exc
            now = self.tightening
            if (kept.floor, kept.max_error) == (now.floor, now.max_error):
                self.tightening = kept

    def remember_answer(self, text: str, vector: Vector) -> None:
        """Keep the vector of an answer for the next comparisons."""
        with self._lock:
            self.answers[text] = vector
            if len(self.answers) > KEPT_ANSWERS:
                self.answers.popitem(last=False)


def _kept_back(choice: Choice, near: Sequence[Candidate], reason: MissReason) -> Choice:
    """The hit of `choice` made a miss, to be compared with what the function answers."""
    assert choice.hit is not None
    taken = next(one for one in near if one.entry is choice.entry)
    source: LabelSource = "shadow" if reason == "shadow" else "audit"
    return replace(
        choice,
        hit=None,
        entry=None,
        reason=reason,
        nearest_similarity=choice.hit.similarity,
        would_serve=choice.hit,
        trial=Trial(source, (taken,), taken, served=True),
    )


def _unserved(
    decision: Decision, best: Candidate | None, refusal: str, near: Sequence[Candidate]
) -> Choice:
    """The miss that `decision` makes, with the reason on each candidate."""
    reason: MissReason = "uncertain" if near else "absent"
    said = (
        f"chance of a wrong answer {decision.chance_wrong:.4f}, "
        f"taken up to {max(decision.limit, 0.0):.4f}"
    )
    if refusal:
        reason, said = "guarded", f"{refusal}; {said}"
    verdicts = tuple(
        Verdict(one.entry.prompt, one.similarity, reason, said if one is best else "")
        if one is best or not refusal
        else Verdict(one.entry.prompt, one.similarity, "uncertain", "")
        for one in near
    )
    nearest = near[0].similarity if near else None
    return Choice(None, None, reason, nearest, None, verdicts)


def _neighbours(near: Sequence[Candidate], names: list[bytes], now: float) -> list[Neighbour]:
    return [
        Neighbour(
            name,
            one.similarity,
            one.entry.prompt,
            freshness(now, one.entry.expires_at, one.entry.dies_at) != "expired",
        )
        for one, name in zip(near, names, strict=True)
    ]


def _is_built_in(guard: Guard) -> bool:
    return getattr(guard, "__module__", None) == "mneme.guards"


def _identity(name: bytes) -> Identity:
    return Partition(name[:16]), Key(name[16:])
