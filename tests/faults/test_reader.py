"""A file that is moved elsewhere is read without a trace, and without waiting."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mneme import CorruptCacheError, EmbedderMismatchError, SQLiteStore, StoreBackendError
from mneme.records import Changes, Label
from mneme.stores import _reader
from mneme.stores._reader import SQLiteReader, open_source
from mneme.stores._rows import row_of
from mneme.testing import HashEmbedder, entry
from mneme.types import Owned, Remembering, Store

OWNER: dict[str, Any] = {"fingerprint": "tests:reader:8:l2", "dim": 8}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Entries of many commits and of one, some of them replaced, and what was learned."""
    with closing(SQLiteStore(tmp_path / "a.db")) as store:
        store.claim(**OWNER)
        for at in range(7):
            store.commit(Changes((entry(f"single {at}"),)))
        store.commit(Changes(tuple(entry(f"together {at}") for at in range(20))))
        store.commit(Changes((entry("single 3", "again"), entry("together 9", "again"))))
        label = Label(0.5, True, "default", "miss", 5.0)
        store.commit(
            Changes(counts={("default", "misses"): 3}, labels=(label,), states={"p": b"x"})
        )
    return tmp_path / "a.db"


def held(store: Any) -> tuple[Any, ...]:
    return [*map(row_of, store.scan())], store.counts(), [*store.labels()], store.states()


@pytest.mark.parametrize("page", [1, 3, 20, 1_000])
def test_it_reads_what_the_store_holds(
    path: Path, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same order, wherever a page ends; the file and its folder are as they were."""
    monkeypatch.setattr(_reader, "PAGE", page)
    with closing(SQLiteStore(path)) as store:
        store.claim(**OWNER)
        right = held(store)
    before, names = path.read_bytes(), sorted(os.listdir(path.parent))
    reader, *owner = open_source(path)
    assert isinstance(reader, SQLiteReader)
    assert isinstance(reader, Remembering)
    assert isinstance(reader, Owned)
    assert held(reader) == right
    assert owner == [*OWNER.values()]
    reader.close()
    assert path.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == names


def test_it_waits_for_nobody(path: Path) -> None:
    """A writer in the midst of a commit neither holds it up nor is held up."""
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM entries")
        reader = open_source(path)[0]
        scan = reader.scan()
        next(scan)
        writer.execute("COMMIT")
        scan.close()
        reader.close()


def test_a_page_does_not_begin_at_the_first_entry(path: Path) -> None:
    """However many entries one commit has: SQLite goes to the place by its index."""
    with closing(sqlite3.connect(path)) as reader:
        plan = reader.execute(f"EXPLAIN QUERY PLAN {_reader._SCANS[2]}", (5, 7, 10)).fetchall()
    told = " ".join(str(step) for row in plan for step in row)
    assert "USING INTEGER PRIMARY KEY (rowid>?)" in told
    assert "TEMP B-TREE" not in told


def test_it_only_reads(path: Path) -> None:
    """A commit is refused, and another embedder has no claim."""
    with closing(SQLiteReader(path)) as reader:
        store: Store = reader
        with pytest.raises(StoreBackendError, match="only read"):
            store.commit(Changes((entry("new"),)))
        with pytest.raises(EmbedderMismatchError, match="tests:reader"):
            store.claim(HashEmbedder().fingerprint, 256)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._reader.execute("DELETE FROM entries")


def test_damage_is_told(path: Path) -> None:
    """Rows that cannot be read are counted; a torn file is an error, and left as it is."""
    with closing(sqlite3.connect(path)) as damaging, damaging:
        damaging.execute("UPDATE entries SET metadata = 'no JSON' WHERE prompt = 'single 1'")
    with closing(SQLiteReader(path)) as reader:
        assert len(list(reader.scan())) == 26
        assert reader.bad_rows == 1
    whole = path.read_bytes()
    path.write_bytes(whole[:49_152] + b"\xff" * (len(whole) - 49_152))
    with closing(SQLiteReader(path)) as reader, pytest.raises(CorruptCacheError, match="damaged"):
        list(reader.scan())


def test_a_file_that_is_nobodys_is_refused(tmp_path: Path) -> None:
    """There is nothing in it, and nobody to open it for."""
    with closing(SQLiteStore(tmp_path / "a.db")) as store:
        store.claim(**OWNER)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.execute("DELETE FROM meta")
    with pytest.raises(CorruptCacheError, match=r"does not say .* Check the address\.$"):
        open_source(tmp_path / "a.db")
