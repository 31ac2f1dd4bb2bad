"""What both faces of a cache do to write an archive, and to begin from one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from mneme import checkpoint
from mneme._core.core import Core
from mneme._core.face import check_embedder
from mneme.types import AnyEmbedder, Store

__all__ = ["checked", "dumped", "restored", "unmade"]


def dumped(core: Core, dest: str | os.PathLike[str] | BinaryIO) -> int:
    """Write all that the cache of `core` keeps, what waits for a commit too; how many entries."""
    core.save()
    return checkpoint.save(core.store, dest, fingerprint=core.embedder.fingerprint, dim=core.dim)


def checked(path: object, store: Store | None, embedder: AnyEmbedder | None) -> AnyEmbedder:
    """
    The embedder, once it is known that there is one, and one place to fill.

    Raises:
        TypeError, ValueError: there is none, or both places or neither were named.
    """
    if embedder is None:
        raise TypeError("loads needs the embedder that filled the archive. Pass embedder=.")
    check_embedder(embedder)
    if (path is None) == (store is None):
        raise ValueError("pass exactly one of path= (a new SQLite file) and store= (an empty one).")
    return embedder


def restored(
    source: str | os.PathLike[str] | BinaryIO,
    path: str | os.PathLike[str] | None,
    store: Store | None,
    embedder: AnyEmbedder,
) -> None:
    """Fill the new file at `path`, or `store`, whichever was named."""
    owner: dict[str, Any] = {"fingerprint": embedder.fingerprint, "dim": int(embedder.dim)}
    if store is not None:
        checkpoint.restore(source, store, **owner)
    elif path is not None:
        checkpoint.restore_to_file(source, path, **owner)


def unmade(path: str | os.PathLike[str] | None) -> None:
    """Take back the file that was just filled: the settings of its cache make no sense."""
    if path is not None:
        for end in ("", "-mark", "-vectors", "-wal", "-shm"):
            Path(f"{os.fspath(path)}{end}").unlink(missing_ok=True)
