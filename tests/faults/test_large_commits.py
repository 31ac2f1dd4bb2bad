"""A commit that takes long to write is written when it returns, or will be."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mneme import SemanticCache, StoreBackendError
from mneme._core.core import core_of
from mneme._core.keeper import MANY_PUTS
from mneme.stores import _group
from mneme.testing import HashEmbedder

PAIRS = [(f"question {n}", f"answer {n}") for n in range(MANY_PUTS)]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[SemanticCache]:
    with SemanticCache(
        tmp_path / "cache.db", embedder=HashEmbedder(8), self_check=False, guards=()
    ) as opened:
        yield opened


def in_file(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])


def test_a_large_batch_is_in_the_file_when_it_returns(cache: SemanticCache, tmp_path: Path) -> None:
    """It takes longer to write than the moments that a single put may wait."""
    assert cache.put_many(PAIRS) == len(PAIRS)
    assert in_file(tmp_path / "cache.db") == len(PAIRS)


def test_a_large_batch_that_cannot_be_written_is_tried_again(
    cache: SemanticCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As with single ones: memory has it, and who puts once too much waits is told."""
    group: Any = core_of(cache).store
    group = group._group
    works = group._write

    def fail(changes: object) -> None:
        raise StoreBackendError("the disk is full")

    monkeypatch.setattr(group, "_write", fail)
    monkeypatch.setattr(_group, "MAX_WAITING", len(PAIRS))
    assert cache.put_many(PAIRS) == len(PAIRS)
    assert "will be tried again" in caplog.text
    assert cache.get("question 7") is not None
    with pytest.raises(StoreBackendError, match="the disk is full"):
        cache.put("one more", "answer")
    assert in_file(tmp_path / "cache.db") == 0
    monkeypatch.setattr(group, "_write", works)
    group.flush()
    assert in_file(tmp_path / "cache.db") >= len(PAIRS)
