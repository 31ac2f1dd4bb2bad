"""
The figures of the docs: each goal beside what was measured, ours and others' in turn.

    python tests/benchmarks/run.py [--only ROW ...] [--quick | --full] [--json FILE]
    python tests/benchmarks/run.py --from FILE

``tox -e bench`` runs it. Without `--only` and `--quick` it writes docs/performance.md and
docs/scaling.md anew, between their marks, with the plots, and keeps the figures beside them.
Absolute times wander with the machine; compare ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

# Set before numpy is imported: more threads make small products slower and noisier.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pages
import reading
import report
import vectors
import writing
from contenders import GPTCACHE, OURS, PEER, Bench, Failed, environment
from lines import Line
from plan import ROWS, Plan

DOCS = Path(__file__).parents[2] / "docs"
KEPT = Path("performance") / "figures.json"

assert reading.__all__
assert writing.__all__


def machine(versions: dict[str, str], date: str | None) -> dict[str, Any]:
    """What the figures were measured on, and with."""
    return {
        "date": date,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "SQLite": sqlite3.sqlite_version,
        **versions,
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")


def interpreters(chosen: argparse.Namespace) -> dict[str, Path | str]:
    """Of each cache that can be measured here."""
    found: dict[str, Path | str] = {OURS: sys.executable}
    given = dict(each.split("=", 1) for each in chosen.python)
    for name in () if chosen.quick and not given else (PEER, GPTCACHE):
        try:
            found[name] = given.get(name) or environment(name, chosen.environments)
        except Failed as exc:
            print(exc, file=sys.stderr)
    return found


def sized(bench: Bench, chosen: argparse.Namespace) -> Plan:
    if chosen.quick:
        sizes: dict[str, Any] = {"entries": 1_200, "large": 500, "rounds": 1, "is_quick": True}
    else:
        sizes = {"largest": 1_000_000 if chosen.full else None}
        if chosen.full:
            sizes["rounds"] = 25
    plan = Plan(bench, "", **sizes)
    data, others = vectors.prepare(bench.folder, max(plan.entries, plan.large), chosen)
    return replace(plan, data=data, others=others)


def measured(plan: Plan, names: list[str]) -> Iterator[Line]:
    """The lines of these rows; of a row that fails, a line that says so."""
    for name in names:
        start = time.perf_counter()
        try:
            for made in ROWS[name](plan):
                print(" | ".join(report.cells(made)), file=sys.stderr)
                yield replace(made, row=name)
        except Exception as exc:
            yield Line(f"{name} failed", None, "", note=f"{type(exc).__name__}: {exc}", row=name)
            print(f"{name} failed: {exc!r}", file=sys.stderr)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)


def measure(chosen: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    if chosen.work is not None:
        chosen.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=chosen.work, prefix="mneme-bench-") as folder:
        bench = Bench(Path(folder), interpreters(chosen), is_quick=chosen.quick)
        plan = sized(bench, chosen)
        lines = [made.as_dict() for made in measured(plan, names)]
    return {"machine": machine(bench.versions, chosen.date), "data": plan.data, "lines": lines}


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the rows that were measured anew, in the order of the table."""
    anew = {made["row"] for made in new["lines"]}
    lines = [made for made in old["lines"] if made["row"] not in anew] + new["lines"]
    order = {name: at for at, name in enumerate(ROWS)}
    lines.sort(key=lambda made: order.get(made["row"], len(order)))
    return {**old, **new, "lines": lines}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", metavar="ROW", choices=list(ROWS), default=[], help=", ".join(ROWS))
    add("--quick", action="store_true", help="small sizes, ours alone: does it run at all?")
    add("--full", action="store_true", help="a million vectors too, and more rounds")
    add("--from", dest="source", type=Path, metavar="FILE", help="take figures from there; "
        "with --only, measure these rows anew")  # fmt: skip
    add("--json", metavar="FILE", help="write the figures there; - is stdout")
    add("--docs", type=Path, metavar="FOLDER", help="write pages and plots there")
    add("--questions", type=Path, metavar="FOLDER", help="*.jsonl.gz with texts q, a, b")
    add("--vectors", type=Path, metavar="FILE", help="unit rows of a real embedder, .npy or .npz")
    add("--engines", type=Path, metavar="FILE", help="figures of search engines, for scaling.md")
    add("--python", nargs="*", default=[], metavar="NAME=PATH", help="another's interpreter")
    add("--environments", type=Path, metavar="FOLDER", help="where those of others are kept")
    add("--work", type=Path, metavar="FOLDER", help="for files that are measured")
    add("--date", help="is written beside the figures")
    return parser.parse_args()


def main() -> int:
    chosen = arguments()
    is_whole = not chosen.quick and (chosen.source is not None or not chosen.only)
    docs = chosen.docs or (DOCS if is_whole else None)
    if docs is not None:
        pages.check(docs)
    figures: dict[str, Any] = {"lines": []}
    if chosen.source is not None:
        figures = json.loads(chosen.source.read_text(encoding="utf-8"))
    if chosen.source is None or chosen.only:
        figures = merged(figures, measure(chosen, chosen.only or list(ROWS)))
    if chosen.engines is not None:
        figures["engines"] = json.loads(chosen.engines.read_text(encoding="utf-8"))
    lines = [Line.from_dict(raw) for raw in figures["lines"]]
    text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    if chosen.json == "-":
        sys.stdout.write(text)
    else:
        print(f"{report.table(lines)}\n\n{report.goals(lines)}")
        if chosen.json:
            Path(chosen.json).write_text(text, encoding="utf-8")
    if docs is not None:
        pages.write(docs, figures, lines)
        (docs / KEPT).write_text(text, encoding="utf-8")
    return any(made.what.endswith(" failed") for made in lines)


if __name__ == "__main__":
    sys.exit(main())
