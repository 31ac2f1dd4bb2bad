"""What `maker` makes is what the class itself makes."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme._core.making import maker
from mneme.records import Changes


@dataclass(frozen=True, slots=True)
class Pair:
    """One field to give and one that need not be given; a third takes no part in equality."""

    left: int
    right: tuple[int, ...] = ()
    notes: dict[str, int] = field(default_factory=dict, compare=False)

    @property
    def total(self) -> int:
        return self.left + sum(self.right)


make_pair = maker(Pair)
values = st.fixed_dictionaries(
    {"left": st.integers()},
    optional={
        "right": st.lists(st.integers()).map(tuple),
        "notes": st.dictionaries(st.text(), st.integers()),
    },
)


@given(values)
def test_what_is_made_is_like_what_the_class_makes(given_values: dict[str, Any]) -> None:
    """In class, fields, equality, hash, properties, and as a copy."""
    made, called = make_pair(**given_values), Pair(**given_values)
    assert type(made) is Pair
    assert made == called
    assert hash(made) == hash(called)
    assert made.total == called.total
    assert made.notes == called.notes
    assert repr(made) == repr(called)
    assert copy.deepcopy(made) == dataclasses.replace(made) == called
    assert pickle.loads(pickle.dumps(made)) == called


def test_what_is_made_is_frozen() -> None:
    """Nobody changes what others hold."""
    made = make_pair(1, (2,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.left = 2  # type: ignore[misc]


def test_defaults_that_are_made_are_not_shared() -> None:
    """Each gets a dictionary of its own."""
    assert make_pair(1).notes is not make_pair(1).notes
    assert maker(Changes)().counts is not maker(Changes)().counts


@pytest.mark.parametrize("wrong", [{}, {"left": 1, "middle": 2}])
def test_what_the_class_refuses_is_refused(wrong: dict[str, Any]) -> None:
    """A field that is missing, and one that there is not."""
    with pytest.raises(TypeError):
        make_pair(**wrong)
