"""
A cache in one file that travels: written whole or not at all, checked whole before use.

An archive is a zip of exactly three members: ``entries.jsonl`` has a line for each entry,
``vectors.npy`` a row for each vector, and ``manifest.json``, written last, says whose they are
and has the SHA-256 of both. Writing and reading share this file because they are one format.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import IO, Any, BinaryIO, TypeAlias, cast

import numpy as np

from mneme.errors import CheckpointError, EmbedderMismatchError, MnemeError
from mneme.records import Changes, Entry
from mneme.stores._rows import COLUMNS, entry_of, row_of
from mneme.types import Store

__all__ = ["Archive", "read", "restore", "write"]

FORMAT, VERSION = "mneme-checkpoint", 1
ENTRIES, VECTORS, MANIFEST = MEMBERS = ("entries.jsonl", "vectors.npy", "manifest.json")

MAX_BYTES = 16 * 1024**3
"""What an archive may come to, packed and unpacked, unless the caller says otherwise."""

MAX_PIECE_BYTES = 256 * 1024**2
"""The most that is read into memory at once: a line, the manifest, the zip's own directory."""

CHUNK = 512
"""Entries in one commit of a restore."""

Place: TypeAlias = str | os.PathLike[str] | BinaryIO
Counts: TypeAlias = Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """
    A checked archive: ``len()`` of it, its counters, and its entries by iteration.

    Each iteration reads the file again, an entry at a time; what was changed in it meanwhile
    is a `CheckpointError`.
    """

    counts: Counts
    """Counters by (namespace, name)."""
    _length: int
    _entries: Callable[[], Iterator[Entry]] = field(repr=False)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Entry]:
        return self._entries()


def write(
    dest: Place,
    entries: Iterable[Entry],
    *,
    fingerprint: str,
    dim: int,
    counts: Counts | None = None,
) -> int:
    """
    Write `entries` to one archive at `dest`, a path or an open binary file; their number.

    A path is replaced in one step, with mode 0600, once the new archive is complete on disk;
    an open file gets its first byte then. Equal entries make equal archives.

    Raises:
        CheckpointError: `dest` cannot be written, or an entry could not be read back. What
            stood there is as it was, also when `entries` raises an error of its own.
    """
    try:
        with _whole(dest) as (file, folder), tempfile.TemporaryFile(dir=folder) as rows:
            return _pack(file, rows, entries, fingerprint, dim, counts or {})
    except OSError as exc:
        raise CheckpointError(
            f"{_name(dest)} was not written: {exc}. What stood there was not changed. "
            "Check that its folder can be written and that the disk has room."
        ) from exc


@contextlib.contextmanager
def read(
    source: Place, *, fingerprint: str, dim: int, max_bytes: int = MAX_BYTES
) -> Iterator[Archive]:
    """
    In a ``with`` block, the archive at `source` (a path or a seekable binary file), once all
    of it has been checked. Nothing in it is executed, and no name in it becomes a path.

    Raises:
        EmbedderMismatchError: it holds the vectors of another embedder.
        CheckpointError: it is damaged, cut short, over `max_bytes` packed or unpacked, of
            another version, or no archive of mneme.
    """
    name = _name(source)
    with contextlib.ExitStack() as stack:
        with _refusing(name):
            if isinstance(source, (str, os.PathLike)):
                source = stack.enter_context(open(source, "rb"))
            _check_size(source.seek(0, os.SEEK_END), max_bytes)
            members = stack.enter_context(zipfile.ZipFile(_Sips(source)))
            manifest = _checked_manifest(members, name, fingerprint, dim, max_bytes)
            entries = partial(_entries, members, name, manifest, dim)
            archive = Archive(_counts(manifest["counts"]), manifest["entries"], entries)
            seen = bytearray()
            # To the end, which checks every entry.
            for entry in archive:
                seen += entry.partition + entry.key
            if len(np.unique(np.frombuffer(seen, "S32"))) != len(archive):
                raise _Refused("has two entries of one identity")
        yield archive


