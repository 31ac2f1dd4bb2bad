"""Caches that open cold: few entries are many here, and a gate holds the filling of memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.worlds import PATIENCE

from mneme import SemanticCache, SQLiteStore
from mneme.stores._cold import ColdEntries
from mneme.stores._sidekeeping import SideKeeper
from mneme.testing import HashEmbedder

DIM = 8
MANY = 20
"""Entries from which a side file is written here."""


class Gate:
    """While it is closed, nobody fills memory; it says how many are at it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._open, self.is_reached = threading.Event(), threading.Event()
        through = ColdEntries.is_sound

        def is_sound(cold: ColdEntries, goes_on: Any) -> bool:
            self.is_reached.set()
            while not self._open.wait(0.01):
                if not goes_on():
                    return False
            return through(cold, goes_on)

        patch.setattr(ColdEntries, "is_sound", is_sound)

    def open(self) -> None:
        self._open.set()


class Scanning(SQLiteStore):
    """A store that knows nothing of side files."""

    def cold(self) -> None:
        return None

    def keep_vectors(self, directions: Any, *, later: bool = False) -> None:
        return None


def few_are_many(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("mneme._core.keeper.MANY", MANY)
    patch.setattr("mneme.stores._sidekeeping.LEAST", MANY)


def vectors(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit vectors that are far from each other, shape ``(count, DIM)``."""
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def opened(
    path: Path, *, scanning: bool = False, durability: Any = "commit", **settings: Any
) -> SemanticCache:
    store = (Scanning if scanning else SQLiteStore)(path, durability=durability)
    settings = {"similarity_threshold": 0.95, "guards": (), "self_check": False, **settings}
    return SemanticCache(embedder=HashEmbedder(DIM), store=store, **settings)


def filled(path: Path, count: int = 2 * MANY, **settings: Any) -> None:
    """A cache file of so many entries, the vectors of which are `vectors`, and its side file."""
    with opened(path, **settings) as cache:
        pairs = [(f"question {at}", f"answer {at}") for at in range(count)]
        cache.put_many(pairs, embeddings=vectors(count))


def side_file(path: Path) -> Path:
    return Path(f"{path}-vectors")


def is_cold(cache: Any) -> bool:
    return cache._core._warming is not None


def warm(cache: Any) -> None:
    """Wait until memory is filled."""
    warming = cache._core._warming
    if warming is not None:
        done = threading.Thread(target=warming.wait, daemon=True)
        done.start()
        done.join(PATIENCE)
    assert not is_cold(cache)


def keeps(cache: SemanticCache) -> bool:
    """Write the side file now, if that pays."""
    store = cache._core.store
    assert isinstance(store, SQLiteStore)
    keeper: SideKeeper = store._side
    return keeper.keep(cache._core.embedder.fingerprint, DIM, {})
