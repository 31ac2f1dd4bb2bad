"""What the learned policy remembers of entries and of answer groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np

from mneme._core.learned.lexical import Rarity, Words

__all__ = ["EntryId", "Group", "Note", "Notes"]

EntryId = bytes
"""What names an entry: its identity's two digests in a row, or any other bytes."""

GROUP_SPREAD = 0.3
"""Variance of what makes one group's answers right more often than their scores say."""

PENDING = -3.0
"""Log odds, before any evidence, that two groups are one."""

MAX_PENDING = 4_096


class Group:
    """
    Entries known to have one answer.

    ``rival`` is the highest cosine at which a text of another answer was seen; of ``seen``
    comparisons of an answer with one of the group's, ``same`` were equal; ``surplus`` and
    ``curve`` sum what its candidates were right beyond their score.
    """

    __slots__ = ("curve", "rival", "same", "seen", "size", "surplus")

    def __init__(self) -> None:
        self.size = 0
        self.rival = math.nan
        self.same = 0
        self.seen = 0
        self.surplus = 0.0
        self.curve = 0.0

    @property
    def effect(self) -> float:
        return self.surplus / (self.curve + 1.0 / GROUP_SPREAD)

    def swallow(self, other: Group) -> None:
        self.size += other.size
        self.rival = higher(self.rival, other.rival)
        self.same += other.same
        self.seen += other.seen
        self.surplus += other.surplus
        self.curve += other.curve


class Note:
    """
    One entry: its group, mean cosine to its neighbours when it came, ``rival`` as of a group.
    """

    __slots__ = ("density", "packed", "rival", "root")

    def __init__(self, root: int, density: float, words: Iterable[int]) -> None:
        self.root = root
        self.density = density
        self.rival = math.nan
        self.packed = np.fromiter(words, np.uint16).tobytes()

    @property
    def words(self) -> Words:
        return _unpacked(self.packed)


@lru_cache(maxsize=16_384)
def _unpacked(packed: bytes) -> Words:
    return frozenset(memoryview(packed).cast("H"))


class Notes:
    """Notes of entries and their groups, which join when answers show that they are one."""

    def __init__(self) -> None:
        self.of: dict[EntryId, Note] = {}
        self.groups: dict[int, Group] = {}
        self.rarity = Rarity()
        self.next_group = 0
        self._joined: dict[int, int] = {}
        self._pending: dict[tuple[int, int], float] = {}

    def __len__(self) -> int:
        return len(self.of)

    def group_of(self, note: Note) -> int:
        """The number of the entry's group, good until the next join."""
        note.root = self.now(note.root)
        return note.root

    def now(self, number: int) -> int:
        """The group that a group has become by joining others; it may be gone since."""
        while (after := self._joined.get(number)) is not None:
            number = after
        return number

    def found(self) -> int:
        """A new group, without entries; its number."""
        self.next_group += 1
        self.groups[self.next_group] = Group()
        return self.next_group

    def add(self, entry: EntryId, note: Note, words: Words) -> None:
        """Keep `note`; an entry of the same name is replaced."""
        self.remove(entry)
        self.of[entry] = note
        self.groups[self.group_of(note)].size += 1
        self.rarity.add(words)

    def remove(self, entry: EntryId) -> None:
        """Forget the entry; a group goes with its last one. Unknown entries are no error."""
        note = self.of.pop(entry, None)
        if note is None:
            return
        number = self.group_of(note)
        group = self.groups[number]
        group.size -= 1
        if not group.size:
            del self.groups[number]

    def link(self, one: int, other: int, evidence: float) -> int:
        """
        Hear that one answer fits both groups; `evidence` is how far, as log odds. Joins them
        once that outweighs the odds against. The number that `one` has from then on.
        """
        pair = min(one, other), max(one, other)
        odds = self._pending.pop(pair, PENDING) + evidence
        if odds <= 0.0:
            if len(self._pending) >= MAX_PENDING:
                self._pending.pop(next(iter(self._pending)))
            self._pending[pair] = odds
            return one
        self._joined[other] = one
        self.groups[one].swallow(self.groups.pop(other))
        return one

    def pending(self) -> dict[tuple[int, int], float]:
        """Log odds that two groups which still are two are one."""
        return {
            pair: odds
            for pair, odds in self._pending.items()
            if pair[0] in self.groups and pair[1] in self.groups
        }

    def expect(self, pending: Mapping[tuple[int, int], float]) -> None:
        """Take up what another object had `pending`."""
        self._pending = dict(pending)


def higher(known: float, seen: float) -> float:
    """The larger; NaN stands for nothing known."""
    return seen if not known >= seen else known
