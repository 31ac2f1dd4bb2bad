"""
The lock of one question among the processes of a machine: one byte of a file of its own.

Open file description locks of Linux (fcntl(2), F_OFD_SETLK) belong to an open file, so that
threads have them apart as processes do, and the kernel drops them with it: who is killed
leaves nothing behind. The byte need not be there, and the file stays empty.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from mneme import _forks
from mneme.errors import StoreBackendError
from mneme.records import Identity

try:
    from fcntl import F_OFD_SETLK, F_UNLCK, F_WRLCK, fcntl
except ImportError:
    HAS_LOCKS = False
else:
    # Elsewhere `struct flock` has its members in another order.
    HAS_LOCKS = sys.platform == "linux"

__all__ = ["HAS_LOCKS", "SQLiteFlightLock", "place_of"]

PLACES = 1 << 62
"""So many bytes may be locked, the last of which is one that a file could have."""


def place_of(identity: Identity) -> int:
    """The byte that stands for `identity`, the same in every process; below `PLACES`."""
    partition, key = identity
    return int.from_bytes(blake2b(partition + key, digest_size=8).digest()) % PLACES


class SQLiteFlightLock(_forks.Forked):
    """See `mneme.types.FlightLock`; `flush` returns once what was put is committed."""

    def __init__(self, path: Path, identity: Identity, flush: Callable[[], None]) -> None:
        self._path = path
        self._place = place_of(identity)
        self._flush = flush
        self._guard = _forks.lock()
        self._file: int | None = None
        self._is_over = False
        _forks.watch(self)

    def acquire(self) -> bool:
        with self._guard:
            if self._is_over:
                # Given up on while it was on its way here: nobody would let go of it.
                return False
            try:
                if self._file is None:
                    self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
                self._set(self._file, F_WRLCK)
            except BlockingIOError:
                return False
            except OSError as exc:
                raise StoreBackendError(
                    f"{self._path} cannot be locked: {exc.strerror}. Nothing was changed. "
                    "Check its permissions, or decorate without single_flight='machine'."
                ) from exc
            return True

    def settle(self) -> None:
        self._flush()

    def release(self) -> None:
        with self._guard:
            self._is_over = True
            file, self._file = self._file, None
            if file is None:
                return
            try:
                # Not by closing alone: a child that was forked past Python has the file, too.
                self._set(file, F_UNLCK)
            finally:
                os.close(file)

    def in_child(self) -> None:
        """The parent's to let go of; a copy here would keep it locked when the parent dies."""
        self._is_over = True
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _set(self, file: int, kind: int) -> None:
        # struct flock: type, whence, start, length, and a process id that has to be 0.
        fcntl(file, F_OFD_SETLK, struct.pack("hhqqi0q", kind, os.SEEK_SET, self._place, 1, 0))
