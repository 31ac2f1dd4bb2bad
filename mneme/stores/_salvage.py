"""What can still be read of a damaged file, in a new one."""

from __future__ import annotations

import math
import os
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast, get_args

from mneme.errors import CorruptCacheError, StoreBackendError
from mneme.records import Changes, Entry, Identity, Key, Label, LabelSource, Partition
from mneme.stores._pages import SIZES, Pages, Record
from mneme.stores._rows import COLUMNS, entry_of
from mneme.stores._stored import STORED, stored_entry
from mneme.stores.sqlite import SQLiteStore

__all__ = ["Salvaged", "salvage"]

CHUNK = 1_000
"""Entries written in one commit."""

_REAL = tuple(COLUMNS.index(name) for name in ("created_at", "expires_at", "dies_at"))
_VECTOR = COLUMNS.index("vector")
_SOURCES = get_args(LabelSource)

UNSURE_OF_FREE = (
    "the list of free pages cannot be read: entries that had been removed or replaced may be "
    "among those that were saved"
)
UNSURE_OF_SIZE = "the head of the file cannot be read: the size of its pages was guessed"


@dataclass(frozen=True, slots=True)
class Salvaged:
    """
    What was saved of a damaged file, and what is known to be lost.

    ``lost`` counts entries that the file names and whose contents cannot be read;
    ``bad_cells`` what should be a row of some table or index and is none.
    """

    entries: int
    labels: int
    counters: int
    states: int
    lost: int
    bad_cells: int
    notes: tuple[str, ...] = ()
    """What else is to be known, in words."""


class _Row(NamedTuple):
    """A row that has the shape of an entry."""

    seq: int
    rowid: int
    is_free: bool
    columns: tuple[Any, ...]
    sums: tuple[Any, ...] | None
    """The checksums; layout 1 has none."""


@dataclass(slots=True)
class _Finds:
    """What the pages of one file hold, each row where its shape says that it belongs."""

    rows: list[_Row] = field(default_factory=list)
    named: dict[Identity, int] = field(default_factory=dict)
    """Where the index of entries says that each is: the rowid."""
    removed: dict[Identity, int] = field(default_factory=dict)
    cleared: dict[str, int] = field(default_factory=dict)
    """When each was removed, and each namespace cleared: the seq."""
    meta: dict[str, str] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    labels: dict[int, Label] = field(default_factory=dict)
    states: dict[str, bytes] = field(default_factory=dict)
    bad_cells: int = 0
    notes: list[str] = field(default_factory=list)


def salvage(
    damaged: str | os.PathLike[str],
    rescued: str | os.PathLike[str],
    *,
    fingerprint: str | None = None,
) -> Salvaged:
    """
    Write to the new file `rescued` every entry of `damaged` that can be read; what that came to.

    Counters, labels and what policies have learned come along where they can be read. The
    damaged file is only read, page by page and with its ``-wal``; nobody should have it open.
    `fingerprint` names the embedder where the file can no longer say which filled it.

    Raises:
        StoreBackendError: `damaged` cannot be read, or `rescued` exists or cannot be made.
        CorruptCacheError: there is nothing to save, or nothing says which embedder filled it.
    """
    source, place = Path(damaged), Path(rescued)
    if place.exists():
        raise StoreBackendError(f"{place} exists. Nothing was changed. Name a new file.")
    try:
        finds = _best_finds(source)
    except OSError as exc:
        raise StoreBackendError(
            f"{source} cannot be read: {exc.strerror}. Nothing was made. Check the path."
        ) from exc
    owner = fingerprint or finds.meta.get("fingerprint")
    dim = _dim_of(finds)
    if not finds.rows or dim is None:
        raise CorruptCacheError(
            f"{source} holds no entry that can be read. It was left as it is. "
            "Restore a copy, or begin with a new file."
        )
    if owner is None:
        raise CorruptCacheError(
            f"{source} no longer says which embedder filled it. Nothing was made. "
            "Give the fingerprint of that embedder."
        )
    entries, dead = _entries(finds, dim)
    _write(place, entries, finds, owner, dim)
    saved = {entry.identity for entry in entries}
    return Salvaged(
        entries=len(entries),
        labels=len(finds.labels),
        counters=len(finds.counts),
        states=len(finds.states),
        lost=len(finds.named.keys() - saved - dead),
        bad_cells=finds.bad_cells,
        notes=tuple(finds.notes),
    )


def _best_finds(source: Path) -> _Finds:
    with Pages(source) as pages:
        if pages.is_sure:
            return _finds_in(pages)
    best = _Finds()
    for size in SIZES:
        with Pages(source, size) as pages:
            finds = _finds_in(pages)
        if len(finds.rows) > len(best.rows):
            best = finds
    best.notes.append(UNSURE_OF_SIZE)
    return best


