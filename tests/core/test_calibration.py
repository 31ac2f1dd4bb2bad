"""A calibration comes back equal from JSON, and serves no cache that it was not made for."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme import EmbedderMismatchError
from mneme._core.calibration import Calibration

MADE = Calibration(
    threshold=0.87,
    target="max_error",
    limit=0.02,
    confidence=0.95,
    labels=1_000,
    hits=400,
    wrong=3,
    upper_bound=0.019,
    embedder_fingerprint="a:model",
    dim=8,
    created_at=1.7e9,
)

shares = st.floats(0.001, 0.999)
made = st.builds(
    lambda counts, promise, **rest: Calibration(
        wrong=counts[0], hits=counts[1], labels=counts[2], **promise, **rest
    ),
    st.lists(st.integers(0, 10**6), min_size=3, max_size=3).map(sorted),
    st.fixed_dictionaries({"target": st.just("max_error"), "limit": shares, "confidence": shares})
    | st.fixed_dictionaries(
        {
            "target": st.sampled_from(["precision", "recall", "f1"]),
            "limit": st.none() | shares,
            "confidence": st.none(),
        }
    ),
    threshold=st.none() | st.floats(0, 1),
    upper_bound=st.none() | st.floats(0, 1),
    embedder_fingerprint=st.text(),
    dim=st.integers(1, 4096),
    vector_dtype=st.sampled_from(["float32", "float16", "int8"]),
    guarded=st.booleans(),
    created_at=st.none() | st.floats(0, 1e10),
)


@given(made)
def test_it_comes_back_equal(found: Calibration) -> None:
    """Written as JSON and read again, it is the same, and on one line."""
    text = found.to_json()
    assert "\n" not in text
    assert Calibration.from_json(text) == found
    assert Calibration.from_json(text.encode()) == found


@given(made)
def test_it_serves_its_own_embedder_alone(found: Calibration) -> None:
    """The threshold goes to a cache of the same embedder, dimension and dtype, and no other."""
    own = (found.embedder_fingerprint, found.dim, found.vector_dtype)
    if found.threshold is not None:
        assert found.threshold_for(*own) == found.threshold
    for other in ((own[0] + "x", *own[1:]), (own[0], own[1] + 1, own[2]), (*own[:2], "float8")):
        with pytest.raises(EmbedderMismatchError, match="Run python -m mneme calibrate"):
            found.threshold_for(*other)


@given(made)
def test_it_reads_as_a_sentence(found: Calibration) -> None:
    """In words: the threshold or that there is none, and what was asked."""
    assert str(found).startswith("no threshold:") is (found.threshold is None)
    assert ("confidence" in str(found)) is (found.target == "max_error")


def test_the_words() -> None:
    """The sentence, as it is printed."""
    assert str(MADE) == (
        "threshold 0.8700: at most 2.0% wrong among hits, with 95% confidence "
        "(3 of 400 hits wrong, 40.0% of the pairs served)"
    )
    assert MADE.precision == 1.0 - 3 / 400
    assert replace(MADE, hits=0, wrong=0).precision == 1.0
    assert replace(MADE, hits=0, wrong=0, labels=0).hit_rate == 0.0


def test_without_a_threshold_nothing_is_set() -> None:
    """Labels that promise nothing give no cache a threshold, and the error says what to do."""
    none = replace(MADE, threshold=None)
    with pytest.raises(ValueError, match="Label more pairs"):
        none.threshold_for("a:model", 8)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 1.2},
        {"threshold": math.nan},
        {"threshold": "0.9"},
        {"threshold": True},
        {"hits": 1_001},
        {"wrong": 401},
        {"labels": 1_000.5},
        {"dim": "8"},
        {"embedder_fingerprint": 3},
        {"guarded": 1},
        {"target": "accuracy"},
        {"confidence": None},
        {"limit": None},
        {"target": "f1"},
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any]) -> None:
    """Neither made nor read: a file that was edited badly is no calibration."""
    with pytest.raises(ValueError, match=r"cannot be|must be|needs a limit"):
        replace(MADE, **change)
    text = json.dumps({**json.loads(MADE.to_json()), **change})
    with pytest.raises(ValueError, match=r"cannot be|must be|needs a limit"):
        Calibration.from_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threshold = 0.9", "not JSON"),
        ("[0.9]", "the format is 'list'"),
        (json.dumps(asdict(MADE)), "the format is None"),
        ('{"format": "mneme-calibration-1"}', r"lacking \['confidence'"),
        (MADE.to_json()[:-1] + ', "more": 1}', r"unknown \['more'\]"),
    ],
)
def test_what_is_no_calibration_is_told(text: str, message: str) -> None:
    """Another file, another version, or a damaged one."""
    with pytest.raises(ValueError, match=message):
        Calibration.from_json(text)
