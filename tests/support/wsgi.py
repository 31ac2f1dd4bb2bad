"""A server and a client for WSGI applications, by hand; both sides watched by `wsgiref`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

from mneme.prompts import json_field, query_param
from mneme.wsgi import SemanticCacheMiddleware

ROUTES: dict[Any, Any] = {"/ask": json_field("prompt"), "/find": query_param("q")}
ASKED = {"prompt": "how do i reset my old password"}
REWORDED = {"prompt": "how do i reset my old password please"}
TEXT = ("Content-Type", "text/plain")


@dataclass
class Answer:
    """What a client makes of a response; `log` tells the order of what happened."""

    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    body_object: object = None

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def cache_status(self) -> str | None:
        found = [value for name, value in self.headers if name.lower() == "cache-status"]
        return ", ".join(found) if found else None

    @property
    def layer(self) -> str | None:
        status = self.cache_status or ""
        return status.rpartition("detail=")[2] if "; hit;" in status else None


def environ_of(
    method: str,
    path: str,
    body: bytes = b"",
    headers: Sequence[tuple[str, str]] = (),
    **more: Any,
) -> dict[str, Any]:
    path, _, query = path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": query,
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "wsgi.file_wrapper": FileWrapper,
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers},
        **more,
    }
    environ = {key: value for key, value in environ.items() if value is not None}
    setup_testing_defaults(environ)
    return environ


class ByHand:
    """Sends requests to an application, and takes down all that it says."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def post(self, path: str, body: Any = b"", **more: Any) -> Answer:
        return self.request("POST", path, body, **more)

    def get(self, path: str, **more: Any) -> Answer:
        return self.request("GET", path, CONTENT_TYPE=None, **more)

    def request(
        self,
        method: str,
        path: str,
        body: Any = b"",
        *,
        headers: Sequence[tuple[str, str]] = (),
        leave_after: int | None = None,
        answer: Answer | None = None,
        **environ: Any,
    ) -> Answer:
        """One request; `leave_after` is the number of chunks after which the client leaves."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        found = answer if answer is not None else Answer()

        def start_response(status: str, given: list[Any], exc_info: Any = None) -> Any:
            found.status, found.headers = status, list(given)
            found.log.append("start")
            return found.chunks.append

        iterable = self.app(environ_of(method, path, raw, headers, **environ), start_response)
        found.body_object = iterable
        try:
            for chunk in iterable:
                assert found.status, "start_response comes before the first chunk"
                if chunk:
                    found.chunks.append(chunk)
                found.log.append("chunk")
                if leave_after is not None and len(found.chunks) >= leave_after:
                    break
        finally:
            if hasattr(iterable, "close"):
                iterable.close()
            found.log.append("close")
        return found


def mounted(app: Any, cache: Any, **options: Any) -> ByHand:
    """The middleware around `app`, the protocol checked on both of its sides."""
    middleware: Any = SemanticCacheMiddleware(
        validator(app), cache=cache, **{"routes": ROUTES, **options}
    )
    return ByHand(validator(middleware))


def bare(app: Any, cache: Any, **options: Any) -> ByHand:
    """As `mounted`, for what `wsgiref.validate` would wrap or refuse."""
    return ByHand(SemanticCacheMiddleware(app, cache=cache, **{"routes": ROUTES, **options}))


def read_all(environ: dict[str, Any]) -> bytes:
    """The body as an application reads it."""
    if environ.get("wsgi.input_terminated"):
        return b"".join(iter(lambda: environ["wsgi.input"].read(7), b""))
    return bytes(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))


@dataclass
class Counting:
    """An application that answers ``answer <n>`` as JSON to its n-th request."""

    status: str = "200 OK"
    headers: Sequence[tuple[str, str]] = (("Content-Type", "application/json"),)
    chunks: Sequence[bytes] | None = None
    asked: list[bytes] = field(default_factory=list)
    environs: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.environs.append(environ)
        self.asked.append(read_all(environ))
        start_response(self.status, list(self.headers))
        if environ["REQUEST_METHOD"] == "HEAD":
            return []
        if self.chunks is None:
            return [json.dumps({"answer": len(self.asked)}).encode()]
        return list(self.chunks)


class Body:
    """An iterable that tells when it is asked for its steps, and when it is closed."""

    def __init__(self, log: list[str], steps: Callable[[], Iterator[bytes]]) -> None:
        self._log = log
        self._steps = steps

    def __iter__(self) -> Iterator[bytes]:
        self._log.append("iter")
        return self._steps()

    def close(self) -> None:
        self._log.append("closed")
