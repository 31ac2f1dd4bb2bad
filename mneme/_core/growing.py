"""A partition that has outgrown its index gets another, in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from mneme import _forks
from mneme._core.live import Live, Vectors
from mneme.errors import MnemeError
from mneme.records import Identity, Partition, Vector
from mneme.types import Store, VectorSource

__all__ = ["Growing", "vectors_of"]

log = logging.getLogger("mneme")


class Growing(_forks.Forked):
    """Rebuilds one at a time; `close` gives up the one at hand, as the end of the process does."""

    def __init__(self) -> None:
        self._is_closed = False
        self._lock = _forks.lock()
        self._tried: set[Partition] = set()
        self._thread: threading.Thread | None = None
        _forks.watch(self)

    def see_to(self, partition: Partition, live: Live, store: Store) -> None:
        """Have `partition` rebuilt, once, unless another is being so."""
        with self._lock:
            if self._is_closed or self._thread is not None or partition in self._tried:
                return
            self._tried.add(partition)
            # No daemon: what makes a graph aborts a process that ends while it is at work.
            self._thread = threading.Thread(
                target=self._grow, args=(partition, live, store), name="mneme-graph"
            )
            self._thread.start()

    def _grow(self, partition: Partition, live: Live, store: Store) -> None:
        try:
            live.rebuild(partition, vectors_of(store), grown=True, is_wanted=self._is_wanted)
        except MnemeError as exc:
            log.warning("a large partition keeps the index it has: %s", exc)
        finally:
            self._thread = None

    def _is_wanted(self) -> bool:
        return not self._is_closed and threading.main_thread().is_alive()

    def close(self) -> None:
        self._is_closed = True
        if (thread := self._thread) is not None:
            thread.join()

    def in_child(self) -> None:
        self._thread = None
        self._tried.clear()


def vectors_of(store: Store) -> Vectors:
    """Where the float32 vectors of entries are read. Touches the store."""
    if isinstance(store, VectorSource):
        return store.vectors
    # One pass for all: other stores give their entries in no other way.
    known = {entry.identity: entry.vector for entry in store.scan()}

    def vectors(identities: Sequence[Identity], /) -> Sequence[Vector | None]:
        return [known.get(identity) for identity in identities]

    return vectors
