"""A cache file, opened without the embedder that filled it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mneme.errors import CorruptCacheError, MnemeError
from mneme.stores._address import owner_of_file
from mneme.stores.sqlite import SQLiteStore

__all__ = ["Owner", "bytes_on_disk", "open_store", "owner_of"]


@dataclass(frozen=True, slots=True)
class Owner:
    """
    The embedder that filled a file, as far as the file knows it: its name and its shape.

    In form it is a `mneme.Embedder`, so that a cache opens with it; it embeds nothing.
    """

    fingerprint: str
    dim: int

    def embed(self, text: str, /) -> NoReturn:
        raise MnemeError(f"{self.fingerprint} is only a name here and cannot embed.")


def owner_of(path: Path) -> Owner:
    """
    The embedder that `path` belongs to; the file is only read.

    Raises:
        StoreBackendError: there is no such file, or it cannot be read.
        CorruptCacheError: it is not a cache, or no cache was ever opened on it.
        SchemaMigrationError: another version of mneme wrote it.
    """
    found = owner_of_file(path)
    if found is None:
        raise CorruptCacheError(
            f"{path} does not say which embedder filled it: no cache was ever opened on it. "
            "The file was not touched. Use another path."
        )
    return Owner(*found)


def open_store(path: Path, owner: Owner) -> SQLiteStore:
    """The store in `path`, claimed in its owner's name; close it."""
    store = SQLiteStore(path)
    store.claim(owner.fingerprint, owner.dim)
    return store


def bytes_on_disk(path: Path) -> int:
    """The size of the file, and of what SQLite has not yet written back to it."""
    parts = (path, path.with_name(f"{path.name}-wal"))
    return sum(part.stat().st_size for part in parts if part.exists())
