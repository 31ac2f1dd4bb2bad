"""A file of an older layout is brought forward, whole or not at all."""

from __future__ import annotations

import gzip
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mneme import SQLiteStore
from mneme.errors import MultiProcessLockError, SchemaMigrationError
from mneme.records import Changes, Label
from mneme.stores._reader import open_source
from mneme.testing import entry

OLD = Path(__file__).parents[1] / "support" / "layout-1.db.gz"
"""Twelve puts and a removal in four namespaces' worth of rows, as layout 1 wrote them."""

FINGERPRINT = "contract:embedder:8:l2"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of layout 1."""
    path = tmp_path / "cache.db"
    path.write_bytes(gzip.decompress(OLD.read_bytes()))
    path.chmod(0o600)
    return path


def opened(path: Path) -> SQLiteStore:
    store = SQLiteStore(path)
    store.claim(FINGERPRINT, 8)
    return store


def check(path: Path) -> None:
    """All that was in the file of layout 1 is in `path`, in its order, and it is sound."""
    with closing(opened(path)) as store:
        found = {one.prompt: one for one in store.scan()}
        assert list(found) == ["q0", "q1", "q2", "q5", "q6", "q7", "q8", "q9", "q3", "rich"]
        assert found["q3"].payload.data == "new answer 3"
        assert {one.namespace for one in found.values()} == {"a", "b", "default"}
        rich = found["rich"]
        assert (rich.tags, rich.metadata, rich.payload.kind) == (("t", "u"), '{"k": 2}', "json")
        assert (rich.expires_at, rich.dies_at) == (1_800_000_000.5, 1_800_000_100.0)
        assert found["q0"].vector is not None
        assert dict(store.counts()) == {("a", "misses"): 7}
        assert list(store.labels()) == [Label(0.5, True, "n", "miss", 1.0, 0.25)]
        assert dict(store.states()) == {"s": b"\x00\x01"}
        assert store.bad_rows == 0
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_an_old_file_is_brought_forward(path: Path) -> None:
    """Everything is there and goes on as in a new file; a copy of the old one stands beside it."""
    old = path.read_bytes()
    check(path)
    with closing(opened(path)) as store:
        store.commit(Changes(puts=(entry("new"),), cleared=("a",)))
        assert [one.prompt for one in store.scan()] == ["q0", "q2", "q6", "q8", "rich", "new"]
    backup = Path(f"{path}.v1.bak")
    assert backup.stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in path.parent.iterdir()) == [
        "cache.db",
        "cache.db-mark",
        "cache.db.v1.bak",
    ]
    path.unlink()
    path.write_bytes(backup.read_bytes())
    assert len(path.read_bytes()) == len(old)
    check(path)


def test_a_damaged_row_comes_along_as_one(path: Path) -> None:
    """Text that is no UTF-8, or a blob where text belongs: absent and counted, as it was."""
    with closing(sqlite3.connect(path)) as connection, connection:
        change = "UPDATE entries SET prompt = {} WHERE prompt = ?"
        connection.execute(change.format("CAST(x'ff' AS TEXT)"), ("q1",))
        connection.execute(change.format("x'7132'"), ("q2",))
    left = ["q0", "q5", "q6", "q7", "q8", "q9", "q3", "rich"]
    assert prompts_read(path) == left
    with closing(opened(path)) as store:
        assert [one.prompt for one in store.scan()] == left
        assert store.bad_rows == 2


def test_a_file_that_is_only_read(path: Path) -> None:
    """It is read in its own layout, without what was cleared, and not brought forward."""
    assert prompts_read(path) == ["q0", "q1", "q2", "q5", "q6", "q7", "q8", "q9", "q3", "rich"]
    assert not Path(f"{path}.v1.bak").exists()
    check(path)
    with closing(sqlite3.connect(path)) as connection:
        # Cleared, and not swept yet.
        connection.execute("INSERT INTO clears VALUES ('a', 1000, 0)")
        connection.commit()
    assert prompts_read(path) == ["q0", "q2", "q6", "q8", "rich"]


def prompts_read(path: Path) -> list[str]:
    source, _, _ = open_source(path)
    with closing(source):
        return [one.prompt for one in source.scan()]


def test_a_file_that_is_open_elsewhere_waits(path: Path) -> None:
    """It is refused while another process has it, and unchanged; afterwards it opens."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM entries").fetchone() == (10,)
        store = SQLiteStore(path, busy_timeout=0.01)
        with pytest.raises(MultiProcessLockError, match="Close it there, and try again"):
            store.claim(FINGERPRINT, 8)
        store.close()
        assert other.execute("PRAGMA user_version").fetchone() == (1,)
    check(path)


def test_a_newer_file_is_refused(path: Path) -> None:
    """A layout of the future is named, and not touched, whether in the file or in its log."""
    check(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 3")
        connection.commit()
        # Now it stands in the log; the header of the file says 2.
        with pytest.raises(SchemaMigrationError, match=r"layout 3.*Upgrade mneme-toolkit"):
            opened(path)
    with pytest.raises(SchemaMigrationError, match=r"layout 3.*Upgrade mneme-toolkit"):
        opened(path)


KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from mneme import SQLiteStore

class Dying(sqlite3.Connection):
    def execute(self, statement, *args):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(statement, *args)

def dying(*args, **kwargs):
    return connect(*args, factory=Dying, **kwargs)

raw, connect, step, code = sys.stdin.buffer.read(), sqlite3.connect, 0, -signal.SIGKILL
while code == -signal.SIGKILL:
    step += 1
    path = Path(sys.argv[1], f"{step}.db")
    path.write_bytes(raw)
    # A fork has imported all of it: a hundred new processes take a minute.
    if not (child := os.fork()):
        left, sqlite3.connect = step, dying
        store = SQLiteStore(path)
        store.claim("contract:embedder:8:l2", 8)
        store.close()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(code)
"""


def test_a_migration_that_is_killed_can_be_had_again(tmp_path: Path) -> None:
    """Before any statement of it: the file opens, with everything in it."""
    subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        check=True,
        input=gzip.decompress(OLD.read_bytes()),
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    paths = [path for path in tmp_path.glob("*.db") if path.stem.isdigit()]
    for path in paths:
        check(path)
    assert len(paths) > 20
