"""Files that are not ours, or no longer whole: the right error, and not a byte changed."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.embedders import Spy, spy_for
from support.unprivileged import a_shared_folder, said_by
from support.worlds import PATIENCE, WORLDS, World, settled

from mneme import (
    AsyncSemanticCache,
    CorruptCacheError,
    EmbedderMismatchError,
    SchemaMigrationError,
    SemanticCache,
    StoreBackendError,
    semantic_cache,
)
from mneme.stores._sqlite_schema import GIVES_BACK

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)


def _text(path: Path) -> None:
    path.write_text("not a database\n" * 50)


def _short(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0")


def _zeros(path: Path) -> None:
    path.write_bytes(bytes(8_192))


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE entries (theirs TEXT)")
        connection.execute("INSERT INTO entries VALUES ('precious')")
        connection.commit()


def _foreign_wal(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    _foreign(path)


def _foreign_named(path: Path) -> None:
    _foreign(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 1196437808")
        connection.commit()


def _ours(path: Path) -> None:
    with SemanticCache(path, embedder=Spy()) as cache:
        cache.put_many({f"question {n}": "an answer of some length " * 20 for n in range(60)})


def _newer(path: Path) -> None:
    _ours(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _cut(path: Path) -> None:
    _ours(path)
    os.truncate(path, 3 * 4_096)


def _cut_in_the_first_page(path: Path) -> None:
    _ours(path)
    os.truncate(path, 200)


def _scribbled(path: Path) -> None:
    _ours(path)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(4_096)
        file.write(b"\xa5" * (size - 4_096))


def _scribbled_schema(path: Path) -> None:
    _ours(path)
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * 3_900)


DAMAGED: dict[str, tuple[Callable[[Path], None], type[Exception], str]] = {
    "text": (_text, CorruptCacheError, "not a mneme cache.*Use another path"),
    "a header alone": (_short, CorruptCacheError, "not a mneme cache"),
    "zeros": (_zeros, CorruptCacheError, "not a mneme cache"),
    "another's SQLite file": (_foreign, CorruptCacheError, "not touched. Use another path"),
    "another's WAL file": (_foreign_wal, CorruptCacheError, "not touched"),
    "another application's": (_foreign_named, CorruptCacheError, "not touched"),
    "a newer layout": (_newer, SchemaMigrationError, "layout 99.*Upgrade mneme-toolkit"),
    "cut off": (_cut, CorruptCacheError, "damaged.*salvage, or use another path"),
    "cut in the first page": (_cut_in_the_first_page, CorruptCacheError, "Restore a copy"),
    "scribbled over": (_scribbled, CorruptCacheError, "Restore a copy"),
    "a scribbled schema": (_scribbled_schema, CorruptCacheError, "Restore a copy"),
}


async def _open(world: World, path: Path, embedder: Any = None) -> None:
    """Open a cache of this world on `path` and close it."""
    cache = world.open(path, embedder=embedder or spy_for(world))
    if isinstance(cache, AsyncSemanticCache):
        async with cache:
            return
    with cache:
        return


@IN_EACH_WORLD
@pytest.mark.parametrize("what", DAMAGED)
def test_a_file_that_cannot_be_used(world: World, what: str, tmp_path: Path) -> None:
    """The error says what it is and what to do; the file keeps every byte."""
    make, kind, says = DAMAGED[what]
    path = tmp_path / "cache.db"
    make(path)
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(kind, match=says) as caught:
            world.run(_open, world, path)
        assert str(path) in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("what", ["text", "another's SQLite file", "another's WAL file"])
def test_nothing_is_left_beside_a_foreign_file(what: str, tmp_path: Path) -> None:
    """A file that is not ours gets no companions."""
    path = tmp_path / "cache.db"
    DAMAGED[what][0](path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CorruptCacheError):
        SemanticCache(path, embedder=Spy())
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("what", DAMAGED)
def test_a_decorated_function_of_a_damaged_file(what: str, tmp_path: Path) -> None:
    """Decorating with `path=` of a file that cannot be used raises at once, not at some call."""
    make, kind, says = DAMAGED[what]
    make(tmp_path / "cache.db")
    with pytest.raises(kind, match=says):
        semantic_cache(embedder=Spy(), path=tmp_path / "cache.db")(lambda prompt: prompt)


def _in_a_missing_folder(place: Path) -> Path:
    return place / "missing" / "cache.db"


def _a_folder(place: Path) -> Path:
    return place


def _under_a_file(place: Path) -> Path:
    (place / "file").write_text("x")
    return place / "file" / "cache.db"


def _in_proc(place: Path) -> Path:
    return Path("/proc/self/cache.db")


def _a_device(place: Path) -> Path:
    return Path("/dev/null")


def _a_full_device(place: Path) -> Path:
    return Path("/dev/full")


def _a_pipe(place: Path) -> Path:
    os.mkfifo(place / "cache.db")
    return place / "cache.db"


@IN_EACH_WORLD
@pytest.mark.parametrize(
    "where",
    [
        _in_a_missing_folder,
        _a_folder,
        _under_a_file,
        _in_proc,
        _a_device,
        _a_full_device,
        _a_pipe,
    ],
    ids=lambda where: where.__name__.strip("_"),
)
def test_a_place_where_no_file_can_be(
    world: World, where: Callable[[Path], Path], tmp_path: Path
) -> None:
    """It is a StoreBackendError that names the path and what to check, and nothing is made."""
    path = where(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreBackendError, match="Check") as caught:
        world.run(_open, world, path)
    assert str(path) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@IN_EACH_WORLD
def test_an_empty_file_becomes_a_cache(world: World, tmp_path: Path) -> None:
    """A file of no bytes (made by mktemp, say) is as good as none."""
    (tmp_path / "cache.db").touch()
    world.run(_open, world, tmp_path / "cache.db")
    with SemanticCache(tmp_path / "cache.db", embedder=Spy()) as cache:
        assert cache.health().healthy


@IN_EACH_WORLD
def test_a_file_that_was_just_begun_becomes_a_cache(world: World, tmp_path: Path) -> None:
    """Of who was killed before its layout was written, or has not come to write it."""
    path = tmp_path / "cache.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(GIVES_BACK)
    assert path.stat().st_size > 0
    world.run(_open, world, path)
    with SemanticCache(path, embedder=Spy()) as cache:
        assert cache.health().healthy


def test_another_file_whose_tables_are_in_its_log(tmp_path: Path) -> None:
    """The header of the file alone says nothing of them."""
    path = tmp_path / "cache.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute("CREATE TABLE theirs (precious TEXT)")
        with pytest.raises(CorruptCacheError, match="not touched"):
            SemanticCache(path, embedder=Spy())
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


def test_many_may_make_the_file_at_once(tmp_path: Path) -> None:
    """One of them makes it, and the others wait for that."""
    start = threading.Barrier(4)

    def made(at: int) -> bool:
        start.wait(PATIENCE)
        with SemanticCache(tmp_path / f"{at}.db", embedder=Spy(), self_check=False) as cache:
            return cache.health().healthy

    with ThreadPoolExecutor(4) as pool:
        for at in range(25):
            assert list(pool.map(made, [at] * 4)) == [True] * 4


def test_files_are_private(tmp_path: Path) -> None:
    """All files of a cache are readable by their owner only, whatever the umask."""
    before = os.umask(0)
    try:
        cache = SemanticCache(tmp_path / "cache.db", embedder=Spy())
        cache.put("q", "r")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        cache.close()
    finally:
        os.umask(before)
    names = ("cache.db", "cache.db-mark", "cache.db-shm", "cache.db-wal")
    assert modes == dict.fromkeys(names, 0o600)


@IN_EACH_WORLD
def test_another_embedders_file_keeps_every_byte(world: World, tmp_path: Path) -> None:
    """A file that another embedder filled is refused and left as it is, companions included."""
    path = tmp_path / "cache.db"
    _ours(path)
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    for embedder in (spy_for(world, name="other"), spy_for(world, dim=8)):
        with pytest.raises(EmbedderMismatchError, match="reembed"):
            world.run(_open, world, path, embedder)
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before
    world.run(_open, world, path)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    with a_shared_folder() as folder:
        yield folder


OPEN = """
try:
    SemanticCache(folder + "/cache.db", embedder=HashEmbedder(8))
