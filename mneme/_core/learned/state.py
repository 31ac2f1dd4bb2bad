"""
The learned policy as bytes, so that what was learned outlives the process.

Magic, length of the header, header (JSON: single values, and the arrays that follow with type
and shape), the arrays one after the other, CRC-32 of all before. Little-endian; no pickle.
"""

from __future__ import annotations

import json
import math
import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mneme._core.learned.features import FEATURES
from mneme._core.learned.notes import Group, Note, Notes
from mneme._core.learned.policy import LearnedPolicy
from mneme._core.learned.prior import Prior
from mneme._core.learned.words import WordModel

__all__ = ["dump", "load"]

BUDGET = ("asks", "spent", "limit", "expected", "found")
MAGIC = b"mneme.learned.3\n"

Arrays = dict[str, NDArray[Any]]


def dump(policy: LearnedPolicy) -> bytes:
    """Everything the policy knows; `load` makes one that decides the same from then on."""
    arrays: Arrays = {
        **{f"prior.{name}": getattr(policy.prior, name) for name in Prior.__slots__},
        "weights": policy.posterior.weights,
        "covariance": policy.posterior.covariance,
        "line": policy.calibration.line,
        "recent": np.array(policy.budget.recent),
        "rows": np.array([row for row, _, _ in policy.rows], np.float32),
        "labels": np.array([label for _, *label in policy.rows]),
        "scored": np.array(policy.scored),
        **_words(policy.words),
        **_notes(policy.notes),
    }
    header = {
        "features": FEATURES,
        "max_error": policy.max_error,
        "audit_rate": policy.audit_rate,
        "labels": policy.labels,
        "unfitted": policy.unfitted,
        "random": policy.random.bit_generator.state,
        "comparisons": [policy.comparisons.made, policy.comparisons.outvoted],
        "budget": {name: getattr(policy.budget, name) for name in BUDGET},
        "words": [policy.words.line, policy.words.bent],
        "texts": policy.notes.rarity.texts,
        "next_group": policy.notes.next_group,
        "vetoes": policy.vetoes.counts,
    }
    return _packed(header, arrays)


def load(
    data: bytes, max_error: float | None = None, audit_rate: float | None = None
) -> LearnedPolicy:
    """
    The policy that `dump` wrote, or one that has learned the same and is to keep to another
    `max_error`, with another `audit_rate`.

    Raises:
        ValueError: damaged, or written for other features than this version computes.
    """
    header, arrays = _unpacked(data)
    if tuple(header["features"]) != FEATURES:
        raise ValueError(
            "this learned policy was saved by a version with other features. "
            "Nothing was changed. Start a new one; it learns again."
        )
    prior = Prior(**{name: arrays[f"prior.{name}"] for name in Prior.__slots__})
    policy = LearnedPolicy(
        header["max_error"] if max_error is None else max_error,
        audit_rate=header["audit_rate"] if audit_rate is None else audit_rate,
        prior=prior,
    )
    policy.labels, policy.unfitted = header["labels"], header["unfitted"]
    policy.random.bit_generator.state = header["random"]
    policy.comparisons.made, policy.comparisons.outvoted = header["comparisons"]
    policy.posterior.weights = arrays["weights"]
    policy.posterior.covariance = arrays["covariance"]
    policy.calibration.line = arrays["line"]
    budget = policy.budget
    if policy.max_error == header["max_error"]:
        # What was spent of another budget says nothing about this one.
        for name in BUDGET:
            setattr(budget, name, header["budget"][name])
    _refill(budget.recent, arrays["recent"].tolist())
    _refill(policy.rows, _triples(arrays["rows"], arrays["labels"]))
    _refill(policy.scored, map(tuple, arrays["scored"].tolist()))
    policy.vetoes.counts = header["vetoes"]
    policy.words = _word_model(header["words"], arrays)
    policy.notes = _restored(header, arrays)
    return policy


def _refill(kept: deque[Any], items: Iterable[Any]) -> None:
    kept.clear()
    kept.extend(items)


def _triples(rows: NDArray[Any], labels: NDArray[Any]) -> Iterable[tuple[Any, float, float]]:
    return ((row, *label) for row, label in zip(rows, labels.tolist(), strict=True))


def _words(model: WordModel) -> Arrays:
    return {
        "words.at": np.array(list(model.seen), np.uint16),
        "words.told": np.array([model.told[word] for word in model.seen]),
        "words.seen": np.array(list(model.seen.values())),
    }


