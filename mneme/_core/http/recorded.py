"""What a request gets that no stored answer was found for: a recording, or another's answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

from mneme._core.http.exchange import COLLAPSED, Forward, miss_status, unkeyed
from mneme._core.http.fields import Fields, is_streamed, replayable
from mneme._core.http.recording import Recording
from mneme._core.http.relay import Head, Lead, Reader, Relay
from mneme._core.http.request import Request
from mneme._core.http.responses import StoredResponse
from mneme._core.http.routes import Route
from mneme.records import Miss

__all__ = ["Followed", "Recorded"]


@dataclass(slots=True)
class Recorded:
    """
    A request that missed, and what is made of the response that it gets instead: a recording
    and, where this request leads, the same for those who asked it meanwhile.
    """

    miss: Miss
    forward: Forward
    request: Request
    route: Route
    fields: frozenset[str]
    recording: Recording
    lead: Lead | None = None
    debug: bool = False
    is_stored: bool = False
    """Whether the response has been stored by now."""
    _is_told: bool = False

    @property
    def cache_status(self) -> str:
        """What the response says of the cache, as far as it is known now."""
        return miss_status(self.miss, self.forward, is_stored=self.is_stored, debug=self.debug)

    def start(self, status: int, headers: Iterable[tuple[str, str]], *, now: float) -> None:
        """Begin, or begin again: a response that has not gone out may still be replaced."""
        self.recording.start(status, headers, now=now)

    def begin(self) -> None:
        """The response that has started is the one that goes out."""
        # Until then an application may take its response back.
        if self._is_told or self.lead is None:
            return
        self._is_told = True
        recording = self.recording
        if not recording.is_kept or unkeyed(recording.vary, self.request, self.route, self.fields):
            self.lead.refuse()
        elif is_streamed(recording.headers) and not recording.is_coded:
            headers = replayable(recording.headers)
            self.lead.relay.begin(Head(recording.status, headers))

    def add(self, chunk: bytes) -> None:
        """What goes out next."""
        if not chunk:
            return
        self.recording.add(chunk)
        if self.lead is not None:
            self.begin()
            self.lead.relay.add(chunk)
            if not self.recording.is_kept:
                self.lead.refuse()

    def drop(self) -> None:
        """This response will not be stored, and nobody else may begin to follow it."""
        self.recording.drop()
        if self.lead is not None:
            self.lead.refuse()

    def end(self) -> None:
        """The last chunk has been added."""
        if self.lead is not None:
            self.begin()
            self.lead.relay.end()

    def cut(self) -> None:
        """There will be no last chunk."""
        self.recording.drop()
        if self.lead is not None:
            self.lead.cut()

    def give_up(self, why: BaseException) -> None:
        """There will be no response at all."""
        if self.lead is not None:
            self.lead.cut("failed" if isinstance(why, Exception) else "cancelled")

    @property
    def is_awaited(self) -> bool:
        """Whether others may be waiting for the end of this response, of use only as a whole."""
        if self.lead is None or not self.recording.is_kept:
            return False
        return self.recording.is_coded or not is_streamed(self.recording.headers)

    @property
    def has_followers(self) -> bool:
        return self.lead is not None and self.lead.relay.has_followers

    @contextmanager
    def leading(self) -> Iterator[None]:
        """The block makes the response; whatever happens in it, nobody is left waiting."""
        with nullcontext() if self.lead is None else self.lead.leading():
            yield


@dataclass(slots=True)
class Followed:
    """
    Another request's response, for one that asked the same meanwhile.

    It goes out as it comes; whoever sends it calls `leave` in the end.
    """

    status: int
    headers: Fields
    reader: Reader
    relay: Relay | None = field(default=None)

    @classmethod
    def live(cls, relay: Relay, reader: Reader, head: Head) -> Followed:
        return cls(head.status, (*head.headers, ("cache-status", COLLAPSED)), reader, relay)

    @classmethod
    def stored(cls, response: StoredResponse) -> Followed:
        reader = Reader(response.chunks)
        reader.state = "ended"
        return cls(response.status, (*response.headers, ("cache-status", COLLAPSED)), reader)

    def leave(self) -> None:
        if self.relay is not None:
            self.relay.drop(self.reader)
