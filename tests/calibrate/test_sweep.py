"""Thresholds are found on labelled pairs, and bad files are named by line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mneme import to_async_embedder
from mneme.calibrate import (
    Pair,
    check_pairs,
    find_threshold,
    load_pairs,
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


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz", "pairs.csv"])
def test_pairs_are_loaded_from_files(name: str, tmp_path: Path) -> None:
    """JSON Lines and CSV, packed or not, give the same pairs."""
    path = tmp_path / name
    text = '{"a": "x", "b": "y", "y": 1}\n\n{"a": "x", "b": "z", "same_answer": false}\n'
    if name.endswith(".csv"):
        text = "a,b,same\nx,y,yes\nx,z,0\n"
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert load_pairs(path) == [Pair("x", "y", True), Pair("x", "z", False)]
    assert check_pairs(load_pairs(path)) == ([Pair("x", "y", True)], [Pair("x", "z", False)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": "x", "b": "y", "y": 1}\nnot json\n', r"pairs\.jsonl:2: not JSON"),
        ('{"a": "x", "b": 3, "y": 1}\n', r":1: a and b must be text"),
        ('{"a": "x", "b": "y"}\n', r":1: the label is None"),
        ('{"a": "x", "b": "y", "y": 0.5}\n', r":1: the label is 0\.5"),
        ("[1, 2]\n", r":1: expected an object"),
        ('{"a": "x", "b": "y", "y": 1}\n{"a": "y", "b": "x", "y": 0}\n', "label in line 1"),
        ("\n", "there is no pair in it"),
    ],
)
def test_bad_lines_are_named(text: str, message: str, tmp_path: Path) -> None:
    """File and line number say where a label file is wrong."""
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_pairs(path)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    """Bytes that are no text are refused with their place."""
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="not UTF-8 at byte 7"):
        load_pairs(path)


def test_one_sided_labels_are_refused() -> None:
    """All the same, or all different, is nothing to learn a threshold from."""
    with pytest.raises(ValueError, match="labelled as different"):
        check_pairs([Pair("a", "b", True)])
    with pytest.raises(ValueError, match="labelled as the same"):
        check_pairs([Pair("a", "b", False)])
