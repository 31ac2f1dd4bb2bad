"""Where entries outlive the call: in this process, or in a file."""

from mneme.stores._address import open_store
from mneme.stores._salvage import Salvaged, salvage
from mneme.stores.memory import MemoryStore
from mneme.stores.sqlite import SQLiteStore

__all__ = ["MemoryStore", "SQLiteStore", "Salvaged", "open_store", "salvage"]
