"""Pairs are scored by every kind of embedder, and lead to a threshold that a cache takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme import EmbeddingError, embedder_from, to_async_embedder
from mneme.calibrate import (
    Guarantee,
    Pair,
    ScoredPairs,
    ascore_pairs,
    choose_threshold,
    guaranteed_threshold,
    hit_curve,
    score_pairs,
)
from mneme.guards import DEFAULT_GUARDS
from mneme.testing import HashEmbedder

PAIRS = [
    Pair("how do I reset my password", "how do I reset my password please", True),
    Pair("open a new account", "open a new window", False),
    Pair("a plan for 5 users", "a plan for 50 users", False),
    Pair("how do I reset my password", "open a new account", False),
]


class Single:
    """An embedder without ``embed_batch``."""

    dim = 256
    fingerprint = "single"

    def embed(self, text: str, /) -> Any:
        return HashEmbedder().embed(text)


class Batched(Single):
    """An async one with a batch of its own, and a note of the sizes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def embed(self, text: str, /) -> Any:
        raise AssertionError("batches are there")

    async def embed_batch(self, texts: Sequence[str]) -> Any:
        self.sizes.append(len(texts))
        return np.stack([HashEmbedder().embed(text) for text in texts])


def scored(labelled: Sequence[tuple[float, bool]], refused: Sequence[bool] = ()) -> ScoredPairs:
    count = len(labelled)
    return ScoredPairs(
        tuple(Pair(f"a{at}", f"b{at}", same) for at, (_, same) in enumerate(labelled)),
        np.array([score for score, _ in labelled], dtype=np.float64),
        np.array(refused or [False] * count, dtype=bool),
        "a:model",
        8,
        guarded=bool(refused),
    )


@pytest.mark.parametrize(
    "embedder",
    [
        HashEmbedder(),
        Single(),
        Batched(),
        to_async_embedder(HashEmbedder()),
        to_async_embedder(Single()),
    ],
)
def test_every_kind_of_embedder_scores(embedder: Any, world: str) -> None:
    """Sync and async, one at a time and in batches: the same cosines, here and on a loop."""
    seen: list[tuple[int, int]] = []
    expected = [np.dot(*(HashEmbedder().embed(text) for text in (p.a, p.b))) for p in PAIRS]

    async def on_a_loop() -> ScoredPairs:
        return await ascore_pairs(
            PAIRS, embedder, progress=lambda done, total: seen.append((done, total))
        )

    if world == "threads":
        found = score_pairs(
            PAIRS, embedder, progress=lambda done, total: seen.append((done, total))
        )
    else:
        found = anyio.run(on_a_loop, backend=world)
    assert np.allclose(found.similarities, expected, atol=1e-6)
    assert (found.fingerprint, found.dim) == (embedder.fingerprint, 256)
    assert found.same.tolist() == [True, False, False, False]
    assert seen[-1] == (6, 6)


