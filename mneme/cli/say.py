"""How commands speak: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from mneme.errors import MnemeError

__all__ = ["fail", "megabytes", "plain_errors", "printable", "say_json", "shortened", "span",
           "table_of", "working"]  # fmt: skip

SPANS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def say_json(found: Any) -> None:
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))


def fail(why: object) -> NoReturn:
    """One line on stderr, and exit code 1."""
    typer.echo(f"mneme: {printable(str(why))}", err=True)
    raise typer.Exit(1)


@contextmanager
def plain_errors() -> Iterator[None]:
    """What mneme refuses in this block is told without a traceback."""
    try:
        yield
    except (MnemeError, OSError) as exc:
        fail(exc)


@contextmanager
def working() -> Iterator[Progress]:
    """A place for progress bars, which vanish with the end of the block."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}")
    console = Console(stderr=True)
    # Elsewhere than on a terminal, bars that vanish would leave empty lines.
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        yield progress


def table_of(*left: str, right: Iterable[str] = ()) -> Table:
    """An empty table that spends little width on itself; `right` columns hold numbers."""
    table = Table(*left, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def printable(text: str, *, keep: str = "") -> str:
    """`text` without what could steer a terminal: prompts come from anybody."""
    return "".join(char if char.isprintable() or char in keep else " " for char in text)


def shortened(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def span(seconds: float) -> str:
    """``90`` is ``1.5 min``."""
    for unit, size in SPANS:
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return "0 s" if seconds <= 0 else f"{seconds:.1f} s"


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f} MB"
