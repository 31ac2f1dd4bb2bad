"""A byte that has changed in a cache file: each entry is given as it was put, or not at all."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import struct
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.cold import few_are_many, vectors

from mneme import MnemeError, SemanticCache, SQLiteStore
from mneme.records import Changes, Entry, Identity, Payload
from mneme.stores import salvage
from mneme.stores._reader import SQLiteReader
from mneme.stores._rows import row_of
from mneme.stores._stored import STORED, stored_entry, stored_row
from mneme.testing import HashEmbedder, entry

DIM = 8
OWNER = HashEmbedder(DIM).fingerprint, DIM
MANY = 40

in_one_folder = settings(
    max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _payload(at: int) -> Payload:
    kinds = Payload("text", f"answer {at} ü" * (1 + at)), Payload("bytes", bytes(range(at, 200)))
    return (*kinds, Payload("json", f'{{"a": {at}}}'))[at % 3]


ENTRIES = tuple(
    entry(
        f"question {at} ß",
        vector=vector,
        payload=_payload(at),
        metadata='{"k": 2}' if at % 4 else "{}",
        tags=("red", "green") if at % 5 else (),
        created_at=1_700_000_000.0 + at / 4,
        expires_at=1_800_000_000.5 + at if at % 2 else None,
        dies_at=1_900_000_000.0 if at % 4 == 1 else None,
    )
    for at, vector in enumerate(vectors(MANY))
)
WRITTEN = {one.identity: row_of(one) for one in ENTRIES}


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    few_are_many(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of all `ENTRIES`."""
    path = tmp_path_factory.mktemp("whole") / "cache.db"
    with closing(_opened(path)) as store:
        store.commit(Changes(ENTRIES))
    return path


def _opened(path: Path) -> SQLiteStore:
    store = SQLiteStore(path, durability="commit")
    try:
        store.claim(*OWNER)
    except BaseException:
        store.close()
        raise
    return store


