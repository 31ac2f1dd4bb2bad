"""What memory says about itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mneme._core.ledger import Ledger
from mneme._core.live import Live
from mneme.indexes import ExactIndex
from mneme.records import Entry, Identity, Key, Partition, Selection, Vector
from mneme.testing import entry, unit
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


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9), st.sampled_from([None, 5.0, 20.0])),
        st.tuples(st.sampled_from(["remove", "doom"]), st.integers(0, 9), st.none()),
        st.tuples(st.just("clear"), st.sampled_from("ab"), st.none()),
        st.tuples(st.just("bury"), st.sampled_from([None, "a", "b"]), st.sampled_from([6.0, 30.0])),
        st.tuples(st.just("commit"), st.integers(0, 3), st.none()),
        st.tuples(st.just("fill"), st.none(), st.sampled_from([6.0, 30.0])),
    ),
    max_size=30,
)


def of(number: int, expires_at: float | None = None) -> Entry:
    return entry(f"q{number}", namespace="ab"[number % 2], expires_at=expires_at)


@given(STEPS)
def test_the_store_comes_to_hold_what_memory_does(steps: list[tuple[Any, Any, Any]]) -> None:
    """Whatever dies, and is put again, before the store has heard of its death."""
    live = Live(Ledger(), len(unit(1.0)), Made(ExactIndex))
    store: dict[Identity, Entry] = {}
    held: dict[Identity, Entry] = {}

    def commit(puts: Sequence[Entry] = (), asked: Any = (), cleared: Any = (), n: int = 0) -> None:
        plan = live.plan(puts, asked, cleared, n)
        for identity in [i for i, one in store.items() if one.namespace in plan.cleared]:
            del store[identity]
        for identity in plan.removed:
            store.pop(identity, None)
        store.update((one.identity, one) for one in plan.puts)
        live.carry_out(plan)

    for what, about, more in steps:
        if what == "put":
            one = of(about, more)
            commit([one])
            held[one.identity] = one
        elif what == "remove":
            commit(asked=[of(about).identity])
            held.pop(of(about).identity, None)
        elif what == "doom":
            live.doom(of(about).identity)
            held.pop(of(about).identity, None)
        elif what == "clear":
            commit(cleared=[about])
            held = {i: one for i, one in held.items() if one.namespace != about}
        elif what == "bury":
            chosen = Selection(about, dead_by=more)
            gone = live.bury(live.ledger.records(), chosen)
            dead = [i for i, one in held.items() if chosen.has(one)]
            assert gone.total() == len(dead)
            for identity in dead:
                del held[identity]
        elif what == "commit":
            commit(n=about)
        else:
            live.replace_all(store.values(), more)
            held = {i: one for i, one in held.items() if not Selection(dead_by=more).has(one)}
        assert {record.entry.identity for record in live.ledger.records()} == held.keys()
    commit()
    while live.buried:
        commit(n=2)
    assert store == held
    assert live.plan((), ()).removed == ()


def test_what_has_left_memory_is_counted_once() -> None:
    """What was found dead when memory was filled, and what lookups have come across since."""
    live = Live(Ledger(), len(unit(1.0)), Made(ExactIndex))
    assert live.replace_all([of(n, 5.0 if n < 4 else 20.0) for n in range(8)], 6.0) == [*"abab"]
    live.doom(of(6).identity)
    assert live.bury_doomed("a") == 3
    assert live.bury_doomed("a") == 0
    assert live.bury_doomed(None) == 2
    assert live.bury_doomed(None) == 0
    assert live.buried == 5


def test_what_was_put_in_place_of_the_dead_stays() -> None:
    """Between looking at entries and burying the dead of them, one is put again."""
    live = Live(Ledger(), len(unit(1.0)), Made(ExactIndex))
    live.apply([of(0, 5.0), of(2, 5.0)], [])
    records = live.ledger.records()
    live.apply([of(0, 20.0)], [])
    assert live.bury(records, Selection(dead_by=6.0)) == {"a": 1}
    assert [record.entry.expires_at for record in live.ledger.records()] == [20.0]
