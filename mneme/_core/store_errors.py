"""What stores raise, in mneme's words."""

from __future__ import annotations

from mneme.errors import MnemeError, StoreBackendError
from mneme.types import Store

__all__ = ["store_errors"]


class store_errors:
    """
    A third party's store may raise anything; from here on it is a `StoreBackendError`.

    Used as a function is. One made of a generator would cost each put a microsecond.
    """

    __slots__ = ("_store",)

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if exc is None or isinstance(exc, MnemeError) or not isinstance(exc, Exception):
            return
        raise StoreBackendError(
            f"{self._store.description}: {type(exc).__name__}: {exc}. "
            "Nothing was changed in memory. Check the store."
        ) from exc
