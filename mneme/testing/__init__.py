"""
For tests of what uses mneme, and of what extends it.

An offline embedder, a clock that stands still, and the promises of a store and of an index
as classes to inherit: fill in how to make one, and pytest runs every promise.
"""

from mneme.testing._doubles import HashEmbedder, ManualClock
from mneme.testing._index import IndexContract
from mneme.testing._makers import entry, unit
from mneme.testing._searchable import SearchableStoreContract
from mneme.testing._store import StoreContract

__all__ = [
    "HashEmbedder",
    "IndexContract",
    "ManualClock",
    "SearchableStoreContract",
    "StoreContract",
    "entry",
    "unit",
]
