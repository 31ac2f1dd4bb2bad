"""A cache whose embedder knows rewordings by the words they share."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.worlds import PATIENCE

from mneme import MemoryStore, SemanticCache
from mneme.testing import HashEmbedder, ManualClock


class Events(list[tuple[str, dict[str, Any]]]):
    """What a cache told its metrics hook."""

    def __call__(self, name: str, attrs: dict[str, Any]) -> None:
        self.append((name, attrs))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [attrs for event, attrs in self if event == name]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def cache(clock: ManualClock, events: Events) -> SemanticCache:
    return SemanticCache(
        store=MemoryStore(),
        embedder=HashEmbedder(),
        similarity_threshold=0.7,
        self_check=False,
        clock=clock,
        metrics_hook=events,
    )


class Stored:
    """Lets a test wait until an answer has been stored; the server may be a step behind."""

    def __init__(self) -> None:
        self._puts = threading.Semaphore(0)

    def __call__(self, name: str, attrs: dict[str, Any]) -> None:
        if name == "put":
            self._puts.release()

    def wait(self) -> None:
        assert self._puts.acquire(timeout=PATIENCE)


@pytest.fixture
def stored() -> Stored:
    return Stored()


@pytest.fixture
def served(stored: Stored) -> SemanticCache:
    """A cache for an application on a real server."""
    return SemanticCache(
        store=MemoryStore(),
        embedder=HashEmbedder(),
        similarity_threshold=0.7,
        self_check=False,
        metrics_hook=stored,
    )
