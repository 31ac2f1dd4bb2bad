"""The examples run as their reader runs them, and the demo's figures add up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

# Example -> packages it needs beside mneme, and what its lines begin with, in order.
SAYS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "quickstart": (
        ("wordllama",),
        [
            "exact    1.00  HOW DO I RESET MY PASSWORD",
            "semantic 0.88  I forgot my password",
            "miss     0.16  Which currencies do you take?",
            "'I forgot my password, how do I reset it?' in namespace 'default': hit (semantic)",
            "Opened again: 3 entries, 2 hits, 1 miss",
        ],
    ),
    "async_quickstart": (
        (),
        ["100 lookups at once over 20 entries:", "   60 exact", "   40 semantic"],
    ),
    "move_a_cache": (
        (),
        [
            "The provider failed. Left out: 1",
            "Run again: 1 entry was left to do",
            "And again: 0",
            "4 entries in an archive",
            "semantic hit, 0.94: Settings, then Security, then Reset.",
        ],
    ),
    "own_store": (
        (),
        ["Another machine finds: Goethe", "The engine holds: Who wrote Faust?"],
    ),
    "trio_quickstart": (
        ("trio",),
        [
            "50 tasks asked the same at once: 1 model call",
            "asked in other words: semantic hit, similarity 0.86",
            "  An answer to: What is the capital of France?",
            "CacheInfo(hits=50, misses=1, ",
        ],
    ),
    "many_workers": (
        (),
        ["Fleet(workers=8", "       0 s  hits", "       1 s  hits", "     300 s  hits"],
    ),
    "decorated": (
        ("wordllama",),
        [
            "2 model calls  def",
            "1 model call   async def",
            "2 model calls  method",
            "1 model call   generator",
            "2 model calls  namespaces",
            "2 model calls  chat",
            "'Please tell me how I reset my password' in namespace 'default': hit (semantic)",
        ],
    ),
}

DEMO_NEEDS = ("httpx", "rich", "starlette", "trio", "uvicorn", "wordllama")


def ran(name: str, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # An example imports what lies beside it, which this variable of tox would forbid.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=place,
        env=environ,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.needs(*SAYS[name][0])) for name in SAYS]
)
def test_an_example_runs_and_says_what_it_shows(name: str, tmp_path: Path) -> None:
    """Each example ends well, without a warning, and leaves no file behind."""
    done = ran(name, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = iter(done.stdout.splitlines())
    for beginning in SAYS[name][1]:
        assert any(line.startswith(beginning) for line in lines), f"{beginning}: {done.stdout}"
    assert list(tmp_path.iterdir()) == []


def test_every_example_is_run() -> None:
    """No example is forgotten here, or in the tests that are named for it."""
    found = {path.stem for path in EXAMPLES.glob("*.py")}
    own = {"demo", *(name for name in found if name.endswith("_app"))}
    assert found - own == SAYS.keys()


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = ran("demo", tmp_path_factory.mktemp("demo"), "--json", "--model-seconds", "0.005")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.needs(*DEMO_NEEDS)
def test_the_demos_figures_add_up(figures: dict[str, Any]) -> None:
    """Every call is a hit or a miss, and each miss is a call of the model."""
    assert [row["world"] for row in figures["worlds"]] == ["threads", "asyncio", "trio", "HTTP"]
    for row in figures["worlds"]:
        assert row["calls"] == 600
        assert row["exact_hits"] + row["semantic_hits"] + row["misses"] == 600
        assert row["model_calls"] == row["misses"]
        assert row["model_calls_saved"] == 600 - row["model_calls"]
    assert sum(row["asked"] for row in figures["kinds"]) == 2_400


@pytest.mark.needs(*DEMO_NEEDS)
def test_the_demo_saves_calls_and_owns_up_to_its_mistakes(figures: dict[str, Any]) -> None:
    """A third of the calls is saved in each world, and at most one answer in 50 is wrong."""
    kinds = {row["kind"]: row for row in figures["kinds"]}
    for row in figures["worlds"]:
        assert row["model_calls_saved"] > 200
        assert row["semantic_hits"] > 30
        assert row["wrong_answers"] <= 12
    # Nobody has asked for this before: what came from the cache was another's answer, or that
    # of a later rewording which one of the eight callers had asked a moment too early.
    assert 0 <= kinds["new"]["from_the_cache"] - kinds["new"]["wrong_answers"] <= 4 * 8
    assert kinds["repeated"]["from_the_cache"] > 0.9 * kinds["repeated"]["asked"]
    wrong = sum(row["wrong_answers"] for row in figures["worlds"])
    assert bool(figures["mistakes"]) is (wrong > 0)
    for mistake in figures["mistakes"]:
        assert label_of(mistake["asked"]) != label_of(mistake["answered"])


def sample() -> list[dict[str, str]]:
    lines = (EXAMPLES / "data" / "questions.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def plain(text: str) -> str:
    return " ".join(text.casefold().split())


def label_of(text: str) -> str:
    [label] = [row["c"] for row in sample() if plain(row["q"]) == plain(text)]
    return label


def test_the_sample_is_what_its_page_says() -> None:
    """Each question once, with as many labels of each source as data/README.md tells."""
    rows = sample()
    assert len({row["q"] for row in rows}) == len(rows) == 348
    sizes = Counter(row["c"] for row in rows)
    shapes = Counter((label.partition("-")[0], size) for label, size in sizes.items())
    assert shapes == {("banking", 12): 19, ("clinc", 8): 10, ("clinc", 1): 40}
    page = (EXAMPLES / "data" / "README.md").read_text("utf-8")
    assert "348 questions" in page
    assert "CC BY 4.0" in page
    assert "CC BY 3.0" in page