def _copied(whole: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return Path(shutil.copy(whole, folder))


def _right(found: Sequence[Entry | None]) -> set[Identity]:
    """Which they are; each as it was put."""
    entries = [one for one in found if one is not None]
    assert all(row_of(one) == WRITTEN.get(one.identity) for one in entries)
    return {one.identity for one in entries}


def _flipped(value: Any, bit: int) -> Any:
    """`value` with one bit changed, of the same type in the file."""
    if isinstance(value, int):
        # The number of no other row.
        return value ^ 1 << 6 + bit % 40
    raw = struct.pack(">d", value) if isinstance(value, float) else value
    raw = bytearray(raw.encode() if isinstance(raw, str) else raw)
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    return struct.unpack(">d", raw)[0] if isinstance(value, float) else bytes(raw)


def _damage(path: Path, name: str, at: int, bit: int) -> bool:
    """Flip a bit of the cell `name` of the row `at`, unless that comes to NULL; whether it was."""
    with closing(sqlite3.connect(path)) as connection, connection:
        ((value,),) = connection.execute(f"SELECT {name} FROM entries WHERE seq = ?", (at,))
        changed = None if value is None else _flipped(value, bit)
        # SQLite keeps NaN as NULL.
        if changed is None or changed != changed:
            return False
        place = "CAST(? AS TEXT)" if isinstance(value, str) else "?"
        connection.execute(f"UPDATE entries SET {name} = {place} WHERE seq = ?", (changed, at))
    return True


@in_one_folder
@given(name=st.sampled_from(STORED), at=st.integers(1, MANY), bit=st.integers(0, 10_000))
def test_a_changed_cell_is_seen(whole: Path, tmp_path: Path, name: str, at: int, bit: int) -> None:
    """The entry is absent and counted wherever it is read; all the others are as they were."""
    path = _copied(whole, tmp_path / "damaged")
    assume(_damage(path, name, at, bit))
    lost = ENTRIES[at - 1].identity
    rest = WRITTEN.keys() - {lost}
    identities = list(WRITTEN)
    with closing(_opened(path)) as store:
        assert _right(list(store.scan())) == rest
        assert store.bad_rows == 1
        found = store.vectors(identities)
        for one, vector in zip(ENTRIES, found, strict=True):
            if one.identity in rest:
                assert vector is not None
                assert vector.tolist() == one.vector.tolist()  # type: ignore[union-attr]
            elif name not in ("seq", "partition", "key", "vector_sum", "vector"):
                assert vector is not None
            else:
                assert vector is None
        assert store.bad_rows == 1
    with closing(SQLiteReader(path)) as reader:
        assert _right(list(reader.scan())) == rest
        assert reader.bad_rows == 1
    with closing(_opened(path)) as store:
        changes = store.changes_since(store.mark() - 2 * MANY)
        assert changes is None or _right(changes.puts) == rest
    told = salvage(path, tmp_path / "damaged" / "rescued.db")
    assert told.entries == MANY - 1
    with closing(_opened(tmp_path / "damaged" / "rescued.db")) as store:
        assert _right(list(store.scan())) == rest


@in_one_folder
@given(name=st.sampled_from(STORED), at=st.integers(1, MANY), bit=st.integers(0, 10_000))
def test_a_changed_cell_is_seen_before_memory_is_filled(
    whole: Path, tmp_path: Path, name: str, at: int, bit: int
) -> None:
    """Neither a fetch, nor a search, nor the filling of memory gives what was not put."""
    path = _copied(whole, tmp_path / "damaged")
    with closing(_opened(path)) as store:
        store.keep_vectors({})
    assume(_damage(path, name, at, bit))
    lost = ENTRIES[at - 1]
    with closing(_opened(path)) as store:
        cold = store.cold()
        assert cold is not None
        for one in ENTRIES:
            assert one.vector is not None
            found = cold.search(one.partition, one.vector, k=3, at_least=-1.0, now=0.0)
            assert lost.identity not in _right([each.entry for each in found])
        is_in_vector = name in ("vector_sum", "vector")
        fetched = cold.fetch(list(WRITTEN))
        assert (fetched[at - 1] is None) is not is_in_vector
        for one, right in zip(fetched, ENTRIES, strict=True):
            assert one is None or row_of(one)[:-1] == row_of(right)[:-1]
        assert sum(one is None for one in fetched) == (not is_in_vector)
        paged = [one for page in cold.pages() for one, _ in page]
        assert {one.identity for one in paged} >= WRITTEN.keys() - {lost.identity}
        for one in paged:
            assert row_of(one)[:-1] == WRITTEN[one.identity][:-1]
        assert store.bad_rows == 1


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_bit_of_the_file(whole: Path, tmp_path: Path, place: float, bit: int) -> None:
    """The file is refused, or what it gives is right: also where SQLite's own pages are hit."""
    path = _copied(whole, tmp_path / "damaged")
    content = bytearray(path.read_bytes())
    used = [at for at, byte in enumerate(content) if byte]
    content[used[int(place * len(used))]] ^= 1 << bit
    path.write_bytes(content)
    with suppress(MnemeError), closing(_opened(path)) as store:
        _right(list(store.scan()))
        for one, vector in zip(ENTRIES, store.vectors(list(WRITTEN)), strict=True):
            assert vector is None or vector.tolist() == one.vector.tolist()  # type: ignore[union-attr]
    with suppress(MnemeError):
        salvage(path, tmp_path / "damaged" / "rescued.db")
        with closing(_opened(tmp_path / "damaged" / "rescued.db")) as store:
            _right(list(store.scan()))


@pytest.mark.parametrize(
    "word", [b"INTEGER PRIMARY", b"tags", b"payload", b"body_sum", b"vector B"]
)
def test_a_bit_of_the_layout(whole: Path, tmp_path: Path, word: bytes) -> None:
    """Where SQLite takes a column for another, or none for the number, no row is right."""
    path = _copied(whole, tmp_path / "damaged")
    content, table = path.read_bytes(), b"CREATE TABLE entries"
    at = content.index(word, content.index(table))
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with suppress(MnemeError), closing(_opened(path)) as store:
        assert _right(list(store.scan())) in (set(), WRITTEN.keys())


def test_what_users_see(whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`health` counts it, the log says once what to do, and no archive has it."""
    path = _copied(whole, tmp_path / "damaged")
    for at in (3, 4):
        assert _damage(path, "payload", at, 8)
    with (
        caplog.at_level(logging.WARNING, "mneme"),
        SemanticCache(path, embedder=HashEmbedder(DIM)) as cache,
    ):
        health = cache.health()
        assert (health.healthy, health.integrity_ok, health.bad_rows) == (False, False, 2)
        assert cache.dumps(tmp_path / "archive") == MANY - 2
        assert cache.health().bad_rows == 2
    [record] = caplog.records
    assert "row 3 is damaged and counts as absent" in record.getMessage()
    assert "Run python -m mneme salvage" in record.getMessage()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(width=64, allow_nan=False)


@settings(max_examples=200)
@given(
    seq=st.integers(1, 2**63 - 1),
    prompt=texts,
    payload=st.one_of(
        texts.map(lambda text: Payload("text", text)),
        st.binary(max_size=20).map(lambda data: Payload("bytes", data)),
    ),
    tags=st.lists(texts, max_size=2).map(tuple),
    created_at=st.floats(allow_nan=False, allow_infinity=False),
    expires_at=st.none() | numbers,
    dies_at=st.none() | numbers,
    is_searched=st.booleans(),
)
def test_whatever_is_put_comes_back(seq: int, is_searched: bool, **fields: Any) -> None:
    """No text, date or number makes an entry fail its own checksum when SQLite gives it back."""
    put = entry(vector=vectors(1)[0], **fields)
    if not is_searched:
        put = Entry(**{name: getattr(put, name) for name in put.__slots__} | {"vector": None})
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(
            "CREATE TABLE entries (seq INTEGER PRIMARY KEY, partition, key, namespace TEXT, "
            "prompt TEXT, kind TEXT, payload, metadata TEXT, tags TEXT, created_at REAL, "
            "expires_at REAL, dies_at REAL, body_sum INTEGER, vector_sum INTEGER, vector BLOB)"
        )
        places = ", ".join("?" * len(STORED))
        connection.execute(f"INSERT INTO entries VALUES ({places})", stored_row(seq, put))
        [row] = connection.execute("SELECT * FROM entries")
    found = stored_entry(row, DIM)
    assert found is not None
    assert row_of(found) == row_of(put)
