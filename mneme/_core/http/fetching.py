"""
A response on its way in to a client, for that client and for those who asked the same.

Whoever needs the next chunk first fetches it for all, so that a client that stops reading
holds up nobody. The connection is closed when the last of them leaves.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from typing import Any

from mneme._core.http.gateway import Gateway
from mneme._core.http.recorded import Recorded
from mneme._core.http.relay import CutOff, Reader, Relay
from mneme._core.ports import BlockingPort, LoopPort, Turnstile, deadline, drive

__all__ = ["AsyncChunks", "AsyncFetching", "Chunks", "Fetching", "Stored"]


class _Fetching(ABC):
    """What both worlds share: who reads, and what is made of a chunk."""

    def __init__(self, gateway: Gateway, port: Any, recorded: Recorded, response: Any) -> None:
        self.recorded = recorded
        self.response = response
        self._gateway = gateway
        self._port = port
        self._is_over = False
        lead = recorded.lead
        self.relay = Relay(0) if lead is None else lead.relay
        leader = self.relay.reader(is_leader=True)
        assert leader is not None, "a leader's relay is open until he says otherwise"
        self.leader = leader
        if lead is None:
            self.relay.close()
        self.relay.source = self

    def _add(self, chunk: bytes) -> None:
        self.recorded.add(chunk)
        if self.recorded.lead is None:
            self.relay.add(chunk)

    def _cut(self) -> None:
        self._is_over = True
        self.recorded.cut()
        self.relay.end("cut")

    async def _keep(self) -> None:
        self._is_over = True
        self.relay.end()
        await self._gateway.keep(self._port, self.recorded)

    def _leaves(self, reader: Reader) -> bool:
        """Whether `reader`, who leaves, was the last one."""
        if reader is self.leader and not self._is_over:
            self.recorded.drop()
        self.relay.drop(reader)
        return not self.relay.has_readers

    def abandon(self, reader: Reader) -> None:
        """A reader was thrown away: nothing can be waited for any more."""
        if self._leaves(reader) and not self._is_over:
            self._cut()

    @property
    def _ends_here(self) -> bool:
        return not self._is_over and self.recorded.recording.has_said_all

    @abstractmethod
    def read_whole(self) -> Any:
        """Fetch a body that is of use only as a whole, as long as others may wait for it."""


class Fetching(_Fetching):
    """In threads."""

    _port: BlockingPort

    def __init__(
        self, gateway: Gateway, port: BlockingPort, recorded: Recorded, response: Any
    ) -> None:
        super().__init__(gateway, port, recorded, response)
        self._turn = threading.Lock()
        self._chunks: Iterator[bytes] | None = None

    def read_whole(self) -> None:
        while self.recorded.is_awaited and not self._is_over:
            self._fetch()

    def next_chunk(self, reader: Reader) -> bytes | None:
        """
        What comes next for `reader`; None at the end.

        Raises:
            CutOff: another reader's fetching failed. His own failure is raised as it is.
        """
        while True:
            if (chunk := reader.take()) is not None:
                return chunk
            if reader.state == "ended":
                return None
            with self._turn:
                if not reader.has_news:
                    self._fetch()

    def leave(self, reader: Reader) -> None:
        if reader is self.leader and self._ends_here:
            with self._turn:
                drive(self._keep())
        if self._leaves(reader):
            with self._turn:
                if not self._is_over:
                    self._cut()
                self.response.close()

    def _fetch(self) -> None:
        if self._is_over:
            return
        try:
            if self._chunks is None:
                self._chunks = iter(self.response)
            chunk = next(self._chunks)
        except StopIteration:
            drive(self._keep())
        except BaseException:
            self._cut()
            raise
        else:
            self._add(chunk)


class AsyncFetching(_Fetching):
    """In the tasks of one loop."""

    _port: LoopPort

    def __init__(self, gateway: Gateway, port: LoopPort, recorded: Recorded, response: Any) -> None:
        super().__init__(gateway, port, recorded, response)
        self._turn = Turnstile()
        self._chunks: AsyncIterator[bytes] | None = None

    async def read_whole(self) -> None:
        while self.recorded.is_awaited and not self._is_over:
            await self._fetch()

    async def next_chunk(self, reader: Reader) -> bytes | None:
        """As `Fetching.next_chunk`."""
        while True:
            if (chunk := reader.take()) is not None:
                return chunk
            if reader.state == "ended":
                return None
            async with self._turn.turn():
                if not reader.has_news:
                    # A task that is cancelled here would break the answer off for all.
                    with deadline(None, shield=self.relay.has_others(reader)):
                        await self._fetch()

    async def leave(self, reader: Reader) -> None:
        with deadline(None, shield=True):
            if reader is self.leader and self._ends_here:
                async with self._turn.turn():
                    await self._keep()
            if self._leaves(reader):
                async with self._turn.turn():
                    if not self._is_over:
                        self._cut()
                    await self.response.aclose()

    async def _fetch(self) -> None:
        if self._is_over:
            return
        try:
            if self._chunks is None:
                self._chunks = aiter(self.response)
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            with deadline(None, shield=True):
                await self._keep()
        except BaseException:
            self._cut()
            raise
        else:
            self._add(chunk)


class Chunks:
    """One reader's stream, as a sync client wants it."""

    def __init__(self, fetching: Fetching, reader: Reader, broken: type[Exception]) -> None:
        self._fetching = fetching
        self._reader = reader
        self._broken = broken
        self._has_left = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            while (chunk := self._fetching.next_chunk(self._reader)) is not None:
                yield chunk
        except CutOff as exc:
            raise self._broken(str(exc)) from exc

    def close(self) -> None:
        if not self._has_left:
            self._has_left = True
            self._fetching.leave(self._reader)

    def __del__(self) -> None:
        if not self._has_left:
            self._fetching.abandon(self._reader)


class AsyncChunks:
    """One reader's stream, as an async client wants it."""

    def __init__(self, fetching: AsyncFetching, reader: Reader, broken: type[Exception]) -> None:
        self._fetching = fetching
        self._reader = reader
        self._broken = broken
        self._has_left = False

    # Not a generator, which trio misses where a client does not iterate to the end.
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._fetching.next_chunk(self._reader)
        except CutOff as exc:
            raise self._broken(str(exc)) from exc
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        if not self._has_left:
            self._has_left = True
            await self._fetching.leave(self._reader)

    def __del__(self) -> None:
        if not self._has_left:
            self._fetching.abandon(self._reader)


class Stored:
    """The chunks of a stored body, for clients of both kinds."""

    def __init__(self, chunks: tuple[bytes, ...]) -> None:
        self._chunks = chunks
        self._left = iter(chunks)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._left:
            return chunk
        raise StopAsyncIteration

    def close(self) -> None: ...

    async def aclose(self) -> None: ...
