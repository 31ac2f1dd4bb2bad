"""
The Responses API of OpenAI: one object, or named events up to ``response.completed``.

The last event carries the whole answer, so a stream becomes an answer without any loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mneme._core.http.form import Form, Unconvertible
from mneme._core.http.formats.events import Event, as_event, objects
from mneme._core.http.formats.merging import take

__all__ = ["stream_of", "value_of"]

Said = tuple[str, dict[str, Any]]
UNFINISHED = {"completed_at": None, "usage": None}


def stream_of(answer: Any, wanted: Form) -> list[bytes]:
    """
    The events of the stream that says what `answer` says.

    Raises:
        Unconvertible: it has an item whose events are not known.
    """
    if not isinstance(answer, dict) or answer.get("status") != "completed":
        raise Unconvertible("no completed response")
    items = objects(take(answer, "output", list))
    blank = {name: value for name, value in UNFINISHED.items() if name in answer}
    begun = {**answer, "status": "in_progress", "output": [], **blank}
    said: list[Said] = [("created", {"response": begun}), ("in_progress", {"response": begun})]
    for at, item in enumerate(items):
        said += _item(at, item)
    said.append(("completed", {"response": answer}))
    return [
        as_event({"type": f"response.{kind}", "sequence_number": at, **more}, f"response.{kind}")
        for at, (kind, more) in enumerate(said)
    ]


def _item(at: int, item: dict[str, Any]) -> Iterator[Said]:
    where = {"item_id": take(item, "id", str), "output_index": at}
    kind = item.get("type")
    if kind == "message":
        empty: dict[str, Any] = {"content": []}
        inner = _message(where, objects(take(item, "content", list)))
    elif kind == "reasoning":
        empty = {name: [] for name in ("summary", "content") if item.get(name)}
        inner = _reasoning(where, item)
    elif kind in ("function_call", "custom_tool_call"):
        field, prefix = (
            ("arguments", "function_call_arguments")
            if kind == "function_call"
            else ("input", "custom_tool_call_input")
        )
        empty = {field: ""}
        inner = _text(prefix, where, field, take(item, field, str))
    else:
        raise Unconvertible(f"the events of {kind!r} are not known")
    begun = {"status": "in_progress"} if "status" in item else {}
    yield "output_item.added", {"output_index": at, "item": {**item, **empty, **begun}}
    yield from inner
    yield "output_item.done", {"output_index": at, "item": item}


def _message(where: dict[str, Any], parts: list[dict[str, Any]]) -> Iterator[Said]:
    for at, part in enumerate(parts):
        if part.get("type") != "output_text":
            raise Unconvertible(f"the events of {part.get('type')!r} are not known")
        here = {**where, "content_index": at}
        blank: dict[str, Any] = {n: [] for n in ("annotations", "logprobs") if part.get(n)}
        yield "content_part.added", {**here, "part": {**part, "text": "", **blank}}
        chances = {"logprobs": [_chance(one) for one in objects(part.get("logprobs") or [])]}
        yield from _text("output_text", here, "text", take(part, "text", str), **chances)
        for number, note in enumerate(objects(part.get("annotations") or [])):
            told = {"annotation_index": number, "annotation": note}
            yield "output_text.annotation.added", {**here, **told}
        yield "content_part.done", {**here, "part": part}


def _chance(token: dict[str, Any]) -> dict[str, Any]:
    """A token's probability as events have it: without its bytes."""
    return {
        name: [_chance(one) for one in objects(value)] if name == "top_logprobs" else value
        for name, value in token.items()
        if name != "bytes"
    }


def _reasoning(where: dict[str, Any], item: dict[str, Any]) -> Iterator[Said]:
    for at, part in enumerate(objects(item.get("summary") or [])):
        here = {**where, "summary_index": at}
        yield "reasoning_summary_part.added", {**here, "part": {**part, "text": ""}}
        yield from _text("reasoning_summary_text", here, "text", take(part, "text", str))
        yield "reasoning_summary_part.done", {**here, "part": part}
    for at, part in enumerate(objects(item.get("content") or [])):
        here = {**where, "content_index": at}
        yield "content_part.added", {**here, "part": {**part, "text": ""}}
        yield from _text("reasoning_text", here, "text", take(part, "text", str))
        yield "content_part.done", {**here, "part": part}


def _text(prefix: str, where: dict[str, Any], field: str, text: str, **more: Any) -> Iterator[Said]:
    yield f"{prefix}.delta", {**where, "delta": text, **more}
    yield f"{prefix}.done", {**where, field: text, **more}


def value_of(events: list[Event]) -> dict[str, Any]:
    """
    The answer that a stream says, from its last event.

    Raises:
        Unconvertible: that event does not carry it.
    """
    last = next((event for event in reversed(events) if event.text != "[DONE]"), None)
    if last is None or last.kind != "response.completed":
        raise Unconvertible("the stream does not end as this format's do")
    answer = take(last.value, "response", dict)
    take(answer, "output", list)
    return {**answer}
