"""How things are timed here, and how a cache comes to rest before it is."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from corpus import Corpus

__all__ = [
    "WARM_UP",
    "at_rest",
    "copied",
    "filled",
    "filled_file",
    "percentile",
    "removed",
    "run_on",
    "us_a_call",
    "warm",
]

WARM_UP = 200
"""Searches before those that are measured: by then an index knows what is asked of it."""

DAY = 86_400

PAUSE = 0.1
"""Seconds without work that are taken for rest."""


def us_a_call(function: Callable[[Any], object], arguments: Sequence[Any]) -> float:
    """Microseconds of each of these calls, on average, by the clock on the wall."""
    start = time.perf_counter_ns()
    for argument in arguments:
        function(argument)
    return (time.perf_counter_ns() - start) / len(arguments) / 1_000


def at_rest(most: float = 20.0) -> None:
    """Return when no thread of this process is at work, or after `most` seconds."""
    give_up = time.perf_counter() + most
    while time.perf_counter() < give_up:
        before = time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - before < PAUSE / 5:
            return


def warm(get: Callable[..., object], questions: Any, count: int = WARM_UP) -> None:
    """Ask `count` questions, with time for what a cache does in the background meanwhile."""
    for _ in range(4):
        for text, vector in islice(questions, count // 4):
            get(text, embedding=vector)
        at_rest()


def percentile(times: Sequence[float], share: float) -> float:
    """The time under which `share` of all `times` are (nearest rank)."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def filled(kit: Any, corpus: Corpus, count: int, path: Path | None, **settings: Any) -> Any:
    """A cache with `count` entries."""
    cache = kit.cache(corpus.dim, path, **settings)
    kit.fill(cache, *corpus.entries(count))
    return cache


def filled_file(kit: Any, folder: Path, data: str, count: int) -> Path:
    """
    A closed file with `count` entries, every second of which lives for a day; made once.

    It is not to be changed: copy it.
    """
    path = folder / f"{kit.package}-{data}-{count}.db".replace(" ", "-")
    if path.exists():
        return path
    unfinished = path.with_suffix(".unfinished")
    corpus = Corpus.read(folder, data)
    cache = kit.cache(corpus.dim, unfinished)
    texts, vectors = corpus.entries(count)
    kit.fill(cache, texts[::2], vectors[::2])
    kit.fill(cache, texts[1::2], vectors[1::2], ttl=DAY)
    cache.close()
    moved(unfinished, path)
    return path


def beside(path: Path) -> list[Path]:
    """The file and those that belong to it."""
    return [path, *path.parent.glob(f"{path.name}-*"), *path.parent.glob(f"{path.name}.*")]


def moved(path: Path, to: Path) -> None:
    for file in beside(path):
        file.rename(file.with_name(to.name + file.name[len(path.name) :]))


def copied(path: Path, to: Path) -> Path:
    """`to`, which is a copy of the file and those that belong to it."""
    removed(to)
    for file in beside(path):
        shutil.copyfile(file, to.with_name(to.name + file.name[len(path.name) :]))
    return to


def removed(path: Path) -> None:
    for file in beside(path):
        file.unlink(missing_ok=True)


def run_on(backend: str, main: Callable[[], Awaitable[Any]]) -> Any:
    """What `main` returns, run to its end on asyncio or trio."""
    if backend == "asyncio":
        return asyncio.run(main())  # type: ignore[arg-type]
    return importlib.import_module("trio").run(main)
