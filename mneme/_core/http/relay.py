"""
One response on its way, passed on to those who asked the same while it was being made.

The leader's chunks go to a queue for each reader, so that nobody waits for a slow one. What
has gone by is kept for latecomers, and only while the response may still be stored. Nothing
here waits: a reader leaves a waker, which any thread may call.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from mneme._core.flights import Ending, Flight, Flights
from mneme._core.http.fields import Fields
from mneme.records import Hit

__all__ = ["CutOff", "Head", "Lead", "Reader", "Relay"]

Wake = Callable[[], object]


class CutOff(ConnectionError):
    """The response that a reader followed broke off, or ran too far ahead of him."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and fields of a response, as far as they may be sent to more than one."""

    status: int
    headers: Fields


class Reader:
    """One follower's place in a response."""

    __slots__ = ("chunks", "head", "is_leader", "size", "state", "wakers")

    def __init__(self, chunks: Iterable[bytes] = (), *, is_leader: bool = False) -> None:
        self.chunks = deque(chunks)
        self.size = sum(map(len, self.chunks))
        self.head: Head | None = None
        self.state: Literal["open", "ended", "cut"] = "open"
        self.is_leader = is_leader
        self.wakers: list[Wake] = []

    @property
    def is_live(self) -> bool:
        """Whether chunks come here; before, there is nothing to read but how it all ends."""
        return self.is_leader or self.head is not None

    @property
    def has_news(self) -> bool:
        return self.is_live and (bool(self.chunks) or self.state != "open")

    def take(self) -> bytes | None:
        """
        The next chunk; None at the end, or when there is none yet.

        Raises:
            CutOff: no more will come, and what came is not all.
        """
        if self.chunks:
            chunk = self.chunks.popleft()
            self.size -= len(chunk)
            return chunk
        if self.state == "cut":
            raise CutOff(
                "the answer that this request followed broke off. Nothing was stored. Ask again."
            )
        return None


class Relay:
    """The chunks of one response, for any number of readers in any threads and tasks."""

    def __init__(self, max_bytes: int, place: object = None) -> None:
        self.place = place
        """Where the leader runs, if that matters to those who might follow."""
        self.source: object = None
        """Whence a reader may fetch the next chunk himself, once the response has begun."""
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._past: list[bytes] | None = []
        self._readers: list[Reader] = []
        self._head: Head | None = None
        self._state: Literal["open", "ended", "cut"] = "open"
        self._idle: list[Wake] = []

    @property
    def has_followers(self) -> bool:
        return any(not reader.is_leader for reader in self._readers)

    @property
    def has_readers(self) -> bool:
        return bool(self._readers)

    def has_others(self, reader: Reader) -> bool:
        return any(one is not reader for one in self._readers)

    def reader(self, *, is_leader: bool = False) -> Reader | None:
        """A place at the beginning; None for who comes too late."""
        with self._lock:
            if self._past is None:
                return None
            past = () if self._head is None else self._past
            reader = Reader(past, is_leader=is_leader)
            reader.head, reader.state = self._head, self._state
            self._readers.append(reader)
            return reader

    def drop(self, reader: Reader) -> None:
        """`reader` wants no more."""
        with self._lock:
            if reader in self._readers:
                self._readers.remove(reader)
            wakers = [] if self.has_followers else self._take(self._idle)
        _wake(wakers)

    def join(self, reader: Reader, wake: Wake) -> bool:
        """Have `wake` called when there is news for `reader`; False if there is some already."""
        with self._lock:
            if reader.has_news:
                return False
            reader.wakers.append(wake)
            return True

    def join_head(self, reader: Reader, wake: Wake) -> bool:
        """Have `wake` called when `reader` may read; False if he may already."""
        with self._lock:
            if reader.is_live:
                return False
            reader.wakers.append(wake)
            return True

    def leave(self, reader: Reader, wake: Wake) -> None:
        with self._lock:
            if wake in reader.wakers:
                reader.wakers.remove(wake)

    def join_idle(self, wake: Wake) -> bool:
        """Have `wake` called when nobody follows any more; False if nobody does."""
        with self._lock:
            if self._state != "open" or not self.has_followers:
                return False
            self._idle.append(wake)
            return True

    def leave_idle(self, wake: Wake) -> None:
        with self._lock:
            if wake in self._idle:
                self._idle.remove(wake)

    def begin(self, head: Head) -> None:
        """From here on readers get the chunks as they come."""
        with self._lock:
            self._head = head
            wakers: list[Wake] = []
            for reader in self._readers:
                reader.head = head
                wakers += self._take(reader.wakers)
        _wake(wakers)

    def add(self, chunk: bytes) -> None:
        with self._lock:
            if self._past is not None:
                self._past.append(chunk)
            wakers: list[Wake] = []
            for reader in self._readers:
                if not reader.is_live:
                    continue
                reader.chunks.append(chunk)
                reader.size += len(chunk)
                if reader.size > self._max_bytes and not reader.is_leader:
                    # Who is that slow must not hold a long response in memory.
                    reader.chunks.clear()
                    reader.state = "cut"
                wakers += self._take(reader.wakers)
        _wake(wakers)

    def close(self) -> None:
        """Take no more readers, and forget what has gone by."""
        with self._lock:
            self._past = None

    def end(self, state: Literal["ended", "cut"] = "ended") -> None:
        """All that there is has been added; only the first call counts."""
        with self._lock:
            if self._state != "open":
                return
            self._state = state
            wakers = self._take(self._idle)
            for reader in self._readers:
                if reader.state == "open":
                    reader.state = state
                if reader.is_live:
                    # Who has seen nothing yet waits for the flight, which says what to do.
                    wakers += self._take(reader.wakers)
            if state == "cut":
                self._past = None
        _wake(wakers)

    @staticmethod
    def _take(wakers: list[Wake]) -> list[Wake]:
        taken = wakers[:]
        wakers.clear()
        return taken


def _wake(wakers: list[Wake]) -> None:
    for wake in wakers:
        wake()


class Lead:
    """A leader's word to all who wait for the same answer: the flight, and the relay in it."""

    def __init__(self, flights: Flights, flight: Flight, relay: Relay) -> None:
        self.flights = flights
        self.flight = flight
        self.relay = relay

    def refuse(self) -> None:
        """This response is for its own client; who has seen nothing of it calls for himself."""
        self.relay.close()
        self.land("failed")

    def land(self, ending: Ending, found: Hit | None = None) -> None:
        self.flights.land(self.flight, ending, found or self.flight.found)

    def cut(self, ending: Ending = "failed") -> None:
        """No more will come."""
        self.land(ending)
        self.relay.end("cut")

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Lead for the length of the block, and leave nobody waiting after it."""
        try:
            with self.flights.leading(self.flight):
                yield
        finally:
            self.relay.end("cut")
