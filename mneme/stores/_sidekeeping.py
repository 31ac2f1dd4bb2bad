"""When a side file is used, written, and thrown away."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from glob import escape
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mneme import _forks
from mneme.errors import MnemeError
from mneme.indexes._fit import Past, fitted
from mneme.indexes._sketch import BLOCK, Sketch
from mneme.records import Partition, Vector
from mneme.stores._cold import ColdEntries
from mneme.stores._sidefile import SideFile, SideWriter, Stamp, Unusable
from mneme.stores._sqlite_file import SQLiteFile
from mneme.stores._sqlite_writes import seq_of
from mneme.stores._stored import VECTORS, is_whole

__all__ = ["LEAST", "SideKeeper"]

log = logging.getLogger("mneme")

LEAST = 4_096
"""Entries from which a side file pays: fewer are read as fast."""

PAGE_ROWS = 256
"""Rows that are read at once, in between others may use the file."""

OUTDATED = 4
"""A side file is written anew once as many changes were made as a quarter of its rows."""

LEFT_BEHIND = 3_600.0
"""Seconds after which a part that nobody finished is nobody's: who wrote it was killed."""

USUAL_FLOOR = 0.85
"""What sketches are fitted to where no search has been made yet."""

Directions = Mapping[Partition, tuple[Vector, int]]
"""Of each partition with a sketch: its directions, and in how many every row is looked at."""


class SideKeeper:
    """The side file of one cache file."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file
        self.path = Path(f"{file.path}-vectors")
        self._writing = _forks.lock(_forks.NEVER)

    def cold(self, fingerprint: str, dim: int) -> ColdEntries | None:
        """What answers until memory is filled; None where that is as soon done by a scan."""
        if not self.path.exists():
            return None
        try:
            stamp, seq, oldest = self._stamp(fingerprint, dim)
            side = SideFile(self.path, stamp)
            if not oldest <= side.seq <= seq:
                raise Unusable(f"it stands at {side.seq}, the file at {seq}")
        except Unusable as exc:
            log.debug("%s is not used: %s", self.path, exc)
            self.discard()
            return None
        return ColdEntries(self._file, side, seq) if side.rows >= LEAST else None

    def discard(self) -> None:
        """Have no side file any more; those who have it mapped keep it."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as exc:
            log.debug("%s stays: %s", self.path, exc)

    def keep(
        self,
        fingerprint: str,
        dim: int,
        directions: Directions,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Write the side file if that pays; whether it was. What fails is tried another time."""
        with self._writing:
            try:
                stamp, seq, _ = self._stamp(fingerprint, dim)
                if not self._pays(stamp, seq):
                    return False
                return self._write(stamp, seq, directions, goes_on)
            except (OSError, MnemeError) as exc:
                log.debug("%s was not written: %s", self.path, exc)
                return False

    def _stamp(self, fingerprint: str, dim: int) -> tuple[Stamp, int, int]:
        """Whose file it is, the number of its last change, and up to which all are forgotten."""
        with self._file.reading() as connection:
            meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
            seq = seq_of(connection)
        stamp = Stamp(fingerprint, dim, meta.get("name", ""))
        return stamp, seq, int(meta.get("removals_from", 0))

    def _pays(self, stamp: Stamp, seq: int) -> bool:
        try:
            side = SideFile(self.path, stamp)
            if 0 <= (seq - side.seq) * OUTDATED <= side.rows:
                return False
        except Unusable:
            pass
        ((count,),) = self._file.rows("SELECT count(*) FROM entries")
        return int(count) >= LEAST

    def _write(
        self, stamp: Stamp, seq: int, directions: Directions, goes_on: Callable[[], bool]
    ) -> bool:
        self._sweep()
        part = Path(f"{self.path}.{secrets.token_hex(8)}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            with os.fdopen(os.open(part, flags, 0o600), "wb") as out:
                if not self._copy(out, stamp, seq, directions, goes_on):
                    return False
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)
        return True

    def _copy(
        self,
        out: BinaryIO,
        stamp: Stamp,
        seq: int,
        directions: Directions,
        goes_on: Callable[[], bool],
    ) -> bool:
        """
        Write what the cache file holds as of `seq`. What changes meanwhile has a later number,
        and who reads the side file sees that it has.
        """
        writer, after = SideWriter(out, stamp), 0
        shelves: dict[Partition, _Shelf] = {}
        while rows := self._file.rows(_ROWS, (after, seq)):
            after = rows[-1][0]
            for row in rows:
                if not is_whole(row, stamp.dim):
                    self._file.found_bad(row[0])
                    continue
                _, partition, key, _, vector = row
                shelf = shelves.get(partition)
                if shelf is None:
                    shelf = _Shelf(writer, stamp.dim, directions.get(partition))
                    shelves[partition] = shelf
                shelf.add(key, vector)
            if not goes_on():
                return False
        for partition, shelf in shelves.items():
            shelf.finish(partition)
        writer.finish(seq)
        return True

    def _sweep(self) -> None:
        """Remove what somebody who was killed has left of a side file."""
        until = time.time() - LEFT_BEHIND
        for part in self.path.parent.glob(f"{escape(self.path.name)}.*.part"):
            try:
                if part.stat().st_mtime < until:
                    part.unlink()
            except OSError:
                continue


_ROWS = (
    f"SELECT {', '.join(VECTORS)} FROM live WHERE seq > ? AND seq <= ? "
    f"AND vector IS NOT NULL ORDER BY seq LIMIT {PAGE_ROWS}"
)


class _Shelf:
    """A partition that is being written: a block at a time, with the sketch of each."""

    def __init__(self, writer: SideWriter, dim: int, directions: tuple[Vector, int] | None) -> None:
        self._writer = writer
        self._dim = dim
        self._directions = directions
        self._keys = bytearray()
        self._waiting: list[bytes] = []
        self._blocks: list[Any] = []

    def add(self, key: bytes, vector: bytes) -> None:
        self._keys += key
        self._waiting.append(vector)
        if len(self._waiting) == BLOCK:
            self._flush()

    def finish(self, partition: Partition) -> None:
        if self._waiting:
            self._flush()
        write = self._writer.array
        keys = np.frombuffer(bytes(self._keys), np.uint8).reshape(-1, 16)
        arrays, first, depth = [write(keys)], 0, 0
        if self._directions is not None:
            first, depth = self._directions[1], len(self._directions[0])
            arrays.append(write(self._directions[0]))
        self._writer.shelf(partition, len(keys), [*arrays, *self._blocks], first, depth)

    def _flush(self) -> None:
        rows = np.frombuffer(b"".join(self._waiting), "<f4").reshape(-1, self._dim)
        self._waiting = []
        if self._directions is None and not self._blocks and len(rows) >= LEAST:
            self._directions = _fitted(rows)
        self._blocks.append(self._writer.array(rows))
        if self._directions is not None:
            sketch = Sketch(*self._directions)
            sketch.write(0, rows)
            self._blocks.append(self._writer.array(sketch.heads[0][:, : len(rows)]))
            self._blocks.append(self._writer.array(sketch.tails[0][: len(rows)]))


def _fitted(rows: Vector) -> tuple[Vector, int] | None:
    """A sketch for rows that nobody has searched yet: some of them stand in as questions."""
    picks = np.random.default_rng(len(rows)).permutation(len(rows))[:LEAST]
    found = fitted(rows[picks], [Past(rows[0], USUAL_FLOOR)], len(rows), len(rows))
    return None if found is None else (found[0].directions, found[0].first)
