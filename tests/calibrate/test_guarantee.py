"""A guaranteed threshold keeps its promise as often as it says, and is worth having."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mneme.calibrate import guaranteed_threshold, labels_needed, upper_bound

Labels = tuple[NDArray[np.float64], NDArray[np.bool_]]


def draw(count: int, rng: np.random.Generator) -> Labels:
    """Scores, and whether each is right: surer with the score, and never quite sure."""
    scores = rng.beta(4, 2, count)
    return scores, rng.random(count) < 0.998 / (1 + np.exp(-40 * (scores - 0.6)))


def truth(scores: NDArray[np.float64], right: NDArray[np.bool_], threshold: float) -> float:
    hits = scores >= threshold
    return float((~right[hits]).mean())


@pytest.mark.parametrize("max_error", [0.01, 0.02, 0.05])
def test_the_promise_is_broken_no_more_often_than_stated(max_error: float) -> None:
    """
    Over 400 drawings of labels the true error among hits passes the limit in at most 5 %.

    If the promise were broken in exactly 5 % of drawings, this test would fail with a
    probability of 0.5 % (more than 32 of 400, binomial); the seed is fixed.
    """
    rng = np.random.default_rng(7)
    scores, right = draw(200_000, rng)
    broken = 0
    for _ in range(400):
        at = rng.integers(0, len(scores), 1_000)
        found = guaranteed_threshold(zip(scores[at], right[at], strict=True), max_error)
        if found.threshold is not None:
            broken += truth(scores, right, found.threshold) > max_error
    assert broken <= 32


@pytest.mark.parametrize("max_error", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("labels", [500, 2_000])
def test_where_no_threshold_keeps_the_limit_none_is_promised(max_error: float, labels: int) -> None:
    """
    The worst case: a hair over the limit everywhere, so that every step is a chance to err.

    Over 400 drawings any threshold at all is promised in at most 5 %; bound as above.
    """
    rng = np.random.default_rng(3)
    broken = 0
    for _ in range(400):
        right = rng.random(labels) >= max_error * 1.001
        found = guaranteed_threshold(zip(rng.random(labels), right, strict=True), max_error)
        broken += found.threshold is not None
    assert broken <= 32


@pytest.mark.parametrize("max_error", [0.02, 0.05])
def test_it_serves_nearly_what_the_oracle_would(max_error: float) -> None:
    """From 4,000 labels the hit rate is within 10 % of that of the best true threshold."""
    rng = np.random.default_rng(8)
    scores, right = draw(200_000, rng)
    order = np.argsort(-scores)
    errors = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    oracle = (np.flatnonzero(errors <= max_error)[-1] + 1) / len(order)
    rates = []
    for _ in range(20):
        at = rng.integers(0, len(scores), 4_000)
        found = guaranteed_threshold(zip(scores[at], right[at], strict=True), max_error)
        assert found.threshold is not None
        rates.append(float((scores >= found.threshold).mean()))
    assert np.mean(rates) >= 0.9 * oracle


@given(st.integers(0, 60), st.integers(1, 400), st.floats(0.5, 0.999))
def test_the_bound_solves_its_equation(wrong: int, more: int, confidence: float) -> None:
    """At the bound, seeing at most so many errors has just the probability 1 - confidence."""
    labels = wrong + more
    bound = upper_bound(wrong, labels, confidence)
    tail = sum(
        math.comb(labels, k) * bound**k * (1 - bound) ** (labels - k) for k in range(wrong + 1)
    )
    assert wrong / labels <= bound <= 1.0
    assert math.isclose(tail, 1 - confidence, rel_tol=1e-4, abs_tol=1e-7)


def test_the_bound_of_errors_alone_is_one() -> None:
    """Where every label is wrong, every share of errors is possible."""
    assert upper_bound(5, 5, 0.95) == 1.0


@pytest.mark.parametrize(("max_error", "labels"), [(0.05, 59), (0.02, 149), (0.01, 299)])
def test_labels_needed_without_an_error(max_error: float, labels: int) -> None:
    """The known numbers: 59 labels promise 5 %, 149 promise 2 %, 299 promise 1 %."""
    assert labels_needed(max_error, 0.95) == labels
    assert upper_bound(0, labels, 0.95) <= max_error < upper_bound(0, labels - 1, 0.95)


def test_too_few_labels_promise_nothing_and_say_how_many_more() -> None:
    """With no threshold to promise, the number of labels that is missing is told."""
    found = guaranteed_threshold([(0.9, True)] * 50, 0.02)
    assert found.threshold is None
    assert found.hit_rate == 0.0
    enough = guaranteed_threshold([(0.9, True)] * (50 + found.more_labels), 0.02)
    assert enough.threshold == 0.9
    assert str(found.more_labels) in str(found)
    assert "0.9000" in str(enough)


@pytest.mark.parametrize("labels", [149, 160, 200])
def test_the_fewest_labels_are_enough(labels: int) -> None:
    """149 labels without an error promise 2 %, in whatever steps they are tested."""
    for scores in ([0.9] * labels, [0.5 + at / 1_000 for at in range(labels)]):
        found = guaranteed_threshold([(score, True) for score in scores], 0.02)
        assert found.threshold is not None
        assert found.bound <= 0.02


def test_a_wrong_label_at_the_top_costs_no_promise() -> None:
    """Wrong labels among the surest end the first sequence, and a later one goes on."""
    labelled = [(1.0, False)] * 6 + [(0.9 - at / 10_000, True) for at in range(3_000)]
    found = guaranteed_threshold(labelled, 0.02)
    assert found.hits == 3_006
    assert (found.wrong, found.more_labels) == (6, 0)


@given(st.integers(1, 40), st.floats(0.02, 0.3))
def test_more_labels_are_as_many_as_it_says(right: int, max_error: float) -> None:
    """With so many more right ones there is a threshold, and where all were right no sooner."""
    found = guaranteed_threshold([(0.9, True)] * right, max_error)
    if found.threshold is None:
        assert guaranteed_threshold(
            [(0.9, True)] * (right + found.more_labels), max_error
        ).threshold
        assert (
            guaranteed_threshold(
                [(0.9, True)] * (right + found.more_labels - 1), max_error
            ).threshold
            is None
        )
    mixed = [(0.9, True)] * right + [(0.5, False)] * 40
    found = guaranteed_threshold(mixed, max_error)
    if found.threshold is None:
        more = [(0.9, True)] * found.more_labels
        assert guaranteed_threshold(more + mixed, max_error).threshold == 0.9


def test_equal_scores_stand_or_fall_together() -> None:
    """A threshold serves all of its ties, so their errors all count."""
    labelled = [(0.9, True)] * 300 + [(0.8, True)] * 10 + [(0.8, False)] * 100
    assert guaranteed_threshold(labelled, 0.02).threshold == 0.9


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=300))
def test_hits_and_errors_are_those_of_the_labels(labelled: list[tuple[float, bool]]) -> None:
    """What is reported can be counted again from the labels."""
    found = guaranteed_threshold(labelled, 0.2)
    if found.threshold is not None:
        above = [right for score, right in labelled if score >= found.threshold]
        assert (found.hits, found.wrong) == (len(above), above.count(False))
        assert found.bound <= 0.2


@pytest.mark.parametrize(
    ("labelled", "options", "message"),
    [
        ([], {}, "Label some candidates"),
        ([(math.nan, True)], {}, "label 0 has the score nan"),
        ([(0.5, True), (math.inf, False)], {}, "label 1 has the score inf"),
        ([(0.5, True)], {"max_error": 0.0}, "max_error must be between 0 and 1"),
        ([(0.5, True)], {"confidence": 1.0}, "confidence must be between 0 and 1"),
    ],
)
def test_bad_input_is_named(
    labelled: list[tuple[float, bool]], options: dict[str, float], message: str
) -> None:
    """Labels and shares that make no sense are refused by name."""
    with pytest.raises(ValueError, match=message):
        guaranteed_threshold(labelled, **options)
