"""The bound on wrong answers holds whenever one looks, and is not much wider for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mneme._core.anytime import ErrorBound
from mneme.calibrate import upper_bound

RUNS = 400
LOOKS = 1_500
MOST_BROKEN = 32
"""Of 400 runs; if just 5 % were broken, more would be with a probability of 0.5 %."""


def possible(means: Sequence[float]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each number of hits: the fewest and most wrong that leave its mean possible."""
    fewest, most, low, high = [], [], 0, 0
    for hits, mean in enumerate(means, start=1):
        while low < hits and ErrorBound(hits=hits, wrong=float(low)).upper < mean:
            low += 1
        while high < hits and ErrorBound(hits=hits, wrong=float(high + 1)).lower <= mean:
            high += 1
        fewest.append(low)
        most.append(high)
    return np.array(fewest), np.array(most)


@pytest.mark.parametrize("rate", [0.005, 0.02, 0.1, 0.4])
def test_the_bounds_hold_at_every_look(rate: float) -> None:
    """Looking after each of 1,500 hits, each bound is ever broken in at most 5 % of runs."""
    fewest, most = possible([rate] * LOOKS)
    wrong = np.cumsum(np.random.default_rng(1).random((RUNS, LOOKS)) < rate, axis=1)
    assert (wrong < fewest).any(axis=1).sum() <= MOST_BROKEN
    assert (wrong > most).any(axis=1).sum() <= MOST_BROKEN


def test_the_bounds_hold_while_the_rate_drifts() -> None:
    """A rate that rises all the time: the bounds are of its mean up to each look."""
    rates = np.linspace(0.0, 0.1, LOOKS)
    fewest, most = possible((np.cumsum(rates) / np.arange(1, LOOKS + 1)).tolist())
    wrong = np.cumsum(np.random.default_rng(2).random((RUNS, LOOKS)) < rates, axis=1)
    assert (wrong < fewest).any(axis=1).sum() <= MOST_BROKEN
    assert (wrong > most).any(axis=1).sum() <= MOST_BROKEN


def test_a_bound_for_one_look_would_be_broken() -> None:
    """What this is for: peeking breaks the bound of Clopper and Pearson far more often."""
    bounds = {(0, 0): 1.0}
    broken = 0
    paths = np.cumsum(np.random.default_rng(1).random((RUNS, 500)) < 0.1, axis=1)
    for path in paths.tolist():
        for hits, wrong in enumerate(path, start=1):
            if (wrong, hits) not in bounds:
                bounds[wrong, hits] = upper_bound(wrong, hits, 0.95)
            if bounds[wrong, hits] < 0.1:
                broken += 1
                break
    assert broken > 2 * MOST_BROKEN


@pytest.mark.parametrize("hits", [100, 1_000, 10_000])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.2])
def test_it_is_less_than_twice_as_wide_as_a_bound_for_one_look(hits: int, rate: float) -> None:
    """The margin over the counted rate, against Clopper and Pearson's at the same count."""
    wrong = round(hits * rate)
    ours = ErrorBound(hits=hits, wrong=float(wrong)).upper - rate
    theirs = upper_bound(wrong, hits, 0.95) - rate
    assert 1.0 < ours / theirs < 2.0


def test_audits_of_unequal_chance_are_weighed() -> None:
    """Doubtful hits, wrong more often, are audited more often: the bounds are of all hits."""
    rng = np.random.default_rng(3)
    broken = 0
    margins = []
    for _ in range(200):
        bound = ErrorBound(max_weight=10.0)
        doubtful = rng.random(2_000) < 0.2
        chance = np.where(doubtful, 0.5, 0.1)
        audited = rng.random(2_000) < chance
        wrong = rng.random(2_000) < np.where(doubtful, 0.2, 0.01)
        is_broken = False
        for at in range(2_000):
            if audited[at]:
                bound.add(bool(wrong[at]), 1.0 / float(chance[at]))
            else:
                bound.skip()
            if at % 100 == 99:
                is_broken |= not bound.lower <= 0.2 * 0.2 + 0.8 * 0.01 <= bound.upper
        broken += is_broken
        margins.append(bound.upper - bound.lower)
    assert broken <= 27  # of both bounds together, at most 10 % are: more than 27 of 200, 5 %
    assert np.mean(margins) < 0.12


