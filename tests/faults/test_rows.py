"""Rows that somebody else has written: a bad one is absent and counted, the rest is served."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.embedders import Spy, cosine, spy_for
from support.worlds import WORLDS, World, settled, without_blocking

from mneme import SemanticCache, SQLiteStore, Stats, StoreBackendError
from mneme.records import Changes, Payload

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)

BAD: dict[str, tuple[str, Any]] = {
    "a vector too short": ("vector", b"\0" * 12),
    "a vector of zeros": ("vector", bytes(4 * 256)),
    "a vector of NaN": ("vector", np.full(256, np.nan, "<f4").tobytes()),
    "a vector of another length": ("vector", np.full(256, 1.0, "<f4").tobytes()),
    "a vector that is text": ("vector", "x" * 1_024),
    "an unknown kind": ("kind", "yaml"),
    "a kind of another payload": ("kind", "bytes"),
    "a payload of another kind": ("payload", b"\0"),
    "a key too short": ("key", b"short"),
    "a key that is text": ("key", "k" * 16),
    "a partition too long": ("partition", b"p" * 17),
    "tags that are no JSON": ("tags", "["),
    "tags that are no list": ("tags", "{}"),
    "metadata that is no JSON": ("metadata", "nonsense"),
    "metadata that is no object": ("metadata", "[1]"),
    "a date that is text": ("created_at", "yesterday"),
    "an infinite date": ("created_at", float("inf")),
    "an end that is text": ("expires_at", "never"),
    "an end of stale time that is a blob": ("dies_at", b"x"),
    "a prompt that is a blob": ("prompt", b"bad"),
    "a namespace that is a number": ("namespace", b"7"),
}


def _edit(path: Path, statement: str, *values: Any) -> None:
    """What anybody with the sqlite3 shell can do."""
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount == 1


def _fill(path: Path) -> None:
    with SemanticCache(path, embedder=Spy()) as cache:
        cache.put("bad", "B", embedding=cosine(1.0))
        cache.put("good", "G", embedding=cosine(0.0))


@pytest.mark.parametrize("what", BAD)
@IN_EACH_WORLD
def test_a_bad_row_is_absent_and_counted(world: World, what: str, tmp_path: Path) -> None:
    """It is served by no layer and shows in `health`; the row beside it is served as ever."""
    path = tmp_path / "cache.db"
    _fill(path)
    column, value = BAD[what]
    _edit(path, f"UPDATE entries SET {column} = ? WHERE prompt = 'bad'", value)

    async def scenario() -> None:
        cache = world.open(path, embedder=spy_for(world))
        assert await settled(cache.get("bad", embedding=cosine(1.0))) is None
        assert (await settled(cache.get("good"))).response == "G"
        health = cache.health()
        assert (health.healthy, health.integrity_ok, health.bad_rows) == (False, False, 1)
        assert health.entries == cache.stats().entries == 1
        # Asking again mends it, as long as the row still has its identity.
        await settled(cache.put("bad", "mended", embedding=cosine(1.0)))
        await settled(cache.close())

    world.run(scenario)
    with SemanticCache(path, embedder=Spy()) as cache:
        assert cache.get("bad").response == "mended"  # type: ignore[union-attr]
        assert cache.health().healthy is (column not in ("key", "partition"))


@IN_EACH_WORLD
def test_a_bad_row_that_appears_while_the_cache_is_open(world: World, tmp_path: Path) -> None:
    """A row that another process wrote badly is counted when it is met, and harms no lookup."""
    path = tmp_path / "cache.db"
    _fill(path)

    def write_badly() -> None:
        with SemanticCache(path, embedder=Spy(), durability="commit") as other:
            other.put("bad", "B again", embedding=cosine(1.0))
            _edit(path, "UPDATE entries SET vector = x'00' WHERE prompt = 'bad'")

    async def scenario() -> None:
        cache = world.open(path, embedder=spy_for(world))
        assert await settled(cache.get("bad")) is not None
        await without_blocking(write_badly)
        assert (await settled(cache.get("good"))).response == "G"
        assert cache.health().bad_rows == 1
        await settled(cache.close())

    world.run(scenario)


@IN_EACH_WORLD
def test_an_answer_that_cannot_be_read(world: World, tmp_path: Path) -> None:
    """A payload that is no JSON any more is a miss with its own reason, and is overwritten."""
    path = tmp_path / "cache.db"
    with SemanticCache(path, embedder=Spy()) as cache:
        cache.put("q", {"k": 1}, embedding=cosine(1.0))
    with closing(SQLiteStore(path)) as store:
        store.claim(Spy().fingerprint, 256)
        [entry] = store.scan()
        store.commit(Changes((replace(entry, payload=Payload("json", "{")),)))

    async def scenario() -> None:
        cache = world.open(path, embedder=spy_for(world))
        miss = await settled(cache.lookup("q", embedding=cosine(1.0)))
        assert miss.reason == "undecodable"
        assert await settled(cache.fill(miss, {"k": 2}))
        assert (await settled(cache.get("q"))).response == {"k": 2}
        await settled(cache.close())

    world.run(scenario)


def test_strange_counters(tmp_path: Path) -> None:
    """Counters under names of a later version are kept, and counted by nobody."""
    path = tmp_path / "cache.db"
    _fill(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO counts VALUES ('default', 'of a later version', 5)")
    with SemanticCache(path, embedder=Spy()) as cache:
        assert isinstance(cache.stats(), Stats)
        cache.get("good")
    with closing(sqlite3.connect(path)) as connection:
        rows = dict(connection.execute("SELECT name, n FROM counts").fetchall())
    assert rows == {"of a later version": 5, "hits_exact": 1}


@pytest.mark.parametrize("durability", ["commit", "group"])
def test_what_sqlite_cannot_hold(durability: Any, tmp_path: Path) -> None:
    """Half a surrogate pair, or a count of too many bits, is refused; what comes after is kept."""
    path = tmp_path / "cache.db"
    _fill(path)
    store = SQLiteStore(path, durability=durability)
    store.claim(Spy().fingerprint, 256)
    entry = next(iter(store.scan()))
    for bad in (replace(entry, prompt="\ud800"), replace(entry, tags=("\udfff",))):
        with pytest.raises(StoreBackendError, match="Leave out half surrogate pairs"):
            store.commit(Changes((bad,)))
    if durability == "commit":
        with pytest.raises(StoreBackendError, match="integers of more than 64 bits"):
            store.commit(Changes(counts={("default", "hits_exact"): 2**63}))
    store.commit(Changes((replace(entry, prompt="changed"),)))
    assert {one.prompt for one in store.scan()} >= {"changed"}
    assert len(list(store.scan())) == 2
    store.close()
