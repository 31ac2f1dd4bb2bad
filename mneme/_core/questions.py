"""Questions to a server: none while an earlier one hangs, and few while it does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mneme import _forks
from mneme._core.breaker import Breaker
from mneme.errors import StoreBackendError

__all__ = ["Questions"]

HUNG_SECONDS = 1.0
"""A question that waits for longer keeps others from waiting as well."""


class Questions:
    """
    What is asked of one server, which messages call `name`.

    `clock` times the pauses of `Breaker`; how long a question has waited for, no clock that
    is set can say, and ``monotonic`` does.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.monotonic: Callable[[], float] = time.monotonic
        self.waiting: dict[object, float] = {}
        """Since when each question has waited."""
        self._name = name
        self._clock = clock
        self._breaker = Breaker()
        self._lock = _forks.lock()

    def in_child(self) -> None:
        # Who waits does so in the parent.
        self.waiting.clear()
        self._breaker = Breaker()

    @contextmanager
    def one(self) -> Iterator[None]:
        """
        The block is a question.

        Raises:
            StoreBackendError: it is not to be asked now.
        """
        mine = object()
        turn = self._begin(mine)
        try:
            yield
        except StoreBackendError as exc:
            if exc.is_away or isinstance(exc.__cause__, OSError):
                with self._lock:
                    self._breaker.failed(turn, self._clock())
            raise
        else:
            self.answered()
        finally:
            with self._lock:
                self._breaker.ended(turn)
                del self.waiting[mine]

    def _begin(self, mine: object) -> int:
        with self._lock:
            now, at = self.monotonic(), self._clock()
            first = min(self.waiting.values(), default=now)
            if now - first > HUNG_SECONDS:
                raise StoreBackendError(
                    f"{self._name} has not answered for {now - first:.1f} s. "
                    "It was not asked again. Check the server."
                )
            turn = self._breaker.begin(at)
            if turn is None:
                raise StoreBackendError(
                    f"{self._name} did not answer a moment ago. It is not asked again "
                    f"for {self._breaker.left(at):.1f} s. Check the server."
                )
            self.waiting[mine] = now
            return turn

    def was_late(self) -> None:
        """Somebody has stopped waiting for an answer."""
        with self._lock:
            self._breaker.late(self._clock())

    def answered(self) -> None:
        """The server has done what it was asked for."""
        with self._lock:
            self._breaker.answered()
