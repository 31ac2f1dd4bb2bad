"""``python -m mneme``: what it tells of a cache file, and that it leaves the file as it was."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.commands import refused, run

import mneme
from mneme import MnemeError, SemanticCache, SQLiteStore
from mneme.cli.files import Owner
from mneme.testing import HashEmbedder, ManualClock

ROOT = Path(__file__).parents[2]
HOUR = 3_600.0


def told(*arguments: object) -> Any:
    """What a command prints with ``--json``."""
    done = run(*arguments, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)


# A name in which SQLite's URIs and terminals would see more than a name.
@pytest.fixture(params=["cache.db", "a b?mode=rwc#%20'ö.db"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two live entries, one of them of a tenant; one that is stale; thirty that have died."""
    path = tmp_path / str(request.param)
    clock = ManualClock(time.time() - 2 * HOUR)
    with SemanticCache(path, embedder=HashEmbedder(), clock=clock) as cache:
        for number in range(30):
            cache.put(f"old question {number}", "x" * 20_000, ttl=60.0)
        cache.put("How do I pay?\x1b[31m", "a secret", tags=["billing", "[bold]"])

        @mneme.semantic_cache(cache=cache, ttl=60.0, stale_if_error=10 * HOUR)
        def ask(prompt: str) -> str:
            return "served when the model fails"

        ask("What if the model fails?")
        clock.now = time.time()
        cache.put("Where is it?", "here", namespace="tenant-7", ttl=HOUR, metadata={"v": 1})
        cache.get("where is it", namespace="tenant-7")
        cache.get("something else entirely")
    return path


def test_salvage_saves_what_can_be_read(file: Path, tmp_path: Path) -> None:
    """A damaged file is left as it is; a new one has the rest, and it is said what is lost."""
    content = bytearray(file.read_bytes())
    at = content.index(b"old question 17") // 16_384 * 16_384
    content[at : at + 16_384] = bytes(16_384)
    file.write_bytes(content)
    rescued = tmp_path / "rescued.db"
    found = told("salvage", file, rescued)
    assert 0 < found["entries"] < 33
    assert found["lost"] == 33 - found["entries"]
    assert file.read_bytes() == content
    assert told("stats", rescued)["entries"] == found["entries"]
    said = run("salvage", file, tmp_path / "again.db").stdout
    assert f"saved {found['entries']} entries" in said
    assert f"{found['lost']} entries are known to be lost; it was left as it is" in said
    assert "exists" in refused("salvage", file, rescued)


def test_stats_counts_by_namespace(file: Path) -> None:
    """Entries, expired ones and the counters of each namespace, and whose file it is."""
    found = told("stats", file)
    assert found["entries"] == 33
    assert found["embedder_fingerprint"] == HashEmbedder().fingerprint
    assert (found["dim"], found["layout"], found["bad_rows"]) == (256, 2, 0)
    assert found["bytes"] >= file.stat().st_size
    assert 2 * HOUR <= found["oldest_entry_age_seconds"] < 3 * HOUR
    default, tenant = found["namespaces"]
    assert (default["namespace"], default["entries"], default["expired"]) == ("default", 32, 30)
    assert default["misses"] == 2
    assert (tenant["namespace"], tenant["entries"], tenant["hits_exact"]) == ("tenant-7", 1, 1)


def test_stats_in_words(file: Path) -> None:
    """A table with a line for each namespace."""
    done = run("stats", file)
    assert done.exit_code == 0
    assert "filled by mneme-testing:hash:256:l2, 256 numbers a vector" in done.stdout
    [line] = [line.split() for line in done.stdout.splitlines() if "tenant-7" in line]
    assert line == ["tenant-7", "1", "0", "1", "0", "0", "0", "0"]


def test_stats_tells_of_rows_that_cannot_be_read(file: Path) -> None:
    """A damaged row is counted and passed over."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE entries SET vector = x'00' WHERE namespace = 'tenant-7'")
    assert told("stats", file)["bad_rows"] == 1
    assert "1 rows cannot be read" in run("stats", file).stdout


def test_inspect_lists_the_latest_first(file: Path) -> None:
    """Prompt, age, expiry, tags and metadata of each entry; the answer is not shown."""
    first, second, third = told("inspect", file, "--limit", 3)
    assert (first["namespace"], first["prompt"]) == ("tenant-7", "Where is it?")
    assert first["metadata"] == {"v": 1}
    assert 0 <= first["age_seconds"] < HOUR
    assert 0 < first["expires_in_seconds"] <= HOUR
    assert second["expires_in_seconds"] < 0
    assert second["tags"][0].startswith("function:")
    assert third["tags"] == ["billing", "[bold]"]
    assert third["expires_in_seconds"] is None
    assert third["age_seconds"] >= 2 * HOUR
    assert len(told("inspect", file)) == 20
    assert len(told("inspect", file, "--limit", 100)) == 33


def test_inspect_in_words_is_safe_to_look_at(file: Path) -> None:
    """What steers a terminal, and what rich would read as markup, is not obeyed."""
    done = run("inspect", file, "--limit", 4)
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert "[bold]" in done.stdout
    assert "a secret" not in done.stdout
    assert [word in done.stdout for word in ("never", "expired", "min")] == [True] * 3


def test_inspect_keeps_to_a_namespace(file: Path) -> None:
    """`--namespace` shows that one alone, and says so when it holds nothing."""
    assert [line["prompt"] for line in told("inspect", file, "--namespace", "tenant-7")] == [
        "Where is it?"
    ]
    assert told("inspect", file, "--namespace", "nobody") == []
    assert run("inspect", file, "--namespace", "nobody").stdout == "no entries\n"


def test_vacuum_removes_what_has_expired(file: Path) -> None:
    """The dead are gone and their space with them; what is live, or may yet be served, stays."""
    found = told("vacuum", file)
    assert (found["removed"], found["entries"]) == (30, 3)
    assert found["bytes_after"] < found["bytes_before"] / 2
    assert len(told("inspect", file)) == 3
    assert "removed 0 expired entries, 3 are left" in run("vacuum", file).stdout


def test_the_embedder_opens_the_file_as_before(file: Path) -> None:
    """No command makes the file another embedder's, or loses its counters."""
    for command in ("stats", "inspect", "vacuum"):
        told(command, file)
    with SemanticCache(file, embedder=HashEmbedder()) as cache:
        found = cache.get("How do I pay?\x1b[31m")
        assert found is not None
        assert found.response == "a secret"
        assert cache.stats("tenant-7").hits_exact == 1