def _word_model(lines: Sequence[list[float]], arrays: Mapping[str, NDArray[Any]]) -> WordModel:
    model = WordModel()
    model.line, model.bent = lines
    at = arrays["words.at"].tolist()
    model.told = dict(zip(at, arrays["words.told"].tolist(), strict=True))
    model.seen = dict(zip(at, arrays["words.seen"].tolist(), strict=True))
    return model


def _notes(notes: Notes) -> Arrays:
    entries, kept = list(notes.of), list(notes.of.values())
    groups = list(notes.groups.values())
    pending = notes.pending()
    return {
        "entry.name": np.frombuffer(b"".join(entries), np.uint8),
        "entry.name_size": np.array([len(entry) for entry in entries], np.uint16),
        "entry.words": np.frombuffer(b"".join([note.packed for note in kept]), np.uint16),
        "entry.words_size": np.array([len(note.packed) // 2 for note in kept], np.uint32),
        "entry.group": np.array([notes.group_of(note) for note in kept], np.int64),
        "entry.number": np.array([[note.density, note.rival] for note in kept]),
        "group.at": np.array(list(notes.groups), np.int64),
        "group.count": np.array([[g.size, g.same, g.seen] for g in groups], np.int64),
        "group.number": np.array([[g.rival, g.surplus, g.curve] for g in groups]),
        "pending.pair": np.array(list(pending), np.int64),
        "pending.odds": np.array(list(pending.values())),
        "having": notes.rarity.having,
    }


def _restored(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Notes:
    notes = Notes()
    notes.next_group = header["next_group"]
    notes.rarity.texts = header["texts"]
    notes.rarity.having = arrays["having"]
    counts, numbers = arrays["group.count"].tolist(), arrays["group.number"].tolist()
    for at, count, number in zip(arrays["group.at"].tolist(), counts, numbers, strict=True):
        group = notes.groups[at] = Group()
        group.size, group.same, group.seen = count
        group.rival, group.surplus, group.curve = number
    names = _split(arrays["entry.name"], arrays["entry.name_size"])
    words = _split(arrays["entry.words"], arrays["entry.words_size"])
    homes, numbers = arrays["entry.group"].tolist(), arrays["entry.number"].tolist()
    for name, said, home, (density, rival) in zip(names, words, homes, numbers, strict=True):
        note = notes.of[name.tobytes()] = Note(home, density, said.tolist())
        note.rival = rival
    pairs = map(tuple, arrays["pending.pair"].tolist())
    notes.expect(dict(zip(pairs, arrays["pending.odds"].tolist(), strict=True)))
    return notes


def _split(joined: NDArray[Any], sizes: NDArray[Any]) -> Iterable[NDArray[Any]]:
    ends = np.cumsum(sizes, dtype=np.int64).tolist()
    return (joined[start:end] for start, end in zip([0, *ends], ends, strict=False))


def _packed(header: dict[str, Any], arrays: Arrays) -> bytes:
    header["arrays"] = [(name, found.dtype.str, found.shape) for name, found in arrays.items()]
    head = json.dumps(header).encode()
    parts = [MAGIC, struct.pack("<Q", len(head)), head]
    parts += [np.ascontiguousarray(found).tobytes() for found in arrays.values()]
    body = b"".join(parts)
    return body + struct.pack("<I", crc32(body))


def _unpacked(data: bytes) -> tuple[dict[str, Any], Arrays]:
    body = memoryview(data)[:-4]
    if bytes(body[: len(MAGIC)]) != MAGIC or crc32(body) != struct.unpack("<I", data[-4:])[0]:
        raise ValueError(
            f"these {len(data):,} bytes are not a whole learned policy. "
            "Nothing was changed. Start a new one; it learns again."
        )
    start = len(MAGIC) + 8
    (size,) = struct.unpack("<Q", body[start - 8 : start])
    header: dict[str, Any] = json.loads(bytes(body[start : start + size]))
    at, arrays = start + size, {}
    for name, kind, shape in header["arrays"]:
        count, width = math.prod(shape), np.dtype(kind).itemsize
        found = np.frombuffer(body[at : at + count * width], kind).reshape(shape)
        arrays[name] = found.copy()
        at += count * width
    return header, arrays