except MnemeError as exc:
    print(type(exc).__name__, exc)
"""


def test_a_folder_that_may_not_be_written(shared_folder: Path) -> None:
    """Where no file may be made the error says to check the folder."""
    said = said_by(OPEN, shared_folder)
    assert said.startswith("StoreBackendError")
    assert "Check that its folder exists and can be written" in said
    assert list(shared_folder.iterdir()) == []


def test_a_file_that_may_not_be_written(shared_folder: Path) -> None:
    """A read-only cache file is a StoreBackendError, and keeps every byte."""
    path = shared_folder / "cache.db"
    with SemanticCache(path, embedder=Spy(8)) as cache:
        cache.put("q", "r")
    for one in shared_folder.iterdir():
        one.chmod(0o444)
    before = path.read_bytes()
    said = said_by(OPEN, shared_folder)
    assert said.startswith("StoreBackendError")
    assert "Check" in said
    path.chmod(0o000)
    said = said_by(OPEN, shared_folder)
    assert said.startswith("StoreBackendError")
    assert "Check the path and its permissions" in said
    assert path.read_bytes() == before


FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
calls = []
cache = SemanticCache(folder + "/cache.db", embedder=HashEmbedder(8), durability="commit")
@semantic_cache(cache=cache)
def ask(prompt):
    calls.append(prompt)
    return "answer"
cache.put("before", "B")
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(folder + "/cache.db-wal"), limit[1]))
for _ in range(2):
    try:
        cache.put("q", "r")
    except StoreBackendError as exc:
        assert "that the disk has room" in str(exc), exc
    else:
        raise SystemExit("it was stored on a full disk")
assert cache.get("q") is None and cache.stats().entries == 1
assert cache.get("before").response == "B"
assert [ask("x y z"), ask("x y z")] == ["answer"] * 2 and len(calls) == 2
assert cache.stats().failed_open == 2
resource.setrlimit(resource.RLIMIT_FSIZE, limit)
assert cache.put("q", "r") and ask("x y z") == ask("x y z") and len(calls) == 3
cache.close()
with SemanticCache(folder + "/cache.db", embedder=HashEmbedder(8)) as cache:
    assert cache.stats().entries == 3 and cache.stats().failed_open == 2
    assert cache.get("q").response == "r"
    assert cache.health().healthy
print("fine")
"""


def test_a_full_disk(shared_folder: Path) -> None:
    """Puts raise, lookups and functions go on; when there is room again all is as before."""
    os.chmod(shared_folder, 0o777)
    assert said_by(FULL, shared_folder) == "fine\n"


@IN_EACH_WORLD
def test_a_refused_file_is_let_go_of(world: World, tmp_path: Path) -> None:
    """After an error at opening the file can be moved away and another one made in its place."""
    path = tmp_path / "cache.db"
    _scribbled(path)
    with pytest.raises(CorruptCacheError):
        world.run(_open, world, path)
    for one in tmp_path.iterdir():
        one.unlink()
    world.run(_open, world, path)

    async def use() -> None:
        cache = world.open(path, embedder=spy_for(world))
        await settled(cache.put("q", "r"))
        await settled(cache.close())

    world.run(use)
    with SemanticCache(path, embedder=Spy()) as cache:
        assert cache.get("q") is not None
