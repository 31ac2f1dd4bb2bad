"""Labelled pairs come from files, and bad files are named by line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mneme.calibrate import Pair, check_pairs, load_pairs


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
    ("text", "pair"),
    [
        ("label;a;b\n1.0;x, y;z\n", Pair("x, y", "z", True)),
        ("a\tb\ty\nx\tz\tDifferent\n", Pair("x", "z", False)),
        ('a,b,y\r\n"x ""1""\r\ny",z,TRUE\r\n', Pair('x "1"\r\ny', "z", True)),
        ("\ufeffa,b,y,note\nx,z,0,ours\n", Pair("x", "z", False)),
    ],
)
def test_spreadsheets_write_csv_in_many_ways(text: str, pair: Pair, tmp_path: Path) -> None:
    """Semicolons, tabs, quotes, Windows line ends, byte order marks and more columns are read."""
    path = tmp_path / "pairs.csv"
    path.write_bytes(text.encode())
    assert load_pairs(path) == [pair]


def test_json_may_hold_line_ends_of_its_own(tmp_path: Path) -> None:
    """U+2028 in a text is a part of the text, and the lines count as an editor counts them."""
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"a": "x\u2028y", "b": "z", "y": 1}\r\nno\n', encoding="utf-8")
    with pytest.raises(ValueError, match="jsonl:2: not JSON"):
        load_pairs(path)
    path.write_text('{"a": "x\u2028y", "b": "z", "y": 1}\n', encoding="utf-8")
    assert load_pairs(path) == [Pair("x\u2028y", "z", True)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,1\n", r"pairs\.csv:1: the first line names the columns \['1', 'x', 'y'\]"),
        ("a,b\nx,y\n", r":1: the first line .* one of y, same, same_answer, label"),
        ("a,b,y\nx,y,1\nx,z\n", r":3: the label is None"),
        ("a,b,y\nx,y,z,1\n", r":2: more values than columns\. Put texts"),
        ('a,b,y\nx,y,1\n"x,y,1\n', r":3: not CSV"),
        ('a,b,y\n"x\ny",z,1\nu,v,maybe\n', r":4: the label is 'maybe'"),
        ("a,b,y\nx,,1\n", r":2: a and b must be text"),
        ("a,b,y\n", "there is no pair in it"),
        ("", "there is no pair in it"),
    ],
)
def test_bad_rows_are_named(text: str, message: str, tmp_path: Path) -> None:
    """A row of a CSV is named by its first line."""
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_pairs(path)


@pytest.mark.parametrize("end", [-3, 12, 0])
def test_a_damaged_archive_is_named(end: int, tmp_path: Path) -> None:
    """A gzip file that is cut off, and one that is none, are told by name."""
    path = tmp_path / "pairs.jsonl.gz"
    packed = gzip.compress(b'{"a": "x", "b": "y", "y": 1}\n' * 9)
    path.write_bytes(packed[:end] if end else b"plain text")
    with pytest.raises(ValueError, match=r"pairs\.jsonl\.gz: not a whole gzip file"):
        load_pairs(path)


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
