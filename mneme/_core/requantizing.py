"""Keeping the vectors of an open cache otherwise, while lookups go on."""

from __future__ import annotations

from mneme._core.core import Core
from mneme._core.growing import vectors_of
from mneme.types import SearchableStore

__all__ = ["requantize"]


def requantize(core: Core, dtype: str) -> None:
    """
    Keep vectors as `dtype` from now on. Touches the store, from which the index of one
    partition after the other is made anew.

    Raises:
        ValueError: there is no such dtype; nothing was changed.
        StoreBackendError: the store cannot be read; partitions that were not reached are
            searched as before.
    """
    core.check_open()
    if isinstance(core.store, SearchableStore):
        raise ValueError(
            f"{core.store.description} searches by itself, in float32. Nothing was changed. "
            "Choose how it searches with the store's own index=."
        )
    core.open()
    core.be_warm()
    core.live.use_dtype(dtype)
    vectors = vectors_of(core.store)
    for partition in core.live.searched():
        core.live.rebuild(partition, vectors)
