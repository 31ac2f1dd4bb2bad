"""
For tests of what uses mneme, and of what extends it.

An offline embedder, a clock that stands still, and the promises of a store and of an index
as classes to inherit: fill in how to make one, and pytest runs every promise.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

from mneme.errors import EmbedderMismatchError
from mneme.records import Changes, Entry, Key, Label, Partition, Payload, Vector
from mneme.types import Index, Remembering, Store

__all__ = ["HashEmbedder", "IndexContract", "ManualClock", "StoreContract", "entry", "unit"]

_WORD = re.compile(r"\w+")


class HashEmbedder:
    """
    Texts are as near as they share words; the same everywhere, with no model.

    Each word is a direction drawn from its hash, and a text is the sum of its words: two
    texts of n words that share m have a cosine of about m / n. Case and order do not matter.
    """

    def __init__(self, dim: int = 256, *, name: str = "hash") -> None:
        self.dim = dim
        self.fingerprint: str = f"mneme-testing:{name}:{dim}:l2"
        self.calls: int = 0
        """How many texts were embedded."""

    def embed(self, text: str, /) -> Vector:
        self.calls += 1
        words = _WORD.findall(text.casefold()) or [text]
        total = np.sum([_direction(word, self.dim) for word in words], axis=0)
        length = float(np.linalg.norm(total))
        return np.asarray(total / length if length else total, dtype=np.float32)

    def __repr__(self) -> str:
        return f"HashEmbedder(dim={self.dim})"


@lru_cache(maxsize=65_536)
def _direction(word: str, dim: int) -> Vector:
    seed = int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    return np.random.default_rng(seed).standard_normal(dim).astype(np.float32)


class ManualClock:
    """Seconds since the epoch that pass only when told to; pass it as ``clock=``."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now: float = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds


def unit(*components: float, dim: int = 8) -> Vector:
    """The direction of `components`, filled up with zeros to shape ``(dim,)``."""
    vector = np.zeros(dim, dtype=np.float32)
    vector[: len(components)] = components
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def entry(
    prompt: str = "what is a cache",
    response: str = "a memory",
    *,
    namespace: str = "default",
    vector: Vector | None = None,
    **changes: Any,
) -> Entry:
    """An entry with an identity of its own for each namespace and prompt."""
    fields: dict[str, Any] = {
        "namespace": namespace,
        "partition": Partition(blake2b(namespace.encode(), digest_size=16).digest()),
        "key": Key(blake2b(prompt.encode(), digest_size=16).digest()),
        "prompt": prompt,
        "payload": Payload("text", response),
        "vector": unit(1.0) if vector is None else vector,
        "created_at": 1_700_000_000.0,
    }
    return Entry(**{**fields, **changes})


