"""``calibrate``: from a file of labelled pairs to a threshold."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from mneme.calibrate import (
    Calibration,
    Pair,
    Report,
    ScoredPairs,
    check_picture,
    choose_threshold,
    load_pairs,
    report_of,
    save_picture,
    score_pairs,
)
from mneme.cli.embedders import OfflineEmbedder, embedder_named
from mneme.cli.say import fail, plain_errors, printable, working
from mneme.errors import MnemeError
from mneme.guards import DEFAULT_GUARDS
from mneme.types import AnyEmbedder

__all__ = ["NO_THRESHOLD", "calibrate"]

NO_THRESHOLD = 3
"""Exit code where the pairs show no threshold that keeps the target."""


def calibrate(
    pairs: Annotated[Path, typer.Argument(help="JSON Lines or CSV with a, b and y; .gz or not.")],
    embedder: Annotated[
        str | None,
        typer.Option(metavar="MODULE:ATTRIBUTE", help="Yours; else wordllama, without a network."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(min=0.0001, max=0.9999, help="Promise at most this share wrong; 0.02."),
    ] = None,
    target_precision: Annotated[
        float | None,
        typer.Option(min=0.0001, max=0.9999, help="Instead: this precision, as counted."),
    ] = None,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="How sure the promise is.")
    ] = 0.95,
    guards: Annotated[
        bool, typer.Option(help="Count what the default guards refuse as no hit.")
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="Write the calibration here, for a cache to take.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw it: .png, .svg or .pdf (extra: plot).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Find a similarity threshold in labelled pairs of questions, and what it promises."""
    if max_error is not None and target_precision is not None:
        raise typer.BadParameter("give --max-error or --target-precision, not both.")
    with plain_errors():
        try:
            check_places(out, picture)
            scored = scores_of(load_pairs(pairs), embedder, guards=guards)
            found = choose_threshold(
                scored,
                max_error=max_error,
                min_precision=target_precision,
                confidence=confidence,
                created_at=time.time(),
            )
            report = report_of(scored, found)
            write(report, out, picture)
        except (ValueError, ImportError) as exc:
            fail(exc)
    typer.echo(report.to_json() if as_json else printable(str(report), keep="\n"))
    if found.threshold is None:
        raise typer.Exit(NO_THRESHOLD)


def scores_of(pairs: list[Pair], spec: str | None, *, guards: bool) -> ScoredPairs:
    used: AnyEmbedder = OfflineEmbedder() if spec is None else embedder_named(spec)
    with working() as progress:
        task = progress.add_task("embedding", total=None)
        try:
            return score_pairs(
                pairs,
                used,
                guards=DEFAULT_GUARDS if guards else (),
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
        except (MnemeError, KeyboardInterrupt):
            raise
        except Exception as exc:  # the embedder is the user's, and may fail in any way
            fail(f"the embedder failed: {type(exc).__name__}: {exc}. Nothing was written.")


def check_places(out: Path | None, picture: Path | None) -> None:
    """Embedding may take long: what cannot be written is told before."""
    for path in filter(None, (out, picture)):
        if not path.parent.is_dir():
            raise ValueError(f"{path.parent} is no folder, so {path} cannot be written there.")
    if picture is not None:
        check_picture(picture)


def write(report: Report, out: Path | None, picture: Path | None) -> None:
    if picture is not None:
        save_picture(report, picture)
    if out is not None:
        made: Calibration = report.calibration
        out.write_text(made.to_json() + "\n", encoding="utf-8")
