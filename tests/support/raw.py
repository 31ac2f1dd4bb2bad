"""One exchange with an ASGI or a WSGI application, in memory and to the byte."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import anyio
from support.worlds import PATIENCE

__all__ = ["Case", "Got", "Headers", "Left", "all_of", "environ_of", "over_asgi", "over_wsgi"]

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Case:
    """
    One request. `pieces` are the lengths in which its body comes, `cut` says that the client
    leaves before the end of it; `length` is what it says of its length, None for nothing.
    """

    method: str = "POST"
    path: str = "/field/plain"
    query: bytes = b""
    headers: Headers = ()
    body: bytes = b""
    pieces: tuple[int, ...] = ()
    cut: bool = False
    length: bytes | None = None

    def __repr__(self) -> str:
        return f"Case({', '.join(f'{k}={repr(v)[:2_000]}' for k, v in vars(self).items() if v)})"


@dataclass
class Got:
    """What a client and its server saw of one exchange."""

    status: int = 0
    headers: list[tuple[str, str]] | None = None
    body: bytes = b""
    error: str | None = None

    @property
    def told(self) -> str | None:
        """The last member of ``Cache-Status``, which a cache appends."""
        found = [value for name, value in self.headers or () if name.lower() == "cache-status"]
        return found[-1] if found else None

    def without_word(self) -> Got:
        """As it was before the cache appended its field."""
        assert self.headers is not None
        return Got(self.status, self.headers[:-1], self.body, self.error)


class Left(Exception):
    """The client has gone before the end of its body."""


# ASGI


def messages_of(case: Case) -> list[dict[str, Any]]:
    found, at = [], 0
    for size in case.pieces:
        found.append({"type": "http.request", "body": case.body[at : at + size], "more_body": True})
        at += size
    if case.cut:
        return [*found, {"type": "http.disconnect"}]
    return [*found, {"type": "http.request", "body": case.body[at:]}]


def scope_of(case: Case) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": case.method,
        "path": case.path,
        "raw_path": case.path.encode(),
        "query_string": case.query,
        "headers": list(case.headers),
    }


async def all_of(receive: Any) -> bytes:
    """The body of a request, as an application reads it."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Left(body)
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def over_asgi(app: Any, case: Case) -> Got:
    got, pending = Got(), messages_of(case)

    async def receive() -> Any:
        if not pending:
            return {"type": "http.disconnect"}
        return pending.pop(0)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert got.headers is None
            headers = message.get("headers", ())
            got.status = message["status"]
            got.headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in headers]
        else:
            got.body += message.get("body", b"")

    try:
        with anyio.fail_after(PATIENCE):
            await app(scope_of(case), receive, send)
    except (Left, LookupError) as exc:
        got.error = repr(exc)
    return got


# WSGI


class Input(io.RawIOBase):
    """A request's body as it comes in, in pieces; of a client that leaves, an error."""

    def __init__(self, case: Case) -> None:
        self._messages = messages_of(case)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and self._messages:
            message = self._messages.pop(0)
            if message["type"] == "http.disconnect":
                self._messages.append(message)
                raise ConnectionResetError("the client has left")
            self._rest = message["body"]
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def environ_of(case: Case) -> dict[str, Any]:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": case.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": case.path.encode().decode("latin-1"),
        "QUERY_STRING": case.query.decode("latin-1"),
        "wsgi.input": io.BufferedReader(Input(case)),
    }
    for name, value in case.headers:
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
        text = value.decode("latin-1")
        # As servers join what came twice.
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    if case.length is not None:
        environ["CONTENT_LENGTH"] = case.length.decode("latin-1")
    else:
        environ |= {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    return environ


def over_wsgi(app: Any, environ: dict[str, Any]) -> Got:
    got = Got()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        got.status, got.headers = int(status[:3]), list(headers)

    try:
        body = app(environ, start_response)
        try:
            for chunk in body:
                got.body += chunk
        finally:
            if hasattr(body, "close"):
                body.close()
    except LookupError as exc:
        got.error = repr(exc)
    return got
