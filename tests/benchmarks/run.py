"""
The figures of the docs: ratios within one process, medians of many short runs.

    python tests/benchmarks/run.py [--json FILE]

``tox -e bench`` runs it. Absolute times wander with the machine; compare ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path

# Set before numpy is imported: more threads make small products slower and noisier.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import decorator
import middleware
from decorator import Row


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
    }


def show(rows: list[Row]) -> None:
    """The figures as a table, drawn by rich where it is installed."""
    heads = ("an exact hit of", "µs", "against", "µs", "added µs", "ratio")
    cells = [
        (
            row.what,
            f"{row.us:.2f}",
            row.against,
            f"{row.against_us:.3f}",
            f"{row.added_us:.2f}",
            f"{row.ratio:.1f}",
        )
        for row in rows
    ]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for line in (heads, *cells):
            print("  ".join(cell.ljust(32 if at == 0 else 14) for at, cell in enumerate(line)))
        return
    table = Table()
    for at, head in enumerate(heads):
        table.add_column(head, justify="left" if at in (0, 2) else "right")
    for line in cells:
        table.add_row(*line)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures there; - is stdout")
    chosen = parser.parse_args()
    rows, http = decorator.measure(), middleware.run()
    if chosen.json is None:
        show(rows)
        print(middleware.table(http))
        return
    figures = {
        "machine": machine(),
        "rows": [row.as_dict() for row in rows],
        "http": [asdict(row) for row in http],
    }
    text = json.dumps(figures, indent=2)
    if chosen.json == "-":
        sys.stdout.write(text + "\n")
    else:
        Path(chosen.json).write_text(text + "\n", encoding="utf-8")
        show(rows)
        print(middleware.table(http))


if __name__ == "__main__":
    main()
