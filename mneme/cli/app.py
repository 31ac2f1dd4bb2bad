"""The commands: each reads, says what it found in words or as JSON, and changes no answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter, deque
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

import mneme
from mneme import stores
from mneme._core.freshness import freshness
from mneme.cache import SemanticCache
from mneme.cli.bench import bench
from mneme.cli.calibration import calibrate
from mneme.cli.files import bytes_on_disk, open_store, owner_of
from mneme.cli.moving import export, import_, migrate
from mneme.cli.say import (
    fail,
    megabytes,
    plain_errors,
    printable,
    say_json,
    shortened,
    span,
    table_of,
    working,
)
from mneme.records import Entry

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    help="See the demo of mneme, find a threshold, look into a cache, and move it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(calibrate)
app.command()(migrate)
app.command()(export)
app.command("import")(import_)
app.command()(bench)

File = Annotated[Path, typer.Argument(help="The SQLite file of a cache.")]
AsJSON = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

HEADINGS = {
    "entries": "entries",
    "expired": "expired",
    "hits_exact": "exact\nhits",
    "hits_semantic": "semantic\nhits",
    "misses": "misses",
    "evictions": "evicted",
    "failed_open": "failed\nopen",
}

COUNTERS = ("hits_exact", "hits_semantic", "misses", "evictions", "expirations", "failed_open")

NO_DEMO = (
    "the demo is not here: it is a part of the repository, not of the installed package. "
    "Clone the repository, and in its folder run: "
    "pip install -e '.[demo]' && python -m mneme demo"
)


@app.command()
def demo(
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least cosine of a hit.")
    ] = None,
    model_seconds: Annotated[
        float | None, typer.Option(min=0, help="How long a call takes.")
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Ask 600 questions in four worlds, and see what the cache saves and where it errs."""
    script = demo_script()
    if script is None:
        fail(NO_DEMO)
    command = [sys.executable, str(script)]
    if threshold is not None:
        command += ["--threshold", str(threshold)]
    if model_seconds is not None:
        command += ["--model-seconds", str(model_seconds)]
    # The script imports what lies beside it, and the mneme that runs here.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    paths = [str(Path(mneme.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    ran = subprocess.run([*command, *(["--json"] if as_json else [])], env=environ, check=False)
    raise typer.Exit(ran.returncode)


def demo_script() -> Path | None:
    """The demo of the checkout that mneme runs from, or that is the working directory."""
    for root in (Path(mneme.__file__).parents[1], Path.cwd()):
        examples = root / "examples"
        # Any project may have an examples/demo.py; ours has its data beside it.
        if (examples / "data" / "questions.jsonl").is_file() and (examples / "demo.py").is_file():
            return examples / "demo.py"
    return None


@app.command()
def stats(file: File, as_json: AsJSON = False) -> None:
    """Entries, hits and misses of each namespace."""
    with plain_errors(), working() as progress:
        found = figures_of(file, progress)
    if as_json:
        say_json(found)
        return
    out = Console()
    out.print(Text(f"{file}: {megabytes(found['bytes'])}, layout {found['layout']}"))
    fingerprint = printable(found["embedder_fingerprint"])
    out.print(Text(f"filled by {fingerprint}, {found['dim']} numbers a vector"))
    if found["bad_rows"]:
        out.print(f"{found['bad_rows']:,} rows cannot be read and count as absent")
    table = table_of("namespace", right=HEADINGS.values())
    for row in found["namespaces"]:
        table.add_row(Text(printable(row["namespace"])), *(f"{row[name]:,}" for name in HEADINGS))
    out.print(table)


def figures_of(file: Path, progress: Progress) -> dict[str, Any]:
    owner, now = owner_of(file), time.time()
    sizes: Counter[str] = Counter()
    expired: Counter[str] = Counter()
    oldest = now
    with closing(open_store(file, owner)) as store:
        for entry in progress.track(store.scan(), description="reading"):
            sizes[entry.namespace] += 1
            expired[entry.namespace] += has_died(entry, now)
            oldest = min(oldest, entry.created_at)
        counts = store.counts()
        layout, bad_rows = store.schema_version, store.bad_rows
    namespaces = sorted({*sizes, *(namespace for namespace, _ in counts)})
    return {
        "file": str(file),
        "bytes": bytes_on_disk(file),
        "layout": layout,
        "embedder_fingerprint": owner.fingerprint,
        "dim": owner.dim,
        "entries": sizes.total(),
        "bad_rows": bad_rows,
        "oldest_entry_age_seconds": now - oldest if sizes else None,
        "namespaces": [
            {
                "namespace": name,
                "entries": sizes[name],
                "expired": expired[name],
                **{counter: counts.get((name, counter), 0) for counter in COUNTERS},
            }
            for name in namespaces
        ],
    }


