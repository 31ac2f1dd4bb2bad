"""
Answers from one form to the other: a value to a stream, a stream to a value.

Pure functions, bytes in and bytes out. What an answer says is kept (words, calls of tools,
reasoning, usage, probabilities); how a model happened to cut it into pieces is not. An answer
that the other form cannot say is not converted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mneme._core.http.form import Form, Unconvertible
from mneme._core.http.formats import anthropic_messages, ollama, openai_chat, openai_responses
from mneme._core.http.formats.events import dumped, events_of, lines_of, loaded

__all__ = ["STREAM_TYPES", "VALUE_TYPE", "convert"]

VALUE_TYPE = "application/json"
STREAM_TYPES = {
    "anthropic_messages": "text/event-stream; charset=utf-8",
    "ollama": "application/x-ndjson",
    "openai_chat": "text/event-stream; charset=utf-8",
    "openai_responses": "text/event-stream; charset=utf-8",
}
"""The formats that are known, and the content type of each one's streams."""


@dataclass(frozen=True, slots=True)
class _Format:
    """How one format is read from a stream, and turned round."""

    parted: Callable[[str], list[Any] | None]
    stream_of: Callable[[Any, Form], list[bytes]]
    value_of: Callable[[list[Any]], Any]
    restream: Callable[[list[Any], Form], list[bytes]] | None = None


_FORMATS = {
    "anthropic_messages": _Format(
        events_of, anthropic_messages.stream_of, anthropic_messages.value_of
    ),
    "ollama": _Format(lines_of, ollama.stream_of, ollama.value_of),
    "openai_chat": _Format(
        events_of, openai_chat.stream_of, openai_chat.value_of, openai_chat.restream
    ),
    "openai_responses": _Format(events_of, openai_responses.stream_of, openai_responses.value_of),
}


def convert(body: bytes, told: Form, wanted: Form) -> tuple[bytes, ...]:
    """
    The answer `body`, that came in the form `told`, in the form `wanted`; an item per event.

    Raises:
        Unconvertible: (a `ValueError`) it cannot be said there without loss, or is not what
            its form says.
    """
    known = _FORMATS.get(told.format)
    if known is None or wanted.format != told.format:
        raise Unconvertible(f"no way from {told.format!r} to {wanted.format!r}")
    try:
        return tuple(_converted(known, body.decode(), told, wanted))
    except Unconvertible:
        raise
    except (ValueError, RecursionError) as exc:
        # Not UTF-8, no JSON, or a number or a character that JSON cannot say.
        raise Unconvertible(f"it cannot be read or written: {exc}") from exc


def _converted(known: _Format, text: str, told: Form, wanted: Form) -> list[bytes]:
    if not told.streams:
        answer = loaded(text)
        return known.stream_of(answer, wanted) if wanted.streams else [text.encode()]
    events = known.parted(text)
    if events is None:
        raise Unconvertible("the stream was cut within an event")
    if not wanted.streams:
        return [dumped(known.value_of(events)).encode()]
    if known.restream is None:
        raise Unconvertible("streams of this format have one form")
    return known.restream(events, wanted)
