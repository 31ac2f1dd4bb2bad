"""
What an archive is: a zip of a few members with fixed names.

``entries.jsonl`` has a line for each entry, ``vectors.npy`` a row for each vector,
``labels.jsonl`` and ``states.jsonl`` what was learned, and ``manifest.json``, written last,
says whose they are and has the SHA-256 of the others. docs/api/checkpoint.md has every field.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, TypeAlias, cast, get_args

import numpy as np

from mneme.errors import CheckpointError
from mneme.records import Label, LabelSource

__all__ = [
    "ENTRIES",
    "FORMAT",
    "LABELS",
    "MANIFEST",
    "MAX_BYTES",
    "MAX_LABELS",
    "MAX_PIECE_BYTES",
    "MEMBERS",
    "STATES",
    "VECTORS",
    "VERSION",
    "Counts",
    "Place",
    "array_header",
    "is_state",
    "json_line",
    "label_of",
    "labelled",
    "name_of",
    "parsed",
    "state_of",
    "stated",
]

FORMAT, VERSION = "mneme-checkpoint", 2
ENTRIES, VECTORS, MANIFEST = "entries.jsonl", "vectors.npy", "manifest.json"
LABELS, STATES = "labels.jsonl", "states.jsonl"

MEMBERS: dict[int, tuple[str, ...]] = {
    1: (ENTRIES, VECTORS, MANIFEST),
    2: (ENTRIES, VECTORS, LABELS, STATES, MANIFEST),
}
"""The members of each version that is read; the last version is the one that is written."""

MAX_BYTES = 16 * 1024**3
"""What an archive may come to, packed and unpacked, unless the caller says otherwise."""

MAX_PIECE_BYTES = 256 * 1024**2
"""
The most that is read into memory at once: a line, the manifest, all labels, all states, the
zip's own directory.
"""

MAX_LABELS = 100_000
"""As many as every store keeps."""

Place: TypeAlias = str | os.PathLike[str] | BinaryIO
Counts: TypeAlias = Mapping[tuple[str, str], int]

_SOURCES = get_args(LabelSource)


def name_of(place: Place) -> str:
    return str(place) if isinstance(place, (str, os.PathLike)) else "the archive"


def array_header(rows: int, dim: int) -> bytes:
    """The first bytes of ``vectors.npy``; of all headers that numpy understands, this one."""
    buffer = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(buffer, shape)
    return buffer.getvalue()


def json_line(value: object) -> bytes:
    """
    `value` on one line.

    Raises:
        CheckpointError: it is longer than a piece may be.
    """
    # A namespace may hold half of a surrogate pair, and has to come back as it was.
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    line = text.encode("utf-8", "surrogatepass") + b"\n"
    if len(line) > MAX_PIECE_BYTES:
        raise CheckpointError(
            f"{text[:80]}... has {len(line):,} bytes, the limit is {MAX_PIECE_BYTES:,}. "
            "Nothing was written. Delete the entry first."
        )
    return line


def parsed(text: bytes) -> object:
    return json.loads(text.decode("utf-8", "surrogatepass"))


def labelled(label: Label) -> dict[str, Any]:
    """The fields of `label`, in their order in an archive."""
    fields = {name: getattr(label, name) for name in Label.__slots__}
    for name in ("similarity", "created_at", "chance_right"):
        # A clock may count in whole numbers, and equal labels are written alike: -0.0 as 0.0.
        fields[name] = None if fields[name] is None else float(fields[name]) + 0.0
    return fields


def label_of(fields: object) -> Label | None:
    """The label with these `fields`, or ``None`` where any is not what it must be."""
    if not isinstance(fields, dict) or fields.keys() != set(Label.__slots__):
        return None
    chance = fields["chance_right"]
    is_right = (
        type(fields["right"]) is bool
        and type(fields["namespace"]) is str
        and fields["source"] in _SOURCES
        # Rounding may take a cosine past 1.
        and _is_between(fields["similarity"], -1.001, 1.001)
        and _is_between(fields["created_at"], -math.inf, math.inf)
        and (chance is None or _is_between(chance, 0.0, 1.0))
    )
    return Label(**fields) if is_right else None


def _is_between(number: object, least: float, most: float) -> bool:
    return type(number) is float and math.isfinite(number) and least <= number <= most


def stated(name: str, data: bytes) -> dict[str, Any]:
    """The fields of what was learned under `name`."""
    return {"name": name, "data": base64.b64encode(data).decode()}


def is_state(name: object, data: object) -> bool:
    return type(name) is str and type(data) is bytes


def state_of(fields: object) -> tuple[str, bytes]:
    """
    The name and the data that were `stated`.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: these are not its fields.
    """
    columns = cast(dict[str, Any], fields)
    if columns.keys() != {"name", "data"} or type(columns["name"]) is not str:
        raise ValueError("not the fields of a state")
    return columns["name"], base64.b64decode(columns["data"], validate=True)
