"""
A response as it is stored, written down and read back in the form that a caller asks for.
"""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from mneme._core.http import formats
from mneme._core.http.fields import Fields, directives, values_of
from mneme._core.http.form import Form, Unconvertible
from mneme._core.http.saying import words_of
from mneme.errors import CodecError
from mneme.records import Payload

__all__ = ["ResponseCodec", "StoredResponse", "has_other_form", "in_form"]


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
    # "The no-transform response directive indicates that an intermediary (...) MUST NOT
    # transform the content" (RFC 9111 §5.2.2.6).
    if "no-transform" in (directives(values_of(response.headers, "cache-control")) or {}):
        raise Unconvertible("the application forbids it")
    chunks = formats.convert(response.body, told, wanted)
    changed = ("content-type", "content-length")
    kept = [pair for pair in response.headers if pair[0].lower() not in changed]
    if wanted.streams:
        told_type = [("content-type", formats.STREAM_TYPES[wanted.format])]
    else:
        size = str(sum(map(len, chunks)))
        told_type = [("content-type", formats.VALUE_TYPE), ("content-length", size)]
    return StoredResponse(response.status, (*kept, *told_type), chunks)


def has_other_form(response: StoredResponse, told: Form) -> bool:
    """Whether a response that came in the form `told` can be served in the other one, too."""
    try:
        in_form(response, told, Form(told.format, streams=not told.streams))
    except Unconvertible:
        return False
    return True


class ResponseCodec:
    """
    Stored responses as JSON: a chunk is text where it is UTF-8, else Base64 in an object.

    Beside a response stands the form in which it was asked for, and it is read in the form in
    which this caller asks.
    """

    def __init__(self, form: Form | None = None, *, may_convert: bool = True) -> None:
        self.form = form
        self._may_convert = may_convert

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
        if self.form is not None:
            record["form"] = asdict(self.form)
        return Payload("json", json.dumps(record, ensure_ascii=False, separators=(",", ":")))

    def decode(self, payload: Payload, /) -> StoredResponse:
        """
        The response again, byte for byte where it is asked for in the form it came in.

        Raises:
            CodecError: the payload is none of this codec, or cannot be said in that form.
        """
        try:
            if payload.kind != "json" or not isinstance(payload.data, str):
                raise ValueError(f"its kind is {payload.kind}")
            response, told = (_read_small if len(payload.data) <= SMALL else _read)(payload.data)
            if told != self.form and not self._may_convert:
                raise Unconvertible("the client forbids it")
            return in_form(response, told, self.form)
        except Unconvertible as exc:
            raise CodecError(
                f"this answer cannot be said in the form that is asked for: {exc}. "
                "The entry was left as it is. Ask the application for this form."
            ) from exc
        except (ValueError, TypeError, KeyError) as exc:
            raise CodecError(
                f"this entry is no stored response: {exc}. The entry was left as it is. "
                "Clear it, or let the next answer overwrite it."
            ) from exc

    def said(self, payload: Payload) -> str | bytes:
        """What the response answers, however it was asked for; for comparing answers."""
        response, told = _read(str(payload.data))
        if told is not None and told.streams:
            with suppress(Unconvertible):
                response = in_form(response, told, Form(told.format, streams=False))
        content_type = "".join(values_of(response.headers, "content-type"))
        return words_of(content_type, response.body, is_known=told is not None)


def _read(data: str) -> tuple[StoredResponse, Form | None]:
    record = json.loads(data)
    response = StoredResponse(
        int(record["status"]),
        tuple((str(name), str(value)) for name, value in record["headers"]),
        tuple(_from_plain(chunk) for chunk in record["chunks"]),
    )
    return response, Form(**record["form"]) if "form" in record else None


SMALL = 16_384
"""Characters of a stored response that is kept as it was read, 256 of them at most."""

# A response does not change, so hits may share it.
_read_small = lru_cache(maxsize=256)(_read)


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
