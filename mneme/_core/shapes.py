"""
From a result's annotation to the way its values become JSON and come back as what they were.

Only the annotation says which classes are made when reading; nothing in the store does.
"""

from __future__ import annotations

import base64
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import pathlib
import types
import typing
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mneme.errors import CodecError

__all__ = ["Shape", "shape_of"]

Step = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """How values of one annotation become plain JSON values, and back."""

    to_plain: Step
    from_plain: Step
    is_plain: bool = False
    """Whether the values are plain JSON already, so that no annotation is needed."""


def _same(value: Any) -> Any:
    return value


PLAIN = Shape(_same, _same, is_plain=True)

_BY_TEXT: dict[type, Step] = {
    datetime.datetime: datetime.datetime.fromisoformat,
    datetime.date: datetime.date.fromisoformat,
    datetime.time: datetime.time.fromisoformat,
    decimal.Decimal: decimal.Decimal,
    uuid.UUID: uuid.UUID,
    complex: complex,
    pathlib.Path: pathlib.Path,
    pathlib.PurePath: pathlib.PurePath,
}

_LISTS = (list, collections.abc.Sequence, collections.abc.MutableSequence,
          collections.abc.Iterable, collections.abc.Collection)  # fmt: skip
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def shape_of(annotation: Any) -> Shape:
    """
    The shape of `annotation`.

    Raises:
        CodecError: values of it cannot be stored and read back equal.
    """
    return _shape(annotation, {})


def _shape(annotation: Any, known: dict[Any, Shape]) -> Shape:
    annotation = _bare(annotation)
    if annotation in (Any, None, object, str, int, float, bool, type(None)):
        return PLAIN
    if annotation is bytes:
        return Shape(lambda value: base64.b64encode(value).decode(), base64.b64decode)
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _union([_shape(one, known) for one in inner])
    if origin is typing.Literal:
        return PLAIN if all(type(one) is not bytes for one in inner) else _refuse(annotation)
    kind = origin or annotation
    if kind is tuple:
        return _tuple(inner, known)
    if kind in _LISTS:
        return _list(_shape(inner[0], known) if inner else PLAIN, list)
    if kind in (set, frozenset, collections.abc.Set):
        return _list(_shape(inner[0], known) if inner else PLAIN, set if kind is set else frozenset)
    if kind in _MAPPINGS:
        return _mapping(*((_shape(one, known) for one in inner) if inner else (PLAIN, PLAIN)))
    if isinstance(annotation, type):
        return _class(annotation, known)
    return _refuse(annotation)


