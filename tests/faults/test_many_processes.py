"""The short form of `many_processes.py`; run that for longer to find what is rare."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.worlds import PATIENCE

SCRIPT = Path(__file__).with_name("many_processes.py")


def report(*options: str) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        capture_output=True,
        text=True,
        timeout=6 * PATIENCE,
        check=False,
    )
    assert run.stdout, run.stderr
    told: dict[str, Any] = json.loads(run.stdout)
    if told["wrong"]:
        told["wrong"].append(run.stderr)
    return told


@pytest.mark.parametrize(
    "options",
    [
        ["--settings", '{"durability": "commit"}'],
        # What a group has yet to commit, and what a reader does not look for each time.
        ["--settings", '{"durability": "group"}', "--interval", "2", "--seconds", "4"],
    ],
    ids=["at once", "within the interval"],
)
def test_readers_see_what_writers_did(options: list[str]) -> None:
    """No entry is lost, none appears, and nothing stale is read past the interval."""
    told = report("--seconds", "2", "--writers", "2", "--readers", "2", *options)
    assert told["wrong"] == []
    assert told["writes"] > 0
    assert told["hits"] > 0