def restore(
    source: Place, store: Store, *, fingerprint: str, dim: int, max_bytes: int = MAX_BYTES
) -> int:
    """
    Fill an empty `store` with the entries and counters of the archive at `source`; how many.

    The archive is checked to its end before the store is touched, and a failure while the
    store is filled empties it again.

    Raises:
        CheckpointError: `store` holds entries, which are left as they are; or see `read`.
        EmbedderMismatchError: archive or store belong to another embedder.
        StoreBackendError: the store failed.
    """
    with read(source, fingerprint=fingerprint, dim=dim, max_bytes=max_bytes) as archive:
        store.claim(fingerprint, dim)
        # A store whose rows cannot be read is not empty either.
        if next(iter(store.scan()), None) is not None or store.bad_rows:
            raise CheckpointError(
                f"{store.description} holds entries already. It was left untouched. "
                "Restore into an empty store, or clear this one first."
            )
        entries = iter(archive)
        try:
            while puts := tuple(islice(entries, CHUNK)):
                store.commit(Changes(puts))
            store.commit(Changes(counts=archive.counts))
        except BaseException as exc:
            try:
                # Asked of the store: a commit that was interrupted may have gone through.
                store.commit(Changes(removed=tuple(entry.identity for entry in store.scan())))
            except MnemeError as failure:
                exc.add_note(f"Part of it is in the store ({failure}). Clear it and try again.")
            raise
        return len(archive)


def _name(place: Place) -> str:
    return str(place) if isinstance(place, (str, os.PathLike)) else "the archive"


# -- writing ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _whole(dest: Place) -> Iterator[tuple[IO[bytes], str | None]]:
    """
    A file whose content reaches `dest` if the block ends well, and else nothing does; and the
    folder for what is needed beside it.
    """
    if not isinstance(dest, (str, os.PathLike)):
        with tempfile.TemporaryFile() as file:
            yield file, None
            file.seek(0)
            shutil.copyfileobj(file, dest)
        return
    folder = os.path.dirname(os.path.abspath(dest))
    number, temporary = tempfile.mkstemp(prefix=".mneme-", suffix=".tmp", dir=folder)
    try:
        with open(number, "wb") as file:
            yield file, folder
            file.flush()
            # Before the rename: a power cut could else leave the new name on an empty file.
            os.fsync(number)
        os.replace(temporary, dest)
    except BaseException:
        os.unlink(temporary)
        raise


def _pack(
    file: IO[bytes],
    rows: IO[bytes],
    entries: Iterable[Entry],
    fingerprint: str,
    dim: int,
    counts: Counts,
) -> int:
    """Fill `file`; `rows` holds the vectors until the lines that they come with are written."""
    at = row = 0
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open(_info(ENTRIES, zipfile.ZIP_DEFLATED), "w", force_zip64=True) as member:
            lines = _Summed(member)
            for entry in entries:
                line, vector = _line_of(entry, dim, row)
                lines.write(line)
                rows.write(vector)
                at += 1
                row += bool(vector)
        rows.seek(0)
        with archive.open(_info(VECTORS, zipfile.ZIP_STORED), "w", force_zip64=True) as member:
            array = _Summed(member)
            array.write(_header(row, dim))
            shutil.copyfileobj(rows, array)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": fingerprint,
            "dim": dim,
            "entries": at,
            "vectors": row,
            "counts": [[space, name, n] for (space, name), n in sorted(counts.items())],
            "sha256": {ENTRIES: lines.sum.hexdigest(), VECTORS: array.sum.hexdigest()},
        }
        archive.writestr(_info(MANIFEST, zipfile.ZIP_STORED), _json(manifest))
    return at