def _bare(annotation: Any) -> Any:
    """Without what only type checkers care for: NewType, Annotated, type aliases, TypeVar."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, typing.TypeVar):
            annotation = annotation.__bound__ or Any
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation


def _class(kind: type, known: dict[Any, Shape]) -> Shape:
    if kind in known:
        return known[kind]
    if kind in _BY_TEXT:
        read = _BY_TEXT[kind]
        to_text: Step = str if not hasattr(kind, "isoformat") else lambda value: value.isoformat()
        return Shape(to_text, read)
    if kind is datetime.timedelta:
        return Shape(
            lambda value: [value.days, value.seconds, value.microseconds],
            lambda plain: datetime.timedelta(*plain),
        )
    if issubclass(kind, enum.Enum):
        return Shape(lambda value: value.name, lambda name: kind[name])
    if hasattr(kind, "model_validate") and hasattr(kind, "model_dump"):
        model: Any = kind
        return Shape(
            lambda value: value.model_dump(mode="json", by_alias=True, round_trip=True),
            model.model_validate,
        )
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, known)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return _named_tuple(kind, known)
    if typing.is_typeddict(kind):
        return _typed_dict(kind, known)
    return _refuse(kind)


def _dataclass(kind: Any, known: dict[Any, Shape]) -> Shape:
    shapes: dict[str, Shape] = {}
    # Known before its fields are, so that a class may hold itself.
    known[kind] = Shape(
        lambda value: {name: s.to_plain(getattr(value, name)) for name, s in shapes.items()},
        lambda plain: _rebuilt(kind, {n: s.from_plain(plain[n]) for n, s in shapes.items()}),
    )
    hints = typing.get_type_hints(kind, include_extras=True)
    shapes.update({f.name: _shape(hints[f.name], known) for f in dataclasses.fields(kind)})
    return known[kind]


def _rebuilt(kind: Any, values: dict[str, Any]) -> Any:
    init = {f.name: values[f.name] for f in dataclasses.fields(kind) if f.init}
    made = kind(**init)
    for field in dataclasses.fields(kind):
        if not field.init:
            object.__setattr__(made, field.name, values[field.name])
    return made


def _named_tuple(kind: Any, known: dict[Any, Shape]) -> Shape:
    hints = typing.get_type_hints(kind, include_extras=True)
    shapes = [_shape(hints.get(name, Any), known) for name in kind._fields]
    return Shape(
        lambda value: [s.to_plain(item) for s, item in zip(shapes, value, strict=True)],
        lambda plain: kind(*(s.from_plain(one) for s, one in zip(shapes, plain, strict=True))),
    )


def _typed_dict(kind: Any, known: dict[Any, Shape]) -> Shape:
    hints = {
        name: _shape(_without_required(hint), known)
        for name, hint in typing.get_type_hints(kind, include_extras=True).items()
    }
    if all(shape.is_plain for shape in hints.values()):
        return PLAIN
    return Shape(
        lambda value: {n: hints.get(n, PLAIN).to_plain(item) for n, item in value.items()},
        lambda plain: {n: hints.get(n, PLAIN).from_plain(item) for n, item in plain.items()},
    )


def _without_required(hint: Any) -> Any:
    while typing.get_origin(hint) in (typing.Required, typing.NotRequired):
        hint = typing.get_args(hint)[0]
    return hint


def _list(item: Shape, kind: Callable[[Any], Any]) -> Shape:
    if item.is_plain and kind is list:
        return PLAIN
    return Shape(
        lambda value: [item.to_plain(one) for one in value],
        lambda plain: kind(item.from_plain(one) for one in plain),
    )


def _tuple(inner: tuple[Any, ...], known: dict[Any, Shape]) -> Shape:
    if (len(inner) == 2 and inner[1] is Ellipsis) or not inner:
        return _list(_shape(inner[0], known) if inner else PLAIN, tuple)
    shapes = [_shape(one, known) for one in inner]
    return Shape(
        lambda value: [s.to_plain(one) for s, one in zip(shapes, value, strict=True)],
        lambda plain: tuple(s.from_plain(one) for s, one in zip(shapes, plain, strict=True)),
    )


def _mapping(key: Shape, item: Shape) -> Shape:
    if key.is_plain and item.is_plain:
        return PLAIN
    return Shape(
        lambda value: [[key.to_plain(k), item.to_plain(v)] for k, v in value.items()],
        lambda plain: {key.from_plain(k): item.from_plain(v) for k, v in plain},
    )


def _union(shapes: list[Shape]) -> Shape:
    if all(shape.is_plain for shape in shapes):
        return PLAIN

    def to_plain(value: Any) -> Any:
        for at, shape in enumerate(shapes):
            try:
                plain = shape.to_plain(value)
                back = shape.from_plain(plain)
            except Exception:  # a value of another member may fail in any way
                continue
            if type(back) is type(value) and back == value:
                return [at, plain]
        raise CodecError(
            f"{type(value).__qualname__} is none of the annotated types. Nothing was stored. "
            "Correct the annotation, or pass `codec=`."
        )

    return Shape(to_plain, lambda plain: shapes[plain[0]].from_plain(plain[1]))


def _refuse(annotation: Any) -> Shape:
    name = getattr(annotation, "__qualname__", None) or str(annotation)
    raise CodecError(
        f"values of {name} cannot be stored and read back equal. Nothing was decorated or stored. "
        "Return text, JSON values, a dataclass, an enum or a pydantic model, or pass `codec=`."
    )
