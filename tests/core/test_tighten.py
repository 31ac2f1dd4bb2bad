"""A threshold tightens when audits show that it must, and hardly ever when they do not."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme._core.tighten import MAX_BLOCKS, Tightening

FLOOR = 0.85
MAX_ERROR = 0.02

audits = st.lists(st.tuples(st.floats(0.8, 1.0), st.booleans()), max_size=300)


def test_a_harmless_rate_is_hardly_ever_tightened() -> None:
    """
    At the very limit, over 2,000 audits, at most 5 % of 200 runs tighten.

    If just 5 % did, more than 18 of 200 would with a probability of 0.5 %; the seed is fixed.
    """
    rng = np.random.default_rng(5)
    tightened = 0
    for _ in range(200):
        found = Tightening(FLOOR, MAX_ERROR)
        near = rng.uniform(FLOOR, 1.0, 2_000).tolist()
        wrong = (rng.random(2_000) < MAX_ERROR).tolist()
        tightened += any(found.add(*audit) for audit in zip(near, wrong, strict=True))
    assert tightened <= 18


@pytest.mark.parametrize("quiet", [0, 1_500, 6_000])
def test_a_rate_that_rises_is_caught(quiet: int) -> None:
    """
    After a quiet time, half a per cent wrong, 10 % are: caught within 500 audits, each time.

    The errors are at the low end, so that there is a threshold to go to: in the end at most
    twice the limit is wrong there, in every run, and at most the limit in most of them.
    """
    rng = np.random.default_rng(6)
    left = []
    for _ in range(20):
        found = Tightening(FLOOR, MAX_ERROR)
        for near in rng.uniform(FLOOR, 1.0, quiet).tolist():
            found.add(near, bool(rng.random() < 0.005))
        assert found.threshold == FLOOR
        for count in range(4_000):
            near = float(rng.uniform(found.threshold, 1.0))
            found.add(near, bool(rng.random() < 0.2 * (1.0 - near) / (1.0 - FLOOR)))
            assert count < 500 or found.threshold > FLOOR
        left.append(0.1 * (1.0 - found.threshold) / (1.0 - FLOOR))
    assert max(left) <= 2 * MAX_ERROR
    assert np.mean(np.array(left) <= 1.05 * MAX_ERROR) > 0.5


def test_where_no_threshold_helps_equal_vectors_are_left() -> None:
    """Errors at every similarity end at 1.0, and the reason tells the counts."""
    found = Tightening(FLOOR, MAX_ERROR)
    assert [found.add(near, True) for near in (0.99, 0.999)] == [False, True]
    assert found.threshold == 1.0
    assert found.reason == (
        "2 of the last 2 audited hits at 0.8500 and above were wrong, "
        "which shows more than 2.0% with 95% confidence."
    )


def test_at_the_last_step_it_stays() -> None:
    """Equal vectors with wrong answers cannot be parted by a threshold; it stays at 1.0."""
    found = Tightening(FLOOR, MAX_ERROR)
    assert [found.add(1.0, True) for _ in range(20)].count(True) == 1
    assert found.threshold == 1.0
    assert found.bound.hits == 20
    found = Tightening(1.0, MAX_ERROR)
    assert not any(found.add(1.0, True) for _ in range(20))
    assert found.threshold == 1.0


@given(audits)
def test_it_never_loosens_and_tells_why_it_rose(seen: list[tuple[float, bool]]) -> None:
    """The threshold only rises, only at a wrong answer, and never without a reason."""
    found = Tightening(FLOOR, 0.1)
    for near, wrong in seen:
        before = found.threshold
        rose = found.add(near, wrong)
        assert rose is (found.threshold > before)
        assert found.threshold >= before
        assert wrong or not rose
        assert bool(found.reason) is (found.threshold > FLOOR)


@given(audits, audits)
def test_its_fields_are_its_state(
    first: list[tuple[float, bool]], then: list[tuple[float, bool]]
) -> None:
    """Kept as JSON and made again, it goes on as if nothing had been."""
    found = Tightening(FLOOR, 0.1)
    for audit in first:
        found.add(*audit)
    again = Tightening(**json.loads(json.dumps(asdict(found))))
    for audit in then:
        assert found.add(*audit) is again.add(*audit)
    assert again == found


@given(audits)
def test_the_bound_is_of_the_hits_at_the_threshold(seen: list[tuple[float, bool]]) -> None:
    """As long as it did not rise, all audited hits at or above it count, and no others."""
    found = Tightening(FLOOR, 0.999)
    for audit in seen:
        found.add(*audit)
    counted = [wrong for near, wrong in seen if near >= FLOOR]
    assert (found.bound.hits, found.bound.wrong) == (len(counted), sum(counted))


def test_what_it_keeps_does_not_grow() -> None:
    """After many audits it holds a fixed number of counts, and all audits are in them."""
    found = Tightening(FLOOR, MAX_ERROR)
    for _ in range(10_000):
        found.add(0.9, False)
    assert len(found.starts) == len(found.hits) == len(found.wrong) == MAX_BLOCKS
    assert found.starts[0] == 0
    assert found.bound.hits == 10_000


def test_an_audit_of_an_earlier_threshold_is_left_out() -> None:
    """A late label of a hit that would not be served now changes nothing."""
    found = Tightening(FLOOR, MAX_ERROR, level=8)
    before = asdict(found)
    assert found.add(0.86, True) is False
    assert asdict(found) == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"floor": 85.0}, "floor must be a cosine"),
        ({"max_error": 0.0}, "max_error must be between 0 and 1"),
        ({"confidence": 1.0}, "confidence must be between 0 and 1"),
        ({"level": 17}, "not the counts of a Tightening"),
        ({"starts": []}, "not the counts of a Tightening"),
        ({"starts": [], "hits": [], "wrong": []}, "not the counts of a Tightening"),
        ({"hits": [[0] * 5]}, "not the counts of a Tightening"),
    ],
)
def test_wrong_values_are_named(fields: dict[str, Any], message: str) -> None:
    """A value that makes no sense is refused by name."""
    with pytest.raises(ValueError, match=message):
        Tightening(**{"floor": 0.85, "max_error": 0.02, **fields})


def test_a_similarity_that_is_no_number_is_not_counted() -> None:
    """NaN is above and below nothing."""
    found = Tightening(FLOOR, MAX_ERROR)
    with pytest.raises(ValueError, match="similarity must be a number"):
        found.add(float("nan"), True)
    assert found == Tightening(FLOOR, MAX_ERROR)
