"""``python -m mneme`` in this process, which is many times faster than in one of its own."""

from __future__ import annotations

from click.testing import Result
from typer.testing import CliRunner

from mneme.cli.app import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(*arguments: object) -> str:
    """The one line of a command that fails."""
    done = run(*arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("mneme: ")
    assert done.stderr.count("\n") == 1
    return done.stderr
