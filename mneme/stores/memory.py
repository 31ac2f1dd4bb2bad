"""Entries in this process, for as long as it lives."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence

from mneme import _forks
from mneme.errors import EmbedderMismatchError
from mneme.records import Changes, Entry, Identity, Label, Vector
from mneme.stores._merge import merged

__all__ = ["MemoryStore"]

REMEMBERED_COMMITS = 256
KEPT_LABELS = 100_000


class MemoryStore:
    """
    Keeps everything in memory; several caches of one process may share it.

    Nothing is promised past the end of the process. `close` lets go of nothing, so that a
    cache opened on the same store later finds its entries.
    """

    blocking = False
    description = "this process's memory"
    schema_version = 1
    bad_rows = 0

    def __init__(self) -> None:
        self._lock = _forks.lock(_forks.STORE)
        self._embedder: tuple[str, int] | None = None
        self._entries: dict[Identity, Entry] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._labels: deque[Label] = deque(maxlen=KEPT_LABELS)
        self._states: dict[str, bytes] = {}
        self._commits: deque[Changes] = deque(maxlen=REMEMBERED_COMMITS)
        self._mark = 0

    def claim(self, fingerprint: str, dim: int) -> None:
        with self._lock:
            if self._embedder is None or not self._entries:
                self._embedder = fingerprint, dim
            if self._embedder != (fingerprint, dim):
                owner, its_dim = self._embedder
                raise EmbedderMismatchError(
                    f"this MemoryStore was filled by {owner!r} ({its_dim}), this cache uses "
                    f"{fingerprint!r} ({dim}). It was not changed. Use another MemoryStore."
                )

    def owner(self) -> tuple[str, int] | None:
        return self._embedder

    def scan(self) -> Iterator[Entry]:
        with self._lock:
            return iter(list(self._entries.values()))

    def commit(self, changes: Changes) -> int:
        with self._lock:
            if changes.cleared:
                names = set(changes.cleared)
                kept = {i: one for i, one in self._entries.items() if one.namespace not in names}
                self._entries = kept
            for identity in changes.removed:
                self._entries.pop(identity, None)
            for entry in changes.puts:
                # Out and in again: the order of a scan is that of the last commit.
                identity = entry.identity
                self._entries.pop(identity, None)
                self._entries[identity] = entry
            if changes.counts:
                self._counts.update(changes.counts)
            self._labels.extend(changes.labels)
            self._states.update(changes.states)
            if not (changes.puts or changes.removed or changes.cleared):
                return changes.mark
            before = self._mark
            self._mark += 1
            self._commits.append(changes)
            return self._mark if changes.mark == before else changes.mark

    def vectors(self, identities: Sequence[Identity], /) -> Sequence[Vector | None]:
        found = map(self._entries.get, identities)
        return [None if entry is None else entry.vector for entry in found]

    def mark(self) -> int:
        return self._mark

    def changes_since(self, mark: int) -> Changes | None:
        with self._lock:
            missed = self._mark - mark
            if missed < 0 or missed > len(self._commits):
                return None
            later = list(self._commits)[len(self._commits) - missed :]
            since = merged(later)
            return Changes(since.puts, since.removed, mark=self._mark, cleared=since.cleared)

    def counts(self) -> Mapping[tuple[str, str], int]:
        with self._lock:
            return dict(self._counts)

    def labels(self) -> Iterator[Label]:
        with self._lock:
            return iter(list(self._labels))

    def states(self) -> Mapping[str, bytes]:
        with self._lock:
            return dict(self._states)

    def close(self) -> None:
        return None

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._entries)} entries)"
