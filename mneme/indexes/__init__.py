"""Where the vectors of one partition are searched."""

from mneme.indexes.exact import ExactIndex

__all__ = ["ExactIndex"]
