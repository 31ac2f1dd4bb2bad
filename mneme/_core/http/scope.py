"""An ASGI scope as plain values, and its body read so that the application can read it too."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

from mneme._core.http.exchange import OBJECTING
from mneme._core.http.fields import Fields
from mneme._core.http.request import Request

__all__ = ["PAST_THE_BODY", "Message", "Receive", "Scope", "Send", "caller_of", "fields_of",
           "path_of", "plain", "read_body", "replayed", "request_of", "says_nothing"]  # fmt: skip

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

PAST_THE_BODY = ("http.response.pathsend", "http.response.zerocopysend")
"""Ways to send a body that nobody beside could record."""


async def read_body(receive: Receive, limit: int) -> tuple[bytes | None, list[Message]]:
    """The body, None if it is over `limit` or cut off; and what the application is to receive."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None, [_body(b"".join(chunks), more=True), message] if chunks else [message]
        more = message.get("more_body", False)
        if not (chunks or more) and len(message.get("body", b"")) <= limit:
            # Most come in one piece, which is passed on as it is.
            return message.get("body", b""), [message]
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit or not more:
            body = b"".join(chunks)
            return (body if size <= limit else None), [_body(body, more=more)]


def _body(body: bytes, *, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def replayed(messages: Iterable[Message], receive: Receive) -> Receive:
    """What was read, and then whatever the server says: a disconnect only when there is one."""
    pending = deque(messages)

    async def again() -> Message:
        return pending.popleft() if pending else await receive()

    return again


def request_of(scope: Scope, body: bytes) -> Request:
    return Request(
        method=scope["method"],
        path=path_of(scope),
        query=scope.get("query_string", b""),
        headers=fields_of(scope["headers"]),
        body=body,
        # Some servers add the query string.
        raw_path=(scope.get("raw_path") or b"").partition(b"?")[0],
        caller=caller_of(scope),
    )


def caller_of(scope: Scope) -> tuple[str, ...]:
    """What the server itself knows of the caller."""
    tls = (scope.get("extensions") or {}).get("tls") or {}
    return (str(tls["client_cert_name"]),) if tls.get("client_cert_name") else ()


def path_of(scope: Scope) -> str:
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


_OBJECTING = frozenset(name.encode() for name in OBJECTING)


def says_nothing(scope: Scope) -> bool:
    """Whether no field of a request could keep the cache out of it."""
    return _OBJECTING.isdisjoint([name.lower() for name, _ in scope["headers"]])


def plain(scope: Scope) -> Scope:
    """The scope of a request whose answer will be recorded: to be sent plain, and through us."""
    extensions = scope.get("extensions") or {}
    return {
        **scope,
        "headers": [pair for pair in scope["headers"] if pair[0].lower() != b"accept-encoding"],
        "extensions": {k: v for k, v in extensions.items() if k not in PAST_THE_BODY},
    }


def fields_of(headers: Iterable[tuple[bytes, bytes]]) -> Fields:
    return tuple(
        (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers
    )
