"""A provider on a real socket, and a cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.clients import WAYS, Way
from support.upstream import Upstream, upstream

from mneme import MemoryStore, SemanticCache
from mneme.testing import HashEmbedder


@pytest.fixture
def up() -> Iterator[Upstream]:
    with upstream() as up:
        yield up


@pytest.fixture
def cache() -> SemanticCache:
    return SemanticCache(store=MemoryStore(), embedder=HashEmbedder(), similarity_threshold=0.7)


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    return way
