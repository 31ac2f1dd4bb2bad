"""The promises of a store."""

from __future__ import annotations

from typing import Any

from mneme.errors import EmbedderMismatchError
from mneme.records import Changes, Entry, Label, Payload
from mneme.testing._makers import entry, in_threads, same, unit
from mneme.types import Remembering, Store

__all__ = ["StoreContract"]


class StoreContract:
    """
    The promises of `mneme.types.Store`, one test each.

    Inherit it, name the class ``Test...``, and give ``make_store``. Stores that outlive the
    object override ``reopen``, and those that several processes may share, ``beside``.
    """

    FINGERPRINT = "contract:embedder:8:l2"
    DIM = 8

    def make_store(self, place: Any) -> Store:
        """A new, empty store; `place` is pytest's ``tmp_path``."""
        raise AssertionError("override make_store")

    def reopen(self, store: Store, place: Any) -> Store:
        """The same store, opened again after `store` was closed."""
        return store

    def beside(self, store: Store, place: Any) -> Store:
        """The same store while `store` is open, as another process would have it."""
        return store

    def _opened(self, place: Any) -> Store:
        store = self.make_store(place)
        store.claim(self.FINGERPRINT, self.DIM)
        return store

    def _beside(self, store: Store, place: Any) -> Store:
        other = self.beside(store, place)
        if other is not store:
            other.claim(self.FINGERPRINT, self.DIM)
        return other

    def _reopened(self, store: Store, place: Any) -> Store:
        store.close()
        again = self.reopen(store, place)
        again.claim(self.FINGERPRINT, self.DIM)
        return again

    def test_a_new_store_is_empty(self, tmp_path: Any) -> None:
        """Nothing comes out of a store that nothing was put into."""
        store = self._opened(tmp_path)
        assert list(store.scan()) == []
        assert dict(store.counts()) == {}
        assert store.bad_rows == 0
        store.close()

    def test_what_was_committed_is_scanned(self, tmp_path: Any) -> None:
        """`scan` gives back every field of what `commit` returned from."""
        store = self._opened(tmp_path)
        put = [
            entry("plain"),
            entry("kinds", payload=Payload("bytes", b"\x00\xff")),
            entry("json", payload=Payload("json", '{"a": [1, "é", "\\u0000"]}')),
            entry("times", expires_at=1_700_000_100.5, dies_at=1_700_000_200.25),
            entry("labels", tags=("a", "b,c", ""), metadata='{"k": {"n": 1}}'),
            entry("exact only", namespace="öther\u2603"),
            entry("Zürich 雨 'quoted'; DROP TABLE --", "x" * 100_000),
        ]
        put[5] = Entry(**{n: getattr(put[5], n) for n in Entry.__slots__} | {"vector": None})
        store.commit(Changes(puts=tuple(put)))
        found = {one.identity: one for one in store.scan()}
        assert len(found) == len(put)
        assert all(same(found[one.identity], one) for one in put)
        store.close()

    def test_what_was_committed_outlives_the_object(self, tmp_path: Any) -> None:
        """Closing and opening again loses neither entries nor counts."""
        store = self._opened(tmp_path)
        store.commit(Changes(puts=(entry(),), counts={("default", "misses"): 3}))
        store = self._reopened(store, tmp_path)
        assert [one.prompt for one in store.scan()] == [entry().prompt]
        assert store.counts()["default", "misses"] == 3
        store.close()

    def test_a_put_of_a_known_identity_replaces_it(self, tmp_path: Any) -> None:
        """There is one entry for an identity: the last."""
        store = self._opened(tmp_path)
        store.commit(Changes(puts=(entry(response="old"), entry("other"))))
        store.commit(Changes(puts=(entry(response="new", vector=unit(0.0, 1.0)),)))
        found = {one.prompt: one for one in store.scan()}
        assert len(found) == 2
        assert same(found[entry().prompt], entry(response="new", vector=unit(0.0, 1.0)))
        store.close()

    def test_what_was_removed_is_gone(self, tmp_path: Any) -> None:
        """A removed identity is not scanned, and others stay; removing the absent is no error."""
        store = self._opened(tmp_path)
        store.commit(Changes(puts=(entry("a"), entry("b"))))
        store.commit(Changes(removed=(entry("a").identity, entry("never").identity)))
        assert [one.prompt for one in store.scan()] == ["b"]
        store = self._reopened(store, tmp_path)
        assert [one.prompt for one in store.scan()] == ["b"]
        store.close()

    def test_partitions_are_kept_apart(self, tmp_path: Any) -> None:
        """Equal keys in two partitions are two entries."""
        store = self._opened(tmp_path)
        store.commit(Changes(puts=(entry("q", "for a", namespace="a"), entry("q", namespace="b"))))
        store.commit(Changes(removed=(entry("q", namespace="b").identity,)))
        assert [one.payload.data for one in store.scan()] == ["for a"]
        store.close()

    def test_counts_are_added_up(self, tmp_path: Any) -> None:
        """Counter increments add to what is there, and need no entry to travel with."""
        store = self._opened(tmp_path)
        store.commit(Changes(counts={("a", "misses"): 2}))
        store.commit(Changes(counts={("a", "misses"): 1, ("b", "hits_exact"): 5}))
        assert dict(store.counts()) == {("a", "misses"): 3, ("b", "hits_exact"): 5}
        store.close()

    def test_labels_and_states_are_kept_by_stores_that_say_so(self, tmp_path: Any) -> None:
        """Labels in their order, and of each state the last; without a put as well."""
        store = self._opened(tmp_path)
        if not isinstance(store, Remembering):
            return
        labels = [
            Label(0.5, True, "n", "miss", 1.0, 0.25),
            Label(0.75, False, "n", "audit", 2.0),
            Label(-0.5, True, "other", "shadow", 3.0),
        ]
        store.commit(Changes(labels=tuple(labels[:2]), states={"a": b"1", "b": b"2"}))
        store.commit(Changes(puts=(entry(),), labels=tuple(labels[2:]), states={"a": b"\x00"}))
        store = self._reopened(store, tmp_path)
        assert isinstance(store, Remembering)
        assert list(store.labels()) == labels
        assert dict(store.states()) == {"a": b"\x00", "b": b"2"}

    def test_another_embedder_is_refused(self, tmp_path: Any) -> None:
        """A store that one embedder has filled refuses another, names both, and is unchanged."""
        store = self._opened(tmp_path)
        store.commit(Changes(puts=(entry(),)))
        for fingerprint, dim in (("other:model:8:l2", self.DIM), (self.FINGERPRINT, self.DIM + 1)):
            try:
                store.claim(fingerprint, dim)
            except EmbedderMismatchError as exc:
                assert self.FINGERPRINT in str(exc) and fingerprint in str(exc)
            else:
                raise AssertionError("the store took another embedder")
        store = self._reopened(store, tmp_path)
        assert len(list(store.scan())) == 1
        store.close()

    def test_an_empty_store_takes_another_embedder(self, tmp_path: Any) -> None:
        """With nothing to lose, the embedder may change."""
        store = self._opened(tmp_path)
        store.claim("other:model:8:l2", self.DIM)
        store.commit(Changes(puts=(entry(),)))
        assert len(list(store.scan())) == 1
        store.close()

    def test_the_mark_tells_of_commits(self, tmp_path: Any) -> None:
        """The mark stands still while nothing is committed, and moves with each change."""
        store = self._opened(tmp_path)
        before = store.mark()
        assert store.mark() == before
        after = store.commit(Changes(puts=(entry(),), mark=before))
        assert after == store.mark() != before
        store.close()

    def test_changes_since_a_mark(self, tmp_path: Any) -> None:
        """What was put and removed since a mark, in its last state; or None: scan again."""
        store = self._opened(tmp_path)
        other = self._beside(store, tmp_path)
        store.commit(Changes(puts=(entry("a"), entry("b"))))
        assert len(list(store.scan())) == 2
        nothing = store.changes_since(store.mark())
        assert nothing is not None and not nothing.puts and not nothing.removed
        mark = nothing.mark
        other.commit(Changes(puts=(entry("c"), entry("d")), removed=(entry("a").identity,)))
        other.commit(Changes(puts=(entry("d", "new"),), removed=(entry("c").identity,)))
        assert len(list(other.scan())) == 2
        changes = store.changes_since(mark)
        if changes is not None:
            assert [(one.prompt, one.payload.data) for one in changes.puts] == [("d", "new")]
            assert entry("a").identity in changes.removed
            assert entry("b").identity not in changes.removed
            assert changes.mark == store.mark()
        store.close()
        other.close()

    def test_a_cleared_namespace_is_empty(self, tmp_path: Any) -> None:
        """All that was put into it before is gone for good; others stay, and it fills again."""
        store = self._opened(tmp_path)
        store.commit(Changes(puts=tuple(entry(f"{n}", namespace="a") for n in range(5))))
        store.commit(Changes(puts=(entry("b", namespace="b"),)))
        again = entry("3", "again", namespace="a")
        gone = entry("b", namespace="b").identity
        store.commit(Changes(puts=(again, entry("c")), removed=(gone,), cleared=("a", "no such")))
        assert {(one.prompt, one.payload.data) for one in store.scan()} == {
            ("3", "again"),
            ("c", "a memory"),
        }
        store.commit(Changes(cleared=("a",)))
        store = self._reopened(store, tmp_path)
        assert [one.prompt for one in store.scan()] == ["c"]
        store.commit(Changes(puts=(again,)))
        assert {one.prompt for one in store.scan()} == {"3", "c"}
        store.close()

    def test_changes_since_a_mark_tell_what_was_cleared(self, tmp_path: Any) -> None:
        """Following the changes comes to what a scan gives, whatever was cleared when."""
        store = self._opened(tmp_path)
        other = self._beside(store, tmp_path)
        store.commit(Changes(puts=(entry("old", namespace="a"), entry("old"))))
        live = {one.identity: one for one in store.scan()}
        nothing = store.changes_since(store.mark())
        assert nothing is not None and not nothing.cleared
        steps = [
            Changes(puts=(entry("lost", namespace="a"), entry("b", namespace="b"))),
            Changes(cleared=("a",)),
            Changes(puts=(entry("kept", namespace="a"),), cleared=("b",)),
            Changes(removed=(entry("old").identity,), cleared=("b",)),
        ]
        for step in steps:
            other.commit(step)
        expected = {one.identity: one for one in other.scan()}
        assert {one.prompt for one in expected.values()} == {"kept"}
        changes = store.changes_since(nothing.mark)
        if changes is not None:
            live = {i: one for i, one in live.items() if one.namespace not in changes.cleared}
            live = {i: one for i, one in live.items() if i not in changes.removed}
            live |= {one.identity: one for one in changes.puts}
            assert live.keys() == expected.keys()
        store.close()
        other.close()

    def test_an_unknown_mark_means_scan_again(self, tmp_path: Any) -> None:
        """A mark that the store cannot have given is answered by None."""
        store = self._opened(tmp_path)
        assert store.changes_since(store.mark() + 1_000_000) is None
        store.close()

    def test_a_commit_by_another_leaves_the_mark_behind(self, tmp_path: Any) -> None:
        """`commit` gives a mark at which nothing of others is missed."""
        store = self._opened(tmp_path)
        other = self._beside(store, tmp_path)
        seen = store.mark()
        other.commit(Changes(puts=(entry("theirs"),), mark=seen))
        assert len(list(other.scan())) == 1
        mine = store.commit(Changes(puts=(entry("mine"),), mark=seen))
        changes = store.changes_since(mine)
        assert changes is None or "theirs" in [one.prompt for one in changes.puts]
        store.close()
        other.close()

    def test_threads_may_share_it(self, tmp_path: Any) -> None:
        """Commits from many threads are all kept."""
        store = self._opened(tmp_path)
        in_threads(
            8,
            lambda at: [store.commit(Changes(puts=(entry(f"{at} {n}"),))) for n in range(10)],
        )
        assert len(list(store.scan())) == 80
        store.close()

    def test_closing_twice_does_nothing(self, tmp_path: Any) -> None:
        """`close` may be called again."""
        store = self._opened(tmp_path)
        store.close()
        store.close()