def _finds_in(pages: Pages) -> _Finds:
    finds = _Finds()
    if pages.free is None:
        finds.notes.append(UNSURE_OF_FREE)
    for record in pages.records():
        _file(record, finds)
    finds.bad_cells = pages.bad_cells
    return finds


def _file(record: Record, finds: _Finds) -> None:
    """Put `record` where its shape says that it belongs; the tables differ in theirs."""
    rowid, values, is_free = record
    if rowid is not None and len(values) == len(STORED) and values[0] is None:
        *bare, body_sum, vector_sum, vector = values[1:]
        finds.rows.append(_Row(rowid, rowid, is_free, (*bare, vector), (body_sum, vector_sum)))
        return
    if rowid is not None and len(values) == len(COLUMNS) + 1:
        if isinstance(values[-1], int):
            # As layout 1 had it.
            finds.rows.append(_Row(values[-1], rowid, is_free, values[:-1], None))
        return
    if is_free:
        return
    match rowid, values:
        case (None, (bytes(partition), bytes(key), int(place))):
            if len(partition) == len(key) == 16:
                finds.named[Partition(partition), Key(key)] = place
        case (int(), (None | int() as seq, bytes(partition), bytes(key))):
            identity = Partition(partition), Key(key)
            seq = rowid if seq is None else seq
            finds.removed[identity] = max(seq or 0, finds.removed.get(identity, 0))
        case (None, (str(namespace), int(seq), int())):
            finds.cleared[namespace] = seq
        case (None, (str(name), str(value))):
            finds.meta[name] = value
        case (None, (str(namespace), str(name), int(count))):
            finds.counts[namespace, name] = count
        case (int(), (str(name), bytes(data))):
            finds.states[name] = data
        case (int(number), (None, *columns)) if (label := _label_of(columns)) is not None:
            finds.labels[number] = label


def _label_of(columns: list[Any]) -> Label | None:
    match columns:
        case (int() | float() as similarity, 0 | 1 as right, str(space), str(source),
              int() | float() as created_at, int() | float() | None as chance):  # fmt: skip
            numbers = (similarity, created_at, chance or 0.0)
            if source in _SOURCES and all(map(math.isfinite, numbers)):
                chance = None if chance is None else float(chance)
                name = cast(LabelSource, source)
                return Label(float(similarity), bool(right), space, name, float(created_at), chance)
    return None


def _dim_of(finds: _Finds) -> int | None:
    """As most vectors have it; as the file says it, where there are none."""
    lengths = Counter(
        len(row.columns[_VECTOR]) // 4
        for row in finds.rows
        if isinstance(row.columns[_VECTOR], bytes) and row.columns[_VECTOR]
    )
    if lengths:
        return lengths.most_common(1)[0][0]
    told = finds.meta.get("dim", "")
    return int(told) if told.isdecimal() else None


def _entries(finds: _Finds, dim: int) -> tuple[list[Entry], set[Identity]]:
    """
    The entries that are whole, oldest commit first, and those that were removed and whose
    rows are there. Of one identity that which the index names, or else the latest; from a
    free page only what the index names.
    """
    dead: set[Identity] = set()
    found: dict[Identity, tuple[bool, int, Entry]] = {}
    for row in finds.rows:
        seq, rowid, is_free, *_ = row
        entry = _entry_in(row, dim)
        if entry is None:
            continue
        if seq < max(finds.removed.get(entry.identity, 0), finds.cleared.get(entry.namespace, 0)):
            dead.add(entry.identity)
            continue
        is_named = finds.named.get(entry.identity) == rowid
        if is_free and not is_named:
            continue
        known = found.get(entry.identity)
        if known is None or (is_named, seq) >= known[:2]:
            found[entry.identity] = is_named, seq, entry
    return [entry for _, _, entry in sorted(found.values(), key=lambda one: one[1])], dead


def _entry_in(row: _Row, dim: int) -> Entry | None:
    # SQLite keeps a date without a fraction as an integer.
    columns = [_as_real(one) if at in _REAL else one for at, one in enumerate(row.columns)]
    if row.sums is None:
        return entry_of(columns, dim)
    return stored_entry((row.rowid, *columns[:-1], *row.sums, columns[-1]), dim)


def _as_real(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


def _write(place: Path, entries: list[Entry], finds: _Finds, fingerprint: str, dim: int) -> None:
    """Make `place` whole or not at all: it gets its name once it is filled."""
    try:
        with TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as folder:
            half_done = Path(folder) / place.name
            with closing(SQLiteStore(half_done, durability="commit")) as store:
                store.claim(fingerprint, dim)
                for at in range(0, len(entries), CHUNK):
                    store.commit(Changes(tuple(entries[at : at + CHUNK])))
                labels = tuple(label for _, label in sorted(finds.labels.items()))
                store.commit(Changes(counts=finds.counts, labels=labels, states=finds.states))
            half_done.rename(place)
    except OSError as exc:
        raise StoreBackendError(
            f"{place} cannot be made: {exc.strerror}. Nothing was changed. Check its folder."
        ) from exc
