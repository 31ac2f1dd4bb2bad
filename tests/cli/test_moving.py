"""``export``, ``import``, ``migrate`` and ``bench``, each as its users run it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.commands import refused, run

from mneme import MemoryStore, SemanticCache, SQLiteStore, migrate
from mneme.checkpoint import restore
from mneme.records import Changes, Entry, Label
from mneme.testing import HashEmbedder

OLD = HashEmbedder(16, name="old")

MODELS = """
import sys
from mneme.testing import HashEmbedder

new = HashEmbedder(24, name="new")

class Remote(HashEmbedder):
    def __init__(self):
        super().__init__(24, name="new")
    async def embed(self, text):
        return HashEmbedder.embed(self, text)

class Waiting(HashEmbedder):
    def __init__(self):
        super().__init__(24, name="new")
    def embed(self, text):
        if self.calls == 3:
            print("waiting", flush=True)
            sys.stdin.read()
        return super().embed(text)

class Down(HashEmbedder):
    def __init__(self):
        super().__init__(24, name="new")
    def embed(self, text):
        raise ConnectionError("nobody is there")
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a cache of six entries with labels and states, and embedders."""
    (tmp_path / "models.py").write_text(MODELS)
    path = tmp_path / "cache.db"
    with SemanticCache(path, embedder=OLD, self_check=False) as cache:
        for at in range(6):
            cache.put(f"question number {at}", f"answer {at}", tags=[f"t{at}"])
        cache.get("question number 1")
    with closing(SQLiteStore(path)) as store:
        store.claim(OLD.fingerprint, OLD.dim)
        label = Label(0.9, True, "default", "audit", 5.0)
        store.commit(Changes(labels=(label,), states={"policy": b"x"}))
    monkeypatch.chdir(tmp_path)
    # Commands look for embedders in the working directory, and put it there for good.
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "models", raising=False)
    return tmp_path


def ran(*arguments: object) -> subprocess.CompletedProcess[str]:
    """As users run it, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "mneme", *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip


