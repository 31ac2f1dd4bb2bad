"""Reading an archive, once all of it has been checked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, BinaryIO, cast

import numpy as np

from mneme.checkpoint import _format as form
from mneme.checkpoint._format import (
    ENTRIES,
    FORMAT,
    LABELS,
    MANIFEST,
    MAX_BYTES,
    MEMBERS,
    STATES,
    VECTORS,
    VERSION,
    Counts,
    Place,
)
from mneme.errors import CheckpointError, EmbedderMismatchError, MnemeError
from mneme.records import Entry, Label
from mneme.stores._rows import COLUMNS, entry_of

__all__ = ["Archive", "read"]

MAX_DIM = 1 << 24


@dataclass(frozen=True, slots=True, eq=False)
class Archive:
    """
    A checked archive: ``len()`` of it, what was counted and learned, and its entries by
    iteration.

    Each iteration reads the file again, an entry at a time; what was changed in it meanwhile
    is a `CheckpointError`.
    """

    fingerprint: str
    """Of the embedder whose vectors it holds."""
    dim: int
    counts: Counts
    """Counters by (namespace, name)."""
    labels: tuple[Label, ...] = field(repr=False)
    """Oldest first; none in an archive of version 1."""
    states: Mapping[str, bytes] = field(repr=False)
    """What policies have learned, by name; none in an archive of version 1."""
    _length: int
    _entries: Callable[[], Iterator[Entry]] = field(repr=False)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Entry]:
        return self._entries()


@contextlib.contextmanager
def read(
    source: Place,
    *,
    fingerprint: str | None = None,
    dim: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> Iterator[Archive]:
    """
    In a ``with`` block, the archive at `source` (a path or a seekable binary file), once all
    of it has been checked. Nothing in it is executed, and no name in it becomes a path.

    Without `fingerprint` and `dim`, whatever embedder filled it is right.

    Raises:
        EmbedderMismatchError: it holds the vectors of another embedder.
        CheckpointError: it is damaged, cut short, over `max_bytes` packed or unpacked, of
            another version, or no archive of mneme.
        ValueError: `fingerprint` or `dim` is given without the other.
    """
    if (fingerprint is None) is not (dim is None):
        raise ValueError("fingerprint and dim name one embedder. Give both, or neither.")
    expected = None if fingerprint is None or dim is None else (fingerprint, dim)
    name = form.name_of(source)
    with contextlib.ExitStack() as stack:
        with _refusing(name):
            if isinstance(source, (str, os.PathLike)):
                source = stack.enter_context(open(source, "rb"))
            _check_size(source.seek(0, os.SEEK_END), max_bytes)
            members = stack.enter_context(zipfile.ZipFile(_Sips(source)))
            manifest = _checked_manifest(members, name, expected, max_bytes)
            archive = Archive(
                manifest["fingerprint"],
                manifest["dim"],
                _counts(manifest["counts"]),
                _labels(members, manifest),
                _states(members, manifest),
                manifest["entries"],
                partial(_entries, members, name, manifest),
            )
            _check_entries(archive)
        yield archive


# -- refusing ---------------------------------------------------------------------------------


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
        if size > form.MAX_PIECE_BYTES:
            raise _Refused(f"claims {size:,} bytes for one piece of it")
        # zipfile asks for all that is left only in the last 64 KiB, where it looks for the end.
        return self._file.read(size if size >= 0 else 1 << 17)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise _Refused(
            f"comes to {size:,} bytes, the limit is {max_bytes:,}",
            "If you trust it, raise max_bytes.",
        )


# -- what the archive says of itself ----------------------------------------------------------


def _checked_manifest(
    members: zipfile.ZipFile, name: str, expected: tuple[str, int] | None, max_bytes: int
) -> dict[str, Any]:
    """The manifest, once all that can be told without parsing the others was checked."""
    infos = members.infolist()
    names = sorted(info.orig_filename for info in infos)
    _check_size(sum(info.file_size for info in infos), max_bytes)
    if not {info.compress_type for info in infos} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # What zipfile can unpack of the rest, it unpacks without a bound.
        raise _Refused("is packed by a method other than store and deflate")
    if names.count(MANIFEST) != 1:
        raise _has_other_members(names, MEMBERS[VERSION])
    with members.open(MANIFEST) as file:
        manifest = cast(dict[str, Any], form.parsed(file.read(form.MAX_PIECE_BYTES)))
    _check_version(manifest["format"], manifest["version"])
    known = MEMBERS[manifest["version"]]
    if names != sorted(known):
        raise _has_other_members(names, known)
    _check_owner(manifest["fingerprint"], manifest["dim"], name, expected)
    for member in known:
        if member == MANIFEST:
            continue
        with members.open(member) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        if found != manifest["sha256"][member]:
            raise _Refused(f"has {member} with another SHA-256 ({found}) than its manifest says")
    return manifest


def _has_other_members(names: list[str], known: tuple[str, ...]) -> _Refused:
    listed = ", ".join(map(repr, names))
    return _Refused(f"has the members {listed:.200}, not {', '.join(known)}")


def _check_version(format_: object, version: object) -> None:
    # True is 1 to a dict, too.
    if format_ == FORMAT and type(version) is int and version in MEMBERS:
        return
    is_newer = format_ == FORMAT and type(version) is int and version > VERSION
    raise _Refused(
        f"has format {format_!r:.40} version {version!r:.40}, and {FORMAT!r} versions "
        f"{min(MEMBERS)} to {VERSION} are read here",
        "Use a newer version of mneme-toolkit."
        if is_newer
        else "Use the version of mneme-toolkit that wrote it.",
    )


def _check_owner(
    fingerprint: object, dim: object, name: str, expected: tuple[str, int] | None
) -> None:
    is_owner = type(fingerprint) is str and type(dim) is int and 1 <= dim <= MAX_DIM
    if expected is None and not is_owner:
        raise _Refused(f"was filled by {fingerprint!r:.40} ({dim!r:.20}), which is no embedder")
    if expected is not None and (fingerprint, dim) != expected:
        raise EmbedderMismatchError(
            f"{name} was filled by {fingerprint!r:.200} ({dim!r:.20}), this cache uses "
            f"{expected[0]!r} ({expected[1]}). Nothing was loaded. "
            "Load it with its own embedder, then run python -m mneme migrate (reembed)."
        )


def _counts(listed: list[list[Any]]) -> Counts:
    counts = {(space, name): n for space, name, n in listed}
    for (space, name), n in counts.items():
        if (type(space), type(name), type(n)) != (str, str, int) or not 0 <= n < 1 << 63:
            raise _Refused(f"has the counter {name!r:.40} at {n!r:.40}")
    return counts


# -- what was learned -------------------------------------------------------------------------


def _labels(members: zipfile.ZipFile, manifest: dict[str, Any]) -> tuple[Label, ...]:
    found = []
    for at, value in enumerate(_values(members, LABELS, manifest, "labels"), start=1):
        label = form.label_of(value)
        if label is None or at > form.MAX_LABELS:
            what = "over the limit" if label else "not the fields of a label"
            raise _Refused(f"has a malformed line {at} in {LABELS} ({what})")
        found.append(label)
    return tuple(found)


def _states(members: zipfile.ZipFile, manifest: dict[str, Any]) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    for at, value in enumerate(_values(members, STATES, manifest, "states"), start=1):
        try:
            name, state = form.state_of(value)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise _Refused(f"has a malformed line {at} in {STATES} ({exc})") from exc
        if name in found:
            raise _Refused(f"has the state {name!r:.40} twice")
        found[name] = state
    return found


def _values(
    members: zipfile.ZipFile, member: str, manifest: dict[str, Any], count: str
) -> Iterator[object]:
    """The values on the lines of `member`, which are all held in memory, so as a whole bounded."""
    if member not in MEMBERS[manifest["version"]]:
        return
    size = members.getinfo(member).file_size
    if size > form.MAX_PIECE_BYTES:
        raise _Refused(f"has {member} of {size:,} bytes, the limit is {form.MAX_PIECE_BYTES:,}")
    at = 0
    with _opened(members, member) as lines:
        while line := lines.readline(form.MAX_PIECE_BYTES):
            at += 1
            if not line.endswith(b"\n"):
                raise _Refused(f"has a malformed line {at} in {member} (it has no end)")
            try:
                value = form.parsed(line)
            except (RecursionError, ValueError) as exc:
                raise _Refused(f"has a malformed line {at} in {member} ({exc})") from exc
            yield value
    if at != manifest[count]:
        raise _Refused(f"has {at} {count}, its manifest says otherwise")


# -- entries ----------------------------------------------------------------------------------


def _check_entries(archive: Archive) -> None:
    """Read to the end, which checks every entry."""
    seen = bytearray()
    for entry in archive:
        seen += entry.partition + entry.key
    if len(np.unique(np.frombuffer(seen, "S32"))) != len(archive):
        raise _Refused("has two entries of one identity")


def _entries(members: zipfile.ZipFile, name: str, manifest: dict[str, Any]) -> Iterator[Entry]:
    """Every entry, in the order they were written; at the end it is sure that these were all."""
    at = row = 0
    dim: int = manifest["dim"]
    with _refusing(name), _opened(members, ENTRIES) as lines, _opened(members, VECTORS) as vectors:
        rows: int = manifest["vectors"]
        _check_array(members, vectors, rows, dim)
        while line := lines.readline(form.MAX_PIECE_BYTES):
            at += 1
            try:
                entry = _entry_of(line, row, vectors, dim)
            except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as exc:
                raise _Refused(f"has a malformed line {at} in {ENTRIES} ({exc})") from exc
            row += entry.vector is not None
            yield entry
        if (at, row) != (manifest["entries"], rows):
            raise _Refused(f"has {at} entries with {row} vectors, its manifest says otherwise")


def _check_array(members: zipfile.ZipFile, vectors: IO[bytes], rows: int, dim: int) -> None:
    # Compared, not parsed: of all headers that numpy understands, one is right here.
    right = form.array_header(rows, dim)
    start = vectors.read(10)
    shape = vectors.read(int.from_bytes(start[8:], "little"))
    size = len(start) + len(shape) + 4 * dim * rows
    is_right = (start[:8], shape.rstrip()) == (right[:8], right[10:].rstrip())
    if not is_right or members.getinfo(VECTORS).file_size != size:
        raise _Refused(f"has {VECTORS} that is not {rows} vectors of {dim}: {shape!r:.99}")


def _opened(members: zipfile.ZipFile, member: str) -> IO[bytes]:
    # zipfile's own readline copies a long line 512 bytes at a time.
    return io.BufferedReader(cast(io.RawIOBase, members.open(member)), 1 << 20)


def _entry_of(line: bytes, row: int, vectors: IO[bytes], dim: int) -> Entry:
    """
    The entry on `line`, its vector taken from `vectors`, where `row` comes next.

    Raises:
        AttributeError, KeyError, RecursionError, TypeError, ValueError: it holds none.
    """
    columns = cast(dict[str, Any], form.parsed(line))
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
