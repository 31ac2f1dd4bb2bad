"""What is dead and nobody sees any more is let go of in the background, some at a time."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import Protocol

from mneme import _forks
from mneme.errors import MnemeError

__all__ = ["PAUSE", "Sweeping", "Swept"]

log = logging.getLogger("mneme")

PAUSE = 0.0005
"""
Least seconds between two steps, in which others get the interpreter and the store. After a
longer step it is as much as that took: another process tries only now and then.
"""


class Swept(Protocol):
    """Who has something to let go of."""

    def sweep_some(self) -> bool:
        """A step of a few milliseconds; whether there is more to do."""
        ...


class Sweeping(_forks.Forked):
    """
    A thread that sweeps until nothing is left, and ends.

    What fails is logged and tried again with the next `begin`, as what `end` cuts short.
    """

    def __init__(self, owner: Swept) -> None:
        self._owner = weakref.ref(owner)
        self._lock = _forks.lock()
        self._is_wanted = self._is_failing = False
        self._renew()
        _forks.watch(self)

    def _renew(self) -> None:
        self._thread: threading.Thread | None = None
        self._ends = threading.Event()

    def begin(self) -> None:
        """Sweep in the background, unless it has come to an end."""
        with self._lock:
            self._is_wanted = True
            if self._thread is None and not self._ends.is_set():
                self._thread = threading.Thread(target=self._work, name="mneme-sweep", daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being swept any more."""
        with self._lock:
            # One that is just being made has been started by then.
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def end(self) -> None:
        """Stop for good, with the step that is being made; `wait` returns after that."""
        self._ends.set()

    def in_child(self) -> None:
        """After a fork: the thread is the parent's."""
        had_ended = self._ends.is_set()
        self._renew()
        if had_ended:
            self._ends.set()

    def _work(self) -> None:
        while self._goes_on():
            try:
                while (rest := self._step()) is not None and not self._ends.wait(rest):
                    continue
                self._is_failing = False
            except MnemeError as exc:
                # Once: it may be tried with every put.
                level = logging.DEBUG if self._is_failing else logging.WARNING
                log.log(level, "what is dead will be removed another time: %s", exc)
                self._is_failing = True

    def _goes_on(self) -> bool:
        """Whether something has come up since the last time."""
        with self._lock:
            goes_on, self._is_wanted = self._is_wanted and not self._ends.is_set(), False
            if not goes_on:
                self._thread = None
        return goes_on

    def _step(self) -> float | None:
        """Seconds to rest after it; None: there is no more to do."""
        owner, began = self._owner(), time.perf_counter()
        if owner is None or not owner.sweep_some():
            return None
        return max(PAUSE, time.perf_counter() - began)
