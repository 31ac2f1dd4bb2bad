"""Long housekeeping keeps nobody from the cache."""

from __future__ import annotations

import threading

from mneme import MemoryStore, SemanticCache
from mneme._core.keeper import CHUNK
from mneme.records import Changes
from mneme.testing import HashEmbedder, ManualClock


class Slow(MemoryStore):
    """One that gives space back for as long as it is told to, and defers what it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.waiting, self.most_waiting = 0, 0

    def compact(self) -> None:
        self.begun.set()
        assert self.may_end.wait(30)

    def commit(self, changes: Changes) -> int:
        self.waiting += len(changes.removed)
        self.most_waiting = max(self.waiting, self.most_waiting)
        return super().commit(changes)

    def flush(self) -> None:
        self.waiting = 0


def test_puts_go_on_while_a_store_gives_space_back() -> None:
    """`compact` takes as long as the disk does: others put and get meanwhile."""
    store = Slow()
    with SemanticCache(store=store, embedder=HashEmbedder()) as cache:
        compacting = threading.Thread(target=cache.compact)
        compacting.start()
        assert store.begun.wait(30)
        putting = threading.Thread(target=cache.put, args=("a question", "an answer"))
        putting.start()
        putting.join(10)
        hit = cache.get("a question")
        store.may_end.set()
        compacting.join()
        assert hit is not None


def test_vacuum_leaves_room_for_what_others_put() -> None:
    """What it removes is written chunk by chunk, not queued before the puts of others."""
    store, clock = Slow(), ManualClock()
    with SemanticCache(store=store, embedder=HashEmbedder(), clock=clock) as cache:
        cache.put_many({f"question {n}": "an answer" for n in range(3 * CHUNK)}, ttl=1)
        clock.advance(2)
        assert cache.vacuum(compact=False) == 3 * CHUNK
        assert cache.stats().expirations == 3 * CHUNK
        assert store.most_waiting == CHUNK
