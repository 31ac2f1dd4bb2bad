"""
What a WSGI application returns, on its way out (PEP 3333): in its context, with a recording
beside, or another request's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import Context
from http import HTTPStatus
from types import TracebackType
from typing import Any, TypeAlias

from mneme._core.http.gateway import Gateway
from mneme._core.http.recorded import Followed, Recorded
from mneme._core.ports import BlockingPort, drive

__all__ = ["FILES", "App", "Environ", "Passed", "StartResponse", "Steps", "Tee", "status_line",
           "telling"]  # fmt: skip

Environ: TypeAlias = dict[str, Any]
Headers: TypeAlias = list[tuple[str, str]]
ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
)
Write: TypeAlias = Callable[[bytes], object]
StartResponse: TypeAlias = Callable[..., Write]
App: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

FILES = "wsgi.file_wrapper"


class Steps:
    """An application's iterable: each of its steps, and its close, in one context."""

    def __init__(self, within: Context, body: Iterable[bytes]) -> None:
        self._within = within
        self._body = body
        self._steps: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._steps is None:
            self._steps = self._within.run(iter, self._body)
        return self._within.run(next, self._steps)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            self._within.run(close)


class Tee:
    """What an application answers, on its way out, with a recording beside."""

    def __init__(
        self, gateway: Gateway, port: BlockingPort, recorded: Recorded, within: Context
    ) -> None:
        self.recorded = recorded
        self._gateway = gateway
        self._port = port
        self._within = within
        self._file: object = None
        self._leading = recorded.leading()

    def answer(self, app: App, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        seen = {key: value for key, value in environ.items() if key != "HTTP_ACCEPT_ENCODING"}
        if FILES in seen:
            seen[FILES] = self._wrapping(seen[FILES])
        self._within.run(self._leading.__enter__)
        try:
            body = self._within.run(app, seen, self._starting(start_response))
        except BaseException as exc:
            self.end(exc)
            raise
        if body is self._file:
            # The server may have a faster way with its own files than to iterate over them.
            self.end()
            return body
        return TeedSteps(self, self._within, body)

    def keep(self) -> None:
        """Store what was recorded, now that it has gone out."""
        self._within.run(drive, self._gateway.keep(self._port, self.recorded))

    def end(self, exc: BaseException | None = None) -> None:
        """Nothing more will come; an answer that has not ended by now has broken off."""
        if exc is not None:
            self.recorded.drop()
        with suppress(Exception):
            self._within.run(self._leading.__exit__, None if exc is None else type(exc), exc, None)

    def _starting(self, start_response: StartResponse) -> StartResponse:
        told = telling(self.recorded.cache_status, start_response)

        def start(status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Write:
            number = int(status[:3]) if status[:3].isdigit() else 0
            self.recorded.start(number, headers, now=self._gateway.core.clock())
            if exc_info is None:
                write = told(status, headers)
            else:
                self.recorded.drop()
                write = told(status, headers, exc_info)

            def recorded_write(chunk: bytes) -> object:
                self.recorded.add(chunk)
                return write(chunk)

            return recorded_write

        return start

    def _wrapping(self, wrapper: Callable[..., Any]) -> Callable[..., Any]:
        def wrap(*args: Any) -> Any:
            self.recorded.drop()
            self._file = wrapper(*args)
            return self._file

        return wrap


class TeedSteps(Steps):
    """An application's iterable whose chunks are recorded as they go out."""

    def __init__(self, tee: Tee, within: Context, body: Iterable[bytes]) -> None:
        super().__init__(within, body)
        self._tee = tee
        self._is_over = False

    def __next__(self) -> bytes:
        try:
            chunk = super().__next__()
        except StopIteration:
            # The server asks for more, so it has sent all there was. In `close` it would be
            # known as well, but test clients often leave that out.
            if not self._is_over:
                self._is_over = True
                self._tee.keep()
                self._tee.end()
            raise
        except BaseException as exc:
            self._is_over = True
            self._tee.end(exc)
            raise
        self._tee.recorded.add(chunk)
        return chunk

    def close(self) -> None:
        if not self._is_over:
            self._tee.recorded.drop()
            self._go_on_for_followers()
            self._is_over = True
            self._tee.end()
        super().close()

    def _go_on_for_followers(self) -> None:
        # The client has left. This thread is the only one in which the application can go on.
        with suppress(Exception):
            while self._tee.recorded.has_followers and not self._is_over:
                next(self, None)

    def __del__(self) -> None:
        # A server that closes nothing must not leave others waiting.
        if not self._is_over:
            self._tee.recorded.cut()


class Passed:
    """Another request's answer, as it comes."""

    def __init__(
        self,
        gateway: Gateway,
        port: BlockingPort,
        followed: Followed,
        start_response: StartResponse,
    ) -> None:
        self._gateway = gateway
        self._port = port
        self._followed = followed
        start_response(status_line(followed.status), list(followed.headers))

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = drive(self._gateway.next_chunk(self._port, self._followed))
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        self._followed.leave()

    __del__ = close


def telling(status: str, start_response: StartResponse) -> StartResponse:
    """`start_response`, with the cache's word on why it did not answer."""

    def start(line: str, headers: Headers, *exc_info: Any) -> Write:
        # The list belongs to the application.
        return start_response(line, [*headers, ("Cache-Status", status)], *exc_info)

    return start


def status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Stored"
