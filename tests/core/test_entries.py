"""An entry with another vector is the same entry."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme._core.entries import give_vector, with_vector
from mneme.records import Entry, Key, Partition, Payload

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
