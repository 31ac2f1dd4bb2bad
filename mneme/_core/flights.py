"""
One running call for many equal asks, whatever world they ask from.

A flight is keyed by identity. The first to ask leads it; the others leave a waker (a plain
callable that is safe to call from any thread) and wait in their own world's way: threads on
an event, tasks on their loop. How a flight ends decides what its followers do:

- filled: they look again, and find the answer;
- answered: they take the hit that the leader found;
- failed, or the answer was not admitted: all of them call for themselves, in parallel;
- cancelled: they look again, and one of them leads.

Nobody waits who could be waiting for himself: a caller that leads a flight, directly or
through flights that wait for one another, calls through instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Literal

from mneme import _forks
from mneme.records import Hit, Identity, Miss

__all__ = ["Ending", "Flight", "Flights"]

Ending = Literal["filled", "answered", "failed", "cancelled"]

_leading: ContextVar[tuple[Flight, ...]] = ContextVar("mneme_leading", default=())
"""The flights that the current call leads; worker threads and child tasks inherit it."""


class Flight:
    """
    One running call. ``ending`` is set exactly once, by `Flights.land`; ``shared`` is what
    its leader shows to followers while it runs.
    """

    __slots__ = ("awaits", "ending", "found", "identity", "shared", "wakers")

    def __init__(self, identity: Identity, shared: object = None) -> None:
        self.identity = identity
        self.shared = shared
        self.ending: Ending | None = None
        self.found: Hit | Miss | None = None
        self.wakers: list[Callable[[], object]] = []
        self.awaits: list[Flight] = []


class Flights:
    """The table of running calls. Its own, never one that evicts: a waker must not be lost."""

    def __init__(self) -> None:
        self._lock = _forks.lock()
        self._open: dict[Identity, Flight] = {}

    def __len__(self) -> int:
        return len(self._open)

    def board(
        self, identity: Identity, *, may_wait: bool = True, shared: object = None
    ) -> tuple[Flight | None, bool]:
        """
        ``(flight, True)`` to lead it, ``(flight, False)`` to follow it, ``(None, False)`` to
        call through, because waiting could be for oneself.
        """
        with self._lock:
            flight = self._open.get(identity)
            if flight is None:
                flight = self._open[identity] = Flight(identity, shared)
                return flight, True
            if not may_wait or self._would_wait_for_itself(flight):
                return None, False
            return flight, False

    @staticmethod
    def _would_wait_for_itself(flight: Flight) -> bool:
        led = _leading.get()
        if not led:
            return False
        seen: list[Flight] = []
        ahead = [flight]
        while ahead:
            one = ahead.pop()
            if one in led:
                return True
            if one not in seen:
                seen.append(one)
                ahead.extend(one.awaits)
        return False

    def join(self, flight: Flight, wake: Callable[[], object]) -> bool:
        """Have `wake` called when `flight` lands; False if it has landed already."""
        with self._lock:
            if flight.ending is not None:
                return False
            # Asked again under the lock that registers the wait: two callers who each saw no
            # cycle a moment ago must not close one between them.
            if self._would_wait_for_itself(flight):
                return False
            flight.wakers.append(wake)
            for led in _leading.get():
                led.awaits.append(flight)
            return True

    def leave(self, flight: Flight, wake: Callable[[], object]) -> None:
        """Stop waiting: the flight landed, or the follower was cancelled."""
        with self._lock:
            if wake in flight.wakers:
                flight.wakers.remove(wake)
            for led in _leading.get():
                if flight in led.awaits:
                    led.awaits.remove(flight)

    def land(self, flight: Flight, ending: Ending, found: Hit | Miss | None = None) -> None:
        """End `flight` and wake its followers; only the first call counts."""
        with self._lock:
            if flight.ending is not None:
                return
            flight.ending, flight.found = ending, found
            self._open.pop(flight.identity, None)
            wakers, flight.wakers = flight.wakers, []
        with ExitStack() as stack:
            # All of them, even where one is interrupted: who is not woken sleeps for ever.
            for wake in reversed(wakers):
                stack.callback(wake)

    def in_child(self) -> None:
        """After a fork: whoever led these is not here."""
        self._open.clear()

    @contextmanager
    def leading(self, flight: Flight) -> Iterator[None]:
        """
        Lead `flight` for the length of the block; an exception lands it.

        `Exception` is a failure; anything else (cancellation, `KeyboardInterrupt`) lets one
        of the followers lead.
        """
        token = _leading.set((*_leading.get(), flight))
        try:
            yield
        except Exception:
            self.land(flight, "failed", flight.found)
            raise
        except BaseException:
            self.land(flight, "cancelled")
            raise
        finally:
            self.land(flight, "failed", flight.found)
            # A coroutine that is thrown away is closed in whatever context collects it.
            with suppress(ValueError):
                _leading.reset(token)
