"""
A store of your own whose engine searches, in the least that keeps every promise.

Run ``python examples/own_store.py``. `Engine` stands for the server that you have: what it
holds is shared by every store that talks to it. To make yours, replace what is done under its
lock by one transaction, script or batch of your engine, and run the contract
(tests/examples/test_own_store.py is all there is to it).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mneme import SemanticCache
from mneme.errors import EmbedderMismatchError
from mneme.records import Candidate, Changes, Entry, Identity, Partition, Selection, Vector
from mneme.testing import HashEmbedder


@dataclass
class Engine:
    """What a server would hold: here, dicts in the order of the last commit and of use."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    owner: tuple[str, int] | None = None
    mark: int = 0
    entries: dict[Identity, Entry] = field(default_factory=dict)
    used: dict[Identity, None] = field(default_factory=dict)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def drop(self, identities: Sequence[Identity]) -> int:
        """Forget `identities`; how many of them were there."""
        gone = [self.entries.pop(one, None) for one in identities]
        for one in identities:
            self.used.pop(one, None)
        return len(gone) - gone.count(None)


class OwnStore:
    """A `SearchableStore` on an `Engine`."""

    blocking = True
    schema_version = 1
    bad_rows = 0

    def __init__(self, engine: Engine) -> None:
        self.description = "an engine in this process"
        self._engine = engine
        self._embedder = "", 0

    def claim(self, fingerprint: str, dim: int) -> None:
        with self._engine.lock:
            self._embedder = fingerprint, dim
            if self._engine.entries:
                self._check_owner()
            self._engine.owner = self._embedder

    def _check_owner(self) -> None:
        if self._engine.owner != self._embedder:
            raise EmbedderMismatchError(
                f"{self.description} was filled by {self._engine.owner}, this cache uses "
                f"{self._embedder}. Nothing was changed. Use another engine."
            )

    # -- writing: each method is one step that nobody sees half done ----------------------------

    def commit(self, changes: Changes) -> int:
        with self._engine.lock:
            self._check_owner()
            engine = self._engine
            for namespace in changes.cleared:
                engine.drop(self._identities(Selection(namespace)))
            engine.drop(changes.removed)
            for entry in changes.puts:
                engine.drop([entry.identity])
                engine.entries[entry.identity] = entry
                engine.used[entry.identity] = None
            for identity in changes.used:
                if identity in engine.entries:
                    engine.used.pop(identity)
                    engine.used[identity] = None
            engine.counts.update(changes.counts)
            before = engine.mark
            engine.mark += bool(changes.puts or changes.removed or changes.cleared)
            return engine.mark if changes.mark == before else changes.mark

    def remove(self, chosen: Selection, limit: int) -> int:
        with self._engine.lock:
            return self._drop(self._identities(chosen)[: max(0, limit)])

    def trim(self, limit: int, namespace: str | None = None) -> int:
        with self._engine.lock:
            there = set(self._identities(Selection(namespace)))
            oldest = [identity for identity in self._engine.used if identity in there]
            return self._drop(oldest[: max(0, len(there) - limit)])

    def _drop(self, identities: Sequence[Identity]) -> int:
        gone = self._engine.drop(identities)
        self._engine.mark += bool(gone)
        return gone

    # -- reading --------------------------------------------------------------------------------

    def fetch(self, identities: Sequence[Identity]) -> Sequence[Entry | None]:
        with self._engine.lock:
            found = [self._engine.entries.get(identity) for identity in identities]
        return [entry and replace(entry, vector=None) for entry in found]

    def search(
        self, partition: Partition, vector: Vector, *, k: int, at_least: float, now: float
    ) -> Sequence[Candidate]:
        dead = Selection(dead_by=now)
        near = [
            Candidate(entry, float(entry.vector @ vector))
            for entry in self.scan()
            if entry.partition == partition and entry.vector is not None and not dead.has(entry)
        ]
        near.sort(key=lambda candidate: -candidate.similarity)
        return [candidate for candidate in near if candidate.similarity >= at_least][:k]

    def scan(self) -> Iterator[Entry]:
        with self._engine.lock:
            return iter(list(self._engine.entries.values()))

    def count(self, chosen: Selection) -> int:
        return len(self._identities(chosen))

    def sizes(self) -> Mapping[str, int]:
        return Counter(entry.namespace for entry in self.scan())

    def counts(self) -> Mapping[tuple[str, str], int]:
        with self._engine.lock:
            return dict(self._engine.counts)

    def mark(self) -> int:
        return self._engine.mark

    def changes_since(self, mark: int) -> Changes | None:
        """Nothing, or ``None`` for "forget all": a log would say what."""
        return Changes(mark=mark) if mark == self._engine.mark else None

    def _identities(self, chosen: Selection) -> list[Identity]:
        return [entry.identity for entry in self.scan() if chosen.has(entry)]

    def close(self) -> None:
        """Nothing to let go of; a client would close its connections."""


def main() -> None:
    engine = Engine()
    embedder = HashEmbedder()
    with SemanticCache(store=OwnStore(engine), embedder=embedder) as here:
        here.put("Who wrote Faust?", "Goethe")
        with SemanticCache(store=OwnStore(engine), embedder=embedder) as there:
            hit = there.get("who wrote faust")
            print("Another machine finds:", hit and hit.response)
    print("The engine holds:", *(entry.prompt for entry in engine.entries.values()))


if __name__ == "__main__":
    main()
