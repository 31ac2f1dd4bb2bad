"""Responses to a storable form and back, exactly; nothing is ever executed on the way."""

from __future__ import annotations

import json
import math
import pickle
import warnings
from typing import Any

from mneme._core.shapes import shape_of
from mneme.errors import CodecError
from mneme.records import Payload
from mneme.types import Codec

__all__ = ["AutoCodec", "PickleCodec", "TypedCodec", "codec_for"]

_SCALARS = (str, int, bool, float, type(None))


class AutoCodec:
    """
    Text, bytes, and whatever JSON can carry, told apart by the value itself.

    Refused, because they would come back as something else: tuples, sets, keys that are not
    text, NaN, subclasses of the plain types.
    """

    def encode(self, value: Any, /) -> Payload:
        """
        The value as a `Payload`.

        Raises:
            CodecError: it would not come back equal; the message says which part.
        """
        if type(value) is str:
            return Payload("text", _encodable(value, "the response"))
        if type(value) is bytes:
            return Payload("bytes", value)
        check_json(value)
        return Payload("json", dump_json(value))

    def decode(self, payload: Payload, /) -> Any:
        if payload.kind == "text" or payload.kind == "bytes":
            return payload.data
        if payload.kind == "json":
            return json.loads(payload.data)
        raise CodecError(
            f"this entry was stored as {payload.kind}, which is not read without its codec. "
            "The entry was left as it is. Pass the codec it was stored with."
        )

    def __repr__(self) -> str:
        return "AutoCodec()"


class TypedCodec:
    """
    Values of one annotation: dataclasses, enums, pydantic models, tuples, dates and so on.

    Only the annotation says which classes are made when reading; nothing in the store does.

    Raises:
        CodecError: values of `annotation` cannot come back equal.
    """

    def __init__(self, annotation: Any) -> None:
        self._annotation = annotation
        self._shape = shape_of(annotation)

    def encode(self, value: Any, /) -> Payload:
        """
        The value as a `Payload`.

        Raises:
            CodecError: it is not what the annotation says, or would not come back equal.
        """
        try:
            plain = self._shape.to_plain(value)
            check_json(plain)
            text = dump_json(plain)
            back = self._shape.from_plain(json.loads(text))
            is_same = type(back) is type(value) and bool(back == value)
        except CodecError:
            raise
        except Exception as exc:
            raise self._differs(value) from exc
        if not is_same:
            raise self._differs(value)
        return Payload("json", text)

    def decode(self, payload: Payload, /) -> Any:
        if payload.kind != "json":
            raise CodecError(
                f"this entry was stored as {payload.kind}, not as {self._annotation}. "
                "The entry was left as it is. Give the function another `version=`."
            )
        return self._shape.from_plain(json.loads(payload.data))

    def _differs(self, value: Any) -> CodecError:
        return CodecError(
            f"{type(value).__qualname__} {_shown(value)} does not come back equal as "
            f"{self._annotation}. Nothing was stored. Correct the annotation, or pass `codec=`."
        )

    def __repr__(self) -> str:
        return f"TypedCodec({self._annotation!r})"


def codec_for(annotation: Any) -> Codec:
    """
    The codec for what a function is annotated to return.

    Raises:
        CodecError: values of `annotation` cannot come back equal.
    """
    if annotation is bytes or shape_of(annotation).is_plain:
        return AutoCodec()
    return TypedCodec(annotation)


class PickleCodec:
    """
    Any Python object, by `pickle`; never a default.

    Reading a pickle runs whatever code it holds: whoever can write to the store can run code
    here. Making one warns.
    """

    def __init__(self) -> None:
        warnings.warn(
            "PickleCodec runs code from the store when it reads. Use it only where nobody else "
            "can write to the store; annotate the function's result to do without.",
            UserWarning,
            stacklevel=2,
        )

    def encode(self, value: Any, /) -> Payload:
        try:
            return Payload("pickle", pickle.dumps(value))
        except Exception as exc:
            raise CodecError(
                f"{type(value).__qualname__} cannot be pickled: {exc}. Nothing was stored. "
                "Return a value that can, or leave it uncached."
            ) from exc

    def decode(self, payload: Payload, /) -> Any:
        if payload.kind != "pickle" or not isinstance(payload.data, bytes):
            raise CodecError(
                f"this entry was stored as {payload.kind}, not as a pickle. "
                "The entry was left as it is. Pass the codec it was stored with."
            )
        return pickle.loads(payload.data)


def dump_json(value: Any) -> str:
    """
    Compact JSON text, keys in their order, nothing escaped that need not be.

    Raises:
        CodecError: `check_json` would have passed it, and it is too large for JSON all the same.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError as exc:  # Python refuses to print very long numbers
        raise CodecError(
            f"the value cannot be written as JSON: {exc}. Nothing was stored. "
            "Return it as text, or pass `codec=`."
        ) from exc


def check_json(value: Any, path: str = "the response") -> None:
    """
    Nothing, if `value` comes back equal from JSON.

    Raises:
        CodecError: naming the part that would not.
    """
    try:
        _check_json(value, path)
    except RecursionError:
        raise CodecError(
            f"{path} is nested too deeply to be read again, or holds itself. "
            "Nothing was stored. Return something flatter, or pass `codec=`."
        ) from None


def _check_json(value: Any, path: str) -> None:
    kind = type(value)
    if kind is str:
        _encodable(value, path)
    elif kind is float:
        if not math.isfinite(value):
            raise _no_way_back(path, value)
    elif kind is list:
        for at, item in enumerate(value):
            _check_json(item, f"{path}[{at}]")
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise _no_way_back(f"the key {key!r} of {path}", key)
            _encodable(key, f"the key {key!r} of {path}")
            _check_json(item, f"{path}[{key!r}]")
    elif kind not in _SCALARS:
        raise _no_way_back(path, value)


def _encodable(text: str, path: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise CodecError(
                f"{path} holds half of a surrogate pair, which is not text. "
                "Nothing was stored. Decode it with errors='replace' first."
            ) from exc
    return text


def _shown(value: object) -> str:
    try:
        return repr(str(value)[:40])
    except Exception:  # what cannot even be shown is named by its class
        return "(which cannot be shown)"


def _no_way_back(path: str, value: object) -> CodecError:
    return CodecError(
        f"{path} is {type(value).__qualname__} {_shown(value)}, which does not come back "
        "equal from the store. Nothing was stored. Annotate what the function returns "
        "(dataclass, enum, pydantic model, tuple, ...), or pass `codec=`."
    )