def _line_of(entry: Entry, dim: int, row: int) -> tuple[bytes, bytes]:
    columns = dict(zip(COLUMNS, row_of(entry), strict=True))
    for name in ("created_at", "expires_at", "dies_at"):
        # A clock may count in whole numbers.
        columns[name] = None if columns[name] is None else float(columns[name])
    if entry_of(list(columns.values()), dim) is None:
        raise CheckpointError(
            f"the entry {entry.prompt!r:.40} of namespace {entry.namespace!r} could not be read "
            f"back with a vector of {dim}. Nothing was written. Delete the entry first."
        )
    vector: bytes | None = columns["vector"]
    payload = columns["payload"]
    return _json(
        columns
        | {
            "partition": entry.partition.hex(),
            "key": entry.key.hex(),
            "payload": base64.b64encode(payload).decode() if type(payload) is bytes else payload,
            "tags": entry.tags,
            "vector": None if vector is None else row,
        }
    ), vector or b""


class _Summed:
    """A member that is being written, with the digest of what has gone into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sum = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        return self._file.write(data)


def _info(name: str, compression: int) -> zipfile.ZipInfo:
    # It says 1980, so that equal entries make equal archives.
    info = zipfile.ZipInfo(name)
    info.compress_type = compression
    return info


def _header(rows: int, dim: int) -> bytes:
    buffer = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(buffer, shape)
    return buffer.getvalue()


def _json(value: object) -> bytes:
    # A namespace may hold half of a surrogate pair, and has to come back as it was.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    line = text.encode("utf-8", "surrogatepass") + b"\n"
    if len(line) > MAX_PIECE_BYTES:
        raise CheckpointError(
            f"{text[:80]}... has {len(line):,} bytes, the limit is {MAX_PIECE_BYTES:,}. "
            "Nothing was written. Delete the entry first."
        )
    return line


# -- reading ----------------------------------------------------------------------------------


class _Refused(Exception):
    """What is wrong with an archive, and what to do about it."""

    def __init__(self, what: str, remedy: str = "Use another copy, or write it again.") -> None:
        super().__init__(what)
        self.remedy = remedy


@contextlib.contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Here a `_Refused`, and the dozen other things that damage raises, get their message."""
    try:
        yield
    except MnemeError:
        raise
    except Exception as exc:
        why = exc if isinstance(exc, _Refused) else _Refused(f"cannot be read ({exc!r:.200})")
        raise CheckpointError(f"{name} {why}. Nothing was loaded. {why.remedy}") from exc


