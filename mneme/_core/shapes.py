"""
From a result's annotation to the way its values become JSON and come back as what they were.

Only the annotation says which classes are made when reading; nothing in the store does. And
only values of exactly these classes are written: others would come back as their parents.
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


def _only(kind: type, step: Step) -> Step:
    """`step`, for values of exactly `kind`."""

    def to_plain(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{type(value).__qualname__} is not {kind.__qualname__}")
        return step(value)

    return to_plain


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
    pathlib.PurePosixPath: pathlib.PurePosixPath,
    pathlib.PureWindowsPath: pathlib.PureWindowsPath,
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
        return Shape(_only(bytes, lambda v: base64.b64encode(v).decode()), base64.b64decode)
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _union([_shape(one, known) for one in inner])
    if origin is typing.Literal:
        return _union([_shape(one, known) for one in dict.fromkeys(map(type, inner))])
    kind = origin or annotation
    if kind is tuple:
        return _tuple(inner, known)
    if kind in _LISTS:
        return _list(_shape(inner[0], known) if inner else PLAIN, list)
    if kind in (set, frozenset, collections.abc.Set):
        return _list(_shape(inner[0], known) if inner else PLAIN, set if kind is set else frozenset)
    if kind in _MAPPINGS:
        key, item = inner or (str, Any)
        return _mapping(_shape(key, known), _shape(item, known), keys_are_text=_is_text(key))
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
        # A path is of the system's own class, whichever was asked for.
        exact = type(kind()) if issubclass(kind, pathlib.PurePath) else kind
        return Shape(_only(exact, to_text), read)
    if kind is datetime.timedelta:
        return Shape(
            _only(kind, lambda value: [value.days, value.seconds, value.microseconds]),
            lambda plain: datetime.timedelta(*plain),
        )
    if issubclass(kind, enum.Flag):
        return Shape(_only(kind, lambda value: value.value), kind)
    if issubclass(kind, enum.Enum):
        return Shape(_only(kind, lambda value: value.name), lambda name: kind[name])
    if hasattr(kind, "model_validate") and hasattr(kind, "model_dump"):
        model: Any = kind
        return Shape(
            _only(kind, lambda v: v.model_dump(mode="json", by_alias=True, round_trip=True)),
            # Not strict, whatever the model is: JSON has no dates, tuples or sets.
            lambda plain: model.model_validate(plain, strict=False),
        )
    if dataclasses.is_dataclass(kind) and kind.__eq__ is not object.__eq__:
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
        _only(kind, lambda v: {n: s.to_plain(getattr(v, n)) for n, s in shapes.items()}),
        lambda plain: _rebuilt(kind, {n: s.from_plain(plain[n]) for n, s in shapes.items()}),
    )
    hints = _hints(kind)
    shapes.update({f.name: _shape(hints[f.name], known) for f in dataclasses.fields(kind)})
    return known[kind]


def _rebuilt(kind: Any, values: dict[str, Any]) -> Any:
    init = {f.name: values[f.name] for f in dataclasses.fields(kind) if f.init}
    made = kind(**init)
    for field in dataclasses.fields(kind):
        if not field.init:
            object.__setattr__(made, field.name, values[field.name])
    return made


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception as exc:  # evaluating what somebody wrote in quotes may fail in any way
        raise CodecError(
            f"the fields of {kind.__qualname__} cannot be resolved: {exc}. Nothing was decorated. "
            "Import at run time what its annotations name, or pass `codec=`."
        ) from exc


def _named_tuple(kind: Any, known: dict[Any, Shape]) -> Shape:
    shapes: list[Shape] = []
    known[kind] = Shape(
        _only(kind, lambda value: [s.to_plain(o) for s, o in zip(shapes, value, strict=True)]),
        lambda plain: kind(*(s.from_plain(one) for s, one in zip(shapes, plain, strict=True))),
    )
    hints = _hints(kind)
    shapes += [_shape(hints.get(name, Any), known) for name in kind._fields]
    return known[kind]


def _typed_dict(kind: Any, known: dict[Any, Shape]) -> Shape:
    shapes: dict[str, Shape] = {}
    known[kind] = Shape(
        _only(dict, lambda v: {n: shapes.get(n, PLAIN).to_plain(one) for n, one in v.items()}),
        lambda plain: {n: shapes.get(n, PLAIN).from_plain(one) for n, one in plain.items()},
    )
    for name, hint in _hints(kind).items():
        shapes[name] = _shape(_without_required(hint), known)
    if all(shape.is_plain for shape in shapes.values()):
        known[kind] = PLAIN
    return known[kind]


def _without_required(hint: Any) -> Any:
    while typing.get_origin(hint) in (typing.Required, typing.NotRequired):
        hint = typing.get_args(hint)[0]
    return hint


def _list(item: Shape, kind: type) -> Shape:
    if item.is_plain and kind is list:
        return PLAIN
    return Shape(
        _only(kind, lambda value: [item.to_plain(one) for one in value]),
        lambda plain: kind(item.from_plain(one) for one in plain),
    )


def _tuple(inner: tuple[Any, ...], known: dict[Any, Shape]) -> Shape:
    if (len(inner) == 2 and inner[1] is Ellipsis) or not inner:
        return _list(_shape(inner[0], known) if inner else PLAIN, tuple)
    shapes = [_shape(one, known) for one in inner]
    return Shape(
        _only(tuple, lambda v: [s.to_plain(one) for s, one in zip(shapes, v, strict=True)]),
        lambda plain: tuple(s.from_plain(one) for s, one in zip(shapes, plain, strict=True)),
    )


def _is_text(annotation: Any) -> bool:
    """Whether JSON can carry such keys: what is of no certain type is judged by its values."""
    annotation = _bare(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return all(type(one) is str for one in typing.get_args(annotation))
    return annotation in (str, Any)


def _mapping(key: Shape, item: Shape, *, keys_are_text: bool) -> Shape:
    if keys_are_text and item.is_plain:
        return PLAIN
    return Shape(
        _only(dict, lambda value: [[key.to_plain(k), item.to_plain(v)] for k, v in value.items()]),
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
            if type(back) is type(value) and back == value and _is_json(plain):
                return [at, plain]
        raise CodecError(
            f"{type(value).__qualname__} is none of the annotated types. Nothing was stored. "
            "Correct the annotation, or pass `codec=`."
        )

    return Shape(to_plain, lambda plain: shapes[plain[0]].from_plain(plain[1]))


def _is_json(plain: Any) -> bool:
    """Whether nothing is left in `plain` that its shape took for JSON and is not."""
    if type(plain) is list:
        return all(map(_is_json, plain))
    if type(plain) is dict:
        return all(type(key) is str and _is_json(one) for key, one in plain.items())
    return type(plain) in (str, int, float, bool, type(None))


def _refuse(annotation: Any) -> Shape:
    name = getattr(annotation, "__qualname__", None) or str(annotation)
    raise CodecError(
        f"values of {name} cannot be stored and read back equal. Nothing was decorated or stored. "
        "Return text, JSON values, a dataclass, an enum or a pydantic model, or pass `codec=`."
    )
