"""Which kind of core a cache has, by its store and by where its answers are to be."""

from __future__ import annotations

from typing import Literal, TypeAlias

from mneme._core.core import Core
from mneme._core.engine import EngineCore
from mneme._core.lean import LeanCore
from mneme.types import Fetching, SearchableStore, Store

__all__ = ["Answers", "core_for"]

Answers: TypeAlias = Literal["memory", "store"]


def core_for(store: Store, answers: Answers) -> type[Core]:
    """
    The kind of core that `store` needs for `answers` to be where they are wanted.

    Raises:
        ValueError: there is no such place, or `store` gives no single entries back.
    """
    if answers not in ("memory", "store"):
        raise ValueError(f"answers must be one of ('memory', 'store'), got {answers!r}.")
    if isinstance(store, SearchableStore):
        # They stay with the engine either way.
        return EngineCore
    if answers == "memory":
        return Core
    if not isinstance(store, Fetching):
        raise ValueError(
            f"answers='store' needs a store that gives single answers back, and "
            f"{store.description} does not. Nothing was opened. "
            "Use path= (a SQLite file), or leave answers= out."
        )
    return LeanCore
