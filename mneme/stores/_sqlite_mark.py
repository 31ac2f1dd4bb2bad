"""
How the caches on one file know that somebody else has written.

Beside the file stand eight bytes that every process maps into memory and that change with
every commit, so that looking costs no system call. They are written just before the commit,
while nobody else can write: written after it, a slow writer would put them back behind a
faster one. Who looks too early, or after a writer that was killed, finds an older state in
the file than the mark says, and looks again. They can be deleted while nobody has the cache
open.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from pathlib import Path

from mneme import _forks

__all__ = ["Mark"]

REMEMBERED = 4_096
"""Commits that are not written yet; whoever stands before them scans again."""


class Mark:
    """
    The shared number, and what the caches of this process have been told in its place.

    A commit in a group is told before it has a number in the file. It gets a negative mark
    of this process; while nobody else has committed, that stands for the number that is
    really there. Reading takes no lock.
    """

    def __init__(self, path: Path, seq: int, before: Mark | None = None) -> None:
        """Begin at `seq`, while nobody writes; `before` is that of another file in its place."""
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(file).st_size < 8:
                # Written, not cut to size: a disk that is full says so here, and not by a signal
                # when the map is written to.
                os.pwrite(file, bytes(8), 0)
            self._shared = memoryview(mmap.mmap(file, 8)).cast("Q")
        finally:
            os.close(file)
        # Whatever stands there and differs is a leftover.
        self._shared[0] = self._real = self._told = 2 * seq
        self._is_committing = False
        self._before: int | None = None
        # No mark may be one that was told of the other file.
        self._last: int = 0 if before is None else before._last
        self._floors: OrderedDict[int, int] = OrderedDict()
        self._lock = _forks.lock()

    def now(self) -> int:
        """See `Store.mark`."""
        if self._is_committing or self._shared[0] == self._real:
            return self._told
        return self._shared[0]

    @property
    def told(self) -> int:
        """The mark of who has been told of everything in this process."""
        return self._told

    @property
    def highest_seq(self) -> int:
        """No commit was ever told of as a later one."""
        return max(self._shared[0], self._real, self._told) // 2

    def settle(self, seq: int) -> None:
        """Nobody writes now, and `seq` is the last that was written."""
        self._shared[0] = 2 * seq

    def seq_at(self, mark: int) -> int | None:
        """A change up to which all is known to who stands at `mark`; None: it is too long ago."""
        with self._lock:
            if mark == self._told:
                return self._real // 2
            return mark // 2 if mark >= 0 else self._floors.get(mark)

    def promise(self, mark: int) -> int:
        """The mark for who stood at `mark` and has a commit waiting in a group."""
        with self._lock:
            before = self._told
            self._last -= 1
            self._told = self._last
            self._floors[self._last] = self._real // 2
            if len(self._floors) > REMEMBERED:
                self._floors.popitem(last=False)
            return self._told if mark == before else mark

    def begin(self, before: int, seq: int) -> None:
        """A commit of this process, which ends with `seq`, is on its way; `before` was the last."""
        # Nobody else can commit now: readers of this process need not look.
        self._is_committing = self._real == 2 * before
        self._before, self._shared[0] = self._shared[0], 2 * seq

    def withdraw(self) -> None:
        """It will not be; still nobody else can write, and nobody need look."""
        if self._before is not None:
            self._shared[0] = self._before
            self._before = None

    def end(self, seq: int) -> None:
        """It is committed."""
        # Only now: what did not come to be committed may yet be another's number.
        if self._is_committing:
            self._real = 2 * seq
        self._is_committing, self._before = False, None

    def fail(self) -> bool:
        """It is not, as far as is known; whether the mark tells of it all the same."""
        is_told = self._before is not None
        self._is_committing, self._before = False, None
        return is_told

    def tell(self, mark: int, before: int, seq: int) -> int:
        """The mark for who stood at `mark` and has committed what ends with `seq`."""
        with self._lock:
            known = mark == 2 * before
            if self._real == 2 * seq:
                # Nobody else has committed since `told` was.
                known = known or mark == self._told
                self._told = 2 * seq
            return 2 * seq if known else mark

    def catch_up(self, told: int, seq: int) -> int:
        """The mark for who is told of all up to `seq`, and was told `told` before it was read."""
        with self._lock:
            if self._told == told:
                self._real = self._told = 2 * seq
            return 2 * seq
