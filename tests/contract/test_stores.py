"""The stores of mneme keep every promise of a store."""

from __future__ import annotations

from pathlib import Path

from mneme import MemoryStore, SQLiteStore
from mneme.testing import StoreContract
from mneme.types import Store


class TestMemoryStore(StoreContract):
    def make_store(self, place: Path) -> Store:
        return MemoryStore()


class TestSQLiteStore(StoreContract):
    def make_store(self, place: Path) -> Store:
        return SQLiteStore(place / "cache.db")

    def reopen(self, store: Store, place: Path) -> Store:
        return SQLiteStore(place / "cache.db")