def told(*arguments: object) -> Any:
    done = ran(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def held(path: Path, owner: HashEmbedder = OLD) -> tuple[Any, ...]:
    with closing(SQLiteStore(path)) as store:
        store.claim(owner.fingerprint, owner.dim)
        entries: Sequence[Entry] = list(store.scan())
        return entries, store.counts(), list(store.labels()), store.states()


def test_a_cache_is_exported_and_imported(place: Path) -> None:
    """All of it arrives in the new file, without an embedder; a second export replaces."""
    found = told("export", "cache.db", "cache.mneme")
    assert found == {
        "store": "cache.db",
        "archive": "cache.mneme",
        "entries": 6,
        "embedder_fingerprint": OLD.fingerprint,
        "dim": 16,
    }
    assert run("export", "cache.db", "cache.mneme").exit_code == 0
    assert restore(place / "cache.mneme", MemoryStore()) == 6
    assert told("import", "cache.mneme", "copy.db")["entries"] == 6
    assert held(place / "copy.db") == held(place / "cache.db")
    done = run("import", "cache.mneme", "words.db")
    assert done.stdout == (
        f"cache.mneme to words.db: 6 entries, filled by {OLD.fingerprint} (16)\n"
    )


def test_export_replaces_archives_and_nothing_else(place: Path) -> None:
    """Names in the wrong order cost no cache, and a missing one makes none."""
    before = (place / "cache.db").read_bytes()
    assert "exists and is no archive. It was not touched" in refused(
        "export", "cache.db", "cache.db"
    )
    assert "absent.db is no file" in refused("export", "absent.db", "a.mneme")
    assert "was not written" in refused("export", "cache.db", "absent/a.mneme")
    assert (place / "cache.db").read_bytes() == before
    assert not list(place.glob("*.mneme"))


def test_import_makes_a_new_file_or_none(place: Path) -> None:
    """A file that is there stays, and what is damaged, too big or absent leaves nothing."""
    run("export", "cache.db", "cache.mneme")
    before = (place / "cache.db").read_bytes()
    assert "cache.db exists. It was not touched" in refused("import", "cache.mneme", "cache.db")
    assert (place / "cache.db").read_bytes() == before
    assert "raise max_bytes" in refused("import", "cache.mneme", "new.db", "--max-bytes", 100)
    (place / "torn.mneme").write_bytes((place / "cache.mneme").read_bytes()[:-9])
    assert "Nothing was loaded" in refused("import", "torn.mneme", "new.db")
    assert "cannot be read" in refused("import", "absent.mneme", "new.db")
    assert not list(place.glob("*new.db*"))


@pytest.mark.parametrize("embedder", ["models:new", "models:Remote"])
def test_a_cache_is_migrated(place: Path, embedder: str) -> None:
    """Sync and async embedders; the source stays as it is, and a second run has nothing to do."""
    before = (place / "cache.db").read_bytes()
    command = "migrate", "cache.db", "new.db", "--embedder", embedder, "--batch-size", 4
    assert told(*command) == {
        "source": "cache.db",
        "dest": "new.db",
        "embedded": 6,
        "embedder_fingerprint": "mneme-testing:new:24:l2",
        "dim": 24,
    }
    assert (place / "cache.db").read_bytes() == before
    entries, counts, labels, states = held(place / "new.db", HashEmbedder(24, name="new"))
    assert (entries, counts) == held(place / "cache.db")[:2]
    assert (labels, states) == ([], {})
    assert run(*command).stdout == "new.db has all of cache.db: nothing to do\n"


def test_a_migration_keeps_to_namespaces(place: Path) -> None:
    """`--namespace` may be given again, and others are left out."""
    command = "migrate", "cache.db", "new.db", "--embedder", "models:new"
    assert "nothing to do" in run(*command, "--namespace", "nobody").stdout
    done = run(*command, "--namespace", "nobody", "--namespace", "default")
    assert done.stdout.startswith("new.db: 6 entries of cache.db embedded by mneme-testing:new")


def _minds_ctrl_c() -> None:
    # What a shell starts in the background ignores it, and so do its children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_stopped_migration_goes_on(place: Path) -> None:
    """Ctrl-C is answered with one line, and the next run does what was left."""
    command = [sys.executable, "-m", "mneme", "migrate", "cache.db", "new.db", "--batch-size", "2"]
    with subprocess.Popen(
        [*command, "--embedder", "models:Waiting"], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=_minds_ctrl_c,
    ) as stopped:  # fmt: skip
        assert stopped.stdout is not None
        assert stopped.stdout.readline() == "waiting\n"
        stopped.send_signal(signal.SIGINT)
        _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == 1
    assert said == (
        "mneme: stopped. What was done is in new.db. Run it again: it goes on from there.\n"
    )
    done = run("migrate", "cache.db", "new.db", "--embedder", "models:new")
    assert done.stdout.startswith("new.db: 4 entries")


def test_what_a_migration_refuses(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedder that is down or not there, another one's dest: one line, and nothing is lost."""
    monkeypatch.setattr(migrate, "PAUSES", (0.0, 0.0))
    down = refused("migrate", "cache.db", "new.db", "--embedder", "models:Down")
    assert "nobody is there" in down
    assert down.endswith("run it again: it goes on from there.\n")
    before = (place / "cache.db").read_bytes()
    (place / "other.db").write_bytes(before)
    assert "was filled by 'mneme-testing:old:16:l2'" in refused(
        "migrate", "cache.db", "other.db", "--embedder", "models:new"
    )
    assert (place / "other.db").read_bytes() == before
    for spec, message in (("models", "module:attribute"), ("models:none", "has no none")):
        assert message in refused("migrate", "cache.db", "a.db", "--embedder", spec)
    assert "one store" in refused("migrate", "cache.db", "./cache.db", "--embedder", "models:new")
    assert not (place / "a.db").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("export", "{}", "a.mneme"),
        ("import", "a.mneme", "{}"),
        ("migrate", "cache.db", "{}", "--embedder", "models:new"),
        ("migrate", "{}", "new.db", "--embedder", "models:new"),
    ],
)
@pytest.mark.parametrize("scheme", ["postgresql", "redis", "mysql"])
def test_no_password_is_printed(place: Path, command: tuple[str, ...], scheme: str) -> None:
    """Where nobody listens, or no store is known: one line without what is secret in it."""
    (place / "a.mneme").write_bytes(b"")
    address = f"{scheme}://someone:hushhush@127.0.0.1:1/db"
    assert "hushhush" not in refused(*(word.format(address) for word in command))


def test_help_tells_what_each_does(place: Path) -> None:
    """`--help` of each names its arguments; without them, exit code 2."""
    for name, words in (
        ("export", "STORE archive postgresql:// --json"),
        ("import", "archive STORE --max-bytes"),
        ("migrate", "source dest --embedder MODULE:ATTRIBUTE --namespace --batch-size"),
        ("bench", "--entries --json"),
    ):
        done = run(name, "--help")
        assert done.exit_code == 0
        assert all(word in done.stdout for word in words.split())
    assert run("export").exit_code == 2
    assert run("migrate", "cache.db", "new.db").exit_code == 2
    assert run("bench", "--entries", "1").exit_code == 2


def test_failures_end_the_process_with_their_code(place: Path) -> None:
    """1 and one line on stderr for what is refused, 2 for arguments that make no sense."""
    done = ran("export", "absent.db", "a.mneme")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "mneme: absent.db is no file. Check the path.\n"
    done = ran("import", "absent.mneme")
    assert (done.returncode, done.stdout) == (2, "")


def test_the_bench_measures(place: Path) -> None:
    """Each step has its times, and the reworded questions were hits, or it would measure misses."""
    found = told("bench", "--entries", "40")
    assert set(found["steps"]) == {"put", "exact hit", "semantic hit", "embed"}
    assert all(0 < row["median_us"] <= 1e7 for row in found["steps"].values())
    assert (found["asked"], found["served"]) == (40, 40)
    done = run("bench", "--entries", "40")
    assert "40 of 40 reworded questions were hits" in " ".join(done.stdout.split())
    assert sorted(path.name for path in place.glob("*bench*")) == []
