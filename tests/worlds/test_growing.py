"""A partition that is searched too slowly by comparing gets a graph, where there is one."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest
import usearch.index  # noqa: F401 - what these tests are about

from mneme import MemoryStore, SemanticCache
from mneme._core.core import core_of
from mneme._core.live import Live
from mneme.indexes import _making
from mneme.indexes.exact import SKETCH_FROM
from mneme.testing import HashEmbedder

DIM = 8


@pytest.fixture(autouse=True)
def every_search_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_making, "OUTGROWN_SECONDS", 0.0)


def rows(count: int) -> Any:
    drawn = np.random.default_rng(0).standard_normal((count, DIM))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def filled(**settings: Any) -> SemanticCache:
    cache = SemanticCache(
        store=MemoryStore(), embedder=HashEmbedder(DIM), self_check=False, guards=(), **settings
    )
    count = SKETCH_FROM + 10
    cache.put_many([(f"q {at}", str(at)) for at in range(count)], embeddings=list(rows(count)))
    # Before a sketch was looked for, nobody knows how fast searches can be.
    searched(cache)
    index_in(cache).fit()
    return cache


def searched(cache: SemanticCache) -> list[str]:
    """The answers to rewordings of the first entries."""
    return [cache.get(f"new {at}", embedding=rows(30)[at]).response for at in range(30)]


def index_in(cache: SemanticCache) -> Any:
    core = core_of(cache)
    return core.live._indexes[core.ask("x", "default").partition]


def index_of(cache: SemanticCache) -> str:
    return type(index_in(cache)).__name__


ENDS_FIRST = """
from mneme import MemoryStore
from mneme._core.growing import Growing

class Slow:
    def rebuild(self, *args, is_wanted, **options):
        while is_wanted():
            pass
        print("given up")

Growing().see_to(b"partition", Slow(), MemoryStore())
"""


def test_a_process_that_ends_gives_it_up() -> None:
    """It waits until nobody is at work on a graph: cut off at that, it would be aborted."""
    ended = subprocess.run([sys.executable, "-c", ENDS_FIRST], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout.split()) == (0, [b"given", b"up"])


def test_it_gets_a_graph_and_answers_go_on() -> None:
    """By the time that searches took, in the background, and what is put meanwhile is found."""
    with filled() as cache:
        right = [str(at) for at in range(30)]
        assert searched(cache) == right
        thread = core_of(cache).growing._thread
        cache.put("meanwhile", "found", embedding=-rows(1)[0])
        if thread is not None:
            thread.join()
        assert index_of(cache) == "HnswIndex"
        assert searched(cache) == right
        assert cache.get("reworded", embedding=-rows(1)[0]).response == "found"


def test_closing_gives_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that is closed does not wait for a graph that nobody will use."""
    reached, goes_on = threading.Event(), threading.Event()
    asked: list[bool] = []
    rebuild = Live.rebuild

    def slowly(live: Live, *args: Any, is_wanted: Any, **options: Any) -> None:
        def wanted() -> bool:
            reached.set()
            goes_on.wait()
            asked.append(is_wanted())
            return asked[-1]

        rebuild(live, *args, is_wanted=wanted, **options)

    monkeypatch.setattr(Live, "rebuild", slowly)
    cache = filled()
    searched(cache)
    reached.wait()
    closing = threading.Thread(target=cache.close)
    closing.start()
    while not core_of(cache).growing._is_closed:
        pass
    goes_on.set()
    closing.join()
    assert asked == [False]


@pytest.mark.parametrize("backend", ["numpy", "auto"])
def test_who_asked_for_numpy_keeps_it(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So does who has no usearch."""
    if backend == "auto":
        monkeypatch.setattr(_making, "has_graph", lambda: False)
    with filled(index_backend=backend) as cache:
        searched(cache)
        assert index_of(cache) == "ExactIndex"
