"""The side file: what is written comes back, and what was damaged is found out."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.indexes import ExactIndex, Parts
from mneme.indexes._sketch import Sketch
from mneme.records import Key, Partition
from mneme.stores._sidefile import PAGE, SideFile, SideWriter, Stamp, Unusable

DIM = 6
STAMP = Stamp("an embedder", DIM, "a name")

contents = st.dictionaries(
    st.binary(min_size=16, max_size=16).map(Partition),
    st.tuples(st.integers(0, 40), st.sampled_from([None, (3, 3), (4, 2)])),
    max_size=4,
)
"""Of each partition how many rows, and depth and first of its sketch."""


def _index(count: int, sketch: tuple[int, int] | None, seed: bytes) -> ExactIndex:
    rng = np.random.default_rng(int.from_bytes(seed, "big"))
    index = ExactIndex(DIM)
    for at in range(count):
        row = rng.standard_normal(DIM).astype(np.float32)
        name = Key(blake2b(seed + at.to_bytes(8, "big"), digest_size=16).digest())
        index.add(name, row / np.linalg.norm(row))
    if sketch is not None and count:
        depth, first = sketch
        directions = np.linalg.qr(rng.standard_normal((DIM, depth)))[0].T
        index.adopt(Sketch(np.ascontiguousarray(directions, np.float32), first))
    return index


def _written(path: Path, indexes: dict[Partition, ExactIndex], seq: int = 5) -> None:
    with open(path, "wb") as out:
        writer = SideWriter(out, STAMP)
        for partition, index in indexes.items():
            writer.parts(partition, index.parts())
        writer.finish(seq)


def _same(left: Parts, right: Parts) -> bool:
    pairs = [(left.keys, right.keys), *zip(left.blocks, right.blocks, strict=True)]
    one, other = left.sketch, right.sketch
    if (one is None) is not (other is None):
        return False
    if one is not None and other is not None:
        pairs += [(one.directions, other.directions)]
        pairs += [*zip(one.heads, other.heads, strict=True)]
        pairs += [*zip(one.tails, other.tails, strict=True)]
        if one.first != other.first:
            return False
    return all(np.array_equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("side") / "cache.db-vectors"


@given(contents, st.integers(0, 2**62))
def test_what_is_written_comes_back(
    path: Path, what: dict[Partition, tuple[int, tuple[int, int] | None]], seq: int
) -> None:
    """Every array of every partition, the stamp, and that all of it is sound."""
    indexes = {name: _index(count, sketch, name) for name, (count, sketch) in what.items()}
    _written(path, indexes, seq)
    side = SideFile(path, STAMP)
    assert side.seq == seq
    assert side.rows == sum(map(len, indexes.values()))
    assert set(side.partitions) == set(indexes)
    assert side.is_sound()
    for name, index in indexes.items():
        parts = side.parts(name)
        assert parts is not None
        assert _same(parts, index.parts())
    assert side.parts(Partition(b"nobody's" * 2)) is None or b"nobody's" * 2 in what


@pytest.mark.parametrize("sketch", [None, (4, 2)])
def test_bringing_it_near_changes_nothing(path: Path, sketch: tuple[int, int] | None) -> None:
    """Where the system knows how, and where it does not."""
    name = Partition(b"a" * 16)
    index = _index(30, sketch, b"a")
    _written(path, {name: index, Partition(b"b" * 16): _index(3, None, b"b")})
    side = SideFile(path, STAMP)
    side.bring_near(name)
    side.bring_near(Partition(b"nobody's" * 2))
    parts = side.parts(name)
    assert parts is not None
    assert _same(parts, index.parts())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mneme.stores._sidefile.POPULATE_READ", 9_999)
        side.bring_near(name)


def test_arrays_begin_on_a_page(path: Path) -> None:
    """So that a page of the file is a page of memory."""
    _written(path, {Partition(b"a" * 16): _index(9, (4, 2), b"a")})
    side = SideFile(path, STAMP)
    assert len(side._arrays) == 5
    assert all(int(array["at"]) % PAGE == 0 for array in side._arrays)


@given(st.data())
def test_a_flipped_bit_is_found_out(path: Path, data: st.DataObject) -> None:
    """At opening or by the checksums; only what no array uses may be anything."""
    name = Partition(b"a" * 16)
    index = _index(30, (4, 2), b"a")
    _written(path, {name: index})
    whole = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    path.write_bytes(whole)
    with suppress(Unusable):
        side = SideFile(path, STAMP)
        if side.is_sound():
            parts = side.parts(name)
            assert parts is not None
            assert _same(parts, index.parts())


@given(st.data())
def test_any_bytes_are_no_crash(path: Path, data: st.DataObject) -> None:
    """Cut off, or with a stretch overwritten: refused, unsound, or as it was."""
    name = Partition(b"a" * 16)
    index = _index(30, (4, 2), b"a")
    _written(path, {name: index})
    whole = path.read_bytes()
    at = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(whole))))
    noise = data.draw(st.one_of(st.none(), st.binary(min_size=1, max_size=64)))
    path.write_bytes(whole[:at] if noise is None else whole[:at] + noise + whole[at + len(noise) :])
    with suppress(Unusable):
        side = SideFile(path, STAMP)
        if side.is_sound():
            parts = side.parts(name)
            assert parts is not None
            assert _same(parts, index.parts())


@pytest.mark.parametrize(
    "other",
    [STAMP._replace(fingerprint="another"), STAMP._replace(dim=7), STAMP._replace(name="other")],
)
def test_anothers_file_is_refused(path: Path, other: Stamp) -> None:
    """Of another embedder, another dimension or another cache file."""
    _written(path, {})
    with pytest.raises(Unusable):
        SideFile(path, other)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder, a pipe (opening which would wait), nothing, and an empty file."""
    pipe, empty = tmp_path / "pipe", tmp_path / "empty"
    os.mkfifo(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    empty.touch()
    for place in (tmp_path, pipe, empty, tmp_path / "nothing"):
        with pytest.raises(Unusable):
            SideFile(place, STAMP)
