"""
The records of an SQLite file, read page by page and past all damage.

SQLite itself finds a row by the pages above it, and finds nothing where one of these is
damaged. Here each page is read for itself, as https://sqlite.org/fileformat2.html has it, with
the write-ahead log laid over the file. The file is only read, and not by SQLite, which would
make files beside it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

__all__ = ["Pages", "Record"]

SIZES = (4_096, 8_192, 16_384, 32_768, 65_536, 2_048, 1_024, 512)
"""The page sizes that there are, likely ones first."""

TABLE_LEAF, INDEX_LEAF, INDEX_INNER = 0x0D, 0x0A, 0x02

_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Serial type -> bytes (§2.1)."""


class Record(NamedTuple):
    """
    One row. ``rowid`` is None for that of an index, or of a table without; ``is_free`` says
    that its page holds nothing any more, if the list of free pages is right.
    """

    rowid: int | None
    values: tuple[Any, ...]
    is_free: bool = False


class Damaged(Exception):
    """What should be a record is none."""


class Pages:
    """
    The pages of `path` as they were last committed. Numbered from 1, as SQLite does.

    ``size`` is that of a page in bytes; ``free`` are the pages that hold nothing any more, or
    None where the list of them cannot be followed to its end.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        self._stack = ExitStack()
        self._file = self._open(path)
        self._logged: dict[int, int] = {}
        try:
            self._log = self._open(f"{path}-wal")
            log = _read(self._log, 0, 32)
        except OSError:
            log = b""
        head = _read(self._file, 0, 100)
        self.size = size or _size_in(head[16:18]) or _size_in(log[10:12]) or SIZES[0]
        self.is_sure = bool(size or _size_in(head[16:18]) or _size_in(log[10:12]))
        # Of a page that was cut off there may still be a part; what is past the end is left over.
        self.count = -(-os.fstat(self._file).st_size // self.size)
        if head[24:28] == head[92:96] and (told := int.from_bytes(head[28:32], "big")):
            self.count = min(told, self.count)
        self._lay_over(log)
        self.bad_cells = 0
        self.free = self._free_pages()
        # Files that give space back bit by bit note on every so manieth page where the next
        # belong (§1.8); that is no record, and may look like some.
        self._map_every = self.size // 5 + 1 if any(self.page(1)[52:56]) else 0

    def __enter__(self) -> Pages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _open(self, path: str | os.PathLike[str]) -> int:
        file = os.open(path, os.O_RDONLY)
        self._stack.callback(os.close, file)
        return file

    def page(self, number: int) -> bytes:
        """What `number` holds; zeros where it cannot be read."""
        if (at := self._logged.get(number)) is not None:
            found = _read(self._log, at, self.size)
        else:
            found = _read(self._file, (number - 1) * self.size, self.size)
        return found.ljust(self.size, b"\0")

    def records(self) -> Iterator[Record]:
        """Those of all pages; ``bad_cells`` counts what should be one and is none."""
        free = self.free or frozenset()
        for number in range(1, self.count + 1):
            if number not in free:
                yield from self._records_of(number)
        bad_cells = self.bad_cells
        for number in sorted(free):
            for record in self._records_of(number):
                yield record._replace(is_free=True)
        self.bad_cells = bad_cells

    def _records_of(self, number: int) -> Iterator[Record]:
        if self._map_every and number % self._map_every == 2:
            return
        page = self.page(number)
        at = 100 if number == 1 else 0
        kind, cells = page[at], int.from_bytes(page[at + 3 : at + 5], "big")
        if kind not in (TABLE_LEAF, INDEX_LEAF, INDEX_INNER):
            return
        first = at + (12 if kind == INDEX_INNER else 8)
        if first + 2 * cells > self.size:
            self.bad_cells += 1
            return
        for cell in struct.unpack_from(f">{cells}H", page, first):
            try:
                if cell < first + 2 * cells:
                    raise Damaged
                yield self._record_at(page, cell, kind)
            except (Damaged, IndexError, struct.error, UnicodeDecodeError):
                self.bad_cells += 1

    def _record_at(self, page: bytes, at: int, kind: int) -> Record:
        if kind == INDEX_INNER:
            at += 4
        length, at = _varint(page, at)
        rowid = None
        if kind == TABLE_LEAF:
            rowid, at = _varint(page, at)
        return Record(rowid, values_of(self._payload(page, at, length, kind)))

    def _payload(self, page: bytes, at: int, length: int, kind: int) -> bytes:
        """The `length` bytes that begin in `page` and go on in overflow pages (§1.6)."""
        usable = self.size
        if length > usable * self.count:
            raise Damaged
        most = usable - 35 if kind == TABLE_LEAF else (usable - 12) * 64 // 255 - 23
        here = length
        if length > most:
            least = (usable - 12) * 32 // 255 - 23
            here = least + (length - least) % (usable - 4)
            here = here if here <= most else least
        if at + here > usable:
            raise Damaged
        parts, missing = [page[at : at + here]], length - here
        following = int.from_bytes(page[at + here : at + here + 4], "big") if missing else 0
        while missing:
            if not 1 < following <= self.count:
                raise Damaged
            part = self.page(following)
            parts.append(part[4 : 4 + missing])
            missing -= len(parts[-1])
            following = int.from_bytes(part[:4], "big")
        # Where the record ends the chain does, too.
        if following:
            raise Damaged
        return b"".join(parts)

    def _free_pages(self) -> frozenset[int] | None:
        """The free list (§1.5), if it is whole."""
        head = self.page(1)
        trunk, total = struct.unpack_from(">II", head, 32)
        if head[:16] != b"SQLite format 3\0" or total > self.count:
            return None
        free: set[int] = set()
        while trunk:
            page = self.page(trunk) if 1 < trunk <= self.count else b""
            following, leaves = struct.unpack_from(">II", page) if page else (0, self.size)
            if trunk in free or 4 * leaves > self.size - 8:
                return None
            free.add(trunk)
            free.update(struct.unpack_from(f">{leaves}I", page, 8))
            trunk = following
        return frozenset(free) if len(free) == total else None

    def _lay_over(self, head: bytes) -> None:
        """Note where the log (§4) has newer pages, up to its last whole commit."""
        if len(head) < 32 or _size_in(head[10:12]) != self.size:
            return
        order = "<" if head[:4] == b"\x37\x7f\x06\x82" else ">"
        sums = _checksum(order, head[:24], (0, 0))
        if struct.pack(">II", *sums) != head[24:32]:
            return
        salt, at, coming = head[16:24], 32, dict[int, int]()
        while len(frame := _read(self._log, at, 24 + self.size)) == 24 + self.size:
            sums = _checksum(order, frame[24:], _checksum(order, frame[:8], sums))
            if frame[8:16] != salt or struct.pack(">II", *sums) != frame[16:24]:
                return
            number, pages = struct.unpack_from(">II", frame)
            coming[number] = at + 24
            at += 24 + self.size
            if pages:
                self._logged.update(coming)
                self.count = pages
                coming = {}


def values_of(payload: bytes) -> tuple[Any, ...]:
    """
    The columns of a record (§2.1).

    Raises:
        Damaged: the bytes are not exactly one record.
    """
    end, at = _varint(payload, 0)
    serials = []
    while at < end:
        serial, at = _varint(payload, at)
        serials.append(serial)
    if at != end or len(payload) != end + sum(map(_width, serials)):
        raise Damaged
    values = []
    for serial in serials:
        width = _width(serial)
        values.append(_value(serial, payload[at : at + width]))
        at += width
    return tuple(values)


def _width(serial: int) -> int:
    if serial >= 12:
        return (serial - 12) // 2
    if serial in (10, 11):
        raise Damaged
    return 8 if serial == 7 else _INTEGERS.get(serial, 0)


def _value(serial: int, raw: bytes) -> Any:
    if serial >= 12:
        return raw.decode() if serial % 2 else raw
    if serial == 7:
        return struct.unpack(">d", raw)[0]
    if serial in _INTEGERS:
        return int.from_bytes(raw, "big", signed=True)
    return {0: None, 8: 0, 9: 1}[serial]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where the next byte is."""
    number = 0
    for place in range(8):
        byte = data[at + place]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, at + place + 1
    return number << 8 | data[at + 8], at + 9


def _checksum(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    """That of the log (§4.2)."""
    one, two = sums
    words: Sequence[int] = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = one + even + two & 0xFFFFFFFF
        two = two + odd + one & 0xFFFFFFFF
    return one, two


def _size_in(field: bytes) -> int | None:
    size = int.from_bytes(field, "big")
    size = 65_536 if size == 1 else size
    return size if size in SIZES else None


def _read(file: int, at: int, count: int) -> bytes:
    """`count` bytes, or those that the disk gives back."""
    try:
        return os.pread(file, count, at)
    except OSError:
        return b""
