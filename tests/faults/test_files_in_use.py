"""Files that change under an open cache, and disks that fail and recover: calls go on."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.embedders import spy_for
from support.worlds import WORLDS, World, settled, without_blocking

from mneme import (
    CorruptCacheError,
    EmbedderMismatchError,
    MnemeError,
    SemanticCache,
    StoreBackendError,
    semantic_cache,
)

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)
COMPANIONS = ("", "-wal", "-shm", "-mark")


def _delete(path: Path) -> None:
    for end in COMPANIONS:
        Path(f"{path}{end}").unlink(missing_ok=True)


def _move_in(other: Path, path: Path) -> None:
    _delete(path)
    os.replace(other, path)


def _filled(path: Path, embedder: Any, prompt: str) -> Path:
    with SemanticCache(path, embedder=embedder, self_check=False) as cache:
        cache.put(prompt, f"answer to {prompt}", embedding=[1.0] + [0.0] * (embedder.dim - 1))
    return path


class Calls:
    """A decorated function of `world`, and how its cache fares."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        # So that what is put is written when it returns, or not at all.
        self.cache = world.open(
            path, embedder=spy_for(world), durability="commit", self_check=False
        )
        self.asked: list[str] = []

        async def ask(prompt: str) -> str:
            self.asked.append(prompt)
            return f"answered {prompt}"

        self.function: Any = semantic_cache(cache=self.cache)(world.written(ask))

    async def ask(self, prompt: str) -> Any:
        return await settled(self.function(prompt))

    async def put(self, prompt: str) -> Any:
        return await settled(self.cache.put(prompt, "stored"))

    async def get(self, prompt: str) -> Any:
        hit = await settled(self.cache.get(prompt))
        return hit and hit.response

    @property
    def store(self) -> Any:
        return self.cache._core.store


@IN_EACH_WORLD
def test_a_file_that_is_deleted(world: World, tmp_path: Path) -> None:
    """What comes next goes into a new file, and what was in the old one is asked again."""
    path = tmp_path / "cache.db"

    async def scenario() -> None:
        calls = Calls(world, path)
        assert await calls.ask("before") == "answered before"
        await without_blocking(_delete, path)
        assert await calls.put("after") is True
        assert await calls.get("before") is None
        assert await calls.get("after") == "stored"
        assert await calls.ask("before") == "answered before"
        await settled(calls.cache.close())

    world.run(scenario)
    with SemanticCache(path, embedder=spy_for(WORLDS[0])) as cache:
        assert cache.stats().entries == 2
        assert cache.health().healthy


@IN_EACH_WORLD
def test_a_file_that_is_replaced(world: World, tmp_path: Path) -> None:
    """A restored copy is noticed with the next write, and its entries are served."""
    path, other = tmp_path / "cache.db", tmp_path / "other.db"
    _filled(other, spy_for(WORLDS[0]), "restored")

    async def scenario() -> None:
        calls = Calls(world, path)
        await calls.put("before")
        await without_blocking(_move_in, other, path)
        await calls.put("after")
        assert await calls.get("restored") == "answer to restored"
        assert await calls.get("after") == "stored"
        assert await calls.get("before") is None
        await settled(calls.cache.close())

    world.run(scenario)


def _of_another_embedder(path: Path) -> None:
    _filled(path, spy_for(WORLDS[0], dim=8), "another's")


def _noise(path: Path) -> None:
    path.write_bytes(b"no database at all, and long enough to have a header" * 100)