@pytest.fixture(params=["threads", "asyncio"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_texts_go_in_batches_and_once_each() -> None:
    """A text in many pairs is embedded once, at most 64 at a time."""
    embedder = Batched()
    score_pairs([Pair("the same", f"text {at}", True) for at in range(100)], embedder)
    assert embedder.sizes == [64, 37]


def test_what_guards_refuse_is_no_hit() -> None:
    """A refused pair counts among the labels, and never among hits or errors."""
    found = score_pairs(PAIRS, HashEmbedder(), guards=DEFAULT_GUARDS)
    assert found.guarded
    assert found.refused.tolist()[2] is True
    assert 1 - found.refused.sum() / 4 == len(list(found.labelled())) / 4
    chosen = choose_threshold(scored([(0.9, True)] * 200 + [(0.95, False)] * 9), max_error=0.02)
    assert chosen.threshold is None
    refused = [False] * 200 + [True] * 9
    chosen = choose_threshold(
        scored([(0.9, True)] * 200 + [(0.95, False)] * 9, refused), max_error=0.02
    )
    assert (chosen.threshold, chosen.labels, chosen.hits, chosen.wrong) == (0.9, 209, 200, 0)
    assert chosen.guarded


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_what_is_no_vector_is_told_with_its_text(value: float) -> None:
    """The error of a spoilt embedding names the text that it is of."""

    def embed(text: str) -> Any:
        return np.full(4, value if "window" in text else 1.0)

    embedder = embedder_from(embed, dim=4, fingerprint="spoilt")
    with pytest.raises(EmbeddingError, match="embedding 'open a new window': the embedding"):
        score_pairs(PAIRS, embedder)


def test_no_pairs_and_odd_scores_are_refused() -> None:
    """Nothing to score, or scores that are no numbers or not one a pair."""
    with pytest.raises(ValueError, match="Label some pairs"):
        score_pairs([], HashEmbedder())
    with pytest.raises(ValueError, match="similarity of pair 1 is nan"):
        scored([(0.5, True), (math.nan, False)])
    with pytest.raises(ValueError, match="each needs one"):
        scored([(0.5, True)], [True, False])


def test_the_promise_of_a_choice_is_that_of_the_guarantee() -> None:
    """The record repeats what `guaranteed_threshold` found, and can be made of it as well."""
    rng = np.random.default_rng(4)
    near = rng.uniform(0.5, 1.0, 2_000)
    labelled = [(float(s), bool(rng.random() < (0.999 if s > 0.8 else 0.5))) for s in near]
    found = guaranteed_threshold(labelled, 0.02, 0.9)
    chosen = choose_threshold(scored(labelled), max_error=0.02, confidence=0.9, created_at=7.0)
    assert chosen.threshold == found.threshold
    assert (chosen.hits, chosen.wrong, chosen.labels) == (found.hits, found.wrong, 2_000)
    assert chosen.upper_bound == found.bound <= 0.02
    again = found.for_embedder(scored(labelled), created_at=7.0)
    assert again == chosen
    assert isinstance(found, Guarantee)


@given(
    st.lists(st.tuples(st.integers(-5, 20).map(lambda at: at / 20), st.booleans()), min_size=2),
    st.floats(0.05, 0.95),
)
def test_a_counted_precision_is_kept_by_the_loosest(
    labelled: list[tuple[float, bool]], precision: float
) -> None:
    """What is chosen keeps it, no looser cosine does, and the counts can be counted again."""
    labelled += [(0.5, True), (0.4, False)]
    chosen = choose_threshold(scored(labelled), min_precision=precision)
    keeping = []
    for threshold in {score for score, _ in labelled if score >= 0.0}:
        hits = [right for score, right in labelled if score >= threshold]
        if hits.count(True) >= precision * len(hits):
            keeping.append((threshold, len(hits), hits.count(False)))
    if keeping:
        assert (chosen.threshold, chosen.hits, chosen.wrong) == min(keeping)
    else:
        assert chosen.threshold is None
    assert (chosen.confidence, chosen.upper_bound) == (None, None)


@given(st.lists(st.tuples(st.integers(-5, 20).map(lambda at: at / 20), st.booleans())))
def test_the_curve_counts_hits_and_errors(labelled: list[tuple[float, bool]]) -> None:
    """At each cosine that occurs, all pairs at or above it, ties included."""
    curve = hit_curve(scored(labelled))
    expected = sorted({score for score, _ in labelled if score >= 0.0}, reverse=True)
    assert list(curve.thresholds) == expected
    assert curve.labels == len(labelled)
    for threshold, hits, wrong in zip(curve.thresholds, curve.hits, curve.wrong, strict=True):
        above = [right for score, right in labelled if score >= threshold]
        assert (hits, wrong) == (len(above), above.count(False))


def test_pairs_that_are_all_refused_promise_nothing() -> None:
    """No candidate, no threshold, and no error either."""
    found = scored([(0.9, True), (0.8, False)], [True, True])
    assert choose_threshold(found).threshold is None
    assert choose_threshold(found, min_precision=0.5).threshold is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_error": 0.02, "min_precision": 0.9}, "Give one of them"),
        ({"max_error": 2}, "max_error must be between 0 and 1"),
        ({"min_precision": 1.0}, "min_precision must be between 0 and 1"),
        ({"confidence": 95}, "confidence must be between 0 and 1"),
    ],
)
def test_targets_that_make_no_sense_are_refused(options: dict[str, float], message: str) -> None:
    """By name, before anything is computed."""
    with pytest.raises(ValueError, match=message):
        choose_threshold(scored([(0.9, True), (0.8, False)]), **options)


def test_labels_of_one_kind_are_refused() -> None:
    """Pairs that are all the same show nothing about errors."""
    with pytest.raises(ValueError, match="labelled as different"):
        choose_threshold(scored([(0.9, True)] * 500))
