"""What stores raise, in mneme's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mneme.errors import MnemeError, StoreBackendError
from mneme.types import Store

__all__ = ["store_errors"]


@contextmanager
def store_errors(store: Store) -> Iterator[None]:
    """A third party's store may raise anything; from here on it is a `StoreBackendError`."""
    try:
        yield
    except MnemeError:
        raise
    except Exception as exc:
        raise StoreBackendError(
            f"{store.description}: {type(exc).__name__}: {exc}. "
            "Nothing was changed in memory. Check the store."
        ) from exc
