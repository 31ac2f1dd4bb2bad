"""The promises of an index."""

from __future__ import annotations

import math

import numpy as np

from mneme.records import Key, Vector
from mneme.testing._makers import in_threads, unit
from mneme.types import Index

__all__ = ["IndexContract"]


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

        in_threads(4, lambda at: churn(at) if at % 2 else search(at))
        assert len(index) == 400
