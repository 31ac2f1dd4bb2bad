"""Keeping the vectors of an open cache otherwise, while lookups go on."""

from __future__ import annotations

from collections.abc import Sequence

from mneme._core.core import Core
from mneme.records import Identity, Vector
from mneme.types import SearchableStore, VectorSource

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
        raise ValueError(f"{core.store.description} searches by itself, in float32.")
    core.live.use_dtype(dtype)
    core.open()
    source = core.store
    if isinstance(source, VectorSource):
        vectors = source.vectors
    else:
        # One pass for all: other stores give their entries in no other way.
        known = {entry.identity: entry.vector for entry in source.scan()}

        def vectors(identities: Sequence[Identity], /) -> Sequence[Vector | None]:
            return [known.get(identity) for identity in identities]

    for partition in core.live.searched():
        core.live.rebuild(partition, vectors)
