"""The best threshold of a grid is found on labelled pairs."""

from __future__ import annotations

import pytest

from mneme import to_async_embedder
from mneme.calibrate import (
    find_threshold,
    precision_recall_curve,
    similarities,
)
from mneme.testing import HashEmbedder

SAME = [
    ("how do I reset my password", "how do I reset my password please"),
    ("what is the capital of France", "what is the capital city of France"),
    ("open a new account", "open new account"),
]
OTHER = [
    ("how do I reset my password", "what is the weather in Rome"),
    ("open a new account", "open a new window"),
    ("cancel my order", "track my parcel"),
]


def test_the_best_threshold_parts_the_two_kinds() -> None:
    """Pairs that can be told apart are told apart, and the embedder is named."""
    embedder = HashEmbedder()
    found = find_threshold(SAME, OTHER, embedder)
    cosines = similarities([*SAME, *OTHER], embedder)
    assert (found.precision, found.recall, found.f1) == (1.0, 1.0, 1.0)
    assert cosines[3:].max() < found.threshold <= cosines[:3].min()
    assert found.fingerprint == embedder.fingerprint
    assert float(found) == found.threshold


def test_it_leads_to_a_calibration_for_the_cache() -> None:
    """The record names target, counts and embedder, and says that nothing is promised."""
    embedder = HashEmbedder()
    found = find_threshold(SAME, iter(OTHER), embedder, "precision", 0.9, created_at=1.5)
    made = found.calibration
    assert made is not None
    assert made.threshold_for(embedder.fingerprint, embedder.dim) == found.threshold
    assert (made.target, made.limit, made.confidence) == ("precision", 0.9, None)
    assert (made.labels, made.hits - made.wrong) == (6, round(found.recall * 3))
    assert made.precision == pytest.approx(found.precision)
    assert made.created_at == 1.5


def test_minima_are_kept_or_refused_with_what_can_be_had() -> None:
    """A threshold keeps both minima; where none does, the error says what can be had."""
    embedder = HashEmbedder()
    found = find_threshold(SAME, [*OTHER, SAME[0]], embedder, "recall", min_recall=1.0)
    assert found.recall == 1.0
    with pytest.raises(ValueError, match="the best precision is"):
        find_threshold(SAME[:1], SAME[:1], embedder, min_precision=0.9, min_recall=0.9)


def test_the_curve_falls_and_rises_as_it_must() -> None:
    """Recall never rises with the threshold, and every text is embedded once."""
    embedder = HashEmbedder()
    seen: list[tuple[int, int]] = []
    curve = precision_recall_curve(
        SAME, OTHER, embedder, progress=lambda done, total: seen.append((done, total))
    )
    assert [point.recall for point in curve] == sorted(
        (point.recall for point in curve), reverse=True
    )
    texts = {text for pair in [*SAME, *OTHER] for text in pair}
    assert embedder.calls == len(texts)
    assert seen[-1] == (len(texts), len(texts))


def test_an_async_embedder_is_refused() -> None:
    """Calibration is sync, and says how to make the embedder fit."""
    with pytest.raises(TypeError, match="to_sync_embedder"):
        similarities(SAME, to_async_embedder(HashEmbedder()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_metric": "accuracy"}, "target_metric"),
        ({"vector_dtype": "int3"}, "vector_dtype"),
        ({"min_precision": 1.5}, "min_precision"),
        ({"grid": [85]}, "Did you mean 0.85"),
    ],
)
def test_wrong_values_are_named(options: dict[str, object], message: str) -> None:
    """A value that makes no sense is refused by name."""
    with pytest.raises(ValueError, match=message):
        find_threshold(SAME, OTHER, HashEmbedder(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("pairs", [(SAME, []), ([], OTHER)])
def test_pairs_of_one_kind_are_not_enough(pairs: tuple[list[tuple[str, str]], ...]) -> None:
    """Without pairs of both kinds there is nothing to weigh."""
    with pytest.raises(ValueError, match="pairs of both kinds"):
        find_threshold(*pairs, HashEmbedder())
