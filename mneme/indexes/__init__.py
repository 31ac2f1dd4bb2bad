"""Where the vectors of one partition are searched."""

from mneme.indexes._parts import Parts, SketchParts
from mneme.indexes.exact import ExactIndex

__all__ = ["ExactIndex", "Parts", "SketchParts"]
