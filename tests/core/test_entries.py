"""An entry with another vector is the same entry; without its answer it is still that one."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme._core import entries
from mneme._core.entries import Keeping, give_vector, make_entry
from mneme.codecs import AutoCodec
from mneme.errors import CodecError
from mneme.records import Entry, Key, Partition, Payload
from mneme.testing import entry as made

TIMES = st.none() | st.floats(0, 1e10)
VECTORS = st.sampled_from([None, np.eye(2, dtype=np.float32)[0], np.eye(2, dtype=np.float32)[1]])
ENTRIES = st.builds(
    Entry,
    namespace=st.text(),
    partition=st.binary(min_size=16, max_size=16).map(Partition),
    key=st.binary(min_size=16, max_size=16).map(Key),
    prompt=st.text(),
    payload=st.builds(Payload, st.just("text"), st.text()),
    vector=VECTORS,
    created_at=st.floats(0, 1e10),
    expires_at=TIMES,
    dies_at=TIMES,
    metadata=st.just("{}"),
    tags=st.lists(st.text()).map(tuple),
)


def with_vector(entry: Entry, vector: Any) -> Entry:
    own = {field.name: getattr(entry, field.name) for field in fields(Entry)}
    return make_entry(**{**own, "vector": vector})


@given(ENTRIES, VECTORS)
def test_it_is_what_replace_makes(entry: Entry, vector: Any) -> None:
    """Every field, those that a later version adds included, is that of `replace`."""
    quick, slow = with_vector(entry, vector), replace(entry, vector=vector)
    assert type(quick) is Entry
    for field in fields(Entry):
        assert getattr(quick, field.name) is getattr(slow, field.name)
    assert quick == slow == entry
    assert hash(quick) == hash(slow)


@given(ENTRIES)
def test_it_is_frozen(entry: Entry) -> None:
    """As any other entry."""
    with pytest.raises(AttributeError):
        with_vector(entry, None).prompt = "another"  # type: ignore[misc]


@given(ENTRIES, VECTORS)
def test_a_vector_that_is_given_changes_nothing_else(entry: Entry, vector: Any) -> None:
    """It is completed in place: the same object, with all else as it was."""
    before = with_vector(entry, vector)
    give_vector(entry, vector)
    for field in fields(Entry):
        assert getattr(entry, field.name) is getattr(before, field.name)


@given(st.lists(ENTRIES, max_size=5), st.booleans())
def test_what_memory_keeps(some: list[Entry], has_answers: bool) -> None:
    """Never a vector; without answers only whose an entry is and when it ends."""
    keeps = Keeping(answers=has_answers)
    for entry in some:
        kept = keeps(entry)
        assert type(kept) is Entry
        assert kept.vector is None
        assert keeps(kept) == kept
        nothing = {} if has_answers else {"prompt": "", "payload": kept.payload, "metadata": "{}"}
        expected = replace(entry, **nothing, vector=None)
        for field in fields(Entry):
            assert getattr(kept, field.name) == getattr(expected, field.name)


def test_no_answer_is_never_taken_for_one() -> None:
    """What stands in its place is read by no codec."""
    kept = Keeping(answers=False)(made("a"))
    with pytest.raises(CodecError):
        AutoCodec().decode(kept.payload)


@given(ENTRIES, ENTRIES)
def test_two_versions_without_their_answers(one: Entry, other: Entry) -> None:
    """They are told apart by name, times and tags."""
    keeps = Keeping(answers=False)
    told = ("namespace", "partition", "key", "created_at", "expires_at", "dies_at", "tags")
    alike = all(getattr(one, name) == getattr(other, name) for name in told)
    assert (keeps(one) == keeps(other)) is alike
    later = replace(one, created_at=one.created_at + 1.0)
    assert keeps(later) != keeps(one)


def test_what_many_have_in_common_is_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions, namespaces and tags; what is remembered of them has an end."""
    monkeypatch.setattr(entries, "MOST_SHARED", 10)
    keeps = Keeping()
    one, other = (
        keeps(made(name, namespace="".join(["a", "b"]), tags=("".join(["c", "d"]),)))
        for name in ("p", "q")
    )
    for field in ("namespace", "partition", "tags"):
        assert getattr(one, field) is getattr(other, field)
    for n in range(100):
        assert keeps(made("p", namespace=f"space {n}")).namespace == f"space {n}"
        assert len(keeps._one) <= 13
