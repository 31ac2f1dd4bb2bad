"""What happened, told three ways: counters that are kept, events for a hook, `observe`."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mneme import _forks
from mneme._core.keys import Counts
from mneme.context import observers
from mneme.records import Hit, Label, Miss
from mneme.types import MetricsHook

__all__ = ["Tally"]

log = logging.getLogger("mneme")

LOG_EVERY = 60.0
"""Seconds between two log lines about the same kind of trouble."""

_HITS = {"exact": "hits_exact", "semantic": "hits_semantic"}


class _Ticks:
    """
    The exact hits of one namespace, from any thread.

    ``next(ticks.one)`` counts one: a single step of the interpreter, which takes a tenth of the
    time of a lock. So `take` steps as well, and leaves its own steps out.
    """

    __slots__ = ("_steps", "one")

    def __init__(self) -> None:
        self.one = itertools.count(1)
        self._steps = 0

    def take(self) -> int:
        """How many there were since it was last called; by one caller at a time."""
        before, self._steps = self._steps, next(self.one)
        return self._steps - before - 1


class Tally:
    """Counters by (namespace, name), safe to add to from any thread."""

    def __init__(self, hook: MetricsHook | None) -> None:
        self._hook = hook
        self._lock = _forks.lock()
        self._saved: Counter[tuple[str, str]] = Counter()
        self._unsaved: Counter[tuple[str, str]] = Counter()
        self._ticks: dict[str, _Ticks] = {}
        self._logged: dict[str, float] = {}

    @property
    def has_hook(self) -> bool:
        return self._hook is not None

    def tick(self, namespace: str, counts: Counts | None = None) -> None:
        """An exact hit that no hook and no observer has to hear of."""
        ticks = self._ticks.get(namespace)
        if ticks is None:
            ticks = self._ticks.setdefault(namespace, _Ticks())
        next(ticks.one)
        if counts is not None:
            with self._lock:
                counts.hits += 1

    def hit(self, found: Hit, counts: Counts | None = None) -> None:
        with self._lock:
            self._unsaved[found.namespace, _HITS[found.layer]] += 1
            if counts is not None:
                counts.hits += 1
        if self._hook is not None:
            self.tell(
                "hit",
                namespace=found.namespace,
                layer=found.layer,
                similarity=found.similarity,
                age_seconds=found.age_seconds,
            )
        if seen := observers.get():
            for outcomes in seen:
                outcomes.append(found)

    def miss(self, found: Miss, counts: Counts | None = None) -> None:
        if found.reason not in ("bypass", "refresh"):
            with self._lock:
                self._unsaved[found.namespace, "misses"] += 1
                if counts is not None:
                    counts.misses += 1
        if self._hook is not None:
            if found.reason == "guarded":
                self.tell("guarded", namespace=found.namespace)
            self.tell(
                "miss",
                namespace=found.namespace,
                reason=found.reason,
                similarity=found.nearest_similarity,
            )
        for outcomes in observers.get():
            outcomes.append(found)

    def gone(self, namespace: str, event: str, count: int = 1) -> None:
        """So many entries were lost to ``eviction`` or had ``expired``."""
        self.add(namespace, "evictions" if event == "eviction" else "expirations", count)
        if self._hook is not None:
            for _ in range(count):
                self.tell(event, namespace=namespace)

    def labelled(self, label: Label) -> None:
        """A hit, served or kept back, was found to be right or wrong."""
        self.add(label.namespace, "labels_right" if label.right else "labels_wrong")
        self.tell(
            "label",
            namespace=label.namespace,
            similarity=label.similarity,
            right=label.right,
            source=label.source,
        )

    def tightened(self, namespace: str, threshold: float, why: str) -> None:
        """Audits have shown too many errors, and the threshold has risen."""
        log.warning("the threshold was raised to %.4f: %s", threshold, why)
        self.tell("tightened", namespace=namespace, threshold=threshold)

    def failed_open(self, part: str, namespace: str, why: object, now: float) -> None:
        """Something was down, and the call went on without it; logged once a minute a part."""
        self.add(namespace, "failed_open")
        self.tell("failed_open", namespace=namespace, part=part, error=type(why).__name__)
        # A clock that was set back must not silence the log.
        if not 0.0 <= now - self._logged.get(part, float("-inf")) < LOG_EVERY:
            self._logged[part] = now
            log.warning("the %s failed, going on without it: %s", part, why)

    def tell(self, event: str, **attrs: Any) -> None:
        """Call the hook; what it raises is logged and goes no further."""
        if self._hook is not None:
            try:
                self._hook(event, attrs)
            except Exception:
                log.exception("the metrics hook raised on %r", event)

    def add(self, namespace: str, name: str, count: int = 1) -> None:
        with self._lock:
            self._unsaved[namespace, name] += count

    def restore(self, counts: Mapping[tuple[str, str], int]) -> None:
        """Begin from what the store has kept."""
        with self._lock:
            self._saved = Counter(counts)

    def take_unsaved(self) -> dict[tuple[str, str], int]:
        """The increments since the last save; the caller commits them, or gives them back."""
        with self._lock:
            self._gather()
            if not self._unsaved:
                return {}
            taken = dict(self._unsaved)
            self._unsaved.clear()
            # `Counter.update` takes longer than all the rest, and most puts follow a miss.
            for name, count in taken.items():
                self._saved[name] += count
            return taken

    def _gather(self) -> None:
        for namespace, ticks in list(self._ticks.items()):
            if new := ticks.take():
                self._unsaved[namespace, "hits_exact"] += new

    def give_back(self, counts: Mapping[tuple[str, str], int]) -> None:
        with self._lock:
            self._saved.subtract(counts)
            self._unsaved.update(counts)

    def in_child(self) -> None:
        """After a fork: what was not saved is the parent's to save."""
        self._gather()
        self._saved.update(self._unsaved)
        self._unsaved.clear()

    def total(self, name: str, namespace: str | None = None) -> int:
        with self._lock:
            self._gather()
            if namespace is not None:
                return self._saved[namespace, name] + self._unsaved[namespace, name]
            return sum(
                count
                for counter in (self._saved, self._unsaved)
                for (_, counted), count in counter.items()
                if counted == name
            )
