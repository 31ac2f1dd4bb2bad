"""A request of an httpx or httpx2 client as plain values; neither library is imported."""

from __future__ import annotations

import sys
from typing import Any

from mneme._core.http.fields import Fields, without_way
from mneme._core.http.request import Request

__all__ = ["fields_of", "library_of", "plain", "request_of"]

LIBRARIES = ("httpx2", "httpx")


def library_of(request: Any) -> Any:
    """
    The library whose request this is, or is derived from.

    Raises:
        TypeError: neither httpx2's nor httpx's.
    """
    for kind in type(request).__mro__:
        root = kind.__module__.partition(".")[0]
        if root in LIBRARIES:
            return sys.modules[root]
    raise TypeError(
        f"{type(request).__name__} is no request of httpx2 or httpx. Nothing was sent. "
        "Give the transport to a client of one of these."
    )


def request_of(request: Any, limit: int, *, by_host: bool) -> Request | None:
    """The request; None if its body is over `limit` bytes, or a stream that can be read once."""
    try:
        body: bytes = request.content
    except library_of(request).RequestNotRead:
        return None
    if len(body) > limit:
        return None
    url = request.url
    path: bytes = url.raw_path.partition(b"?")[0]
    origin = url.scheme.encode() + b"://" + url.netloc if by_host else b""
    return Request(
        method=request.method,
        path=url.path,
        query=url.query,
        headers=without_way(fields_of(request.headers)),
        body=body,
        raw_path=origin + path,
    )


def fields_of(headers: Any) -> Fields:
    return tuple(
        (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers.raw
    )


def plain(request: Any, mark: str) -> Any:
    """
    A copy of a request whose answer will be recorded: to be sent plain, and marked so that no
    other cache takes it on. The request itself is its client's.
    """
    headers = [pair for pair in request.headers.raw if pair[0].lower() != b"accept-encoding"]
    copy = library_of(request).Request(
        request.method,
        request.url,
        headers=[*headers, (b"Accept-Encoding", b"identity")],
        stream=request.stream,
        extensions={**request.extensions, mark: True},
    )
    # So that who looks at its content finds it, as in the original.
    copy.read()
    return copy
