"""The store that readers copy keeps every promise."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from mneme.testing import SearchableStoreContract
from mneme.types import Store

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_store.py"


def loaded() -> Any:
    spec = importlib.util.spec_from_file_location("own_store", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look for the types that they name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


own_store = loaded()


class TestOwnStore(SearchableStoreContract):
    def make_store(self, place: Path) -> Store:
        return self.on(own_store.Engine())

    def reopen(self, store: Any, place: Path) -> Store:
        return self.on(store._engine)

    def beside(self, store: Any, place: Path) -> Store:
        return self.on(store._engine)

    def on(self, engine: Any) -> Store:
        store: Store = own_store.OwnStore(engine)
        return store