def _same(left: Entry | None, right: Entry | None) -> bool:
    """Equal in every field; vectors component by component."""
    if left is None or right is None:
        return left is right
    if (left.vector is None) is not (right.vector is None):
        return False
    if left.vector is not None and not np.array_equal(left.vector, right.vector):  # type: ignore[arg-type]
        return False
    names = [name for name in Entry.__slots__ if name != "vector"]
    return all(getattr(left, name) == getattr(right, name) for name in names)


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
        assert all(_same(found[one.identity], one) for one in put)
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
        assert _same(found[entry().prompt], entry(response="new", vector=unit(0.0, 1.0)))
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
        _in_threads(
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


class IndexContract:
    """
    The promises of `mneme.types.Index`, one test each.

    Inherit it, name the class ``Test...``, and give ``make_index``. An index that is not
    exact overrides ``RECALL``, the share of true neighbours it finds at least.
    """

    RECALL = 1.0
    DIM = 24

    def make_index(self, dim: int) -> Index:
        """A new, empty index."""
        raise AssertionError("override make_index")

    def _rows(self, count: int, seed: int = 0) -> dict[Key, Vector]:
        raw = np.random.default_rng(seed).standard_normal((count, self.DIM))
        units = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
        return {Key(at.to_bytes(16)): row for at, row in enumerate(units)}

    def _filled(self, rows: dict[Key, Vector]) -> Index:
        index = self.make_index(self.DIM)
        for key, vector in rows.items():
            index.add(key, vector)
        return index

    def _check(self, index: Index, rows: dict[Key, Vector], vector: Vector, k: int) -> None:
        found = index.search(vector, k=k)
        truth = sorted((float(row @ vector) for row in rows.values()), reverse=True)[:k]
        cosines = [cosine for _, cosine in found]
        assert cosines == sorted(cosines, reverse=True)
        assert len({key for key, _ in found}) == len(found)
        for key, cosine in found:
            assert math.isclose(cosine, float(rows[key] @ vector), abs_tol=1e-5)
        right = sum(any(math.isclose(t, c, abs_tol=1e-5) for c in cosines) for t in truth)
        assert right >= self.RECALL * len(truth)

    def test_an_empty_index_finds_nothing(self) -> None:
        """Searching before anything was added is no error."""
        index = self.make_index(self.DIM)
        assert list(index.search(unit(1.0, dim=self.DIM), k=3)) == []
        assert len(index) == 0

    def test_it_finds_the_nearest(self) -> None:
        """The k nearest by cosine, best first, each with its true cosine."""
        rows = self._rows(300)
        index = self._filled(rows)
        for vector in self._rows(20, seed=1).values():
            for k in (1, 5, 400):
                self._check(index, rows, vector, k)

    def test_a_vector_finds_itself(self) -> None:
        """The nearest to a row is that row, with a cosine of 1."""
        rows = self._rows(100)
        index = self._filled(rows)
        for key, vector in rows.items():
            ((found, cosine),) = index.search(vector, k=1)
            assert found == key and math.isclose(cosine, 1.0, abs_tol=1e-5)

    def test_at_least_is_a_floor(self) -> None:
        """Nothing under `at_least` is found, and everything from there on is."""
        rows = self._rows(200)
        index = self._filled(rows)
        vector = next(iter(self._rows(1, seed=2).values()))
        for floor in (-1.0, 0.0, 0.3, 0.99):
            found = index.search(vector, k=200, at_least=floor)
            wanted = sum(float(row @ vector) >= floor for row in rows.values())
            assert all(cosine >= floor for _, cosine in found)
            assert len(found) >= self.RECALL * wanted

    def test_adding_again_replaces(self) -> None:
        """A key has one vector: the last."""
        rows = self._rows(50)
        index = self._filled(rows)
        changed = dict(zip(rows, self._rows(50, seed=3).values(), strict=True))
        for key, vector in changed.items():
            index.add(key, vector)
        assert len(index) == 50
        self._check(index, changed, next(iter(self._rows(1, seed=4).values())), 10)

    def test_what_was_removed_is_not_found(self) -> None:
        """Removed keys are never found again, the rest always; the unknown is no error."""
        rows = self._rows(120)
        index = self._filled(rows)
        for at, key in enumerate(list(rows)):
            if at % 3:
                index.remove(key)
                del rows[key]
        index.remove(Key(b"never was added!"))
        assert len(index) == len(rows) == 40
        for vector in self._rows(10, seed=5).values():
            self._check(index, rows, vector, 40)

    def test_it_can_be_emptied_and_filled_again(self) -> None:
        """Removing everything leaves an index like new."""
        rows = self._rows(30)
        index = self._filled(rows)
        for key in rows:
            index.remove(key)
        assert len(index) == 0
        assert list(index.search(unit(1.0, dim=self.DIM), k=3)) == []
        self._check(self._filled(rows), rows, next(iter(rows.values())), 5)

    def test_it_keeps_its_own_copy(self) -> None:
        """Changing the array that was added changes nothing."""
        index = self.make_index(self.DIM)
        vector = unit(1.0, dim=self.DIM)
        index.add(Key(bytes(16)), vector)
        vector[:] = 0.0
        assert math.isclose(index.search(unit(1.0, dim=self.DIM), k=1)[0][1], 1.0, abs_tol=1e-5)

    def test_searching_while_others_add_and_remove(self) -> None:
        """A row that stays is found, with its true cosine, whatever happens beside it."""
        rows = self._rows(400)
        index = self._filled(rows)
        keys = list(rows)
        stays = keys[:40]

        def churn(seed: int) -> None:
            order = np.random.default_rng(seed).permutation(np.arange(40, len(keys)))
            for at in order[:150].tolist():
                index.remove(keys[at])
                index.add(keys[at], rows[keys[at]])

        def search(_: int) -> None:
            for key in stays * 5:
                found = dict(index.search(rows[key], k=3))
                assert math.isclose(found[key], 1.0, abs_tol=1e-5)

        _in_threads(4, lambda at: churn(at) if at % 2 else search(at))
        assert len(index) == 400


def _in_threads(count: int, work: Callable[[int], object]) -> None:
    """`work` in `count` threads at once; what any of them raises is raised here."""
    failures: list[BaseException] = []
    start = threading.Barrier(count)

    def run(at: int) -> None:
        start.wait()
        try:
            work(at)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(at,)) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
