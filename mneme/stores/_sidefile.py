"""
The vectors of a cache file, laid out to be mapped into memory and searched at once.

``cache.db-vectors`` is disposable: all that it holds is in ``cache.db``, as of the change that
its header names. It is a page of header, then arrays that each begin on a page, then tables of
partitions and of arrays. For every partition there are, in this order, its keys, the directions
of its sketch if it has one, and for each block of 16,384 rows the rows, then the two arrays of
the sketch. Everything is little-endian; header and tables have a checksum, each array its own.

A file that is torn, of another version or of another cache is no error: it is as if none were
there. Its readers check what they find in it against ``cache.db``.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from mneme.indexes._parts import Parts, SketchParts
from mneme.indexes._sketch import BLOCK
from mneme.records import Partition

__all__ = ["PAGE", "SideFile", "SideWriter", "Stamp", "Unusable"]

PAGE = 4_096
"""What arrays are aligned to, in bytes."""

POPULATE_READ = 22
"""``MADV_POPULATE_READ`` of Linux 5.14, which Python has no name for."""

MAGIC, VERSION = b"mnemevec", 1

# magic, version, dim, seq, rows, where the tables begin, partitions, arrays, name, owner,
# checksum of the tables
_HEADER = struct.Struct("<8sIIQQQQQ16s16sI")
_CHECKSUM = struct.Struct("<I")

_SHELF = np.dtype(
    [("partition", "u1", 16), ("rows", "<u8"), ("first", "<u4"), ("depth", "<u4"), ("from", "<u8")]
)
_ARRAY = np.dtype([("at", "<u8"), ("checksum", "<u4"), ("none", "<u4")])

MOST = 2**48
"""No number in a file that is whole is larger."""


class Unusable(Exception):
    """There is no side file, or none that may be used."""


class Stamp(NamedTuple):
    """Whose vectors they are: the embedder's fingerprint, and the name of the cache file."""

    fingerprint: str
    dim: int
    name: str

    @property
    def owner(self) -> bytes:
        return blake2b(self.fingerprint.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    @property
    def named(self) -> bytes:
        return blake2b(self.name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class _Shelf:
    """One partition: how many rows, the shape of its sketch, and the first of its arrays."""

    rows: int
    first: int
    depth: int
    start: int

    def shapes(self, dim: int) -> Iterator[tuple[int, ...]]:
        """The shapes of its arrays, in order; the keys are bytes, all others float32."""
        yield self.rows, 16
        if self.depth:
            yield self.depth, dim
        width = self.depth - self.first + 2 if self.depth > self.first else 0
        for at in range(0, self.rows, BLOCK):
            size = min(BLOCK, self.rows - at)
            yield size, dim
            if self.depth:
                yield self.first + 1, size
                yield size, width

    def count(self) -> int:
        blocks = -(-self.rows // BLOCK)
        return 1 + blocks + (1 + 2 * blocks if self.depth else 0)


class SideFile:
    """
    A side file that is open: mapped copy-on-write, so that processes share what none changes.

    Opening reads header and tables; `is_sound` reads all.
    """

    def __init__(self, path: Path, stamp: Stamp) -> None:
        """
        Raises:
            Unusable: there is none, or it is not whole, or not of this version or `stamp`.
        """
        if sys.byteorder != "little":
            raise Unusable("the machine is big-endian")
        try:
            self._map = _mapped(path)
        except (OSError, ValueError) as exc:
            raise Unusable(str(exc)) from exc
        self.dim: int = stamp.dim
        self.seq: int
        self.rows: int
        tables = self._read_header(stamp)
        self._read_tables(tables)

    def _read_header(self, stamp: Stamp) -> tuple[int, int, int]:
        head = self._map[: _HEADER.size + _CHECKSUM.size]
        if (
            len(self._map) < PAGE
            or zlib.crc32(head[: _HEADER.size]) != _CHECKSUM.unpack(head[_HEADER.size :])[0]
        ):
            raise Unusable("its header is damaged")
        (magic, version, dim, self.seq, self.rows, self._end, shelves, arrays, name, owner,
         self._checksum) = _HEADER.unpack(head[: _HEADER.size])  # fmt: skip
        if (magic, version) != (MAGIC, VERSION):
            raise Unusable(f"it is of version {version}")
        if (dim, name, owner) != (stamp.dim, stamp.named, stamp.owner):
            raise Unusable("it belongs to another cache")
        return self._end, shelves, arrays

    def _read_tables(self, tables: tuple[int, int, int]) -> None:
        end, shelves, arrays = tables
        size = shelves * _SHELF.itemsize + arrays * _ARRAY.itemsize
        if max(tables) > MOST or end + size != len(self._map):
            raise Unusable("it is not whole")
        data = self._map[end:]
        if zlib.crc32(data) != self._checksum:
            raise Unusable("its tables are damaged")
        found = np.frombuffer(data, _SHELF, shelves)
        self._arrays = np.frombuffer(data, _ARRAY, arrays, found.nbytes)
        numbers = zip(*(found[name].tolist() for name in ("rows", "first", "depth", "from")),
                      strict=True)  # fmt: skip
        names = found["partition"].tobytes()
        self._shelves = {
            Partition(names[16 * at : 16 * at + 16]): _Shelf(*shelf)
            for at, shelf in enumerate(numbers)
        }

    @property
    def partitions(self) -> list[Partition]:
        return list(self._shelves)

    def parts(self, partition: Partition) -> Parts | None:
        """The arrays of `partition`, on the map; None: it has none here."""
        shelf = self._shelves.get(partition)
        if shelf is None:
            return None
        found = list(self._arrays_of(shelf))
        keys, rest = found[0].view(np.uint8).reshape(-1, 16), found[1:]
        if not shelf.depth:
            return Parts(self.dim, keys, tuple(rest))
        sketch = SketchParts(rest[0], shelf.first, tuple(rest[2::3]), tuple(rest[3::3]))
        return Parts(self.dim, keys, tuple(rest[1::3]), sketch)

    def _arrays_of(self, shelf: _Shelf) -> Iterator[npt.NDArray[Any]]:
        for at, shape in enumerate(shelf.shapes(self.dim), shelf.start):
            dtype = np.dtype(np.uint8 if at == shelf.start else np.float32)
            place = int(self._arrays[at]["at"])
            if place + prod(shape) * dtype.itemsize > self._end:
                raise Unusable("an array ends past its end")
            yield np.frombuffer(self._map, dtype, prod(shape), place).reshape(shape)

    def bring_near(self, partition: Partition) -> None:
        """
        Map what every search of `partition` reads at once, in place of page by page: most of
        the time of a first search. Where the system cannot, the search does it.
        """
        shelf = self._shelves.get(partition)
        if shelf is None:
            return
        # The first array of the sketch of each block; without a sketch the rows themselves.
        read = slice(3, None, 3) if shelf.depth else slice(1, None)
        shapes = [*shelf.shapes(self.dim)][read]
        places = self._arrays["at"][shelf.start : shelf.start + shelf.count()][read]
        for shape, place in zip(shapes, places.tolist(), strict=True):
            try:
                self._map.madvise(POPULATE_READ, place, 4 * prod(shape))
            except (AttributeError, OSError, ValueError):
                return

    def is_sound(self, goes_on: Callable[[], bool] = lambda: True) -> bool:
        """Whether every array is as it was written; also False once it does not go on."""
        for shelf in self._shelves.values():
            try:
                for at, array in enumerate(self._arrays_of(shelf), shelf.start):
                    if not goes_on() or zlib.crc32(array.data) != self._arrays[at]["checksum"]:
                        return False
            except (IndexError, ValueError, Unusable):
                return False
        return True


def _mapped(path: Path) -> mmap.mmap:
    # Opening a pipe would wait.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.open(path, flags)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_size < PAGE:
            raise ValueError("it is no side file")
        return mmap.mmap(file, found.st_size, access=mmap.ACCESS_COPY)
    finally:
        os.close(file)


class SideWriter:
    """Writes a side file: partition after partition, or their blocks in turn."""

    def __init__(self, file: BinaryIO, stamp: Stamp) -> None:
        self._file = file
        self._stamp = stamp
        self._at = 0
        self._write(bytes(PAGE))
        self._shelves: list[tuple[Any, ...]] = []
        self._arrays: list[tuple[int, int, int]] = []
        self._rows = 0

    def array(self, array: npt.NDArray[Any]) -> tuple[int, int, int]:
        """Write `array`; what `shelf` is to be told of it."""
        data = np.ascontiguousarray(array)
        self._write(bytes(-self._at % PAGE))
        place = self._at
        self._write(data)
        return place, zlib.crc32(data.data), 0

    def shelf(
        self,
        partition: Partition,
        rows: int,
        arrays: list[tuple[int, int, int]],
        first: int = 0,
        depth: int = 0,
    ) -> None:
        """End a partition of so many `rows`: its `arrays`, in the order of the format."""
        start = len(self._arrays)
        self._shelves.append((tuple(partition), rows, first, depth, start))
        self._arrays += arrays
        self._rows += rows

    def parts(self, partition: Partition, parts: Parts) -> None:
        """All of a partition at once."""
        sketch = parts.sketch
        arrays = [self.array(parts.keys)]
        if sketch is not None:
            arrays.append(self.array(sketch.directions))
        for at, block in enumerate(parts.blocks):
            arrays.append(self.array(block))
            if sketch is not None:
                arrays += [self.array(sketch.heads[at]), self.array(sketch.tails[at])]
        first, depth = (0, 0) if sketch is None else (sketch.first, len(sketch.directions))
        self.shelf(partition, len(parts.keys), arrays, first, depth)

    def finish(self, seq: int) -> None:
        """Write tables and header: the file is whole, as of the change `seq`."""
        end = self._at
        tables = np.array(self._shelves, _SHELF).tobytes()
        tables += np.array(self._arrays, _ARRAY).tobytes()
        self._write(tables)
        head = _HEADER.pack(
            MAGIC, VERSION, self._stamp.dim, seq, self._rows, end, len(self._shelves),
            len(self._arrays), self._stamp.named, self._stamp.owner, zlib.crc32(tables),
        )  # fmt: skip
        self._file.seek(0)
        self._file.write(head + _CHECKSUM.pack(zlib.crc32(head)))
        self._file.flush()

    def _write(self, data: Any) -> None:
        self._file.write(data)
        self._at += memoryview(data).nbytes
