"""Events on the wire: server-sent events and lines of JSON, read and written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mneme._core.http.form import Unconvertible

__all__ = ["Event", "as_event", "as_line", "dumped", "events_of", "lines_of", "loaded",
           "objects"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its name, its text, and what the text says if that is a JSON object."""

    name: str
    text: str
    value: Any

    @property
    def kind(self) -> str:
        """What the event calls itself: Anthropic and the Responses API say it in both places."""
        kind = self.value.get("type") if isinstance(self.value, dict) else None
        return kind if isinstance(kind, str) else self.name


def events_of(text: str) -> list[Event] | None:
    """
    The events of a ``text/event-stream``; None where the last is not followed by its empty line.

    Comments, which keep a connection awake, are left out. The lines are those of WHATWG HTML
    §9.2.6.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    *blocks, rest = lines.removeprefix("\ufeff").split("\n\n")
    if rest.strip("\n"):
        return None
    return [event for block in blocks if (event := _event(block)) is not None]


def _event(block: str) -> Event | None:
    name = ""
    data: list[str] = []
    for line in block.split("\n"):
        field, _, value = line.partition(":")
        if field == "event":
            name = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))
    if not name and not data:
        return None
    text = "\n".join(data)
    try:
        return Event(name, text, json.loads(text) if text[:1] == "{" else None)
    except ValueError:
        return Event(name, text, None)


def lines_of(text: str) -> list[Any] | None:
    """
    The values of newline-delimited JSON; None where the last line has no end.

    Raises:
        ValueError: a line is no JSON.
    """
    if text and not text.endswith("\n"):
        return None
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def loaded(text: str) -> Any:
    """
    One JSON value.

    Raises:
        Unconvertible: (a `ValueError`) it is none.
    """
    try:
        return json.loads(text)
    except ValueError as exc:
        raise Unconvertible(f"no JSON: {exc}") from exc


def dumped(value: Any) -> str:
    """
    A value as JSON.

    Raises:
        ValueError: it has a number that JSON has not.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def as_event(value: Any, name: str = "") -> bytes:
    """`value` as one server-sent event; text goes out as it is."""
    text = value if isinstance(value, str) else dumped(value)
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {text}\n\n".encode()


def as_line(value: Any) -> bytes:
    """`value` as one line of newline-delimited JSON."""
    return f"{dumped(value)}\n".encode()


def objects(values: Any) -> list[dict[str, Any]]:
    """
    `values`, a list of objects.

    Raises:
        Unconvertible: it is no list, or something in it is no object.
    """
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise Unconvertible("something else where objects were expected")
    return values
