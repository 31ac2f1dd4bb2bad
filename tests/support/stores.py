"""Stores that fail or hang when told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.worlds import Count, Gate

from mneme.types import Fetching, Store


class Flaky:
    """
    The store that `make` makes, and again once it was closed.

    Methods named in ``failing`` raise ``error``; those in ``hanging`` wait until ``release``
    is open.
    """

    def __init__(self, make: Callable[[], Store], *, blocking: bool | None = None) -> None:
        self._make = make
        self.inner = make()
        self.blocking = self.inner.blocking if blocking is None else blocking
        self.failing: set[str] = set()
        self.hanging: set[str] = set()
        self.error: Exception = OSError("the disk is on fire")
        self.release = Gate()
        self.reached = Count()
        """How often a hanging method was called."""
        if isinstance(self.inner, Fetching):
            # From Python 3.12 on a protocol looks for what is there, not for what can be had.
            self.fetch = lambda asked: self.__getattr__("fetch")(asked)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        return self._guarded(name, found) if callable(found) else found

    def _guarded(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if name in self.hanging:
                self.reached.add()
                self.release.wait()
            if name in self.failing:
                raise self.error
            outcome = method(*args, **options)
            if name == "close":
                self.inner = self._make()
            return outcome

        return call
