"""Damaged files: `salvage` saves what lies on whole pages, and invents nothing."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme import CorruptCacheError, SemanticCache, SQLiteStore, StoreBackendError
from mneme.records import Changes, Entry, Identity, Label
from mneme.stores import Salvaged, salvage
from mneme.testing import HashEmbedder

FINGERPRINT = HashEmbedder(8).fingerprint
SIZES = (0, 20, 40, 300, 2_500, 20_000)
"""Of answers: on a leaf page beside others, alone on one, and with pages of overflow."""

NUMBERS = 120
PAGE = 16_384
"""Bytes."""


class Original:
    """A cache file, and what was ever in it. Every answer holds its entry's number all over."""

    def __init__(
        self, path: Path, live: dict[Identity, Entry], ever: list[Entry], labels: list[Label]
    ) -> None:
        self.path, self.live, self.ever, self.labels = path, live, ever, labels

    def __repr__(self) -> str:
        return self.path.name

    @property
    def parts(self) -> list[Path]:
        return [one for one in (self.path, Path(f"{self.path}-wal")) if one.exists()]


def _answer(number: int, version: str) -> str:
    size = SIZES[number % len(SIZES)]
    return f"<{number:04d}{version}>" * (1 + size // 8)


def _put(cache: SemanticCache, numbers: Iterator[int] | range, version: str) -> list[Entry]:
    for number in numbers:
        cache.put(f"<{number:04d}>", _answer(number, version))
    return list(cache._core.store.scan())


@pytest.fixture(scope="module", params=["closed", "with a log"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Original:
    """A file in which entries were replaced and removed, and pages are free."""
    folder = tmp_path_factory.mktemp("original")
    cache = SemanticCache(
        folder / "first.db", embedder=HashEmbedder(8), durability="commit", self_check=False
    )
    ever = _put(cache, range(NUMBERS), "a")
    ever += _put(cache, range(0, NUMBERS, 3), "b")
    for number in range(0, NUMBERS, 5):
        cache.delete(f"<{number:04d}>")
    for number in range(7, NUMBERS, 12):
        cache.delete(f"<{number:04d}>")
    cache.put_many({f"<{number:04d}>": number for number in range(2_000, 2_030)}, namespace="n")
    ever += list(cache._core.store.scan())
    cache.clear_namespace("n")
    label = Label(0.5, True, "default", "audit", 5.0)
    store = cache._core.store
    store.commit(Changes(labels=(label,), states={"policy": b"state"}))
    cache.get("<0001>")
    if request.param == "with a log":
        with closing(sqlite3.connect(folder / "first.db")) as connection:
            # Refused while the cache is at it, after what was cleared.
            while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                continue
        _put(cache, range(1, NUMBERS, 40), "c")
    live = {entry.identity: entry for entry in store.scan()}
    path = folder / "cache.db"
    if request.param == "closed":
        cache.close()
    for end in ("", "-wal"):
        if (part := folder / f"first.db{end}").exists():
            shutil.copy(part, f"{path}{end}")
    cache.close()
    return Original(path, live, [*ever, *live.values()], [label])


def _copied(original: Original, folder: Path) -> Original:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for part in original.parts:
        shutil.copy(part, folder)
    return Original(folder / original.path.name, original.live, original.ever, original.labels)


def _contents(path: Path) -> dict[Identity, Entry]:
    with closing(SQLiteStore(path)) as store:
        store.claim(FINGERPRINT, 8)
        assert store.bad_rows == 0
        return {entry.identity: entry for entry in store.scan()}


def _saved(damaged: Original) -> tuple[Salvaged, dict[Identity, Entry]]:
    """What is saved; the damaged file keeps every byte and gets no companion."""
    before = {one.name: one.read_bytes() for one in damaged.path.parent.iterdir()}
    rescued = damaged.path.with_name("rescued.db")
    told = salvage(damaged.path, rescued, fingerprint=FINGERPRINT)
    found = _contents(rescued)
    for one in damaged.path.parent.glob("rescued.db*"):
        one.unlink()
    assert {one.name: one.read_bytes() for one in damaged.path.parent.iterdir()} == before
    assert told.entries == len(found)
    return told, found


def test_a_whole_file_is_saved_whole(original: Original, tmp_path: Path) -> None:
    """Entries with their vectors and order, counters, labels and states; nothing is lost."""
    copy = _copied(original, tmp_path / "copy")
    rescued = tmp_path / "rescued.db"
    told = salvage(copy.path, rescued)
    assert told == Salvaged(len(copy.live), 1, told.counters, 1, 0, 0)
    with closing(SQLiteStore(rescued)) as store, closing(SQLiteStore(copy.path)) as source:
        for one in (store, source):
            one.claim(FINGERPRINT, 8)
        assert list(store.scan()) == list(source.scan()) == list(copy.live.values())
        vectors = [[e.vector.tolist() for e in one.scan()] for one in (store, source)]  # type: ignore[union-attr]
        assert vectors[0] == vectors[1]
        assert store.counts() == source.counts()
        assert list(store.labels()) == copy.labels
        assert store.states() == {"policy": b"state"}


# -- damage -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """What is done to `count` bytes at a share of one of the files."""

    kind: str
    part: int
    place: float
    count: int
    seed: int

    def do(self, original: Original) -> None:
        path = original.parts[self.part % len(original.parts)]
        content = bytearray(path.read_bytes())
        at = int(self.place * len(content))
        end = min(at + self.count, len(content))
        if self.kind == "cut":
            del content[at:]
        elif self.kind == "flip" and content:
            content[at] ^= 1 << self.seed % 8
        elif self.kind == "zero":
            content[at:end] = bytes(end - at)
        else:
            noise = (b"%d" % self.seed) * (end - at)
            content[at:end] = noise[: end - at]
        path.write_bytes(content)


damages = st.builds(
    Damage,
    kind=st.sampled_from(["flip", "zero", "scribble", "cut"]),
    part=st.integers(0, 1),
    place=st.floats(0, 1, exclude_max=True),
    count=st.sampled_from([1, 16, 512, 4_096, 50_000]),
    seed=st.integers(0, 10**6),
)


def _images(original: Original) -> dict[tuple[str, int], bytes]:
    """Each page of each file by its place; those of the log with their frames' heads."""
    found = {}
    for part in original.parts:
        content = part.read_bytes()
        start, step = (32, PAGE + 24) if part.name.endswith("-wal") else (0, PAGE)
        if start:
            found[part.name, -1] = content[:start]
        for at in range(start, len(content), step):
            found[part.name, at] = content[at : at + step]
    return found


def _touched(before: Original, after: Original) -> set[int] | None:
    """The numbers of which a page has changed; None: what says where pages are has changed."""
    old, new = _images(before), _images(after)
    changed = {place for place, page in old.items() if new.get(place) != page}
    if any(name.endswith("-wal") for name, _ in changed):
        # What follows in the log stands and falls with it.
        return None
    touched: set[int] = set()
    for name, at in changed:
        touched.update(_numbers_near(old, name, at))
    return touched


def _numbers_near(pages: dict[tuple[str, int], bytes], name: str, at: int) -> set[int]:
    """Whose record lies on this page, or ends on it: numbers on it and before it in its chain."""
    number = at // PAGE + 1
    found = set(_numbers_in(pages[name, at]))
    for page in pages.values():
        follows = page[:4] == struct.pack(">I", number)
        # The end of a record's local part names its first page of overflow.
        if follows or struct.pack(">I", number) in page:
            found.update(_numbers_in(page))
    return found


def _numbers_in(page: bytes) -> list[int]:
    # An answer may go over the edge of a page anywhere.
    return [int(found) for found in re.findall(rb"<(\d{4})", page)]


@settings(max_examples=60)
@given(st.lists(damages, min_size=1, max_size=3))
def test_whatever_is_damaged(original: Original, many: list[Damage]) -> None:
    """All entries on whole pages are saved as they were, and what is saved was once stored."""
    damaged = _copied(original, original.path.parent / "damaged")
    for damage in many:
        damage.do(damaged)
    touched = _touched(original, damaged)
    try:
        told, found = _saved(damaged)
    except CorruptCacheError:
        told, found = Salvaged(0, 0, 0, 0, 0, 0), {}
    if touched is not None:
        for identity, entry in original.live.items():
            if _number_of(entry) not in touched:
                assert found.get(identity) == entry, told
        assert all(entry in original.ever for entry in found.values())
        if not told.notes:
            assert len(found.keys() - original.live.keys()) <= len(touched)
    if not told.notes and touched == set():
        assert found == original.live


def _number_of(entry: Entry) -> int:
    return int(entry.prompt[1:5])


@pytest.mark.parametrize("every", [2, 7])
def test_the_pages_above_are_damaged(original: Original, every: int, tmp_path: Path) -> None:
    """What leads to the entries may be lost: they are found without it."""
    damaged = _copied(original, tmp_path / "damaged")
    content = bytearray(damaged.path.read_bytes())
    inner = [at for at in range(PAGE, len(content), PAGE) if content[at] in (0x05, 0x02)]
    assert inner
    for at in inner:
        content[at : at + PAGE : every] = bytes(len(range(0, PAGE, every)))
    damaged.path.write_bytes(content)
    told, found = _saved(damaged)
    assert {identity: found.get(identity) for identity in damaged.live} == damaged.live
    assert told.lost == 0


def test_the_first_page_is_lost(original: Original, tmp_path: Path) -> None:
    """Without the head everything is saved all the same; what cannot be known is said."""
    damaged = _copied(original, tmp_path / "damaged")
    content = damaged.path.read_bytes()
    for part in damaged.parts[1:]:
        part.unlink()
    damaged.path.write_bytes(bytes(PAGE) + content[PAGE:])
    told, found = _saved(damaged)
    assert len(told.notes) == 2
    assert "entries that had been removed" in " ".join(told.notes)
    assert all(entry in damaged.ever for entry in found.values())
    if len(original.parts) == 1:
        assert {identity: found.get(identity) for identity in damaged.live} == damaged.live


def test_an_entry_that_is_lost_is_counted(original: Original, tmp_path: Path) -> None:
    """The index still names what the table no longer has."""
    damaged = _copied(original, tmp_path / "damaged")
    if len(damaged.parts) > 1:
        with closing(sqlite3.connect(damaged.path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    content = bytearray(damaged.path.read_bytes())
    leaf = next(at for at in range(PAGE, len(content), PAGE) if content[at] == 0x0D
                and b"<0004>" in content[at : at + PAGE])  # fmt: skip
    content[leaf : leaf + PAGE] = b"\xa5" * PAGE
    damaged.path.write_bytes(content)
    told, found = _saved(damaged)
    assert told.lost == len(damaged.live) - len(found) > 0
    assert len(found) > len(damaged.live) / 2


# -- refusals ---------------------------------------------------------------------------------


def test_what_is_refused(original: Original, tmp_path: Path) -> None:
    """A name that is taken, a file that is not there, and one with nothing in it."""
    taken = tmp_path / "taken.db"
    taken.write_bytes(b"mine")
    with pytest.raises(StoreBackendError, match=r"exists\. Nothing was changed\. Name a new file"):
        salvage(original.path, taken)
    assert taken.read_bytes() == b"mine"
    with pytest.raises(StoreBackendError, match="Check the path"):
        salvage(tmp_path / "missing.db", tmp_path / "new.db")
    with pytest.raises(StoreBackendError, match="Check its folder"):
        salvage(original.path, tmp_path / "missing" / "new.db")
    (tmp_path / "noise").write_bytes(os.urandom(20_000))
    for nothing in ("noise", "taken.db"):
        with pytest.raises(CorruptCacheError, match="no entry that can be read"):
            salvage(tmp_path / nothing, tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()


def test_a_file_that_no_longer_says_whose_it_is(original: Original, tmp_path: Path) -> None:
    """Without its embedder's name the file asks for one, and is saved under it."""
    damaged = _copied(original, tmp_path / "damaged")
    for part in damaged.parts:
        part.write_bytes(part.read_bytes().replace(b"fingerprint", b"finger\0rint"))
    for part in damaged.parts[1:]:
        part.unlink()
    with pytest.raises(CorruptCacheError, match="Give the fingerprint"):
        salvage(damaged.path, tmp_path / "new.db")
    told: Any = salvage(damaged.path, tmp_path / "new.db", fingerprint=FINGERPRINT)
    assert told.entries == len(_contents(tmp_path / "new.db"))