def test_a_file_in_use_is_read(file: Path) -> None:
    """An open cache goes on, and what it puts is seen."""
    with SemanticCache(file, embedder=HashEmbedder(), durability="commit") as cache:
        cache.put("a new one", "yes")
        assert told("inspect", file, "--limit", 1)[0]["prompt"] == "a new one"
        told("vacuum", file)
        assert cache.get("a new one") is not None


def test_the_owner_is_an_embedder_in_name_only() -> None:
    """Nothing is embedded by accident."""
    with pytest.raises(MnemeError, match="cannot embed"):
        Owner("a:model", 8).embed("text")


COMMANDS = ("stats", "inspect", "vacuum")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_not_there_is_not_made(command: str, tmp_path: Path) -> None:
    """A misspelt path is an error, and no new cache."""
    assert "no file. Check the path." in refused(command, tmp_path / "absent.db")
    refused(command, tmp_path)
    assert list(tmp_path.iterdir()) == []


def foreign(path: Path) -> None:
    path.write_text("not a database, but a text")


def empty(path: Path) -> None:
    path.touch()


def of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE meta (name, value)")


def torn(path: Path) -> None:
    with SemanticCache(path, embedder=HashEmbedder()) as cache:
        cache.put("a question", "an answer")
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))


def of_another_version(path: Path) -> None:
    SemanticCache(path, embedder=HashEmbedder()).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 77")


def claimed_by_nobody(path: Path) -> None:
    SemanticCache(path, embedder=HashEmbedder()).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM meta")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (foreign, "is not a mneme cache"),
        (empty, "is not a mneme cache"),
        (of_another_program, "is not a mneme cache"),
        (torn, "is not a mneme cache"),
        (of_another_version, "has layout 77"),
        (claimed_by_nobody, "does not say which embedder filled it"),
    ],
)
def test_what_is_no_cache_is_refused_untouched(
    command: str, make: Any, why: str, tmp_path: Path
) -> None:
    """One line says why, and what the file holds is what it held."""
    path = tmp_path / "some.db"
    make(path)
    before = path.read_bytes()
    assert why in refused(command, path)
    assert path.read_bytes() == before


def test_a_store_that_fails_is_told_without_a_traceback(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens while reading is an error like any other."""

    def scan(self: object) -> Any:
        raise mneme.StoreBackendError("the disk is on fire. Leave the building.")

    monkeypatch.setattr(SQLiteStore, "scan", scan)
    assert refused("stats", file) == "mneme: the disk is on fire. Leave the building.\n"


def test_the_demo_says_where_it_is_when_it_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed package has no demo; somebody else's examples/demo.py is not run."""
    monkeypatch.setattr(mneme, "__file__", str(tmp_path / "site-packages/mneme/__init__.py"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples/demo.py").write_text("raise SystemExit('run by mistake')")
    assert "Clone the repository" in refused("demo")


# As its users run it


def command_line(*arguments: object, place: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "mneme", *map(str, arguments)],
        cwd=place,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_the_module_runs_as_a_command(file: Path, tmp_path: Path) -> None:
    """``python -m mneme`` answers on stdout, and fails with 1 and a line on stderr."""
    done = command_line("stats", file, "--json", place=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["entries"] == 33
    done = command_line("stats", tmp_path / "absent.db", place=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"mneme: {tmp_path / 'absent.db'} is no file. Check the path.\n"


def test_help_names_every_command(tmp_path: Path) -> None:
    """``--help`` is where a newcomer looks."""
    done = command_line("--help", place=tmp_path)
    assert done.returncode == 0
    assert all(f" {name} " in done.stdout for name in ("demo", *COMMANDS))


@pytest.mark.needs("trio")
def test_the_demo_runs_from_a_checkout() -> None:
    """It shows four worlds and ends with a sentence that anybody understands."""
    done = command_line("demo", "--model-seconds", "0.001", "--threshold", "0.7")
    assert done.returncode == 0, done.stderr
    assert "threshold 0.7." in done.stdout
    for world in ("threads", "asyncio", "trio", "HTTP"):
        assert f"\n {world}" in done.stdout
    assert "Of 2,400 questions mneme answered" in " ".join(done.stdout.split())


@pytest.mark.needs("trio")
def test_the_demo_in_json() -> None:
    """Only JSON goes to stdout."""
    done = command_line("demo", "--json", "--model-seconds", "0.001")
    assert [row["calls"] for row in json.loads(done.stdout)["worlds"]] == [600] * 4


def test_a_threshold_that_is_no_cosine_is_refused() -> None:
    """85 is not 0.85, and nothing is asked."""
    done = run("demo", "--threshold", "85")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--threshold" in done.stderr
