"""The promises of what finds entries without holding them in this process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mneme.records import Candidate, Changes, Entry, Partition, Payload, Selection, Vector
from mneme.testing._makers import entry, in_threads, same, unit
from mneme.testing._store import StoreContract
from mneme.types import SearchableStore, Store

__all__ = ["NOW", "SearchingContract"]

NOW = 1_700_000_000.0
AWKWARD = ("", " leading", "a,b", "a-b", "{tag}", "*", "a\nb", "\x00", "\\", "ö\u2603", "x" * 300)


class SearchingContract(StoreContract):
    """The half of `SearchableStoreContract` that is about `fetch` and `search`."""

    RECALL = 1.0
    CROWD = 1_500
    """How many entries stand beside the one that is looked for."""

    def _searchable(self, store: Store) -> SearchableStore:
        assert isinstance(store, SearchableStore)
        return store

    def _engine(self, place: Any) -> SearchableStore:
        return self._searchable(self._opened(place))

    def _vectors(self, count: int, seed: int = 0) -> list[Vector]:
        raw = np.random.default_rng(seed).standard_normal((count, self.DIM))
        rows = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
        return list(rows)

    def _crowd(self, namespace: str, count: int, seed: int = 0, **fields: Any) -> list[Entry]:
        return [
            entry(f"{namespace} {at}", namespace=namespace, vector=vector, **fields)
            for at, vector in enumerate(self._vectors(count, seed))
        ]

    def _search(
        self,
        store: Store,
        near: Entry | Vector,
        *,
        partition: Partition | None = None,
        k: int = 8,
        at_least: float = -1.0,
        now: float = NOW,
    ) -> Sequence[Candidate]:
        vector = near.vector if isinstance(near, Entry) else near
        home = near.partition if isinstance(near, Entry) else entry().partition
        assert vector is not None
        return self._searchable(store).search(
            partition or home, vector, k=k, at_least=at_least, now=now
        )

    def test_what_was_committed_is_fetched(self, tmp_path: Any) -> None:
        """`fetch` gives an entry for each identity, in their order; None where there is none."""
        store = self._engine(tmp_path)
        a, b = entry("a", tags=("t",), expires_at=NOW + 1.5), entry("b", namespace="other")
        store.commit(Changes(puts=(a, b)))
        found = store.fetch([b.identity, entry("never").identity, a.identity, b.identity])
        assert [one and one.prompt for one in found] == ["b", None, "a", "b"]
        assert list(found) == [b, None, a, b]
        assert list(store.fetch([])) == []
        store.close()

    def test_what_was_committed_is_found_by_another(self, tmp_path: Any) -> None:
        """The next fetch and search of any process see what `commit` returned from."""
        store = self._engine(tmp_path)
        other = self._searchable(self._beside(store, tmp_path))
        for at, one in enumerate(self._crowd("default", 20)):
            (store if at % 2 else other).commit(Changes(puts=(one,)))
            reader = other if at % 2 else store
            assert reader.fetch([one.identity])[0] == one
            assert self._search(reader, one, k=1)[0].entry == one
        store.commit(Changes(removed=(one.identity,)))
        assert other.fetch([one.identity]) == [None]
        assert one.prompt not in [c.entry.prompt for c in self._search(other, one, k=20)]
        store.close()
        other.close()

    def test_it_finds_the_nearest(self, tmp_path: Any) -> None:
        """The k nearest, best first, each with the cosine of the float32 vectors."""
        store = self._engine(tmp_path)
        crowd = self._crowd("default", 300)
        store.commit(Changes(puts=tuple(crowd)))
        found = wanted = 0
        for vector in self._vectors(10, seed=1):
            cosines = {one.prompt: float(one.vector @ vector) for one in crowd}  # type: ignore[operator]
            for k in (1, 5, 50):
                near = self._search(store, vector, k=k)
                truth = sorted(cosines.values(), reverse=True)[:k]
                told = [candidate.similarity for candidate in near]
                assert len(near) <= k and told == sorted(told, reverse=True)
                for candidate in near:
                    true = cosines[candidate.entry.prompt]
                    assert math.isclose(candidate.similarity, true, abs_tol=1e-6)
                found += sum(cosine >= truth[-1] - 1e-6 for cosine in told)
                wanted += k
        assert found >= self.RECALL * wanted
        store.close()

    def test_it_decides_on_the_exact_cosine(self, tmp_path: Any) -> None:
        """A hair below the threshold is not found, a hair above is: nothing is rounded."""
        store = self._engine(tmp_path)
        crowd = self._crowd("default", 50)
        store.commit(Changes(puts=tuple(crowd)))
        for vector in self._vectors(10, seed=2):
            best = max(float(one.vector @ vector) for one in crowd)  # type: ignore[operator]
            assert self._search(store, vector, k=1, at_least=best - 2e-6)
            assert not self._search(store, vector, k=1, at_least=best + 2e-6)
        store.close()

    def test_vectors_come_back_bit_by_bit(self, tmp_path: Any) -> None:
        """What `scan` gives is what was put, in every bit: dumps lose nothing."""
        store = self._engine(tmp_path)
        vectors = self._vectors(50, seed=3)
        vectors[0] = unit(1.0, -0.0, 1e-40, dim=self.DIM)
        # Not quite a unit: rounding has such lengths, and scaling it again would change bits.
        vectors[1] = (vectors[1] * np.float32(1.0000005)).astype(np.float32)
        puts = [entry(str(at), vector=vector) for at, vector in enumerate(vectors)]
        store.commit(Changes(puts=tuple(puts)))
        found = {one.prompt: one.vector for one in store.scan()}
        for one in puts:
            vector = found[one.prompt]
            assert vector is not None and one.vector is not None
            assert vector.dtype == np.float32 and vector.tobytes() == one.vector.tobytes()
        store.close()

    def test_a_rare_partition_is_searched(self, tmp_path: Any) -> None:
        """One entry among very many of others is found, and nothing of others ever is."""
        store = self._engine(tmp_path)
        crowd = self._crowd("crowd", self.CROWD)
        rare = entry("rare", namespace="rare", vector=unit(-1.0, -1.0, dim=self.DIM))
        for at in range(0, len(crowd), 500):
            store.commit(Changes(puts=tuple(crowd[at : at + 500])))
        store.commit(Changes(puts=(rare,)))
        for vector in self._vectors(20, seed=4):
            found = self._search(store, vector, partition=rare.partition)
            assert [candidate.entry.prompt for candidate in found] == ["rare"]
            around = self._search(store, vector, partition=crowd[0].partition)
            assert {candidate.entry.namespace for candidate in around} == {"crowd"}
            assert len(around) >= self.RECALL * 8
        store.close()

    def test_others_that_are_nearer_take_no_place(self, tmp_path: Any) -> None:
        """Where thousands of another partition are nearer, the k nearest of this one are found."""
        store = self._engine(tmp_path)
        for sign, space in ((1.0, "near"), (-1.0, "far")):
            crowd = [
                entry(f"{space} {at}", namespace=space, vector=unit(*(vector + sign * 4.0)))
                for at, vector in enumerate(self._vectors(self.CROWD))
            ]
            for at in range(0, len(crowd), 500):
                store.commit(Changes(puts=tuple(crowd[at : at + 500])))
        ask = unit(*[1.0] * self.DIM)
        found = self._search(store, ask, partition=crowd[0].partition)
        assert len(found) >= self.RECALL * 8
        assert {candidate.entry.namespace for candidate in found} == {"far"}
        store.close()

    def test_an_unknown_partition_holds_nothing(self, tmp_path: Any) -> None:
        """Searching where nothing was ever put is no error."""
        store = self._engine(tmp_path)
        assert list(self._search(store, unit(1.0, dim=self.DIM))) == []
        store.commit(Changes(puts=(entry(),)))
        assert not self._search(store, entry(), partition=Partition(bytes(16)))
        store.close()

    def test_any_bytes_name_a_partition(self, tmp_path: Any) -> None:
        """Partitions and keys are bytes, and namespaces any text; none runs into another."""
        store = self._engine(tmp_path)
        names = [bytes([at]) * 16 for at in b"\x00\x20\x2c\x2d\x2a\x7b\x7d\x3a\x5c\x0a\xff"]
        puts = [
            replace(entry(text, namespace=text), partition=Partition(name))
            for text, name in zip(AWKWARD, names, strict=True)
        ]
        store.commit(Changes(puts=tuple(puts)))
        assert list(store.fetch([one.identity for one in puts])) == puts
        for one in puts:
            assert [candidate.entry for candidate in self._search(store, one)] == [one]
            assert store.count(Selection(namespace=one.namespace)) == 1
        assert dict(store.sizes()) == dict.fromkeys(AWKWARD, 1)
        store.commit(Changes(cleared=("*", "")))
        assert sum(store.sizes().values()) == len(AWKWARD) - 2
        store.close()

    def test_any_text_comes_back(self, tmp_path: Any) -> None:
        """Prompts, responses, tags and metadata may hold NUL and whatever else a `str` can."""
        store = self._engine(tmp_path)
        puts = [
            entry(f"{at} {text}", text, tags=(text,), metadata='{"a": "\\u0000"}')
            for at, text in enumerate((*AWKWARD, "\ud800"))
        ]
        puts.append(entry("bytes", payload=Payload("bytes", bytes(range(256)))))
        store.commit(Changes(puts=tuple(puts)))
        found = {one.prompt: one for one in store.scan()}
        assert all(same(found[one.prompt], one) for one in puts)
        for one in puts:
            assert all(store.count(Selection(tag=tag)) == 1 for tag in one.tags)
        store.close()

    def test_what_is_dead_is_not_found(self, tmp_path: Any) -> None:
        """
        The dead are no candidates, however many are nearer, and take no place of the living.

        Fresh and stale entries are found; what counts is `now`, not the clock on the wall.
        """
        store = self._engine(tmp_path)
        near = unit(1.0, 0.1, dim=self.DIM)
        dead = [
            entry(f"dead {at}", vector=unit(1.0, at * 1e-4, dim=self.DIM), expires_at=NOW + 10)
            for at in range(100)
        ]
        store.commit(
            Changes(
                puts=(
                    *dead,
                    entry("stale", vector=near, expires_at=NOW + 10, dies_at=NOW + 20),
                    entry("for ever", vector=unit(0.0, 1.0, dim=self.DIM)),
                )
            )
        )
        ask = unit(1.0, dim=self.DIM)
        assert "dead 0" in [c.entry.prompt for c in self._search(store, ask, k=102, now=NOW + 9.5)]
        for k in (1, 2, 50):
            found = self._search(store, ask, k=k, now=NOW + 10)
            assert [c.entry.prompt for c in found] == ["stale", "for ever"][:k]
        found = self._search(store, ask, k=2, now=NOW + 20)
        assert [c.entry.prompt for c in found] == ["for ever"]
        store.close()

    def test_without_a_vector_it_is_no_candidate(self, tmp_path: Any) -> None:
        """An entry of the exact layer is fetched and never searched, also where it had a vector."""
        store = self._engine(tmp_path)
        only = replace(entry("only exact"), vector=None)
        store.commit(Changes(puts=(only, entry("both"))))
        assert store.fetch([only.identity]) == [only]
        assert [c.entry.prompt for c in self._search(store, entry())] == ["both"]
        store.commit(Changes(puts=(replace(entry("both"), vector=None),)))
        assert not self._search(store, entry())
        assert all(one.vector is None for one in store.scan())
        store.close()

    def test_a_replaced_vector_is_searched_at_its_place(self, tmp_path: Any) -> None:
        """A put of a known identity is found where its new vector is, and only there."""
        store = self._engine(tmp_path)
        old, new = unit(1.0, dim=self.DIM), unit(0.0, 1.0, dim=self.DIM)
        store.commit(Changes(puts=(entry("q", "old", vector=old),)))
        store.commit(Changes(puts=(entry("q", "new", vector=new),)))
        assert not self._search(store, old, at_least=0.5)
        (found,) = self._search(store, new, at_least=0.5)
        assert found.entry.payload.data == "new"
        assert dict(store.sizes()) == {"default": 1}
        store.close()

    def test_searching_while_others_commit(self, tmp_path: Any) -> None:
        """What stays is found, with its true cosine, whatever happens beside it."""
        store = self._engine(tmp_path)
        other = self._searchable(self._beside(store, tmp_path))
        stays = self._crowd("default", 20)
        comes = [replace(one, namespace="default") for one in self._crowd("goes", 60, seed=5)]
        comes = [replace(one, partition=stays[0].partition) for one in comes]
        store.commit(Changes(puts=tuple(stays)))

        def churn(writer: Store, part: Sequence[Entry]) -> None:
            for one in part:
                writer.commit(Changes(puts=(one,)))
                writer.commit(Changes(removed=(one.identity,)))

        def look(reader: Store) -> None:
            for one in stays * 3:
                best = self._search(reader, one, k=1, at_least=0.99)
                assert best and math.isclose(best[0].similarity, 1.0, abs_tol=1e-5)

        jobs = [
            lambda: churn(store, comes[:30]),
            lambda: churn(other, comes[30:]),
            lambda: look(store),
            lambda: look(other),
        ]
        in_threads(4, lambda at: jobs[at]())
        assert dict(store.sizes()) == {"default": 20}
        store.close()
        other.close()
