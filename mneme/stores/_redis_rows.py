"""Entries to the arguments of Redis scripts and back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np

from mneme.records import Changes, Entry, Identity, Key, Label, Partition, Selection
from mneme.stores._redis_scripts import FIELDS
from mneme.stores._rows import as_bytes, as_text, death_of, entry_of, row_of

__all__ = [
    "arguments_of",
    "entry_from",
    "identity_of",
    "is_chosen",
    "label_from",
    "name_of",
    "vector_of",
]

GRACE = 3_600.0
"""Seconds for which Redis keeps what is dead, as the cache's clock may differ from its own."""

LONGEST = 10 * 365 * 86_400.0
"""Seconds; what lives longer, Redis need not expire."""


def name_of(identity: Identity) -> bytes:
    """The identity as 32 bytes."""
    return bytes(identity[0]) + bytes(identity[1])


def identity_of(member: bytes) -> Identity:
    return Partition(member[:16]), Key(member[16:32])


def vector_of(entry: Entry) -> bytes:
    """float32, little-endian; nothing for an entry of the exact layer."""
    if entry.vector is None:
        return b""
    return np.ascontiguousarray(entry.vector, "<f4").tobytes()


def arguments_of(changes: Changes) -> list[bytes | int]:
    """`changes` as the script `COMMIT` takes them."""
    counts = [(as_bytes(f"{name}\0{space}"), n) for (space, name), n in changes.counts.items()]
    groups: list[list[Sequence[bytes | int]]] = [
        [(as_bytes(namespace),) for namespace in changes.cleared],
        [(name_of(identity),) for identity in changes.removed],
        [_put(entry) for entry in {one.identity: one for one in changes.puts}.values()],
        [(name_of(identity),) for identity in changes.used],
        list(counts),
        [(_label(label),) for label in changes.labels],
        [(as_bytes(name), data) for name, data in changes.states.items()],
    ]
    words: list[bytes | int] = []
    for group in groups:
        words.append(len(group))
        for item in group:
            words.extend(item)
    return words


def _put(entry: Entry) -> list[bytes | int]:
    dead = death_of(entry)
    lifetime = None if dead is None else max(0.0, dead - entry.created_at) + GRACE
    fields = [word for pair in _fields(entry) for word in pair]
    return [
        name_of(entry.identity),
        as_bytes(entry.namespace),
        b"" if dead is None else _number(dead),
        b"" if lifetime is None or lifetime > LONGEST else math.ceil(lifetime * 1000),
        vector_of(entry),
        len(fields),
        *fields,
    ]


def _fields(entry: Entry) -> list[tuple[bytes, bytes]]:
    values = dict(zip(FIELDS, row_of(entry)[2:-1], strict=False))
    told = []
    for name, value in values.items():
        if isinstance(value, str):
            told.append((name.encode(), as_bytes(value)))
        elif isinstance(value, float | int):
            told.append((name.encode(), _number(value)))
        elif value is not None:
            told.append((name.encode(), bytes(value)))
    return told


def _number(value: float) -> bytes:
    # The shortest text that is read as the same number again.
    return repr(float(value)).encode()


def entry_from(identity: Identity, values: Sequence[bytes | None], dim: int) -> Entry | None:
    """The entry with the values of `FIELDS`, or ``None`` where it cannot be read."""
    namespace, prompt, kind, payload, metadata, tags, *times, vector = values
    try:
        texts = [None if it is None else as_text(it) for it in (namespace, prompt, kind)]
        is_text = payload is not None and texts[2] in ("text", "json")
        data = as_text(payload or b"") if is_text else payload
        notes = [None if it is None else as_text(it) for it in (metadata, tags)]
        numbers = [None if it is None else float(it) for it in times]
    except ValueError:
        return None
    return entry_of((*identity, *texts, data, *notes, *numbers, vector), dim)


def is_chosen(chosen: Selection, told: Sequence[bytes | None]) -> bool:
    """Whether `chosen` means the entry of which the script `LOOK` has `told`."""
    member, _, death, tags, created_at = told
    if chosen.namespace is not None and as_bytes(chosen.namespace) != (member or b"")[32:]:
        return False
    if chosen.dead_by is not None and (death is None or float(death) > chosen.dead_by):
        return False
    if chosen.tag is not None and (tags is None or chosen.tag not in json.loads(tags)):
        return False
    before = chosen.created_before
    return before is None or (created_at is not None and float(created_at) < before)


def _label(label: Label) -> bytes:
    return json.dumps(
        [label.similarity, label.right, label.namespace, label.source, label.created_at,
         label.chance_right]
    ).encode()  # fmt: skip


def label_from(data: bytes) -> Label:
    return Label(*json.loads(data))
