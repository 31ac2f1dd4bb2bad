"""The indexes of mneme keep every promise of an index."""

from __future__ import annotations

from mneme.indexes import ExactIndex
from mneme.testing import IndexContract
from mneme.types import Index


class TestExactIndex(IndexContract):
    def make_index(self, dim: int) -> Index:
        return ExactIndex(dim)
