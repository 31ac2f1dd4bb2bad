"""``python -m mneme calibrate``: from a file of pairs to a threshold, as its users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mneme
from mneme.calibrate import Calibration
from mneme.testing import HashEmbedder

pytestmark = pytest.mark.needs("rich", "typer")

HOME = Path(mneme.__file__).parents[1]

MODULE = """
from mneme.testing import HashEmbedder
from mneme import to_async_embedder

embedder = HashEmbedder()
sleepy = to_async_embedder(embedder)

class Broken(HashEmbedder):
    def embed(self, text): raise ConnectionError("the line is\\ndead")
    embed_batch = embed

def unfinished(): raise KeyError("API_KEY")
number = 5
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with pairs and with a module of embedders."""
    lines = [
        {"a": f"how do I pay bill {n} {'x' * n}", "b": f"how do I pay bill {n} {'x' * n} please"}
        | {"y": 1}
        for n in range(120)
    ]
    lines += [{"a": f"open account {n}", "b": f"close the window {n} z", "y": 0} for n in range(60)]
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "pairs.jsonl").write_text(text)
    (tmp_path / "models.py").write_text(MODULE)
    return tmp_path


def calibrate(place: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "mneme", "calibrate", *map(str, arguments)],
        cwd=place,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@pytest.mark.needs("wordllama")
def test_a_stranger_can_try_it(place: Path) -> None:
    """With the pairs alone, an embedder without a network finds a threshold and tells of it."""
    done = calibrate(place, "pairs.jsonl", "--max-error", "0.05")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("threshold 0.")
    assert "at most 5.0% wrong among hits, with 95% confidence" in done.stdout
    assert "180 pairs, 120 the same and 60 not; embedder wordllama:" in done.stdout


@pytest.mark.parametrize("name", ["embedder", "sleepy"])
def test_it_takes_your_embedder_and_writes_what_a_cache_reads(name: str, place: Path) -> None:
    """Sync or async: the calibration in the file is that of the JSON, and of this embedder."""
    done = calibrate(
        place, "pairs.jsonl", "--embedder", f"models:{name}", "--target-precision", "0.9",
        "--out", "made.json", "--json",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    made = Calibration.from_json((place / "made.json").read_text())
    assert json.loads(done.stdout)["calibration"] == json.loads(made.to_json())
    assert made.threshold_for(HashEmbedder().fingerprint, 256) == made.threshold
    assert (made.target, made.limit, made.guarded) == ("precision", 0.9, True)
    assert made.created_at is not None


@pytest.mark.needs("matplotlib")
def test_it_draws(place: Path) -> None:
    """`--picture` is drawn without a window."""
    done = calibrate(
        place, "pairs.jsonl", "--embedder", "models:embedder", "--max-error", "0.05",
        "--picture", "made.svg", "--no-guards",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "guards" not in done.stdout
    assert (place / "made.svg").read_bytes().startswith(b"<?xml")


def test_labels_that_show_nothing_have_an_exit_code_of_their_own(place: Path) -> None:
    """The report is printed all the same; a script sees from the code that there is none."""
    done = calibrate(
        place, "pairs.jsonl", "--embedder", "models:embedder", "--max-error", "0.01",
        "--out", "made.json",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("no threshold: 180 labels do not show at most 1.0% wrong")
    assert Calibration.from_json((place / "made.json").read_text()).threshold is None


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["absent.jsonl"], "No such file"),
        (["bad.csv"], "bad.csv:3: the label is 'maybe'"),
        (["one.csv"], "none of the 1 pairs is labelled as different"),
        (["pairs.jsonl", "--embedder", "models"], "is written module:attribute"),
        (["pairs.jsonl", "--embedder", "nowhere:embedder"], "importing nowhere failed: Module"),
        (["pairs.jsonl", "--embedder", "models:embeder"], "models has no embeder"),
        (["pairs.jsonl", "--embedder", "models:number"], "is int without dim, fingerprint, embed"),
        (["pairs.jsonl", "--embedder", "models:unfinished"], "calling models:unfinished() failed"),
        (
            ["pairs.jsonl", "--embedder", "models:Broken"],
            "the embedder failed: ConnectionError: the line is dead. Nothing was written.",
        ),
        (["pairs.jsonl", "--out", "nowhere/made.json"], "nowhere is no folder"),
        (["pairs.jsonl", "--picture", "made.bmp"], "a picture is .png, .svg, .pdf"),
    ],
)
def test_what_fails_is_one_line(arguments: list[str], why: str, place: Path) -> None:
    """No traceback, exit code 1, and no file written."""
    (place / "bad.csv").write_text("a,b,y\nx,z,1\nu,v,maybe\n")
    (place / "one.csv").write_text("a,b,y\nx,z,1\n")
    if "--embedder" not in arguments:
        arguments = [*arguments, "--embedder", "models:embedder"]
    before = sorted(path.name for path in place.iterdir())
    done = calibrate(place, *arguments)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.startswith("mneme: ")
    assert done.stderr.count("\n") == 1
    assert why in done.stderr
    assert sorted(path.name for path in place.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["pairs.jsonl", "--max-error", "0.02", "--target-precision", "0.9"],
        ["pairs.jsonl", "--max-error", "2"],
        ["pairs.jsonl", "--confidence", "95"],
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: list[str], place: Path) -> None:
    """As every command line does: usage on stderr, exit code 2."""
    done = calibrate(place, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: mneme calibrate" in done.stderr