@IN_EACH_WORLD
@pytest.mark.parametrize(
    ("make", "kind"),
    [(_of_another_embedder, EmbedderMismatchError), (_noise, CorruptCacheError)],
    ids=["another embedder's", "no cache"],
)
def test_a_file_that_is_replaced_by_a_wrong_one(
    world: World, make: Callable[[Path], None], kind: type[MnemeError], tmp_path: Path
) -> None:
    """Puts say so and change nothing, calls go on; with the right file all is as before."""
    path, other, right = tmp_path / "cache.db", tmp_path / "other.db", tmp_path / "right.db"
    make(other)
    _filled(right, spy_for(WORLDS[0]), "restored")

    async def scenario() -> None:
        calls = Calls(world, path)
        await calls.put("before")
        await without_blocking(_move_in, other, path)
        content = await without_blocking(path.read_bytes)
        for _ in range(2):
            with pytest.raises(kind):
                await calls.put("after")
            assert await calls.ask("another") == "answered another"
        assert await without_blocking(path.read_bytes) == content
        failed = (await settled(calls.cache.stats())).failed_open
        assert failed >= 2
        await without_blocking(_move_in, right, path)
        assert await calls.put("after") is True
        assert await calls.get("restored") == "answer to restored"
        await settled(calls.cache.close())

    world.run(scenario)


@IN_EACH_WORLD
def test_a_file_that_may_grow_no_more(world: World, tmp_path: Path) -> None:
    """Full: puts raise, what is in memory is served, calls go on; then it is as before."""
    path = tmp_path / "cache.db"

    async def scenario() -> None:
        calls = Calls(world, path)
        await calls.put("before")
        connection = calls.store._file.connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        with pytest.raises(StoreBackendError, match="the disk has room"):
            await settled(calls.cache.put("large", "x" * 100_000))
        assert await calls.get("before") == "stored"
        assert await calls.get("large") is None
        connection.execute("PRAGMA max_page_count = 1000000").fetchall()
        assert await settled(calls.cache.put("large", "x" * 100_000))
        for _ in range(2):
            assert await calls.ask("later") == "answered later"
        assert calls.asked == ["later"]
        await settled(calls.cache.close())

    world.run(scenario)


class _Failing:
    """A connection to a disk that fails; ``close`` works."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.in_transaction = False

    def execute(self, statement: str, *_: Any) -> Any:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    def close(self) -> None:
        self._connection.close()


@IN_EACH_WORLD
def test_a_disk_that_fails(world: World, tmp_path: Path) -> None:
    """An I/O error is weather: puts raise, calls go on and are counted, and it passes."""
    path = tmp_path / "cache.db"

    async def scenario() -> None:
        calls = Calls(world, path)
        await calls.put("before")
        store, connection = calls.store, calls.store._file.connection
        store._file.connection = _Failing(connection)
        with pytest.raises(StoreBackendError, match="disk I/O error"):
            await calls.put("after")
        for prompt in ("some", "another"):
            assert await calls.ask(prompt) == f"answered {prompt}"
        assert await calls.get("before") == "stored"
        assert (await settled(calls.cache.stats())).failed_open == 2
        store._file.connection = connection
        for _ in range(2):
            assert await calls.ask("some") == "answered some"
        assert calls.asked == ["some", "another", "some"]
        await settled(calls.cache.close())

    world.run(scenario)


class _Full:
    """A connection whose commits find no room."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, statement: str, *args: Any) -> Any:
        if statement == "COMMIT":
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._connection.execute(statement, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.parametrize("durability", ["commit", "group"])
def test_a_commit_that_finds_no_room(durability: Any, tmp_path: Path) -> None:
    """Nothing has changed, so nobody need look: what is in memory is served without the disk."""
    path = tmp_path / "cache.db"
    with (
        SemanticCache(path, embedder=spy_for(WORLDS[0]), durability=durability) as cache,
        SemanticCache(path, embedder=spy_for(WORLDS[0])) as other,
    ):
        store: Any = cache._core.store
        cache.put("before", "B")
        assert cache.labels() == []
        assert other.get("before") is not None
        connection = store._file.connection
        store._file.connection = _Full(connection)

        def write() -> None:
            cache.put("after", "A")
            # Here at the latest what waits in a group is written.
            cache.labels()

        with pytest.raises(StoreBackendError, match="the disk has room"):
            write()
        for one in (cache, other):
            assert not one._core.is_behind()
            assert one.get("before") is not None
        store._file.connection = connection
        assert cache.put("after", "A")
        assert cache.labels() == []
        assert other.get("after") is not None
