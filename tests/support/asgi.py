"""A server and a client for ASGI applications, by hand: one request, every message seen."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel

from mneme.asgi import SemanticCacheMiddleware
from mneme.prompts import json_field, query_param

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
App = Callable[..., Awaitable[None]]


@dataclass
class Answer:
    """What was sent: the messages as they were, and what a client makes of them."""

    messages: list[Message] = field(default_factory=list)

    @property
    def start(self) -> Message:
        (start,) = (m for m in self.messages if m["type"] == "http.response.start")
        return start

    @property
    def status(self) -> int:
        return int(self.start["status"])

    @property
    def headers(self) -> list[tuple[str, str]]:
        return [(name.decode(), value.decode()) for name, value in self.start.get("headers", [])]

    @property
    def chunks(self) -> list[bytes]:
        return [
            m["body"] for m in self.messages if m["type"] == "http.response.body" and m.get("body")
        ]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def cache_status(self) -> str | None:
        """All of ``Cache-Status``, as a client joins it."""
        found = [value for name, value in self.headers if name == "cache-status"]
        return ", ".join(found) if found else None

    @property
    def layer(self) -> str | None:
        """``exact`` or ``semantic`` for a hit, else None."""
        status = self.cache_status or ""
        return status.rpartition("detail=")[2] if "; hit;" in status else None


def scope_of(
    method: str, path: str, headers: Iterable[tuple[str, str]] = (), **more: Any
) -> dict[str, Any]:
    path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
        **more,
    }


class ByHand:
    """Sends requests to an application, and takes down all that it says."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def post(self, path: str, body: Any = b"", **more: Any) -> Answer:
        return await self.request("POST", path, body, **more)

    async def get(self, path: str, **more: Any) -> Answer:
        return await self.request("GET", path, **more)

    async def request(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        headers: Sequence[tuple[str, str]] = (("content-type", "application/json"),),
        messages: Sequence[Message] | None = None,
        answer: Answer | None = None,
        on_send: Callable[[Message], Awaitable[None]] | None = None,
        leaves: anyio.Event | None = None,
        **scope: Any,
    ) -> Answer:
        """
        One request. `messages` are those of its body, where it is not to come in one piece;
        `on_send` sees each message of the response before it is taken down; the server tells
        of a disconnect once `leaves` is set, else when the response has ended.
        """
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        pending = list(messages or [{"type": "http.request", "body": raw, "more_body": False}])
        answer = answer if answer is not None else Answer()
        has_ended = anyio.Event() if leaves is None else leaves

        async def receive() -> Message:
            await anyio.lowlevel.checkpoint()
            if pending:
                return pending.pop(0)
            # As servers do: nothing is said before the response has ended.
            await has_ended.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            await anyio.lowlevel.checkpoint()
            if message["type"] == "http.response.body" and not message.get("more_body"):
                has_ended.set()
            if on_send is not None:
                await on_send(message)
            answer.messages.append(message)

        await self.app(scope_of(method, path, headers, **scope), receive, send)
        return answer


def in_bytes(body: bytes) -> list[Message]:
    """A body that comes in byte by byte."""
    return [
        {"type": "http.request", "body": bytes([byte]), "more_body": at < len(body) - 1}
        for at, byte in enumerate(body)
    ]


async def read_all(receive: Callable[[], Awaitable[Message]]) -> bytes:
    """The body of a request, as an application reads it."""
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionResetError("the client has left")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


@dataclass
class Counting:
    """
    An application that answers ``answer <n>`` as JSON to its n-th request.

    `asked` are the bodies that it read, `scopes` what it was called with.
    """

    status: int = 200
    headers: Sequence[tuple[str, str]] = (("content-type", "application/json"),)
    chunks: Sequence[bytes] | None = None
    asked: list[bytes] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.asked.append(await read_all(receive))
        headers = [(name.encode(), value.encode()) for name, value in self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        chunks = self.chunks
        if chunks is None:
            chunks = [json.dumps({"answer": len(self.asked)}).encode()]
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


ROUTES: dict[Any, Any] = {"/ask": json_field("prompt"), "/find": query_param("q")}
ASKED = {"prompt": "how do i reset my old password"}
REWORDED = {"prompt": "how do i reset my old password please"}
TEXT = ("content-type", "text/plain")


def mounted(app: Any, cache: Any, **options: Any) -> ByHand:
    return ByHand(SemanticCacheMiddleware(app, cache=cache, **{"routes": ROUTES, **options}))


async def start(send: Any, *headers: tuple[bytes, bytes], status: int = 200) -> None:
    headers = headers or ((b"content-type", b"text/plain"),)
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})


async def say(send: Any, chunk: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": more})
