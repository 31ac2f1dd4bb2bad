"""From what a person writes to name a store, to the store."""

from __future__ import annotations

import importlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import cast
from urllib.parse import parse_qsl, unquote, urlsplit

from mneme.errors import CorruptCacheError, SchemaMigrationError, StoreBackendError
from mneme.stores._sqlite_schema import APPLICATION_ID, SCHEMA_VERSION
from mneme.stores.sqlite import SQLiteStore
from mneme.types import Owned, Store

__all__ = ["is_url", "open_store", "owner_of", "owner_of_file", "without_passwords"]

Address = str | os.PathLike[str]

POSTGRES = ("mneme.stores.postgres", "PostgresStore", "postgres", "schema")
REDIS = ("mneme.stores.redis", "RedisStore", "redis", "prefix")

# Scheme -> module, class, extra, and the setting by which caches share a server. Imported when
# asked for: each needs a package of its own.
ENGINES = {"postgres": POSTGRES, "postgresql": POSTGRES, "redis": REDIS, "rediss": REDIS,
           "unix": REDIS}  # fmt: skip


def open_store(address: Address) -> Store:
    """
    The store at `address`: a ``postgresql://`` or ``redis://`` URL, else the path of a SQLite
    file. Nothing is connected to or touched before it is used.

    ``?schema=`` of PostgreSQL and ``?prefix=`` of Redis say which of a server's caches.

    Raises:
        ValueError: a URL of another kind.
        StoreBackendError: a package that this kind of store needs is not installed.
    """
    if not is_url(address):
        # A batch that was reported is there, whatever happens next.
        return SQLiteStore(address, durability="commit")
    scheme = str(address).partition("://")[0].lower()
    if scheme not in ENGINES:
        raise ValueError(
            f"there is no store for {scheme}:// addresses. "
            f"Use one of {', '.join(f'{name}://' for name in ENGINES)}, or a path."
        )
    module, name, extra, setting = ENGINES[scheme]
    url, which = _split_off(str(address), setting)
    try:
        made = getattr(importlib.import_module(module), name)(url, **which)
    except ImportError as exc:
        raise StoreBackendError(
            f"a store at {scheme}:// cannot be made: {exc}. Nothing was touched. "
            f"Run: pip install 'mneme-toolkit[{extra}]'"
        ) from exc
    return cast(Store, made)


def _split_off(address: str, setting: str) -> tuple[str, dict[str, str]]:
    """`address` without `setting` in its query, and what was set."""
    start, mark, query = address.partition("?")
    parts = query.split("&") if mark else []
    ours = [part for part in parts if part.startswith(f"{setting}=")]
    others = "&".join(part for part in parts if part not in ours)
    which = {setting: unquote(ours[-1].partition("=")[2])} if ours else {}
    return f"{start}?{others}" if others else start, which


def is_url(address: Address) -> bool:
    """Whether `address` is that of a server, and no path."""
    scheme, mark, _ = str(address).partition("://")
    # One letter is a drive of Windows.
    return bool(mark) and len(scheme) > 1 and scheme.isalnum()


def without_passwords(text: str, *addresses: object) -> str:
    """`text` with ``***`` wherever a password of one of `addresses` stands in it."""
    for address in addresses:
        for secret in _secrets(str(address)):
            text = text.replace(secret, "***")
    return text


def _secrets(address: str) -> list[str]:
    if not is_url(address):
        return []
    after = address.partition("://")[2]
    # By hand: what is no valid URL may hold a password, too.
    whose = after.rpartition("@")[0].partition(":")[2]
    try:
        listed = parse_qsl(urlsplit(address).query)
    except ValueError:
        listed = []
    asked = [value for name, value in listed if "pass" in name.lower()]
    found = {whose, unquote(whose), *asked} - {""}
    # The longest first: one may be a part of another.
    return sorted(found, key=len, reverse=True)


def owner_of(store: Store) -> tuple[str, int] | None:
    """
    Fingerprint and dimension of the embedder that filled `store`, which need not be claimed;
    None: nobody has claimed it, or it cannot say.

    Raises:
        StoreBackendError, CorruptCacheError, SchemaMigrationError: it cannot be read.
    """
    if isinstance(store, Owned):
        return store.owner()
    return owner_of_file(store.path) if isinstance(store, SQLiteStore) else None


def owner_of_file(path: Path) -> tuple[str, int] | None:
    """
    The embedder that the SQLite file at `path` belongs to, None if to nobody; the file is
    only read.

    Raises:
        StoreBackendError: there is no such file, or it cannot be read.
        CorruptCacheError: it is not a cache.
        SchemaMigrationError: another version of mneme wrote it.
    """
    if not path.is_file():
        raise StoreBackendError(f"{path} is no file. Check the path.")
    try:
        # Through a URI, because only there `mode=ro` can be said; `as_uri` escapes the path.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as reader:
            application = reader.execute("PRAGMA application_id").fetchone()[0]
            version = reader.execute("PRAGMA user_version").fetchone()[0]
            known = application == APPLICATION_ID and 1 <= version <= SCHEMA_VERSION
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
    if not 1 <= version <= SCHEMA_VERSION:
        raise SchemaMigrationError(
            f"{path} has layout {version}, this version of mneme reads 1 to {SCHEMA_VERSION}. "
            "The file was not touched. Use the version of mneme-toolkit that wrote it."
        )
    meta = dict(rows)
    if not {"fingerprint", "dim"} <= meta.keys():
        return None
    return meta["fingerprint"], int(meta["dim"])
