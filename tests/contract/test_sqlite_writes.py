"""What a commit to a file costs does not depend on how much is in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mneme import SQLiteStore
from mneme.records import Changes
from mneme.stores._sqlite_writes import seq_of, sweep, write
from mneme.testing import entry


def test_no_write_reads_the_whole_table(tmp_path: Path) -> None:
    """Puts, replacements, removals, clearings and sweeps all go by an index."""
    path = tmp_path / "cache.db"
    store = SQLiteStore(path)
    store.claim("contract:embedder:8:l2", 8)
    store.close()
    statements: list[str] = []
    with closing(sqlite3.connect(path)) as connection:
        some = tuple(entry(f"{n}") for n in range(600))
        write(connection, Changes(puts=some), 0)
        connection.set_trace_callback(statements.append)
        seq = write(
            connection,
            Changes(some[:20], tuple(one.identity for one in some[10:]), cleared=("other",)),
            seq_of(connection),
        )
        write(connection, Changes(cleared=("default",)), seq)
        while sweep(connection, 97):
            pass
        connection.set_trace_callback(None)
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (0,)
        plans = [
            plan
            for text in statements
            if text.partition(" ")[0] in ("SELECT", "DELETE", "WITH", "INSERT", "UPDATE")
            for *_, plan in connection.execute(f"EXPLAIN QUERY PLAN {text}")
        ]
    assert any("USING INTEGER PRIMARY KEY" in plan for plan in plans)
    assert not [plan for plan in plans if plan.startswith("SCAN entries")]


@pytest.mark.parametrize("most", [999, 32_766])
def test_many_rows_are_written_whatever_sqlite_takes_at_once(tmp_path: Path, most: int) -> None:
    """Old versions take no more than 999 values in a statement."""
    store = SQLiteStore(tmp_path / "cache.db")
    store.claim("contract:embedder:8:l2", 8)
    store.close()
    some = tuple(entry(f"{n}") for n in range(1_100))
    with closing(sqlite3.connect(tmp_path / "cache.db")) as connection:
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, most)
        seq = write(connection, Changes(puts=some), 0)
        keys = connection.execute("SELECT key FROM entries ORDER BY seq").fetchall()
        assert keys == [(one.key,) for one in some]
        write(connection, Changes(removed=tuple(one.identity for one in some)), seq)
        assert connection.execute("SELECT count(*) FROM entries").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM removals").fetchone() == (1_100,)


def test_compacting_removes_what_another_process_left_behind(tmp_path: Path) -> None:
    """Rows of a namespace that somebody cleared who was killed before he removed them."""
    path, some = tmp_path / "cache.db", tuple(entry(f"{n}") for n in range(300))
    store = SQLiteStore(path, durability="commit")
    store.claim("contract:embedder:8:l2", 8)
    store.commit(Changes(puts=some))
    with closing(sqlite3.connect(path)) as other:
        while store._file.sweep():
            continue
        write(other, Changes(cleared=("default",)), seq_of(other))
        other.commit()
        assert not store._file.sweep()
        assert other.execute("SELECT count(*) FROM entries").fetchone() == (300,)
    store.compact()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM entries").fetchone() == (0,)
    store.close()


def test_a_large_commit_keeps_its_pages_until_its_end(tmp_path: Path) -> None:
    """Else each page of an index of random keys is written many times; within bounds."""
    store = SQLiteStore(tmp_path / "cache.db")
    store.claim("contract:embedder:8:l2", 8)
    assert store._file.rows("PRAGMA cache_spill") == [(4_000,)]
    store.close()
