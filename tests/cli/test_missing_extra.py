"""The command line without the packages of its extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_the_missing_extra_is_named(package: str, tmp_path: Path) -> None:
    """One line on stderr says what to install; there is no traceback."""
    script = f"import sys; sys.modules[{package!r}] = None; import mneme.cli; mneme.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mneme: the command line needs ")
    assert done.stderr.endswith("Run: pip install 'mneme-toolkit[cli]'\n")
    assert done.stderr.count("\n") == 1
