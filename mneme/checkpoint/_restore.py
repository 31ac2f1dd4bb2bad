"""Filling a store from an archive, with all of it or nothing."""

from __future__ import annotations

import os
from contextlib import closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from mneme.checkpoint import _format as form
from mneme.checkpoint._format import MAX_BYTES, Place
from mneme.checkpoint._read import Archive, read
from mneme.errors import CheckpointError, MnemeError
from mneme.records import Changes
from mneme.stores.sqlite import SQLiteStore
from mneme.types import Store

__all__ = ["restore", "restore_to_file"]

CHUNK = 512
"""Entries in one commit of a restore."""


def restore(
    source: Place,
    store: Store,
    *,
    fingerprint: str | None = None,
    dim: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> int:
    """
    Fill an empty `store` with all that the archive at `source` holds; how many entries.

    The archive is checked to its end before the store is touched, and a failure while the
    store is filled empties it again. The store is claimed for the embedder that is named, or
    for the archive's where none is. A store that does not remember (`mneme.types.Remembering`)
    gets no labels and no states.

    Raises:
        CheckpointError: `store` holds entries, which are left as they are; or see `read`.
        EmbedderMismatchError: archive or store belong to another embedder.
        StoreBackendError: the store failed.
    """
    with read(source, fingerprint=fingerprint, dim=dim, max_bytes=max_bytes) as archive:
        store.claim(archive.fingerprint, archive.dim)
        # A store whose rows cannot be read is not empty either.
        if next(iter(store.scan()), None) is not None or store.bad_rows:
            raise CheckpointError(
                f"{store.description} holds entries already. It was left untouched. "
                "Restore into an empty store, or clear this one first."
            )
        try:
            _fill(store, archive)
        except BaseException as exc:
            try:
                _empty(store)
            except MnemeError as failure:
                exc.add_note(f"Part of it is in the store ({failure}). Clear it and try again.")
            if isinstance(exc, MnemeError) or not isinstance(exc, Exception):
                raise
            raise CheckpointError(
                f"{form.name_of(source)} holds what {store.description} cannot keep "
                f"({exc!r:.200}). Nothing was loaded. Restore it into a store of another kind."
            ) from exc
        return len(archive)


def _fill(store: Store, archive: Archive) -> None:
    entries = iter(archive)
    while puts := tuple(islice(entries, CHUNK)):
        store.commit(Changes(puts))
    # Last and in one commit, because these cannot be taken back.
    store.commit(Changes(counts=archive.counts, labels=archive.labels, states=dict(archive.states)))


def _empty(store: Store) -> None:
    # Asked of the store: a commit that was interrupted may have gone through.
    identities = iter([entry.identity for entry in store.scan()])
    while removed := tuple(islice(identities, CHUNK)):
        store.commit(Changes(removed=removed))


def restore_to_file(
    source: Place,
    path: str | os.PathLike[str],
    *,
    fingerprint: str | None = None,
    dim: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> int:
    """
    As `restore`, into a new SQLite file at `path`, which gets its name once it is filled.

    Raises:
        CheckpointError: `path` exists, and was not touched; or see `read`.
        EmbedderMismatchError: another embedder filled the archive.
        StoreBackendError: the file cannot be written.
    """
    place = Path(path)
    if place.exists():
        raise CheckpointError(
            f"{place} exists. It was not touched. Load the archive into a new file."
        )
    try:
        with TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as folder:
            half_done = Path(folder) / place.name
            with closing(SQLiteStore(half_done)) as store:
                count = restore(
                    source, store, fingerprint=fingerprint, dim=dim, max_bytes=max_bytes
                )
            half_done.rename(place)
    except OSError as exc:
        raise CheckpointError(
            f"{place} was not made: {exc}. Nothing was loaded. "
            "Check that its folder exists and can be written."
        ) from exc
    return count
