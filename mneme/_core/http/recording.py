"""
A response beside its way to the client: recorded, judged, and made fit to be sent again.

Nothing here holds a response back. The recording is dropped the moment it is clear that it
will not be stored, so that a long download costs no memory.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Any

from mneme._core.http.fields import (
    Fields,
    directives,
    is_personal,
    listed,
    replayable,
    seconds,
    values_of,
)
from mneme._core.http.responses import StoredResponse
from mneme._core.http.routes import Route

__all__ = ["Recording"]


AUTO = 47
"""To zlib: whatever header there is, gzip's or its own."""

READABLE = frozenset(("identity", "gzip", "x-gzip", "deflate"))
"""Codings of a body that can be taken off with the standard library."""

LAST_EVENT = re.compile(rb"(?:^|\n)data: ?\[DONE\]\r?\n\r?\n$")
LAST_EVENT_BYTES = 20


class Recording:
    """
    One response, from its first field to its last byte.

    The body is kept as it is without its coding, because the client after this one may not
    be able to decode it.
    """

    def __init__(self, route: Route, *, max_bytes: int, is_for_one: bool = False) -> None:
        """`is_for_one`: it is kept where none but this requester finds it."""
        self._route = route
        self._is_for_one = is_for_one
        own = route.max_response_bytes
        self._room = max_bytes if own is None else min(max_bytes, own)
        self._size = 0
        self._decoder: Any = None
        self.status = 0
        self.headers: Fields = ()
        self._chunks: list[bytes] = []
        self.is_kept = False
        """Whether it would be stored if it ended now as a whole."""
        self.ttl: float | None = None
        """The longest that the response lets itself be stored, in seconds; None: no word of it."""

    def start(self, status: int, headers: Iterable[tuple[str, str]], *, now: float) -> None:
        """Begin, or begin again: a response that has not gone out may still be replaced."""
        self.status = status
        self.headers = tuple((name, value.strip()) for name, value in headers)
        self._chunks.clear()
        self._size = 0
        self._decoder = zlib.decompressobj(AUTO) if self.is_coded else None
        self.is_kept = _is_storable(self._route, status, self.headers, is_for_one=self._is_for_one)
        if self.is_kept:
            self.ttl = _lifetime(self.headers, now)

    def add(self, chunk: bytes) -> None:
        """What goes out next."""
        if not self.is_kept or not chunk:
            return
        self._size += len(chunk)
        if self._decoder is not None:
            try:
                # No more than there is room for: a small body may be a large one's coding.
                chunk = self._decoder.decompress(chunk, self._room + 1)
            except zlib.error:
                self.drop()
                return
            if not chunk:
                return
        self._room -= len(chunk)
        if self._room < 0:
            self.drop()
        else:
            self._chunks.append(bytes(chunk))

    def drop(self) -> None:
        """This response will not be stored, whatever else comes."""
        self.is_kept = False
        self._chunks.clear()

    def finish(self) -> StoredResponse | None:
        """The response, now that it has ended cleanly; None if it is not to be stored."""
        if not self.is_kept:
            return None
        if self._decoder is not None and (not self._decoder.eof or self._decoder.unused_data):
            self.drop()
            return None
        self.is_kept = False
        chunks, self._chunks = tuple(self._chunks), []
        body = b"".join(chunks)
        lengths = values_of(self.headers, "content-length")
        if any(length != str(self._size) for length in lengths):
            return None
        (content_type,) = values_of(self.headers, "content-type")
        if not self._route.is_whole(content_type, body):
            return None
        # A length that was told is told again; a stream stays one.
        told = (("content-length", str(len(body))),) if lengths else ()
        fields = tuple(
            (name, value)
            for name, value in replayable(self.headers)
            if name.lower() != "content-encoding"
        )
        response = StoredResponse(self.status, (*fields, *told), chunks)
        admits = self._route.cache_if
        return response if admits is None or admits(response) else None

    @property
    def is_coded(self) -> bool:
        """Whether the body is sent in another form than the one that is kept."""
        return not listed(self.headers, "content-encoding") <= {"identity"}

    @property
    def has_said_all(self) -> bool:
        """Whether ``[DONE]`` has come: some clients close the stream there, before its end."""
        content_type = "".join(values_of(self.headers, "content-type"))
        if not self.is_kept or not content_type.lower().startswith("text/event-stream"):
            return False
        tail = b""
        for chunk in reversed(self._chunks):
            tail = chunk[-LAST_EVENT_BYTES:] + tail
            if len(tail) >= LAST_EVENT_BYTES:
                break
        return LAST_EVENT.search(tail) is not None

    @property
    def vary(self) -> frozenset[str]:
        """The request fields that the response says it depends on."""
        return listed(self.headers, "vary")


def _is_storable(route: Route, status: int, headers: Fields, *, is_for_one: bool) -> bool:
    """Whether status and fields allow a response to be stored; the body has its own say."""
    content_types = values_of(headers, "content-type")
    if status not in route.statuses or len(content_types) != 1:
        return False
    if not _is_of(content_types[0], route.content_types):
        return False
    names = {name.lower() for name, _ in headers}
    # "A stored response with a Vary header field value containing a member '*' always fails to
    # match" (RFC 9111 §4.1).
    if is_personal(headers) or "*" in listed(headers, "vary"):
        return False
    if not listed(headers, "content-encoding") <= READABLE:
        return False
    if "cache-control" not in names:
        return True
    # "The no-store response directive indicates that a cache MUST NOT store any part of either
    # the immediate request or the response" (§5.2.2.5).
    said = directives(values_of(headers, "cache-control"))
    if said is None or "no-store" in said:
        return False
    # "The unqualified private response directive indicates that a shared cache MUST NOT store
    # the response (i.e., the response is intended for a single user)" (§5.2.2.7).
    if "private" in said and not is_for_one:
        return False
    # "The no-cache response directive, in its unqualified form (without an argument), indicates
    # that the response MUST NOT be used to satisfy any other request without forwarding it for
    # validation" (§5.2.2.4), which a POST has not.
    return route.ignore_no_cache or "no-cache" not in said


def _lifetime(headers: Fields, now: float) -> float | None:
    """
    How long a response lets itself be stored: ``s-maxage``, ``max-age`` or ``Expires``, the
    first that there is (RFC 9111 §4.2.1). What cannot be read means not at all.

    "The s-maxage response directive indicates that, for a shared cache, the maximum age
    specified by this directive overrides the maximum age specified by either the max-age
    directive or the Expires header field" (§5.2.2.10).
    """
    said = directives(values_of(headers, "cache-control")) or {}
    for name in ("s-maxage", "max-age"):
        if name in said:
            return seconds(said[name]) or 0.0
    if expires := values_of(headers, "expires"):
        try:
            return max(0.0, parsedate_to_datetime(expires[0]).timestamp() - now)
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return None


def _is_of(content_type: str, wanted: Iterable[str]) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return any(
        re.fullmatch(".+".join(map(re.escape, one.lower().split("*"))), media_type)
        for one in wanted
    )
