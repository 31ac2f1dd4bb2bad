"""An index opened from its arrays is the index they were taken from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.indexes import ExactIndex, Parts
from mneme.indexes._sketch import BLOCK, Sketch
from mneme.records import Key, Vector
from mneme.testing import IndexContract
from mneme.types import Index

DIM = 24


def units(count: int, seed: int = 0, dim: int = DIM) -> Vector:
    raw = np.random.default_rng(seed).standard_normal((count, dim))
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), np.float32)


def key_of(number: int) -> Key:
    return Key(number.to_bytes(16))


def sketch(seed: int = 0, depth: int = 12, first: int = 5) -> Sketch:
    random = np.random.default_rng(seed)
    directions = np.linalg.qr(random.standard_normal((DIM, DIM)))[0][:depth]
    return Sketch(np.asarray(directions, np.float32), first)


def filled(rows: Vector, own: Sketch | None = None) -> ExactIndex:
    index = ExactIndex(rows.shape[1])
    for at, row in enumerate(rows):
        index.add(key_of(at), row)
    if own is not None:
        index.adopt(own)
    return index


def locked(parts: Parts) -> Parts:
    """As a mapping that may only be read."""
    sketched = parts.sketch
    arrays = [parts.keys, *parts.blocks]
    if sketched is not None:
        arrays += [*sketched.heads, *sketched.tails]
    for array in arrays:
        array.flags.writeable = False
    return parts


def same(index: Index, rows: dict[int, Vector], question: Vector) -> None:
    truth = {key_of(at): float(row @ question) for at, row in rows.items()}
    for k, floor in ((5, -1.0), (len(rows), 0.2), (3, 0.6)):
        found = dict(index.search(question, k=k, at_least=floor))
        wanted = sorted((c for c in truth.values() if c >= floor), reverse=True)[:k]
        assert np.allclose(sorted(found.values(), reverse=True), wanted, atol=1e-5)
        assert all(abs(truth[key] - cosine) < 1e-5 for key, cosine in found.items())


class TestOpened(IndexContract):
    """One that was opened empty keeps every promise of an index."""

    def make_index(self, dim: int) -> Index:
        return ExactIndex.from_parts(ExactIndex(dim).parts())


@given(
    count=st.integers(0, 300),
    seed=st.integers(0, 2**16),
    depth=st.integers(1, DIM),
    first=st.integers(1, DIM),
    is_sketched=st.booleans(),
    may_write=st.booleans(),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 320)), max_size=40),
)
def test_it_answers_as_before(
    count: int,
    seed: int,
    depth: int,
    first: int,
    is_sketched: bool,
    may_write: bool,
    steps: list[tuple[bool, int]],
) -> None:
    """At once, and after any changes, whether or not its arrays may be written to."""
    vectors = units(count + 400, seed)
    own = sketch(seed, depth, min(first, depth)) if is_sketched else None
    parts = filled(vectors[:count], own).parts()
    index = ExactIndex.from_parts(parts if may_write else locked(parts))
    rows = dict(enumerate(vectors[:count]))
    assert len(index) == count
    same(index, rows, vectors[-1])
    for is_added, number in steps:
        if is_added:
            rows[number] = vectors[-number - 1]
            index.add(key_of(number), rows[number])
        else:
            rows.pop(number, None)
            index.remove(key_of(number))
        assert len(index) == len(rows)
    same(index, rows, vectors[-2])
    again = ExactIndex.from_parts(index.parts(copy=False))
    same(again, rows, vectors[-3])


def test_several_blocks_from_a_file(tmp_path: Path) -> None:
    """Copy-on-write mappings are adopted as they are; changes stay in the process."""
    vectors = units(2 * BLOCK + 100)
    parts = filled(vectors, sketch()).parts()
    assert parts.sketch is not None
    mapped: list[Any] = []
    for at, array in enumerate((parts.keys, *parts.blocks, *parts.sketch.heads)):
        np.save(tmp_path / f"{at}.npy", array)
        mapped.append(np.load(tmp_path / f"{at}.npy", mmap_mode="c"))
    before = [(tmp_path / f"{at}.npy").read_bytes() for at in range(len(mapped))]
    sketched = type(parts.sketch)(
        parts.sketch.directions, parts.sketch.first, tuple(mapped[4:]), parts.sketch.tails
    )
    opened = Parts(DIM, mapped[0], tuple(mapped[1:4]), sketched)
    index = ExactIndex.from_parts(opened)
    assert np.shares_memory(index.parts(copy=False).blocks[1], mapped[2])
    rows = dict(enumerate(vectors))
    same(index, rows, vectors[7])
    for at in range(0, 300, 3):
        index.remove(key_of(at))
        del rows[at]
    for at in range(1, 300, 3):
        rows[at] = vectors[-at]
        index.add(key_of(at), rows[at])
    same(index, rows, vectors[7])
    assert before == [(tmp_path / f"{at}.npy").read_bytes() for at in range(len(mapped))]


def test_a_copy_does_not_follow() -> None:
    """What was taken stays as it was, unless it was taken without a copy."""
    vectors = units(50)
    index = filled(vectors, sketch())
    parts, live = index.parts(), index.parts(copy=False)
    index.add(key_of(3), -vectors[3])
    assert np.array_equal(parts.blocks[0], vectors)
    assert np.array_equal(live.blocks[0][3], -vectors[3])


def test_no_key_is_made_before_one_is_needed() -> None:
    """Opening and searching touch no key but those that are found."""
    index = ExactIndex.from_parts(filled(units(2_000)).parts())
    assert index.search(units(2_000)[5], k=1)[0][0] == key_of(5)
    assert not index._body.names._keys
    index.remove(key_of(5))
    assert len(index._body.names._keys) == 1_999


@pytest.mark.timing
def test_opening_does_not_grow_with_the_rows() -> None:
    """Opening 64 times the rows costs about the same: nothing is read."""
    vectors = units(64 * 1_000, dim=8)

    def seconds(count: int) -> float:
        keys = np.arange(count * 2).view(np.uint8).reshape(-1, 16)[:count]
        blocks = [vectors[at : min(count, at + BLOCK)] for at in range(0, count, BLOCK)]
        parts = Parts(8, keys, tuple(blocks))
        times = []
        for _ in range(15):
            start = time.perf_counter()
            ExactIndex.from_parts(parts)
            times.append(time.perf_counter() - start)
        return sorted(times)[7]

    assert seconds(64_000) < 8 * seconds(1_000)


def test_arrays_that_do_not_fit() -> None:
    """They are refused, with what would."""
    parts = filled(units(20), sketch()).parts()
    assert parts.sketch is not None
    wrong: list[dict[str, Any]] = [
        {"keys": parts.keys[:, :8]},
        {"keys": parts.keys[:5]},
        {"blocks": ()},
        {"blocks": (parts.blocks[0].astype(np.float64),)},
        {"dim": 7},
    ]
    for change in wrong:
        given_parts = {"dim": DIM, "keys": parts.keys, "blocks": parts.blocks, "sketch": None}
        with pytest.raises(ValueError, match=r"what ExactIndex\.parts gave"):
            Parts(**{**given_parts, **change})
    kept = parts.sketch
    for heads, tails in (((), kept.tails), (kept.heads, ()), (kept.tails, kept.heads)):
        changed = type(kept)(kept.directions, kept.first, heads, tails)
        with pytest.raises(ValueError, match=r"what ExactIndex\.parts gave"):
            Parts(DIM, parts.keys, parts.blocks, changed)


def test_keys_of_another_length() -> None:
    """They cannot be packed, and the index is as it was."""
    index = ExactIndex(DIM)
    index.add(Key(b"short"), units(1)[0])
    with pytest.raises(ValueError, match="16 bytes"):
        index.parts()
    assert len(index) == 1