counts = st.integers(0, 500).flatmap(
    lambda hits: st.tuples(st.just(hits), st.integers(0, hits).map(float))
)


@given(counts, st.floats(0.5, 0.999))
def test_the_bounds_enclose_the_rate(counted: tuple[int, float], confidence: float) -> None:
    """They are shares, on either side of what was counted, and closer to it with each look."""
    hits, wrong = counted
    bound = ErrorBound(confidence, hits=hits, wrong=wrong)
    assert 0.0 <= bound.lower <= bound.rate <= bound.upper <= 1.0
    more = ErrorBound(confidence, hits=2 * hits, wrong=2 * wrong)
    assert more.upper <= bound.upper + 1e-6
    assert more.lower >= bound.lower - 1e-6


@given(counts)
def test_a_wrong_one_raises_and_a_right_one_lowers(counted: tuple[int, float]) -> None:
    """No error makes the bounds better, and no right answer makes them worse."""
    hits, wrong = counted
    before, worse, better = (ErrorBound(hits=hits, wrong=wrong) for _ in range(3))
    worse.add(True)
    better.add(False)
    assert worse.upper >= before.upper - 1e-6
    assert worse.lower >= before.lower - 1e-6
    assert better.upper <= before.upper + 1e-6
    assert better.lower <= before.lower + 1e-6


@given(counts, st.floats(0.001, 0.9))
def test_exceeding_is_a_lower_bound_over_the_limit(
    counted: tuple[int, float], limit: float
) -> None:
    """The quick question and the bound agree, but for the last digits."""
    bound = ErrorBound(hits=counted[0], wrong=counted[1])
    if abs(bound.lower - limit) > 1e-6:
        assert bound.exceeds(limit) is (bound.lower > limit)


@given(st.lists(st.booleans(), max_size=50))
def test_its_fields_are_its_state(seen: list[bool]) -> None:
    """Kept as plain numbers and made again, it goes on as before."""
    bound = ErrorBound(0.9)
    for wrong in seen:
        bound.add(wrong)
    again = ErrorBound(**asdict(bound))
    assert again == bound
    assert (again.hits, again.wrong) == (len(seen), sum(seen))
    assert (again.lower, again.upper) == (bound.lower, bound.upper)


def test_before_the_first_hit_everything_is_possible() -> None:
    """No audit, no knowledge."""
    assert (ErrorBound().lower, ErrorBound().rate, ErrorBound().upper) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"confidence": 1.0}, "confidence must be between 0 and 1"),
        ({"confidence": True}, "confidence must be between 0 and 1"),
        ({"max_weight": 0.5}, "max_weight must be at least 1"),
        ({"hits": -1}, "hits must be a whole number"),
        ({"hits": 1.5}, "hits must be a whole number"),
        ({"hits": 2, "wrong": 3.0}, "wrong must be from 0"),
        ({"hits": 2, "wrong": float("nan")}, "wrong must be from 0"),
    ],
)
def test_a_state_that_cannot_be_is_refused(fields: dict[str, float], message: str) -> None:
    """What was kept and spoilt is not believed."""
    with pytest.raises(ValueError, match=message):
        ErrorBound(**fields)  # type: ignore[arg-type]


def test_a_weight_or_number_that_cannot_be_is_not_counted() -> None:
    """The error names the remedy, and nothing changed."""
    bound = ErrorBound(max_weight=4.0)
    for weight in (0.5, 5.0, float("nan")):
        with pytest.raises(ValueError, match="Set max_weight to the largest"):
            bound.add(True, weight)
    with pytest.raises(ValueError, match="hits must be at least 0"):
        bound.skip(-1)
    assert bound == ErrorBound(max_weight=4.0)