class _Sips:
    """A file that gives no more than a piece at once, whatever sizes its zip claims to have."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > MAX_PIECE_BYTES:
            raise _Refused(f"claims {size:,} bytes for one piece of it")
        # zipfile asks for all that is left only in the last 64 KiB, where it looks for the end.
        return self._file.read(size if size >= 0 else 1 << 17)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise _Refused(
            f"comes to {size:,} bytes, the limit is {max_bytes:,}",
            "If you trust it, raise max_bytes.",
        )


def _checked_manifest(
    members: zipfile.ZipFile, name: str, fingerprint: str, dim: int, max_bytes: int
) -> dict[str, Any]:
    """What the archive says of itself, once all that can be told without parsing was checked."""
    infos = members.infolist()
    if sorted(info.orig_filename for info in infos) != sorted(MEMBERS):
        listed = ", ".join(repr(info.orig_filename) for info in infos)
        raise _Refused(f"has the members {listed:.200}, not {', '.join(MEMBERS)}")
    _check_size(sum(info.file_size for info in infos), max_bytes)
    if not {info.compress_type for info in infos} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # What zipfile can unpack of the rest, it unpacks without a bound.
        raise _Refused("is packed by a method other than store and deflate")
    with members.open(MANIFEST) as file:
        manifest = cast(dict[str, Any], _parsed(file.read(MAX_PIECE_BYTES)))
    if (manifest["format"], manifest["version"]) != (FORMAT, VERSION):
        raise _Refused(
            f"has format {manifest['format']!r:.40} version {manifest['version']!r:.40}, and "
            f"{FORMAT!r} version {VERSION} is read here",
            "Use the version of mneme-toolkit that wrote it.",
        )
    if (manifest["fingerprint"], manifest["dim"]) != (fingerprint, dim):
        raise EmbedderMismatchError(
            f"{name} was filled by {manifest['fingerprint']!r:.200} ({manifest['dim']!r:.20}), "
            f"this cache uses {fingerprint!r} ({dim}). Nothing was loaded. "
            "Load it with its own embedder, then run python -m mneme migrate (reembed)."
        )
    for member in (ENTRIES, VECTORS):
        with members.open(member) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        if found != manifest["sha256"][member]:
            raise _Refused(f"has {member} with another SHA-256 ({found}) than its manifest says")
    return manifest


def _entries(
    members: zipfile.ZipFile, name: str, manifest: dict[str, Any], dim: int
) -> Iterator[Entry]:
    """Every entry, in the order they were written; at the end it is sure that these were all."""
    at = row = 0
    with _refusing(name), _opened(members, ENTRIES) as lines, _opened(members, VECTORS) as vectors:
        rows: int = manifest["vectors"]
        # Compared, not parsed: of all headers that numpy understands, one is right here.
        right = _header(rows, dim)
        start = vectors.read(10)
        shape = vectors.read(int.from_bytes(start[8:], "little"))
        size = len(start) + len(shape) + 4 * dim * rows
        is_right = (start[:8], shape.rstrip()) == (right[:8], right[10:].rstrip())
        if not is_right or members.getinfo(VECTORS).file_size != size:
            raise _Refused(f"has {VECTORS} that is not {rows} vectors of {dim}: {shape!r:.99}")
        while line := lines.readline(MAX_PIECE_BYTES):
            at += 1
            try:
                entry = _entry_of(line, row, vectors, dim)
            except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
                raise _Refused(f"has a malformed line {at} in {ENTRIES} ({exc})") from exc
            row += entry.vector is not None
            yield entry
        if (at, row) != (manifest["entries"], rows):
            raise _Refused(f"has {at} entries with {row} vectors, its manifest says otherwise")


def _opened(members: zipfile.ZipFile, member: str) -> IO[bytes]:
    # zipfile's own readline copies a long line 512 bytes at a time.
    return io.BufferedReader(cast(io.RawIOBase, members.open(member)), 1 << 20)


def _parsed(text: bytes) -> object:
    return json.loads(text.decode("utf-8", "surrogatepass"))


def _entry_of(line: bytes, row: int, vectors: IO[bytes], dim: int) -> Entry:
    """
    The entry on `line`, its vector taken from `vectors`, where `row` comes next.

    Raises:
        AttributeError, KeyError, RecursionError, TypeError, ValueError: it holds none.
    """
    columns = cast(dict[str, Any], _parsed(line))
    if not line.endswith(b"\n") or columns.keys() != set(COLUMNS):
        raise ValueError("not the fields of an entry, on a line of their own")
    if not all(type(tag) is str for tag in columns["tags"]):
        raise ValueError("a tag that is not text")
    columns["partition"] = bytes.fromhex(columns["partition"])
    columns["key"] = bytes.fromhex(columns["key"])
    columns["tags"] = json.dumps(columns["tags"], ensure_ascii=False)
    if columns["kind"] not in ("text", "json"):
        columns["payload"] = base64.b64decode(columns["payload"], validate=True)
    if columns["vector"] is not None:
        if columns["vector"] != row:
            raise ValueError(f"vector {columns['vector']!r:.20} where {row} comes next")
        columns["vector"] = vectors.read(4 * dim)
    entry = entry_of([columns[name] for name in COLUMNS], dim)
    if entry is None:
        plain = entry_of([(columns | {"vector": None})[name] for name in COLUMNS], dim)
        raise ValueError("a field of another kind" if plain is None else "a vector not of length 1")
    return entry


def _counts(listed: list[list[Any]]) -> Counts:
    counts = {(space, name): n for space, name, n in listed}
    for (space, name), n in counts.items():
        if (type(space), type(name), type(n)) != (str, str, int) or not 0 <= n < 1 << 63:
            raise _Refused(f"has the counter {name!r:.40} at {n!r:.40}")
    return counts
