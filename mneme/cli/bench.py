"""``bench``: what hits and puts cost on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from mneme.cache import SemanticCache
from mneme.cli.say import plain_errors, say_json, table_of, working
from mneme.testing import HashEmbedder

__all__ = ["bench"]

ANSWER = "An answer of some length, as models give them. " * 20
SYLLABLES = ["ba", "ke", "li", "mo", "nu", "pa", "re", "si", "to", "vu"]
THRESHOLD = 0.7
DIM = 384


def bench(
    entries: Annotated[int, typer.Option(min=10, max=1_000_000, help="Questions to put.")] = 1_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """
    Measure a put, an exact hit and a semantic hit on this machine.

    In a temporary SQLite file, with an embedder that hashes words; yours takes its own time.
    """
    with plain_errors(), working() as progress:
        found = measured(entries, progress)
    if as_json:
        say_json(found)
        return
    out = Console()
    table = table_of("one", right=("median µs", "p95 µs", "a second"))
    for name, row in found["steps"].items():
        micros = row["median_us"], row["p95_us"]
        table.add_row(name, *(f"{value:,.1f}" for value in micros), f"{1e6 / micros[0]:,.0f}")
    out.print(table)
    out.print(Text(
        f"{entries:,} entries of {DIM} numbers in a SQLite file; of a put and of a semantic hit, "
        f"'embed' is the embedder's. {found['served']:,} of {found['asked']:,} reworded "
        "questions were hits."
    ))  # fmt: skip


def measured(entries: int, progress: Progress) -> dict[str, Any]:
    embedder = HashEmbedder(DIM)
    questions = [question(number) for number in range(entries)]
    reworded = [f"please {text}" for text in questions[:: max(1, entries // 1_000)]]
    hits: list[object] = []
    with TemporaryDirectory(prefix="mneme-bench-") as folder:
        path = Path(folder, "bench.db")
        with SemanticCache(path, embedder=embedder, similarity_threshold=THRESHOLD) as cache:
            progress.add_task("measuring", total=None)
            steps = {
                "put": timed(lambda text: cache.put(text, ANSWER), questions),
                "exact hit": timed(cache.get, questions),
                "semantic hit": timed(lambda text: hits.append(cache.get(text)), reworded),
                "embed": timed(embedder.embed, reworded),
            }
    return {
        "entries": entries,
        "dim": DIM,
        "asked": len(hits),
        "served": sum(hit is not None for hit in hits),
        "steps": steps,
    }


def question(number: int) -> str:
    """A question of words that no other number shares."""
    word = "".join(SYLLABLES[int(digit)] for digit in str(number))
    return f"what does {word} mean, who calls it {word}o and why is it {word}a"


def timed(step: Callable[[str], object], texts: Iterable[str]) -> dict[str, float]:
    """Median and 95th percentile of `step`, in microseconds."""
    taken = []
    for text in texts:
        begun = perf_counter()
        step(text)
        taken.append(1e6 * (perf_counter() - begun))
    return {"median_us": median(taken), "p95_us": quantiles(taken, n=20)[-1]}