def has_died(entry: Entry, now: float) -> bool:
    """Whether `entry` will never be served again."""
    return freshness(now, entry.expires_at, entry.dies_at) == "expired"


@app.command()
def inspect(
    file: File,
    namespace: Annotated[str | None, typer.Option(help="Only entries of this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the latest first.")] = 20,
    as_json: AsJSON = False,
) -> None:
    """The entries: what was asked, how old the answer is, when it expires, its tags."""
    with plain_errors(), working() as progress:
        now = time.time()
        with closing(open_store(file, owner_of(file))) as store:
            entries = progress.track(store.scan(), description="reading")
            wanted = (one for one in entries if namespace in (None, one.namespace))
            latest = [line_of(one, now) for one in reversed(deque(wanted, maxlen=limit))]
    if as_json:
        say_json(latest)
        return
    if not latest:
        typer.echo("no entries")
        return
    table = table_of("namespace", "prompt", right=("age", "expires in"))
    table.add_column("tags")
    for line in latest:
        left = line["expires_in_seconds"]
        table.add_row(
            Text(printable(line["namespace"])),
            Text(shortened(printable(line["prompt"]))),
            span(line["age_seconds"]),
            "never" if left is None else "expired" if left <= 0 else span(left),
            Text(printable(", ".join(line["tags"]))),
        )
    Console().print(table)


def line_of(entry: Entry, now: float) -> dict[str, Any]:
    """What is told of an entry. Its answer is not: that may be long, and nobody's to read."""
    return {
        "namespace": entry.namespace,
        "prompt": entry.prompt,
        "age_seconds": max(0.0, now - entry.created_at),
        "expires_in_seconds": None if entry.expires_at is None else entry.expires_at - now,
        "tags": entry.tags,
        "exact_only": entry.vector is None,
        "metadata": json.loads(entry.metadata),
    }


@app.command()
def salvage(
    damaged: Annotated[Path, typer.Argument(help="The file that is damaged; it is only read.")],
    rescued: Annotated[Path, typer.Argument(help="The new file.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="Of the embedder, where the file no longer says it.")
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Save what can be read of a damaged file in a new one, and say what is lost."""
    with plain_errors(), working() as progress:
        progress.add_task("reading", total=None)
        found = stores.salvage(damaged, rescued, fingerprint=fingerprint)
    if as_json:
        say_json(asdict(found))
        return
    typer.echo(
        f"{rescued}: saved {found.entries:,} entries, {found.labels:,} labels, "
        f"{found.counters:,} counters and {found.states:,} learned states"
    )
    typer.echo(f"{damaged}: {found.lost:,} entries are known to be lost; it was left as it is")
    for note in found.notes:
        typer.echo(note)


@app.command()
def vacuum(file: File, as_json: AsJSON = False) -> None:
    """Remove what has expired, and give its space back to the disk."""
    with plain_errors(), working() as progress:
        owner, now, before = owner_of(file), time.time(), bytes_on_disk(file)
        with closing(open_store(file, owner)) as store:
            entries = progress.track(store.scan(), description="reading")
            are_dead = [has_died(entry, now) for entry in entries]
        progress.add_task("removing", total=None)
        # By a cache, which spares what another process has put again meanwhile. What it finds
        # dead when it opens is out of the file when it is closed; only then is there space.
        with SemanticCache(file, embedder=owner, self_check=False) as cache:
            cache.vacuum(compact=False)
        progress.add_task("compacting", total=None)
        with closing(open_store(file, owner)) as store:
            store.compact()
    found = {
        "file": str(file),
        "removed": sum(are_dead),
        "entries": len(are_dead) - sum(are_dead),
        "bytes_before": before,
        "bytes_after": bytes_on_disk(file),
    }
    if as_json:
        say_json(found)
        return
    typer.echo(
        f"{file}: removed {found['removed']:,} expired entries, {found['entries']:,} are left; "
        f"{megabytes(before)} before, {megabytes(bytes_on_disk(file))} now"
    )
