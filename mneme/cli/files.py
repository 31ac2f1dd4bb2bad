"""A cache file, opened without the embedder that filled it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mneme.errors import CorruptCacheError, MnemeError, SchemaMigrationError, StoreBackendError
from mneme.stores.sqlite import APPLICATION_ID, SCHEMA_VERSION, SQLiteStore

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
    if not path.is_file():
        raise StoreBackendError(f"{path} is no file. Check the path.")
    try:
        # Through a URI, because only there `mode=ro` can be said; `as_uri` escapes the path.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as reader:
            application = reader.execute("PRAGMA application_id").fetchone()[0]
            version = reader.execute("PRAGMA user_version").fetchone()[0]
            known = application == APPLICATION_ID and version == SCHEMA_VERSION
            rows = reader.execute("SELECT name, value FROM meta").fetchall() if known else []
    except sqlite3.OperationalError as exc:
        raise StoreBackendError(
            f"{path} cannot be read: {exc}. Check its permissions and those of its folder."
        ) from exc
    except sqlite3.DatabaseError:
        application, version, rows = None, None, []
    if application != APPLICATION_ID:
        raise CorruptCacheError(
            f"{path} is not a mneme cache. The file was not touched. Use another path."
        )
    if version != SCHEMA_VERSION:
        raise SchemaMigrationError(
            f"{path} has layout {version}, this version of mneme reads {SCHEMA_VERSION}. "
            "The file was not touched. Use the version of mneme-toolkit that wrote it."
        )
    meta = dict(rows)
    if not {"fingerprint", "dim"} <= meta.keys():
        raise CorruptCacheError(
            f"{path} does not say which embedder filled it: no cache was ever opened on it. "
            "The file was not touched. Use another path."
        )
    return Owner(meta["fingerprint"], int(meta["dim"]))


def open_store(path: Path, owner: Owner) -> SQLiteStore:
    """The store in `path`, claimed in its owner's name; close it."""
    store = SQLiteStore(path)
    store.claim(owner.fingerprint, owner.dim)
    return store


def bytes_on_disk(path: Path) -> int:
    """The size of the file, and of what SQLite has not yet written back to it."""
    parts = (path, path.with_name(f"{path.name}-wal"))
    return sum(part.stat().st_size for part in parts if part.exists())
