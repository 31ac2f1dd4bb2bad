"""
Whether a body is a whole answer, in the formats that models speak.

The end of a connection does not say so: a stream that was cut in the middle of an answer ends
as quietly as a whole one, and clients take it for one. The formats themselves do say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["is_whole_answer"]

CUT_SHORT = ("length", "content_filter", "max_tokens", "refusal", "pause_turn",
             "model_context_window_exceeded", "incomplete", "failed", "cancelled")  # fmt: skip
"""``finish_reason``, ``stop_reason`` and ``status`` of answers that stopped before their end."""


def is_whole_answer(content_type: str, body: bytes) -> bool:
    """
    False for a body that must not be served again: a torso, an error, an answer cut short.

    Known are the formats of OpenAI (chat, completions, responses) and Anthropic, as JSON and
    as event streams. JSON of other kinds must parse and have no ``error``; a stream of other
    events must end after a whole event, and have none called ``error``. Everything else that
    ended cleanly is whole.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        if media_type == "text/event-stream":
            return _is_whole_stream(body.decode())
        if media_type == "application/json" or media_type.endswith("+json"):
            return _is_whole_value(json.loads(body))
    except (ValueError, RecursionError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    text: str
    value: Any

    @property
    def kind(self) -> str:
        """What the event calls itself: Anthropic and the Responses API say it in both places."""
        kind = self.value.get("type") if isinstance(self.value, dict) else None
        return kind if isinstance(kind, str) else self.name


def _is_whole_stream(text: str) -> bool:
    events = _events(text)
    if not events or not all(map(_is_sound, events)):
        return False
    last = events[-1]
    if any(_object(event.value) in _CHUNKS for event in events):
        return last.text == "[DONE]"
    kinds = {event.kind for event in events}
    if "message_start" in kinds:
        return last.kind == "message_stop"
    if any(kind.startswith("response.") for kind in kinds):
        return last.kind == "response.completed" or (
            last.text == "[DONE]" and "response.completed" in kinds
        )
    return True


_CHUNKS = ("chat.completion.chunk", "text_completion")


def _events(text: str) -> Sequence[_Event] | None:
    """The events of a stream; None where the last one is not followed by its empty line."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    *blocks, rest = lines.removeprefix("\ufeff").split("\n\n")
    if rest.strip("\n"):
        return None
    return [event for block in blocks if (event := _event(block)) is not None]


def _event(block: str) -> _Event | None:
    name = ""
    data: list[str] = []
    for line in block.split("\n"):
        field, _, value = line.partition(":")
        if field == "event":
            name = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))
    if not name and not data:
        # Comments, which keep a connection awake.
        return None
    text = "\n".join(data)
    try:
        return _Event(name, text, json.loads(text) if text[:1] == "{" else None)
    except ValueError:
        return _Event(name, text, None)


def _is_sound(event: _Event) -> bool:
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
    return not any(end.get("stop_reason") in CUT_SHORT for end in ends)


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
