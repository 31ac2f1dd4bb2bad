"""The stores of mneme keep every promise of a store."""

from __future__ import annotations

from pathlib import Path

from mneme import MemoryStore, SQLiteStore
from mneme.records import Changes, Payload
from mneme.testing import StoreContract, entry
from mneme.types import Fetching, Store


class TestMemoryStore(StoreContract):
    def make_store(self, place: Path) -> Store:
        return MemoryStore()


class TestSQLiteStore(StoreContract):
    def make_store(self, place: Path) -> Store:
        return SQLiteStore(place / "cache.db", durability="commit")

    def reopen(self, store: Store, place: Path) -> Store:
        return self.make_store(place)

    def beside(self, store: Store, place: Path) -> Store:
        return self.make_store(place)

    def test_single_entries_come_back(self, tmp_path: Path) -> None:
        """In the order in which they are asked for, without vectors; None for what is not there."""
        store = self._opened(tmp_path)
        assert isinstance(store, Fetching)
        kept = [entry(f"entry {n}") for n in range(150)]
        kept.append(entry("bytes", payload=Payload("bytes", bytes(range(256))), tags=("t",)))
        store.commit(Changes(puts=tuple(kept)))
        gone = entry("gone", namespace="emptied")
        store.commit(Changes(puts=(gone,)))
        store.commit(Changes(cleared=("emptied",)))
        asked = [kept[7], gone, *kept[::-1], kept[7]]
        found = store.fetch([one.identity for one in asked])
        assert found == [kept[7], None, *kept[::-1], kept[7]]
        assert all(one is None or one.vector is None for one in found)
        assert store.fetch([]) == []
        store.close()


class TestSQLiteStoreInGroups(TestSQLiteStore):
    def make_store(self, place: Path) -> Store:
        return SQLiteStore(place / "cache.db", durability="group")

    def test_its_own_commits_are_nothing_new(self, tmp_path: Path) -> None:
        """What is written a moment later was told at once; others see it when it is written."""
        store = self._opened(tmp_path)
        other = SQLiteStore(tmp_path / "cache.db")
        other.claim(self.FINGERPRINT, self.DIM)
        before, others = store.mark(), other.mark()
        told = store.commit(Changes(puts=(entry("mine"),), mark=before))
        assert told == store.mark() != before
        assert [one.prompt for one in store.scan()] == ["mine"]
        assert store.mark() == told
        assert other.mark() != others
        other.commit(Changes(puts=(entry("theirs"),)))
        list(other.scan())
        assert store.mark() != told
        changes = store.changes_since(told)
        assert changes is not None
        assert [one.prompt for one in changes.puts] == ["theirs"]
        assert changes.mark == store.mark()
        store.close()
        other.close()

    def test_two_users_of_one_object_hear_of_each_other(self, tmp_path: Path) -> None:
        """Each commit leaves the other one's mark behind, whether it is written yet or not."""
        store = self._opened(tmp_path)
        one = two = store.mark()
        for n in range(3):
            one = store.commit(Changes(puts=(entry(f"one {n}"),), mark=one))
            assert one == store.mark() != two
            changes = store.changes_since(two)
            assert changes is not None
            assert f"one {n}" in [put.prompt for put in changes.puts]
            two = changes.mark
            two = store.commit(Changes(puts=(entry(f"two {n}"),), mark=two))
            assert two == store.mark() != one
            changes = store.changes_since(one)
            assert changes is not None
            assert f"two {n}" in [put.prompt for put in changes.puts]
            one = changes.mark
        store.close()
