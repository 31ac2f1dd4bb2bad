"""Labelled pairs of questions, from memory or from a file."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Pair", "check_pairs", "load_pairs"]

_TRUE = {1, "1", "1.0", "true", "yes", "same"}
_FALSE = {0, "0", "0.0", "false", "no", "different"}
_LABELS = ("y", "same", "same_answer", "label")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two questions, and whether one answer is right for both."""

    a: str
    b: str
    same: bool


def load_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """
    The pairs of a JSON Lines or CSV file, ``.gz`` or not.

    Columns ``a`` and ``b`` hold the texts; ``y``, ``same``, ``same_answer`` or ``label`` says
    whether they are the same (true, 1, yes) or not (false, 0, no).

    Raises:
        ValueError: a line that is not such a pair, with file and line number; two lines that
            contradict each other; no pair at all; a damaged file.
        OSError: the file cannot be read.
    """
    path = Path(path)
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as exc:
            raise ValueError(f"{path}: not a whole gzip file ({exc}). Nothing was loaded.") from exc
    name = path.name.removesuffix(".gz")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ValueError(f"{path}: not UTF-8 at byte {exc.start}. Save it as UTF-8.") from exc
    rows = _csv_rows(path, text) if name.endswith((".csv", ".tsv")) else _json_rows(path, text)
    pairs: list[Pair] = []
    seen: dict[frozenset[str], tuple[int, bool]] = {}
    for line, row in rows:
        pair = _pair(path, line, row)
        before = seen.setdefault(frozenset((pair.a, pair.b)), (line, pair.same))
        if before[1] is not pair.same:
            raise ValueError(
                f"{path}:{line}: the same two questions have another label in line {before[0]}. "
                "Nothing was loaded. Decide which is right."
            )
        pairs.append(pair)
    if not pairs:
        raise ValueError(f"{path}: there is no pair in it.")
    return pairs


def check_pairs(pairs: Iterable[Pair]) -> tuple[list[Pair], list[Pair]]:
    """
    The pairs that are the same, and those that are not.

    Raises:
        ValueError: one of the two kinds is missing: without both there is nothing to weigh.
    """
    pairs = list(pairs)
    same = [pair for pair in pairs if pair.same]
    other = [pair for pair in pairs if not pair.same]
    if not same or not other:
        lacking = "the same" if not same else "different"
        raise ValueError(
            f"none of the {len(pairs)} pairs is labelled as {lacking}. "
            "A threshold needs both kinds: add some."
        )
    return same, other


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    # Not `splitlines`: JSON may hold other line ends, as U+2028, inside its texts.
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                yield line, json.loads(content)
            except ValueError as exc:
                raise ValueError(f"{path}:{line}: not JSON ({exc}). Nothing was loaded.") from exc


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        columns = set(reader.fieldnames or ())
        if text.strip() and (not {"a", "b"} <= columns or columns.isdisjoint(_LABELS)):
            raise ValueError(
                f"{path}:1: the first line names the columns {sorted(columns)}; it must name "
                f"a, b and one of {', '.join(_LABELS)}. Nothing was loaded."
            )
        # A text may go over several lines: a row is named by its first.
        line = reader.line_num + 1
        for row in reader:
            if None in row:
                raise ValueError(
                    f"{path}:{line}: more values than columns. Put texts that hold "
                    f"{delimiter!r} in quotes. Nothing was loaded."
                )
            yield line, row
            line = reader.line_num + 1
    except csv.Error as exc:
        raise ValueError(f"{path}:{line}: not CSV ({exc}). Nothing was loaded.") from exc


def _pair(path: Path, line: int, row: Any) -> Pair:
    if not isinstance(row, dict):
        raise ValueError(f"{path}:{line}: expected an object with a, b and y. Nothing was loaded.")
    texts = [row.get("a"), row.get("b")]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{path}:{line}: a and b must be text. Nothing was loaded.")
    label = next((row[name] for name in _LABELS if row.get(name) is not None), None)
    if isinstance(label, str):
        label = label.strip().lower()
    if not isinstance(label, (str, int, float)) or label not in _TRUE | _FALSE:
        raise ValueError(
            f"{path}:{line}: the label is {label!r}; it must be true or false, 1 or 0, in one of "
            f"{', '.join(_LABELS)}. Nothing was loaded."
        )
    return Pair(str(texts[0]), str(texts[1]), label in _TRUE)
