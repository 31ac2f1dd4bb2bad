"""The stores of mneme keep every promise of a store."""

from __future__ import annotations

from pathlib import Path

from mneme import MemoryStore, SQLiteStore
from mneme.records import Changes
from mneme.testing import StoreContract, entry
from mneme.types import Store


class TestMemoryStore(StoreContract):
    def make_store(self, place: Path) -> Store:
        return MemoryStore()


class TestSQLiteStore(StoreContract):
    def make_store(self, place: Path) -> Store:
        return SQLiteStore(place / "cache.db")

    def reopen(self, store: Store, place: Path) -> Store:
        return self.make_store(place)

    def beside(self, store: Store, place: Path) -> Store:
        return self.make_store(place)


class TestSQLiteStoreInGroups(TestSQLiteStore):
    def make_store(self, place: Path) -> Store:
        return SQLiteStore(place / "cache.db", durability="group")

    def test_the_mark_tells_of_commits(self, tmp_path: Path) -> None:
        """Its own commits, written a moment later, are nothing new to the one who made them."""
        store = self._opened(tmp_path)
        other = SQLiteStore(tmp_path / "cache.db")
        other.claim(self.FINGERPRINT, self.DIM)
        before, others = store.mark(), other.mark()
        assert store.commit(Changes(puts=(entry("mine"),), mark=before)) == before
        assert [one.prompt for one in store.scan()] == ["mine"]
        assert store.mark() == before
        assert other.mark() != others
        other.commit(Changes(puts=(entry("theirs"),)))
        assert store.mark() != before
        changes = store.changes_since(before)
        assert changes is not None
        assert [one.prompt for one in changes.puts] == ["theirs"]
        assert changes.mark == store.mark()
        store.close()
        other.close()
