"""
Answers from a cache file whose entries are not in memory yet, with the help of its side file.

The side file stands at a number of the cache file, its stamp. It only proposes: whatever it
finds near is read from the cache file, where it must be live and no later than the stamp, and
its cosine is computed from the vector there. What was put later is read from the cache file
itself. So a bit that has flipped in the side file can hide an answer, never give a wrong one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain

from mneme import _forks
from mneme.indexes._names import KEY_BYTES
from mneme.indexes.exact import ExactIndex
from mneme.records import Candidate, Entry, Identity, Key, Partition, Vector
from mneme.stores._named import entries_named
from mneme.stores._rows import death_of
from mneme.stores._sidefile import SideFile
from mneme.stores._sqlite_file import SQLiteFile
from mneme.stores._stored import (
    BARE,
    VECTORS,
    bare_entry,
    stored_entry,
    stored_vector,
)

__all__ = ["ColdEntries"]

PAGE_ROWS = 128
"""Entries that are read at once while others look things up: about a millisecond."""

CLOSE = 4e-6
"""How far apart two cosines of the same vectors may be that were added up in another order."""

LAST = 2**63 - 1
"""The highest number that SQLite can give a row."""


# The vectors of rows up to the stamp are in the side file: only their length is read.
_PAGE = (
    f"SELECT {', '.join(BARE)}, vector_sum, CASE WHEN seq > ? THEN vector END FROM live "
    f"WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT {PAGE_ROWS}"
)
_LATER = f"SELECT {', '.join(VECTORS)} FROM live WHERE seq > ? AND vector IS NOT NULL ORDER BY seq"

_SIZES = "SELECT namespace, count(*) FROM entries GROUP BY namespace"
_CLEARED = (
    "SELECT c.namespace, count(*) FROM clears c CROSS JOIN entries e "
    "ON e.namespace = c.namespace AND e.seq < c.seq GROUP BY c.namespace"
)


class ColdEntries:
    """The entries of `file`, as they are in the file; `Searching`, and readable page by page."""

    def __init__(self, file: SQLiteFile, side: SideFile, until: int) -> None:
        """`until` is the number of the last change when this was made."""
        self._file = file
        self._side = side
        self._dim = side.dim
        self._until = until
        self._indexes: dict[Partition, ExactIndex | None] = {}
        self._later: dict[Partition, ExactIndex] = {}
        self._later_from = side.seq
        self._lock = _forks.rlock(_forks.GROUP)

    @property
    def mark(self) -> int:
        """Where who has read all `pages` stands; for `changes_since`."""
        return 2 * self._until

    # -- lookups -------------------------------------------------------------------------------

    def fetch(self, identities: Sequence[Identity]) -> Sequence[Entry | None]:
        found = {
            entry.identity: entry for _, entry in entries_named(self._file, identities, self._dim)
        }
        return [found.get(identity) for identity in identities]

    def search(
        self, partition: Partition, vector: Vector, *, k: int, at_least: float, now: float
    ) -> Sequence[Candidate]:
        stamp = self._side.seq
        sources = [
            (self.index(partition), range(stamp + 1)),
            (self._later_of(partition), range(stamp + 1, LAST + 1)),
        ]
        found = [
            candidate
            for index, numbers in sources
            if index is not None
            for candidate in self._good(index, numbers, partition, vector, k, at_least, now)
        ]
        found.sort(key=lambda one: -one.similarity)
        return found[:k]

    def _good(
        self,
        index: ExactIndex,
        numbers: range,
        partition: Partition,
        vector: Vector,
        k: int,
        at_least: float,
        now: float,
    ) -> list[Candidate]:
        """
        The best that `index` proposes and whose rows, with one of these `numbers`, bear it out;
        it is asked for more until these are `k`.
        """
        wanted, looked_at = k, 0
        good: list[Candidate] = []
        while True:
            pairs = index.search(vector, k=wanted, at_least=max(-1.0, at_least - CLOSE))
            names = [(partition, key) for key, _ in pairs[looked_at:]]
            for seq, entry in entries_named(self._file, names, self._dim, "all"):
                death = death_of(entry)
                is_dead = death is not None and now >= death
                if entry.vector is None or is_dead or seq not in numbers:
                    continue
                cosine = float(entry.vector @ vector)
                if cosine >= at_least:
                    good.append(Candidate(entry, cosine))
            looked_at = len(pairs)
            if len(good) >= k or looked_at < wanted:
                return good
            wanted *= 2

    def index(self, partition: Partition) -> ExactIndex | None:
        """The vectors of `partition` up to the stamp."""
        if partition not in self._indexes:
            with self._lock:
                if partition not in self._indexes:
                    parts = self._side.parts(partition)
                    made = None if parts is None else ExactIndex.from_parts(parts)
                    self._side.bring_near(partition)
                    self._indexes[partition] = made
        return self._indexes[partition]

    def _later_of(self, partition: Partition) -> ExactIndex | None:
        """Those that were put after the stamp; which are replaced since, the file knows."""
        with self._lock:
            for row in self._file.rows(_LATER, (self._later_from,)):
                self._later_from, its, key, *_ = row
                unit = stored_vector(row, self._dim)
                if unit is None:
                    self._file.found_bad(row[0])
                else:
                    self._later.setdefault(its, ExactIndex(self._dim)).add(key, unit)
            return self._later.get(partition)

    # -- filling memory ------------------------------------------------------------------------

    def sizes(self) -> Mapping[str, int]:
        """How many entries each namespace has; some milliseconds."""
        # Not of the view, which would look at the clearings once for each entry. Both at one
        # time: what was cleared is being removed meanwhile.
        with self._file.reading() as connection:
            found = Counter(dict(connection.execute(_SIZES).fetchall()))
            found.subtract(dict(connection.execute(_CLEARED).fetchall()))
        return {namespace: size for namespace, size in found.items() if size > 0}

    def is_sound(self, goes_on: Callable[[], bool]) -> bool:
        """Whether the side file is as it was written: reads all of it."""
        return self._side.is_sound(goes_on)

    @property
    def partitions(self) -> Sequence[Partition]:
        return self._side.partitions

    def keys(self, partition: Partition) -> Iterator[Key]:
        """What `index` holds."""
        parts = self._side.parts(partition)
        packed = b"" if parts is None else parts.keys.tobytes()
        return (Key(packed[at : at + KEY_BYTES]) for at in range(0, len(packed), KEY_BYTES))

    def rows(self, partition: Partition) -> Iterator[tuple[Key, Vector]]:
        """The same, with the vectors."""
        parts = self._side.parts(partition)
        blocks = () if parts is None else parts.blocks
        return zip(self.keys(partition), chain.from_iterable(blocks), strict=True)

    def pages(self) -> Iterator[list[tuple[Entry, bool]]]:
        """
        All entries, in the order of a scan and some at a time; each with whether its vector is
        in the side file. Of others the vector, if there is one, is in the entry.
        """
        after = 0
        while rows := self._file.rows(_PAGE, (self._side.seq, after, self._until)):
            after = rows[-1][0]
            page = []
            for *bare, length, vector_sum, vector in rows:
                if vector is None:
                    entry = bare_entry((*bare, length), self._dim)
                else:
                    entry = stored_entry((*bare, vector_sum, vector), self._dim)
                if entry is None:
                    self._file.found_bad(bare[0])
                else:
                    page.append((entry, length is not None and vector is None))
            yield page
