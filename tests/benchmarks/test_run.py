"""The benchmark runner runs, says of each bar whether it is met, and writes its pages."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
PAGES = ("performance.md", "scaling.md")


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """Modules of the runner, which find each other as those of a script do."""
    before, path = set(sys.modules), list(sys.path)
    sys.path.insert(0, str(HERE))
    names = ("contenders", "lines", "pages", "reading", "report", "run", "writing", "plan")
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if str(HERE) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def ran(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, str(HERE / "run.py"), *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.needs("matplotlib", "trio", "wordllama")
def test_each_row_is_measured_and_written(bench: SimpleNamespace, tmp_path: Path) -> None:
    """A quick run has figures for every row, and puts them into pages and plots."""
    docs, figures = tmp_path / "docs", tmp_path / "figures.json"
    docs.mkdir()
    for page in PAGES:
        shutil.copy(DOCS / page, docs)
    done = ran(
        *("--quick", "--docs", str(docs), "--json", str(figures), "--work", str(tmp_path)),
        *("--date", "2001-02-03"),
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads(figures.read_text())["lines"]
    failed = [(line["what"], line["note"]) for line in lines if line["what"].endswith(" failed")]
    assert failed == []
    assert {line["row"] for line in lines} == bench.plan.ROWS.keys() - {"http"}
    empty = {line["row"] for line in lines if line["figure"] is None}
    # No other cache is asked here; a million vectors take minutes.
    assert empty <= {"million", "gptcache", "memory"}
    page = (docs / "performance.md").read_text()
    assert "2001-02-03" in page
    assert all(line["what"] in page for line in lines)
    assert (docs / "performance" / "exact.png").exists() is False  # one size is no line
    assert json.loads((docs / "performance" / "figures.json").read_text())["lines"] == lines
    again = tmp_path / "again.json"
    pages = [(docs / page).read_text() for page in PAGES]
    done = ran("--from", str(figures), "--docs", str(docs), "--json", str(again))
    assert done.returncode == 0, done.stderr
    assert again.read_text() == figures.read_text()
    assert [(docs / page).read_text() for page in PAGES] == pages


def line(bench: SimpleNamespace, figure: float | None, side: str, **more: Any) -> Any:
    return bench.lines.Line("a get", figure, "µs", side, 5.0, **more)


def test_a_bar_is_met_from_its_side(bench: SimpleNamespace) -> None:
    """At the bar is met; past it is not; what was not measured is neither."""
    for side, met in (("≤", [True, True, False]), ("≥", [False, True, True])):
        assert [line(bench, figure, side).is_met for figure in (4.9, 5.0, 5.1)] == met
        assert line(bench, None, side).is_met is None
    assert bench.lines.Line("a get", 1.0, "µs").is_met is None


def test_goals_are_told_plainly(bench: SimpleNamespace) -> None:
    """What is missed, what was not measured and why, and where another is ahead is told."""
    told = bench.report.goals(
        [
            line(bench, 4.0, "≤", told={"ours": 4.0, "mneme-cache": 2.0, "faster": 0.5}),
            line(bench, 6.5, "≤", told={"ours": 6.5, "mneme-cache": 13.0, "faster": 2.0}),
            line(bench, None, "≤", note="no such"),
        ]
    )
    assert told.splitlines() == [
        "1 of 3 bars are met.",
        "",
        "- Missed: a get: 6.50 µs, the bar is ≤ 5.00.",
        "- Not measured: a get (no such).",
        "- Behind mneme-cache: a get takes 2.00 × its 2.00 µs.",
    ]


def test_figures_survive_being_kept(bench: SimpleNamespace) -> None:
    """A line is read back from JSON as it was."""
    made = line(bench, 4.0, "≤", told={"ours": 4.0}, at={"n": 3}, note="x", row="get")
    assert bench.lines.Line.from_dict(json.loads(json.dumps(made.as_dict()))) == made


def test_rows_measured_anew_replace_the_old_ones(bench: SimpleNamespace) -> None:
    """Other rows stay, all in the order of the table."""
    first, *_, last = bench.plan.ROWS
    old = {"lines": [{"row": last, "figure": 1}, {"row": first, "figure": 1}], "data": "a"}
    new = {"lines": [{"row": first, "figure": 2}], "data": "b"}
    assert bench.run.merged(old, new) == {
        "lines": [{"row": first, "figure": 2}, {"row": last, "figure": 1}],
        "data": "b",
    }


def test_only_what_stands_between_marks_is_written(bench: SimpleNamespace) -> None:
    """Prose stays as it is, and a page without the marks is refused with the remedy."""
    page = "before\n<!-- a -->\nold\n<!-- end of a -->\nafter\n"
    written = bench.report.replaced(page, {"a": "new"})
    assert written == "before\n<!-- a -->\n\nnew\n\n<!-- end of a -->\nafter\n"
    assert bench.report.replaced(written, {"a": "new"}) == written
    with pytest.raises(ValueError, match="Put both in"):
        bench.report.replaced("<!-- a -->\nold\n", {"a": "new"})


def test_every_mark_of_the_pages_is_filled(bench: SimpleNamespace) -> None:
    """No row of the table of goals is without a place on the page."""
    shown = {row for rows in bench.pages.SECTIONS.values() for row in rows}
    assert shown == bench.plan.ROWS.keys()


def test_ratios_are_taken_round_by_round(bench: SimpleNamespace) -> None:
    """A round in which everything was slow counts as much as any other."""
    found = bench.contenders.Found(
        {
            "mneme": [
                {"us": 1.0, "against": 4.0},
                {"us": 10.0, "against": 40.0},
                {"us": 1.0, "against": 3.0},
            ],
            "mneme-cache": [{"us": 8.0}, {"us": 80.0}],
        }
    )
    assert found.ratio() == 4.0
    assert found.faster("mneme-cache") == 8.0
    assert found.of("mneme") == 1.0
    assert found.of("mneme", "ms") is found.faster("gptcache") is None


def test_a_cache_that_cannot_be_measured_is_left_out(
    bench: SimpleNamespace, tmp_path: Path
) -> None:
    """Its reason is told, and the other goes on."""
    pythons = {"mneme": sys.executable, "mneme-cache": sys.executable}
    runner = bench.contenders.Bench(tmp_path, pythons, is_quick=True)
    # This interpreter has no distribution of the other's name.
    found = runner.run("ExactHit", rounds=1, store="memory", entries=10)
    assert "mneme" not in found.failed
    assert len(found.rounds["mneme"]) == 1
    assert found.rounds["mneme-cache"] == []
    assert "it ended with" in found.failed["mneme-cache"]
