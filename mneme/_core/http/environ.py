"""A WSGI environ as plain values, and its body read so that the application can read it too."""

from __future__ import annotations

import io
from typing import Any

from mneme._core.http.fields import Fields
from mneme._core.http.request import Request

__all__ = ["fields_of", "path_of", "read_body", "request_of"]

CALLER = ("REMOTE_USER", "SSL_CLIENT_S_DN", "SSL_CLIENT_CERT")
"""What a server says of a caller whom it has identified itself."""


LONGEST = 18
"""Digits of a length that may be one: Python refuses to read thousands of them."""


def read_body(environ: dict[str, Any], limit: int) -> bytes | None:
    """
    The body; None if it is over `limit`, cut off, or of unknown length. In each case the
    application finds in `environ` what it would have found, the server's error included.
    """
    stream, told = environ["wsgi.input"], environ.get("CONTENT_LENGTH") or ""
    if told:
        is_length = told.isascii() and told.isdigit() and len(told) <= LONGEST
        length = int(told) if is_length else limit + 1
        if length > limit:
            return None
        body = _read_up_to(environ, length)
        if body is not None:
            environ["wsgi.input"] = io.BytesIO(body)
        return body if body is not None and len(body) == length else None
    if not environ.get("wsgi.input_terminated"):
        return None if "HTTP_TRANSFER_ENCODING" in environ else b""
    body = _read_up_to(environ, limit + 1)
    if body is None:
        return None
    if len(body) > limit:
        environ["wsgi.input"] = io.BufferedReader(_Rejoined(body, stream))
        return None
    environ["wsgi.input"] = io.BytesIO(body)
    environ["CONTENT_LENGTH"] = str(len(body))
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    return body


def _read_up_to(environ: dict[str, Any], size: int) -> bytes | None:
    """The next bytes; None where reading fails, as it then does for the application."""
    stream = environ["wsgi.input"]
    chunks = []
    try:
        while size and (chunk := stream.read(size)):
            chunks.append(chunk)
            size -= len(chunk)
    except Exception as exc:
        rest = _Failing(exc)
        environ["wsgi.input"] = io.BufferedReader(_Rejoined(b"".join(chunks), rest))
        return None
    return b"".join(chunks)


class _Failing:
    """What is left of a stream that has failed."""

    def __init__(self, why: Exception) -> None:
        self._why = why

    def read(self, size: int) -> bytes:
        raise self._why


class _Rejoined(io.RawIOBase):
    """What was read of a stream, and then the rest of it."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head = io.BytesIO(head)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._head.read(len(buffer)) or self._rest.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)


def request_of(environ: dict[str, Any], body: bytes) -> Request:
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    path = (
        raw.partition("?")[0]
        if raw
        else environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    )
    return Request(
        method=environ["REQUEST_METHOD"],
        path=path_of(environ),
        query=_bytes(environ.get("QUERY_STRING", "")),
        headers=fields_of(environ),
        body=body,
        raw_path=_bytes(path),
        caller=tuple(f"{key}={environ[key]}" for key in CALLER if environ.get(key)),
    )


def path_of(environ: dict[str, Any]) -> str:
    return _bytes(environ.get("PATH_INFO", "")).decode("utf-8", "replace")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1", "replace")


def fields_of(environ: dict[str, Any]) -> Fields:
    found = [
        (key.removeprefix("HTTP_").replace("_", "-").lower(), str(value))
        for key, value in environ.items()
        if key.startswith("HTTP_") or key in ("CONTENT_TYPE", "CONTENT_LENGTH")
    ]
    return tuple(found)
