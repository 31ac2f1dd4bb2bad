"""What memory says about itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mneme._core.ledger import Ledger
from mneme._core.live import Live
from mneme.indexes import ExactIndex
from mneme.records import Key, Partition, Vector
from mneme.testing import entry
from mneme.types import Index


class Bare:
    """An index that cannot say what a search costs."""

    def __init__(self, dim: int) -> None:
        self._inner = ExactIndex(dim)

    def __len__(self) -> int:
        return len(self._inner)

    @property
    def memory_bytes(self) -> int:
        return self._inner.memory_bytes

    def add(self, key: Key, vector: Vector) -> None:
        self._inner.add(key, vector)

    def remove(self, key: Key) -> None:
        self._inner.remove(key)

    def search(
        self, vector: Vector, *, k: int, at_least: float = -1.0
    ) -> Sequence[tuple[Key, float]]:
        return self._inner.search(vector, k=k, at_least=at_least)


class Cheap(Bare):
    """One that says so."""

    search_floats = 3


class Made:
    """All indexes by one factory."""

    vector_dtype = "float32"

    def __init__(self, factory: Callable[[int], Index]) -> None:
        self._factory = factory

    def with_dtype(self, dtype: str, /) -> Made:
        return self

    def make(self, dim: int, partition: Partition, /) -> Index:
        return self._factory(dim)


def test_what_a_search_costs() -> None:
    """As the index says, or all its numbers; nothing where nothing is."""
    one = entry("q")
    assert one.vector is not None
    dim = len(one.vector)
    for factory, floats in ((Bare, dim), (Cheap, 3), (ExactIndex, dim)):
        live = Live(Ledger(), dim, Made(factory))
        assert live.search_size(one.partition) == 0
        live.apply([one], [])
        assert live.search_size(one.partition) == floats
        assert live.search_size(Partition(b"another")) == 0
        live.apply([], [one.identity])
        assert live.search_size(one.partition) == 0
