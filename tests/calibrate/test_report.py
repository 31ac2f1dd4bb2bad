"""A report says what a calibration rests on, in words, as JSON and as a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from mneme.calibrate import (
    Calibration,
    Pair,
    Report,
    ScoredPairs,
    check_picture,
    choose_threshold,
    report_of,
    save_picture,
)


def scored(count: int = 1_000) -> ScoredPairs:
    """Surer with the cosine; the ten nearest wrong ones are refused by guards."""
    rng = np.random.default_rng(9)
    near = rng.uniform(0.3, 1.0, count)
    same = rng.random(count) < np.where(near > 0.7, 0.995, 0.3)
    refused = np.zeros(count, dtype=bool)
    order = np.argsort(-near)
    refused[[at for at in order if not same[at]][:10]] = True
    pairs = tuple(Pair(f"asked {at}", f"cached {at}", bool(same[at])) for at in range(count))
    return ScoredPairs(pairs, near, refused, "a:$model_1$", 8, guarded=True)


@pytest.fixture
def report() -> Report:
    found = scored()
    return report_of(found, choose_threshold(found, max_error=0.05))


def test_the_chosen_point_is_on_the_curve(report: Report) -> None:
    """The points fall in threshold, rise in hits, and one of them is the chosen one."""
    made = report.calibration
    [chosen] = [point for point in report.points if point.threshold == made.threshold]
    assert chosen.hit_rate == made.hit_rate
    assert chosen.precision == made.precision
    assert made.upper_bound is not None
    assert 0.95 <= 1.0 - made.upper_bound <= chosen.least_precision <= chosen.precision
    rates = [point.hit_rate for point in report.points]
    assert rates == sorted(rates)
    assert all(point.least_precision <= point.precision for point in report.points)


def test_every_pair_is_counted_once(report: Report) -> None:
    """The bins hold all pairs but those refused, and the nearest wrong ones are in order."""
    assert sum(report.right) + sum(report.wrong) + report.refused == 1_000
    assert (report.refused, len(report.edges)) == (10, len(report.right) + 1)
    cosines = [cosine for cosine, _, _ in report.nearest_wrong]
    assert cosines == sorted(cosines, reverse=True)
    found = scored()
    wrong = ~found.same & ~found.refused
    assert cosines[0] == found.similarities[wrong].max()


def test_the_report_in_words(report: Report) -> None:
    """The sentence first; then counts, a table with the chosen point, bars, and pairs to read."""
    text = str(report)
    assert text.startswith(f"{report.calibration}\n1,000 pairs, {report.same} the same")
    assert "guards refuse 10 of the pairs" in text
    assert text.count("<- chosen") == 1
    assert "###" in text
    assert "the nearest pairs that are not the same:\n  0." in text


def test_the_report_as_json(report: Report) -> None:
    """The calibration in it can be read back, and the rest is plain."""
    found = json.loads(report.to_json())
    assert Calibration.from_json(json.dumps(found["calibration"])) == report.calibration
    assert len(found["points"]) == len(report.points)
    assert found["right"] == list(report.right)


@pytest.mark.needs("matplotlib")
@pytest.mark.parametrize("options", [{"max_error": 0.001}, {"min_precision": 0.9}])
def test_any_calibration_is_reported(options: dict[str, float], tmp_path: Path) -> None:
    """Without a threshold, without a promise: the report and its picture can be made."""
    found = scored()
    report = report_of(found, choose_threshold(found, **options))
    assert str(report).startswith(("no threshold", "threshold 0."))
    assert ("<- chosen" in str(report)) is (report.calibration.threshold is not None)
    save_picture(report, tmp_path / "picture.svg")


@pytest.mark.needs("matplotlib")
def test_pairs_that_are_all_refused_are_reported(tmp_path: Path) -> None:
    """An empty curve is a report as well."""
    pairs = (Pair("a", "b", True), Pair("c", "d", False))
    found = ScoredPairs(pairs, np.array([0.9, 1.0]), np.array([True, True]), "a:model", 8)
    report = report_of(found, choose_threshold(found))
    assert str(report).startswith("no threshold")
    save_picture(report, tmp_path / "picture.png")


@pytest.mark.needs("matplotlib")
@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_the_picture_is_drawn(name: str, start: bytes, report: Report, tmp_path: Path) -> None:
    """A file of the kind that the name says, with the words of the picture in it."""
    save_picture(report, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    assert data.startswith(start)
    assert len(data) > 10_000


def test_another_kind_of_picture_is_refused(report: Report, tmp_path: Path) -> None:
    """The kinds that there are get named, and nothing is written."""
    with pytest.raises(ValueError, match=r"a picture is \.png, \.svg, \.pdf"):
        save_picture(report, tmp_path / "picture.txt")
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the command to run."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'mneme-toolkit\[plot\]'"):
        check_picture("picture.png")
