"""``python -m mneme``, also installed as ``mneme``: see, calibrate, look after, move a cache."""

from __future__ import annotations

import sys

__all__ = ["main"]

EXTRA = ("click", "rich", "typer")


def main() -> None:
    """Run the command that the arguments name; exits with 1 and one line where that fails."""
    try:
        from mneme.cli.app import app
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in EXTRA:
            raise
        sys.exit(f"mneme: the command line needs {package}. Run: pip install 'mneme-toolkit[cli]'")
    app(prog_name="mneme")
