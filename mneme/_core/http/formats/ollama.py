"""
Ollama's chat and generate: one object, or lines of JSON of which the last says ``done: true``.

Ollama streams unless told not to. Its last line counts tokens and time, and says no words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mneme._core.http.form import Form, Unconvertible
from mneme._core.http.formats.events import as_line, objects
from mneme._core.http.formats.merging import checked_plain, extend, join, keep, take

__all__ = ["stream_of", "value_of"]

EACH = ("model", "created_at", "remote_model", "remote_host")
"""What every line says."""

MESSAGE_LISTS = ("tool_calls", "images")


def stream_of(answer: Any, wanted: Form) -> list[bytes]:
    """
    The lines of the stream that says what `answer` says.

    Raises:
        Unconvertible: it says something that no line can.
    """
    if not isinstance(answer, dict) or answer.get("done") is not True:
        raise Unconvertible("no whole answer")
    frame = {name: answer[name] for name in EACH if name in answer}
    pieces = list(_chat(answer) if "message" in answer else _generate(answer))
    chances = {"logprobs": answer["logprobs"]} if answer.get("logprobs") else {}
    *spoken, last = pieces
    lines = [{**frame, **piece, "done": False} for piece in spoken]
    if chances:
        if not lines:
            raise Unconvertible("probabilities of words, and no words")
        lines[-1].update(chances)
    end = {name: value for name, value in answer.items() if name not in chances}
    return [as_line(line) for line in (*lines, {**end, **last})]


def _chat(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What each line says of the message; the last one says nothing."""
    message = take(answer, "message", dict)
    role, text = take(message, "role", str), take(message, "content", str)
    for name, value in message.items():
        if name not in ("role", "content", "thinking", *MESSAGE_LISTS):
            checked_plain(name, value)
    quiet = {"role": role, "content": ""}
    if message.get("thinking"):
        yield {"message": {**quiet, "thinking": take(message, "thinking", str)}}
    if text:
        yield {"message": {"role": role, "content": text}}
    for name in MESSAGE_LISTS:
        if message.get(name):
            yield {"message": {**quiet, name: message[name]}}
    said = ("thinking", *MESSAGE_LISTS)
    rest = {name: value for name, value in message.items() if not (name in said and value)}
    yield {"message": {**rest, "content": ""}}


def _generate(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    text = take(answer, "response", str)
    if answer.get("thinking"):
        yield {"response": "", "thinking": take(answer, "thinking", str)}
    if text:
        yield {"response": text}
    yield {"response": "", **({"thinking": ""} if answer.get("thinking") else {})}


def value_of(events: list[Any]) -> dict[str, Any]:
    """
    The answer that a stream says.

    Raises:
        Unconvertible: a line says what has no known place in an answer.
    """
    *lines, last = objects(events) or [{}]
    if last.get("done") is not True or any(line.get("done") is not False for line in lines):
        raise Unconvertible("the stream does not end as this format's do")
    answer: dict[str, Any] = {}
    message: dict[str, Any] = {}
    for line in (*lines, last):
        for name, value in line.items():
            if name in ("response", "thinking"):
                join(answer, name, value)
            elif name == "logprobs":
                extend(answer, name, value)
            elif name == "message":
                _hear(message, take(line, name, dict))
            elif line is last:
                answer[name] = value
            else:
                keep(answer, name, value)
    if "message" in last:
        answer["message"] = message
    elif message or "response" not in last:
        raise Unconvertible("the stream does not end as it began")
    return answer


def _hear(message: dict[str, Any], piece: dict[str, Any]) -> None:
    for name, value in piece.items():
        if name in ("content", "thinking"):
            join(message, name, value)
        elif name in MESSAGE_LISTS:
            extend(message, name, value)
        else:
            keep(message, name, value)
