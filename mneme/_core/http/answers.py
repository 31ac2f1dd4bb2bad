"""
Whether a body is a whole answer, in the formats that models speak.

The end of a connection does not say so: a stream that was cut in the middle of an answer ends
as quietly as a whole one, and clients take it for one. The formats themselves do say.
"""

from __future__ import annotations

import json
from typing import Any

from mneme._core.http.formats.events import Event, events_of, lines_of

__all__ = ["is_whole_answer"]

CUT_SHORT = ("length", "content_filter", "max_tokens", "refusal", "pause_turn",
             "model_context_window_exceeded", "incomplete", "failed", "cancelled")  # fmt: skip
"""``finish_reason``, ``stop_reason`` and ``status`` of answers that stopped before their end."""

LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonl")


def is_whole_answer(content_type: str, body: bytes) -> bool:
    """
    False for a body that must not be served again: a torso, an error, an answer cut short.

    Known are the formats of OpenAI (chat, completions, responses), Anthropic and Ollama, as
    JSON and as streams. JSON of other kinds must parse and have no ``error``; a stream of
    other events must end after a whole event, and have none called ``error``. Everything else
    that ended cleanly is whole.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        if media_type == "text/event-stream":
            return _is_whole_stream(body.decode())
        if media_type in LINES:
            return _are_whole_lines(lines_of(body.decode()))
        if media_type == "application/json" or media_type.endswith("+json"):
            value = json.loads(body)
            is_under_way = isinstance(value, dict) and value.get("done") is False
            return _is_whole_value(value) and not (is_under_way and "created_at" in value)
    except (ValueError, RecursionError):
        return False
    return True


def _is_whole_stream(text: str) -> bool:
    events = events_of(text)
    if not events or not all(map(_is_sound, events)):
        return False
    last = events[-1]
    chunks = [event.value for event in events if _object(event.value) in _CHUNKS]
    if chunks:
        return last.text == "[DONE]" and _have_finished(chunks)
    kinds = {event.kind for event in events}
    if "message_start" in kinds:
        return last.kind == "message_stop"
    if any(kind.startswith("response.") for kind in kinds):
        return last.kind == "response.completed" or (
            last.text == "[DONE]" and "response.completed" in kinds
        )
    return True


_CHUNKS = ("chat.completion.chunk", "text_completion")


def _have_finished(chunks: list[dict[str, Any]]) -> bool:
    """Whether each choice came to its end: who relays a stream may say ``[DONE]`` for a torso."""
    choices = [choice for chunk in chunks for choice in _dicts(chunk.get("choices"))]
    begun = [choice.get("index") for choice in choices]
    ended = [choice.get("index") for choice in choices if choice.get("finish_reason")]
    return all(index in ended for index in begun)


def _are_whole_lines(values: list[Any] | None) -> bool:
    if not values or not all(map(_is_whole_value, values[:-1])):
        return False
    last = values[-1]
    says_when_done = any("done" in value for value in _dicts(values))
    ends = isinstance(last, dict) and last.get("done") is True
    return _is_whole_value(last) and (ends or not says_when_done)


def _is_sound(event: Event) -> bool:
    return "error" not in (event.name, event.kind) and _is_whole_value(event.value)


def _is_whole_value(value: Any) -> bool:
    """Whether one JSON value, or the value of one event, speaks of no error and no early end."""
    if not isinstance(value, dict):
        return True
    if value.get("error"):
        return False
    if str(value.get("type", "")).startswith("response."):
        # The Responses API: each event that changes the answer carries all of it.
        if ".refusal" in str(value["type"]) or not _is_sound_response(value.get("response")):
            return False
    elif _object(value) == "response":
        return _is_sound_response(value) and value.get("status") in (None, "completed")
    for choice in _dicts(value.get("choices")):
        said = choice.get("message") or choice.get("delta")
        if choice.get("finish_reason") in CUT_SHORT:
            return False
        if isinstance(said, dict) and said.get("refusal"):
            return False
    ends = [value, *_dicts([value.get("delta")])]
    if any(end.get("stop_reason") in CUT_SHORT for end in ends):
        return False
    # Ollama, which says `load` where it was asked nothing.
    return value.get("done_reason") not in (*CUT_SHORT, "load", "unload")


def _is_sound_response(value: Any) -> bool:
    """Whether an object of the Responses API shows no failure (it may still be on its way)."""
    if not isinstance(value, dict):
        return True
    if value.get("error") or value.get("status") in CUT_SHORT:
        return False
    parts = [part for item in _dicts(value.get("output")) for part in _dicts(item.get("content"))]
    return not any(part.get("type") == "refusal" for part in parts)


def _object(value: Any) -> str:
    found = value.get("object") if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
