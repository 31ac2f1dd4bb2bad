"""
A response beside its way to the client: recorded, judged, and made fit to be sent again.

Nothing here holds a response back. The recording is dropped the moment it is clear that it
will not be stored, so that a long download costs no memory.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from mneme._core.http import formats
from mneme._core.http.fields import PERSONAL, Fields, directives, listed, replayable, values_of
from mneme._core.http.form import Form, Unconvertible
from mneme._core.http.routes import Route
from mneme.errors import CodecError
from mneme.records import Payload

__all__ = ["Recording", "ResponseCodec", "StoredResponse", "in_form"]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """
    A response as it is stored: status, the fields that may be sent again, and the body in the
    chunks in which it came. A cache's ``validator`` is asked about this.
    """

    status: int
    headers: Fields
    chunks: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


class Recording:
    """One response, from its first field to its last byte."""

    def __init__(self, route: Route, *, max_bytes: int) -> None:
        self._route = route
        self._room = max_bytes
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
        self.is_kept = _is_storable(self._route, status, self.headers)
        if self.is_kept:
            self.ttl = _lifetime(self.headers, now)

    def add(self, chunk: bytes) -> None:
        """What goes out next."""
        if self.is_kept and chunk:
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
        self.is_kept = False
        chunks, self._chunks = tuple(self._chunks), []
        body = b"".join(chunks)
        lengths = values_of(self.headers, "content-length")
        if any(length != str(len(body)) for length in lengths):
            return None
        (content_type,) = values_of(self.headers, "content-type")
        if not self._route.is_whole(content_type, body):
            return None
        # A length that was told is told again; a stream stays one.
        told = (("content-length", str(len(body))),) if lengths else ()
        return StoredResponse(self.status, (*replayable(self.headers), *told), chunks)

    @property
    def vary(self) -> frozenset[str]:
        """The request fields that the response says it depends on."""
        return listed(self.headers, "vary")


def _is_storable(route: Route, status: int, headers: Fields) -> bool:
    """Whether status and fields allow a response to be stored; the body has its own say."""
    content_types = values_of(headers, "content-type")
    if status not in route.statuses or len(content_types) != 1:
        return False
    if not _is_of(content_types[0], route.content_types):
        return False
    names = {name.lower() for name, _ in headers}
    if not names.isdisjoint(PERSONAL) or "*" in listed(headers, "vary"):
        return False
    if any(
        value.lower() not in ("", "identity") for value in values_of(headers, "content-encoding")
    ):
        # The client after this one may not be able to decode it.
        return False
    if "cache-control" not in names:
        return True
    said = directives(values_of(headers, "cache-control"))
    if said is None or "no-store" in said or "private" in said:
        return False
    return route.ignore_no_cache or "no-cache" not in said


def _lifetime(headers: Fields, now: float) -> float | None:
    """
    How long a response lets itself be stored: ``s-maxage``, ``max-age`` or ``Expires``, the
    first that there is (RFC 9111 §4.2.1). What cannot be read means not at all.
    """
    said = directives(values_of(headers, "cache-control")) or {}
    for name in ("s-maxage", "max-age"):
        if name in said:
            value = said[name] or ""
            return float(value) if value.isascii() and value.isdigit() and len(value) < 16 else 0.0
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


def in_form(response: StoredResponse, told: Form | None, wanted: Form | None) -> StoredResponse:
    """
    A response that came in the form `told`, as it is `wanted`: the very same where they agree.

    Raises:
        Unconvertible: it cannot be said in that form.
    """
    if told == wanted:
        return response
    if told is None or wanted is None:
        raise Unconvertible("one of the two forms is not known")
    chunks = formats.convert(response.body, told, wanted)
    changed = ("content-type", "content-length")
    kept = [pair for pair in response.headers if pair[0].lower() not in changed]
    if wanted.streams:
        told_type = [("content-type", formats.STREAM_TYPES[wanted.format])]
    else:
        size = str(sum(map(len, chunks)))
        told_type = [("content-type", formats.VALUE_TYPE), ("content-length", size)]
    return StoredResponse(response.status, (*kept, *told_type), chunks)


class ResponseCodec:
    """
    Stored responses as JSON: a chunk is text where it is UTF-8, else Base64 in an object.

    Beside a response stands the form in which it was asked for, and it is read in the form in
    which this caller asks.
    """

    def __init__(self, form: Form | None = None) -> None:
        self._form = form

    def encode(self, value: Any, /) -> Payload:
        """
        The response as a `Payload`.

        Raises:
            CodecError: it is no `StoredResponse`.
        """
        if not isinstance(value, StoredResponse):
            raise CodecError(
                f"{type(value).__name__} is no response. Nothing was stored. "
                "Let the middleware store what it recorded."
            )
        record: dict[str, Any] = {
            "status": value.status,
            "headers": [list(pair) for pair in value.headers],
            "chunks": [_to_plain(chunk) for chunk in value.chunks],
        }
        if self._form is not None:
            record["form"] = asdict(self._form)
        return Payload("json", json.dumps(record, ensure_ascii=False, separators=(",", ":")))

    def decode(self, payload: Payload, /) -> StoredResponse:
        """
        The response again, byte for byte where it is asked for in the form it came in.

        Raises:
            CodecError: the payload is none of this codec, or cannot be said in that form.
        """
        try:
            if payload.kind != "json":
                raise ValueError(f"its kind is {payload.kind}")
            record = json.loads(payload.data)
            response = StoredResponse(
                int(record["status"]),
                tuple((str(name), str(value)) for name, value in record["headers"]),
                tuple(_from_plain(chunk) for chunk in record["chunks"]),
            )
            told = Form(**record["form"]) if "form" in record else None
            return in_form(response, told, self._form)
        except Unconvertible as exc:
            raise CodecError(
                f"this answer cannot be said in the form that is asked for: {exc}. "
                "The entry was left as it is. The next answer in this form overwrites it."
            ) from exc
        except (ValueError, TypeError, KeyError) as exc:
            raise CodecError(
                f"this entry is no stored response: {exc}. The entry was left as it is. "
                "Clear it, or let the next answer overwrite it."
            ) from exc


def _to_plain(chunk: bytes) -> str | dict[str, str]:
    try:
        return chunk.decode()
    except UnicodeDecodeError:
        # Binary, or a chunk that ends within a character.
        return {"base64": base64.b64encode(chunk).decode()}


def _from_plain(plain: Any) -> bytes:
    if isinstance(plain, str):
        return plain.encode()
    return base64.b64decode(plain["base64"], validate=True)
