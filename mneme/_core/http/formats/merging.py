"""Pieces of an answer put together, and an answer's parts checked for what a stream can say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mneme._core.http.form import Unconvertible

__all__ = ["checked_plain", "extend", "join", "keep", "only", "take"]


def checked_plain(name: str, value: Any) -> Any:
    """
    `value`, if it means the same wherever in a stream it is said: a scalar, or empty.

    Raises:
        Unconvertible: it is a list or an object with something in it.
    """
    if isinstance(value, dict | list) and value:
        raise Unconvertible(f"nothing is known of {name!r} in a stream")
    return value


def keep(into: dict[str, Any], name: str, value: Any) -> None:
    """Let the last that is not null count; raises what `checked_plain` does."""
    checked_plain(name, value)
    if value is not None or name not in into:
        into[name] = value


def join(into: dict[str, Any], name: str, piece: Any) -> None:
    """
    Add a piece of text to what there is.

    Raises:
        Unconvertible: it is no text, or what there is is none.
    """
    there = into.get(name)
    if piece is None:
        into.setdefault(name, None)
    elif isinstance(piece, str) and (there is None or isinstance(there, str)):
        into[name] = (there or "") + piece
    else:
        raise Unconvertible(f"{name!r} is no text")


def extend(into: dict[str, Any], name: str, items: Any) -> None:
    """
    Add items to the list that there is.

    Raises:
        Unconvertible: they are no list, or what there is is none.
    """
    there = into.get(name)
    if items is None:
        into.setdefault(name, None)
    elif isinstance(items, list) and isinstance(there, list | None):
        into[name] = [*(there or []), *items]
    else:
        raise Unconvertible(f"{name!r} is no list")


def only(value: Any, names: Iterable[str]) -> dict[str, Any]:
    """
    `value`, an object that has no other names than these.

    Raises:
        Unconvertible: it is none, or has.
    """
    if not isinstance(value, dict):
        raise Unconvertible(f"{type(value).__name__} where an object was expected")
    if unknown := [name for name in value if name not in names and value[name] is not None]:
        raise Unconvertible(f"nothing is known of {unknown[0]!r}")
    return value


def take(value: Any, name: str, kind: type) -> Any:
    """
    ``value[name]``, of the type that the format says.

    Raises:
        Unconvertible: it is absent or of another type.
    """
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise Unconvertible(f"{name!r} is not what the format says it is")
    return found
