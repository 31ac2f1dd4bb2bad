"""The promises of a store that counts, removes and evicts by itself."""

from __future__ import annotations

from typing import Any

from mneme.errors import EmbedderMismatchError
from mneme.records import Changes, Selection
from mneme.testing._makers import entry, in_threads
from mneme.testing._searching import NOW, SearchingContract

__all__ = ["SearchableStoreContract"]


class SearchableStoreContract(SearchingContract):
    """
    The promises of `mneme.types.SearchableStore`, one test each, beside those of a `Store`.

    Inherit it, name the class ``Test...``, and give ``make_store``, ``reopen`` and ``beside``.
    A store whose searches may miss some overrides ``RECALL``, the share of true neighbours
    that they find at least.
    """

    def _prompts(self, store: Any) -> list[str]:
        return sorted(one.prompt for one in store.scan())

    def test_sizes_are_told_by_namespace(self, tmp_path: Any) -> None:
        """Puts, replacements and removals are counted once; an empty namespace is left out."""
        store = self._engine(tmp_path)
        assert dict(store.sizes()) == {} and store.count(Selection()) == 0
        store.commit(Changes(puts=(entry("a"), entry("b"), entry("c", namespace="other"))))
        store.commit(Changes(puts=(entry("a", "again"), entry("a", "and again"))))
        store.commit(Changes(removed=(entry("never").identity, entry("b").identity)))
        store.commit(Changes(removed=(entry("b").identity,)))
        assert dict(store.sizes()) == {"default": 1, "other": 1}
        store.commit(Changes(removed=(entry("c", namespace="other").identity,)))
        assert dict(store.sizes()) == {"default": 1}
        assert store.count(Selection()) == store.count(Selection("default")) == 1
        assert store.count(Selection("other")) == 0
        store.close()

    def test_what_is_chosen_is_counted_and_removed(self, tmp_path: Any) -> None:
        """Each criterion alone and together, no more than the limit, and nothing else."""
        puts = (
            entry("old", created_at=NOW - 100),
            entry("tagged", tags=("t", "u"), created_at=NOW),
            entry("tagged elsewhere", namespace="other", tags=("t",)),
            entry("dead", expires_at=NOW + 5),
            entry("stale", expires_at=NOW + 5, dies_at=NOW + 50),
            entry("plain"),
        )
        chosen = {
            Selection(tag="t"): {"tagged", "tagged elsewhere"},
            Selection(tag="t", namespace="default"): {"tagged"},
            Selection(tag="T"): set(),
            Selection(created_before=NOW): {"old"},
            Selection(dead_by=NOW + 5): {"dead"},
            Selection(dead_by=NOW + 4.75): set(),
            Selection(dead_by=NOW + 50, namespace="default"): {"dead", "stale"},
            Selection(namespace="other"): {"tagged elsewhere"},
            Selection(): {one.prompt for one in puts},
        }
        store = self._engine(tmp_path)
        for selection, wanted in chosen.items():
            store.commit(Changes(puts=puts))
            assert store.count(selection) == len(wanted)
            assert store.remove(selection, 0) == 0
            assert store.remove(selection, 1) == min(1, len(wanted))
            assert store.remove(selection, 100) == max(0, len(wanted) - 1)
            assert store.count(selection) == store.remove(selection, 100) == 0
            left = {one.prompt for one in puts} - wanted
            assert set(self._prompts(store)) == left
            assert sum(store.sizes().values()) == len(left)
        store.close()

    def test_what_is_removed_is_gone_for_all(self, tmp_path: Any) -> None:
        """After `remove` and `trim` no process fetches or finds it, and the changes tell."""
        store = self._engine(tmp_path)
        other = self._searchable(self._beside(store, tmp_path))
        a, b = entry("a", tags=("t",)), entry("b")
        store.commit(Changes(puts=(a,)))
        store.commit(Changes(puts=(b,)))
        mark = other.mark()
        assert store.remove(Selection(tag="t"), 10) == 1
        assert list(other.fetch([a.identity, b.identity])) == [None, b]
        changes = other.changes_since(mark)
        assert changes is None or a.identity in changes.removed
        assert store.trim(0) == 1
        assert other.fetch([b.identity]) == [None]
        assert not self._search(other, a)
        assert other.mark() != mark
        store.close()
        other.close()

    def test_cleared_namespaces_are_emptied_first(self, tmp_path: Any) -> None:
        """Clearing, removing and putting happen in this order, at once, for every process."""
        store = self._engine(tmp_path)
        other = self._searchable(self._beside(store, tmp_path))
        olds = tuple(entry(name, "old") for name in ("a", "b"))
        store.commit(Changes(puts=(*olds, entry("c", namespace="kept"))))
        mark = other.mark()
        news = (entry("b", "new"), entry("d"))
        store.commit(Changes(cleared=("default", "never"), puts=news))
        assert self._prompts(other) == ["b", "c", "d"]
        assert dict(other.sizes()) == {"default": 2, "kept": 1}
        found = {c.entry.prompt: c.entry.payload.data for c in self._search(other, entry())}
        assert found == {"b": "new", "d": "a memory"}
        changes = other.changes_since(mark)
        if changes is not None:
            assert "default" in changes.cleared or olds[0].identity in changes.removed
            assert {one.prompt for one in changes.puts} == {"b", "d"}
        store.commit(Changes(removed=(entry("b").identity,), puts=(entry("b", "newer"),)))
        assert [one and one.payload.data for one in other.fetch([entry("b").identity])] == ["newer"]
        store.close()
        other.close()

    def test_the_longest_unused_go_first(self, tmp_path: Any) -> None:
        """`trim` evicts in the order of the last put or use, and no more than it must."""
        store = self._engine(tmp_path)
        for name in "abcdef":
            store.commit(Changes(puts=(entry(name),)))
        store.commit(Changes(used=(entry("a").identity, entry("never").identity)))
        store.commit(Changes(puts=(entry("b", "again"),), used=(entry("c").identity,)))
        assert store.trim(6) == 0
        assert store.trim(4) == 2
        assert self._prompts(store) == ["a", "b", "c", "f"]
        assert store.trim(3) == 1
        assert self._prompts(store) == ["a", "b", "c"]
        assert store.trim(2) == 1
        assert self._prompts(store) == ["b", "c"]
        store.close()

    def test_one_namespace_is_trimmed_alone(self, tmp_path: Any) -> None:
        """`trim` of a namespace counts and evicts there only."""
        store = self._engine(tmp_path)
        store.commit(Changes(puts=tuple(entry(n, namespace="small") for n in "ab")))
        store.commit(Changes(puts=tuple(entry(n, namespace="large") for n in "cdef")))
        assert store.trim(3, "large") == 1
        assert store.trim(3, "large") == store.trim(0, "never") == 0
        assert dict(store.sizes()) == {"small": 2, "large": 3}
        assert store.trim(4) == 1
        assert dict(store.sizes()) == {"small": 1, "large": 3}
        store.close()

    def test_many_commit_at_once(self, tmp_path: Any) -> None:
        """Processes that put and remove the same entries in other orders all come through."""
        store = self._engine(tmp_path)
        other = self._searchable(self._beside(store, tmp_path))
        names = [f"q{at}" for at in range(12)]

        def commit(at: int) -> None:
            writer = other if at % 2 else store
            for turn in range(10):
                order = names[turn:] + names[:turn]
                puts = order if at % 3 else order[::-1]
                # Not in each commit: counts could be what makes the others wait in line.
                counts = {} if turn % 2 else {("default", "puts"): 1, ("other", "puts"): 2}
                writer.commit(
                    Changes(
                        puts=tuple(entry(name, f"{at} {turn}") for name in puts[:6]),
                        removed=tuple(entry(name).identity for name in puts[6:]),
                        used=tuple(entry(name).identity for name in order),
                        counts=counts,
                    )
                )

        in_threads(6, commit)
        found = list(store.scan())
        assert len(found) == 6 == store.sizes()["default"] == store.count(Selection())
        assert len({one.payload.data for one in found}) == 1
        assert dict(other.counts()) == {("default", "puts"): 30, ("other", "puts"): 60}
        store.close()
        other.close()

    def test_the_former_embedder_puts_nothing_more(self, tmp_path: Any) -> None:
        """Who opened an empty store that another embedder has taken since mixes no vectors in."""
        store = self._engine(tmp_path)
        other = self.beside(store, tmp_path)
        other.claim("other:model:8:l2", self.DIM)
        try:
            store.commit(Changes(puts=(entry("theirs"),)))
        except EmbedderMismatchError as exc:
            assert "other:model:8:l2" in str(exc)
        else:
            raise AssertionError("the store took vectors of two embedders")
        other.commit(Changes(puts=(entry("ours"),)))
        assert self._prompts(other) == ["ours"]
        store.close()
        other.close()

    def test_a_commit_is_seen_whole(self, tmp_path: Any) -> None:
        """Who fetches while others commit sees all of a commit or nothing of it."""
        store = self._engine(tmp_path)
        other = self._searchable(self._beside(store, tmp_path))
        names = [f"q{at}" for at in range(5)]
        identities = [entry(name).identity for name in names]
        store.commit(Changes(puts=tuple(entry(name, "0") for name in names)))

        def work(at: int) -> None:
            if at == 0:
                for turn in range(40):
                    store.commit(Changes(puts=tuple(entry(name, str(turn)) for name in names)))
                return
            for _ in range(60):
                seen = {one and one.payload.data for one in other.fetch(identities)}
                assert len(seen) == 1 and None not in seen

        in_threads(2, work)
        store.close()
        other.close()

    def test_who_has_missed_much_is_told_to_forget_all(self, tmp_path: Any) -> None:
        """`changes_since` an old mark gives every later change, or None; never a part of them."""
        store = self._engine(tmp_path)
        mark = store.mark()
        crowd = self._crowd("default", self.CROWD * 2)
        for at in range(0, len(crowd), 500):
            store.commit(Changes(puts=tuple(crowd[at : at + 500])))
        changes = store.changes_since(mark)
        assert changes is None or len(changes.puts) == len(crowd)
        store.close()
