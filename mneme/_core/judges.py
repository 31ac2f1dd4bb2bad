"""The judges of one cache, and what they wait to have saved."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from mneme import _forks
from mneme._core.judge import Judge
from mneme._core.keys import Ask
from mneme._core.manner import Manner
from mneme.records import Label

__all__ = ["Judges"]

log = logging.getLogger("mneme")

MAX_WAITING = 100_000
"""Labels that wait for a commit; older ones give way."""


class Judges:
    """One judge for the cache, and one for each function that is judged in another manner."""

    def __init__(self, manner: Manner) -> None:
        self.default = Judge("policy", manner)
        self._named: dict[str, Judge] = {"policy": self.default}
        self._states: Mapping[str, bytes] = {}
        self._labels: list[Label] = []
        self._waiting_states: dict[str, bytes] = {}
        self._threshold = 0.0
        self._lock = _forks.lock()

    def of(self, ask: Ask) -> Judge:
        judge: Judge | None = ask.judge
        return judge or self.default

    def watch(self, threshold: float) -> None:
        """Count audits of hits from `threshold` on, where it is the cache's."""
        self._threshold = threshold
        self.default.watch(threshold)

    def keep(self, name: str, state: bytes) -> None:
        """Save `state` under `name` with the next commit."""
        with self._lock:
            self._waiting_states[name] = state

    def named(self, name: str, manner: Manner, threshold: float | None = None) -> Judge:
        """The judge of the function `name`; decorated twice, it goes on with the same one."""
        with self._lock:
            known = self._named.get(f"policy of {name}")
            if known is not None and known.manner == manner:
                return known
            made = self._named[f"policy of {name}"] = Judge(f"policy of {name}", manner)
        made.watch(self._threshold if threshold is None else threshold)
        self._restore(made)
        return made

    def restore(self, states: Mapping[str, bytes]) -> None:
        """Go on from what a store has kept; judges that come later do so as well."""
        self._states = states
        for judge in list(self._named.values()):
            self._restore(judge)

    def _restore(self, judge: Judge) -> None:
        state = self._states.get(judge.name)
        if state is None:
            return
        try:
            judge.restore(state)
        except ValueError as exc:
            log.warning("the %s begins anew: %s", judge.name, exc)

    def told(self, label: Label) -> None:
        """Keep `label` for the next commit."""
        with self._lock:
            self._labels.append(label)
            del self._labels[:-MAX_WAITING]

    def take_unsaved(self, *, closing: bool) -> tuple[tuple[Label, ...], dict[str, bytes]]:
        """What the next commit is to save; the caller commits it, or gives it back."""
        with self._lock:
            labels, self._labels = tuple(self._labels), []
            waiting, self._waiting_states = self._waiting_states, {}
            judges = list(self._named.values())
        for judge in judges:
            if (state := judge.state(closing=closing)) is not None:
                waiting[judge.name] = state
        return labels, waiting

    def give_back(self, labels: tuple[Label, ...]) -> None:
        # The states are not: there will be newer ones.
        with self._lock:
            self._labels = [*labels, *self._labels]

    def in_child(self) -> None:
        """After a fork: what was not saved is the parent's to save."""
        self._labels, self._waiting_states = [], {}

    def waiting(self) -> list[Label]:
        """Labels that no commit has saved yet."""
        with self._lock:
            return list(self._labels)
