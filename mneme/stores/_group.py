"""Many commits as one: what is handed in is written together, a moment later."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable

from mneme import _forks
from mneme.errors import MnemeError
from mneme.records import Changes, Entry, Identity, Label

__all__ = ["GroupCommit"]

log = logging.getLogger("mneme")

MAX_WAITING = 4_096
"""Entries; a store that falls further behind makes its callers wait, as without grouping."""


class GroupCommit:
    """
    Collects changes and writes them in one go, at most `delay` seconds after the first.

    A thread of its own writes; where it does not get its turn (a caller in a tight loop can
    keep the interpreter lock to itself), the caller that finds it a whole delay late writes.
    A write that fails is tried again with the next; what waits is kept until then, and `add`
    raises what `write` raised once more waits than is sensible to keep.
    """

    def __init__(
        self,
        write: Callable[[Changes], object],
        delay: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._delay = delay
        self._clock = clock
        self._first = clock()
        self._puts: dict[Identity, Entry] = {}
        self._removed: dict[Identity, None] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._labels: list[Label] = []
        self._states: dict[str, bytes] = {}
        self._lock = _forks.lock(_forks.GROUP)
        self._writing = _forks.lock(_forks.GROUP_WRITING)
        self._filled = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, changes: Changes) -> None:
        """Take `changes`; they are written within the delay, or now if too many wait."""
        with self._lock:
            now = self._clock()
            if self._is_empty():
                self._first = now
            for identity in changes.removed:
                self._puts.pop(identity, None)
                self._removed[identity] = None
            for entry in changes.puts:
                self._removed.pop(entry.identity, None)
                self._puts[entry.identity] = entry
            self._counts.update(changes.counts)
            self._labels.extend(changes.labels)
            self._states.update(changes.states)
            waiting = len(self._puts) + len(self._removed)
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=_keep_writing, args=(weakref.ref(self), self._filled, self._closed,
                                                self._delay),
                    name="mneme-group-commit", daemon=True,
                )  # fmt: skip
                self._thread.start()
        self._filled.set()
        if waiting > MAX_WAITING:
            self.flush()
        elif now - self._first > 2 * self._delay:
            self.try_flush()

    def try_flush(self) -> None:
        """Write what waits; a failure is logged, and what waits goes on waiting."""
        try:
            self.flush()
        except MnemeError as exc:
            log.warning("a group commit failed and will be tried again: %s", exc)

    def flush(self) -> None:
        """Write what waits, and return when it is written."""
        with self._writing:
            with self._lock:
                self._filled.clear()
                if self._is_empty():
                    return
                taken = Changes(
                    tuple(self._puts.values()),
                    tuple(self._removed),
                    self._counts,
                    labels=tuple(self._labels),
                    states=self._states,
                )
                self._puts, self._removed, self._counts = {}, {}, Counter()
                self._labels, self._states = [], {}
            try:
                self._write(taken)
            except BaseException:
                self._put_back(taken)
                raise

    def close(self) -> None:
        """Write what waits, and stop."""
        self._closed.set()
        self._filled.set()
        self.flush()

    def in_child(self) -> None:
        """After a fork: what waits is the parent's to write, as its thread is the parent's."""
        self._puts, self._removed, self._counts = {}, {}, Counter()
        self._labels, self._states = [], {}
        # Made anew: an event has a lock of its own.
        was_closed = self._closed.is_set()
        self._filled, self._closed = threading.Event(), threading.Event()
        if was_closed:
            self._closed.set()
        self._thread = None

    def _is_empty(self) -> bool:
        return not (self._puts or self._removed or self._counts or self._labels or self._states)

    def _put_back(self, taken: Changes) -> None:
        with self._lock:
            newer = set(self._puts) | set(self._removed)
            self._puts = {e.identity: e for e in taken.puts if e.identity not in newer} | self._puts
            self._removed = {i: None for i in taken.removed if i not in newer} | self._removed
            self._counts.update(taken.counts)
            self._labels = [*taken.labels, *self._labels]
            self._states = {**taken.states, **self._states}
            self._first = self._clock()
        self._filled.set()


def _keep_writing(
    group: weakref.ref[GroupCommit],
    filled: threading.Event,
    closed: threading.Event,
    delay: float,
) -> None:
    # It holds no reference while it waits: a store that nobody uses may be collected.
    while True:
        filled.wait()
        if closed.wait(delay):
            return
        alive = group()
        if alive is None:
            return
        alive.try_flush()
        del alive
