"""Writing an archive, all of it or nothing."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import tempfile
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from mneme.checkpoint import _format as form
from mneme.checkpoint._format import ENTRIES, LABELS, MANIFEST, STATES, VECTORS, Counts, Place
from mneme.errors import CheckpointError
from mneme.records import Entry, Identity, Label
from mneme.stores._rows import COLUMNS, entry_of, row_of
from mneme.types import Remembering, Store

__all__ = ["save", "write"]


@dataclass(frozen=True, slots=True)
class _Content:
    """What goes into an archive."""

    fingerprint: str
    dim: int
    entries: Iterable[Entry]
    counts: Counts
    labels: Iterable[Label]
    states: Mapping[str, bytes]


def save(store: Store, dest: Place, *, fingerprint: str, dim: int) -> int:
    """
    Write all that `store` holds to one archive at `dest`; the number of entries.

    `store` is only read. What others put, replace or remove meanwhile is in the archive or is
    not; each entry in it is whole, and what nobody touched is in it.

    Raises:
        CheckpointError: see `write`.
        StoreBackendError: the store failed; what stood at `dest` is as it was.
    """
    labels: Iterable[Label] = ()
    states: Mapping[str, bytes] = {}
    if isinstance(store, Remembering):
        labels, states = store.labels(), store.states()
    return write(
        dest,
        store.scan(),
        fingerprint=fingerprint,
        dim=dim,
        counts=store.counts(),
        labels=labels,
        states=states,
    )


def write(
    dest: Place,
    entries: Iterable[Entry],
    *,
    fingerprint: str,
    dim: int,
    counts: Counts | None = None,
    labels: Iterable[Label] = (),
    states: Mapping[str, bytes] | None = None,
) -> int:
    """
    Write `entries` to one archive at `dest`, a path or an open binary file; their number.

    A path is replaced in one step, with mode 0600, once the new archive is complete on disk;
    an open file gets its first byte then. Equal content makes equal archives. Of two entries
    of one identity, as a scan of a store that changes may give them, the first is written; of
    `labels` the last 100,000. Labels and states that could not be read back are left out, as
    stores leave out rows that they cannot read.

    Raises:
        CheckpointError: `dest` cannot be written, or an entry could not be read back. What
            stood there is as it was, also when `entries` raises an error of its own.
    """
    content = _Content(fingerprint, dim, entries, counts or {}, labels, states or {})
    try:
        with _whole(dest) as (file, folder), tempfile.TemporaryFile(dir=folder) as rows:
            return _pack(file, rows, content)
    except OSError as exc:
        raise CheckpointError(
            f"{form.name_of(dest)} was not written: {exc}. What stood there was not changed. "
            "Check that its folder can be written and that the disk has room."
        ) from exc


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


def _pack(file: IO[bytes], rows: IO[bytes], content: _Content) -> int:
    """Fill `file`; `rows` holds the vectors until the lines that they come with are written."""
    digests: dict[str, str] = {}
    with zipfile.ZipFile(file, "w") as archive:
        with _member(archive, ENTRIES, digests) as lines:
            entries, vectors = _put_entries(lines, rows, content)
        rows.seek(0)
        with _member(archive, VECTORS, digests, zipfile.ZIP_STORED) as array:
            array.write(form.array_header(vectors, content.dim))
            shutil.copyfileobj(rows, array)
        with _member(archive, LABELS, digests) as lines:
            labels = _put_lines(lines, _labels(content.labels))
        with _member(archive, STATES, digests) as lines:
            states = _put_lines(lines, _states(content.states))
        manifest = {
            "format": form.FORMAT,
            "version": form.VERSION,
            "fingerprint": content.fingerprint,
            "dim": content.dim,
            "entries": entries,
            "vectors": vectors,
            "labels": labels,
            "states": states,
            "counts": [[space, name, n] for (space, name), n in sorted(content.counts.items())],
            "sha256": digests,
        }
        archive.writestr(_info(MANIFEST, zipfile.ZIP_STORED), form.json_line(manifest))
    return entries


def _put_entries(lines: _Summed, rows: IO[bytes], content: _Content) -> tuple[int, int]:
    """Write a line for each entry, and its vector to `rows`; how many of both there were."""
    row = 0
    written: set[Identity] = set()
    for entry in content.entries:
        if entry.identity in written:
            continue
        line, vector = _line_of(entry, content.dim, row)
        lines.write(line)
        rows.write(vector)
        written.add(entry.identity)
        row += bool(vector)
    return len(written), row


def _line_of(entry: Entry, dim: int, row: int) -> tuple[bytes, bytes]:
    columns = dict(zip(COLUMNS, row_of(entry), strict=True))
    for name in ("created_at", "expires_at", "dies_at"):
        # A clock may count in whole numbers.
        columns[name] = None if columns[name] is None else float(columns[name]) + 0.0
    if entry_of(list(columns.values()), dim) is None:
        raise CheckpointError(
            f"the entry {entry.prompt!r:.40} of namespace {entry.namespace!r} could not be read "
            f"back with a vector of {dim}. Nothing was written. Delete the entry first."
        )
    vector: bytes | None = columns["vector"]
    payload = columns["payload"]
    return form.json_line(
        columns
        | {
            "partition": entry.partition.hex(),
            "key": entry.key.hex(),
            "payload": base64.b64encode(payload).decode() if type(payload) is bytes else payload,
            "tags": entry.tags,
            "vector": None if vector is None else row,
        }
    ), vector or b""


def _labels(labels: Iterable[Label]) -> Iterator[dict[str, Any]]:
    for label in deque(labels, maxlen=form.MAX_LABELS):
        fields = form.labelled(label)
        if form.label_of(fields) is not None:
            yield fields


def _states(states: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    known = {name: data for name, data in states.items() if form.is_state(name, data)}
    for name in sorted(known):
        yield form.stated(name, known[name])


def _put_lines(lines: _Summed, values: Iterable[dict[str, Any]]) -> int:
    """Write a line for each of `values`, which a reader will hold in memory; their number."""
    count = size = 0
    for value in values:
        size += lines.write(form.json_line(value))
        count += 1
        if size > form.MAX_PIECE_BYTES:
            raise CheckpointError(
                f"what was learned comes to over {form.MAX_PIECE_BYTES:,} bytes. "
                "Nothing was written. Write the entries alone, with mneme.checkpoint.write."
            )
    return count


class _Summed:
    """A member that is being written, with the digest of what has gone into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sum = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        return self._file.write(data)


@contextlib.contextmanager
def _member(
    archive: zipfile.ZipFile,
    name: str,
    digests: dict[str, str],
    compression: int = zipfile.ZIP_DEFLATED,
) -> Iterator[_Summed]:
    """A member to write; its digest is in `digests` afterwards."""
    with archive.open(_info(name, compression), "w", force_zip64=True) as file:
        summed = _Summed(file)
        yield summed
    digests[name] = summed.sum.hexdigest()


def _info(name: str, compression: int) -> zipfile.ZipInfo:
    # It says 1980, so that equal entries make equal archives.
    info = zipfile.ZipInfo(name)
    info.compress_type = compression
    return info
