"""Responses for clients of httpx2 and httpx; neither library is imported."""

from __future__ import annotations

from typing import Any

from mneme._core.http.exchange import Refused, hit_fields
from mneme._core.http.fetching import Stored
from mneme._core.http.fields import Fields
from mneme._core.http.outgoing import library_of
from mneme._core.http.recorded import Followed
from mneme.records import Hit

__all__ = ["followed", "made", "stored", "told"]


def told(response: Any, status: str) -> Any:
    said = response.headers.get("cache-status")
    response.headers["cache-status"] = ", ".join(filter(None, (said, status)))
    return response


def stored(request: Any, hit: Hit | Refused, *, debug: bool) -> Any:
    library = library_of(request)
    headers = (*hit.response.headers, *hit_fields(hit, debug=debug))
    stream = made(library, Stored, hit.response.chunks)
    return _response(library, hit.response.status, headers, stream)


def followed(request: Any, followed: Followed, kind: type[Any]) -> Any:
    library = library_of(request)
    if followed.relay is None:
        stream = made(library, Stored, tuple(followed.reader.chunks))
    else:
        source = followed.relay.source
        stream = made(library, kind, source, followed.reader, library.ReadError)
    return _response(library, followed.status, followed.headers, stream)


def _response(library: Any, status: int, headers: Fields, stream: Any) -> Any:
    return library.Response(
        status,
        headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        stream=stream,
        extensions={"http_version": b"HTTP/1.1"},
    )


def made(library: Any, kind: type[Any], *args: Any) -> Any:
    """A stream of `kind` that the library knows for one of its own."""
    known = _known.get((library, kind))
    if known is None:
        bases = [kind]
        if hasattr(kind, "__iter__"):
            bases.append(library.SyncByteStream)
        if hasattr(kind, "__aiter__"):
            bases.append(library.AsyncByteStream)
        known = _known[library, kind] = type(kind.__name__, tuple(bases), {})
    return known(*args)


_known: dict[tuple[Any, type[Any]], type[Any]] = {}
