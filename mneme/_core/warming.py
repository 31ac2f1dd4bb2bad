"""
Answering before memory is filled: a large cache opens at once, and is read meanwhile.

Until then lookups ask the store, and never wait. What is put goes to the store, and memory
hears of it as of what other processes do; of who is too much then, once it is filled. Who
removes something waits until then. Where filling fails, memory is filled by a plain scan of the
store; where that fails, lookups go on asking the store, and the next removal tries again.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from mneme import _forks
from mneme._core.filling import Filling, Indexed
from mneme.errors import MnemeError
from mneme.records import Candidate, Entry, Identity, Partition, Selection, Vector
from mneme.types import Searching

__all__ = ["Cold", "Filled", "Warmable", "Warming"]

log = logging.getLogger("mneme")

HEAD_START = 0.05
"""Seconds before memory begins to be filled: the first lookups have the machine to themselves."""

PAUSE = 0.0002
"""Seconds between two pages, in which lookups get the interpreter; none once somebody waits."""


class Cold(Searching, Indexed, Protocol):
    """The entries of a store as long as they are not in memory."""

    @property
    def mark(self) -> int:
        """Where who has read all `pages` stands."""
        ...

    def pages(self) -> Iterator[Sequence[tuple[Entry, bool]]]:
        """All entries in order, each with whether its vector is in `index` and not in it."""
        ...

    def sizes(self) -> Mapping[str, int]:
        """How many entries each namespace has."""
        ...

    def is_sound(self, goes_on: Callable[[], bool], /) -> bool:
        """Whether the indexes are as they were written."""
        ...


@runtime_checkable
class Warmable(Protocol):
    """A store that answers before its entries are in memory."""

    def cold(self) -> Cold | None:
        """Its entries; None where they are to be scanned."""
        ...

    def distrust(self) -> None:
        """What `cold` gave was wrong: do without from now on."""
        ...

    def keep_vectors(
        self, directions: Mapping[Partition, tuple[Vector, int]], *, later: bool = False
    ) -> None:
        """Prepare for being opened `cold`, if that pays; `later`: in the background."""
        ...


class Filled(Protocol):
    """Who is given memory once it is filled."""

    @property
    def clock(self) -> Callable[[], float]: ...

    def empty(self) -> Filling:
        """Memory to be filled."""
        ...

    def warmed(self, live: Filling, expired: Sequence[str], mark: int) -> None:
        """Go on with `live`, which stands at `mark`."""
        ...

    def scanned(self) -> None:
        """Fill memory by a scan."""
        ...


class Wrong(Exception):
    """The indexes are not those of the entries."""


class Warming:
    """Answers as `Searching`, and fills memory in a thread of its own."""

    def __init__(self, cold: Cold, owner: Filled) -> None:
        self._cold = cold
        self._owner = weakref.ref(owner)
        self._forgotten: list[Selection] = []
        self._sizes: Mapping[str, int] | None = None
        self._renew()
        self._lock = _forks.lock()
        # Nobody may close the cache: it is collected, or the process ends.
        weakref.finalize(owner, _stop, weakref.ref(self))

    def _renew(self) -> None:
        self._thread: threading.Thread | None = None
        self._stops, self._hurries = threading.Event(), threading.Event()
        self._is_done = threading.Event()

    # -- lookups -------------------------------------------------------------------------------

    def fetch(self, identities: Sequence[Identity]) -> Sequence[Entry | None]:
        self.begin()
        found = self._cold.fetch(identities)
        return [None if one is None or self._is_forgotten(one) else one for one in found]

    def search(
        self, partition: Partition, vector: Vector, *, k: int, at_least: float, now: float
    ) -> Sequence[Candidate]:
        found = self._cold.search(partition, vector, k=k, at_least=at_least, now=now)
        return [one for one in found if not self._is_forgotten(one.entry)]

    def forget(self, chosen: Selection) -> None:
        """Find no more what `chosen` says."""
        self._forgotten.append(chosen)

    def _is_forgotten(self, entry: Entry) -> bool:
        return any(chosen.has(entry) for chosen in self._forgotten)

    def sizes(self) -> Mapping[str, int]:
        """How many entries each namespace had when this was first asked; some milliseconds."""
        if self._sizes is None:
            self._sizes = self._cold.sizes()
        return self._sizes

    def recount(self) -> None:
        """Have `sizes` tell those of when it is next asked."""
        self._sizes = None

    # -- filling memory ------------------------------------------------------------------------

    def begin(self) -> None:
        """Fill memory in the background; once, and once again in a child."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None and not self._stops.is_set():
                thread = threading.Thread(target=self._work, name="mneme-warming", daemon=True)
                thread.start()
                self._thread = thread

    def wait(self) -> None:
        """Return once memory is filled, or it is clear that it will not be by this."""
        self.begin()
        self._hurries.set()
        if self._thread is not threading.current_thread():
            self._is_done.wait()

    def end(self) -> None:
        """Stop, and return when nothing is being filled any more."""
        self.stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def stop(self) -> None:
        """Have it stop soon."""
        self._stops.set()
        self._hurries.set()
        if self._thread is None:
            self._is_done.set()

    def in_child(self) -> None:
        """After a fork: the thread is the parent's."""
        was_stopped = self._stops.is_set()
        self._renew()
        if was_stopped:
            self.stop()

    def _work(self) -> None:
        try:
            self._hurries.wait(HEAD_START)
            self._fill()
        except Exception as exc:
            log.debug("memory is filled by a scan: %s", exc, exc_info=True)
            self._scan()
        finally:
            self._is_done.set()

    def _fill(self) -> None:
        if self._stops.is_set():
            return
        owner = self._owner()
        if owner is None:
            return
        live, now = owner.empty(), owner.clock()
        del owner
        filled = self._filled(live, now)
        owner = self._owner()
        if filled is not None and owner is not None:
            owner.warmed(live, filled, self._cold.mark)

    def _filled(self, live: Filling, now: float) -> list[str] | None:
        """
        The namespaces of entries that have expired, once `live` has all that the store has;
        None: it was told to stop.
        """
        if not self._cold.is_sound(lambda: not self._stops.is_set()):
            if self._stops.is_set():
                return None
            raise Wrong("the vectors are not as they were written")
        for partition in self._cold.partitions:
            live.adopt(partition, self._cold)
            if not self._goes_on():
                return None
        expired: list[str] = []
        for page in self._cold.pages():
            expired += live.fill(page, now)
            if not self._goes_on():
                return None
        for partition in self._cold.partitions:
            live.complete(partition, self._cold)
            if not self._goes_on():
                return None
        if not live.settle(self._cold):
            raise Wrong("there are entries without their vectors")
        return expired

    def _goes_on(self) -> bool:
        if not self._hurries.is_set():
            return not self._stops.wait(PAUSE)
        return not self._stops.is_set()

    def _scan(self) -> None:
        owner = self._owner()
        if owner is None or self._stops.is_set():
            return
        try:
            owner.scanned()
        except MnemeError as exc:
            log.warning("memory was not filled, lookups go on asking the store: %s", exc)


def _stop(warming: weakref.ref[Warming]) -> None:
    if (one := warming()) is not None:
        one.stop()
