"""
Chat completions of OpenAI: one object, or ``data: {chunk}`` events that end with ``[DONE]``.

A stream says the text in one piece: how it was cut carries no meaning. The finish has a chunk
of its own, as has the usage if the caller asked for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mneme._core.http.form import Form, Unconvertible
from mneme._core.http.formats.events import Event, as_event, objects
from mneme._core.http.formats.merging import checked_plain, extend, join, keep, only, take

__all__ = ["restream", "stream_of", "value_of"]

TEXTS = ("reasoning_content", "reasoning", "content", "refusal")
"""What a message says, in the order in which models say it."""

DONE = "[DONE]"


def stream_of(answer: Any, wanted: Form) -> list[bytes]:
    """
    The chunks of the stream that says what `answer` says.

    Raises:
        Unconvertible: it says something that no chunk can.
    """
    if not isinstance(answer, dict) or answer.get("object") != "chat.completion":
        raise Unconvertible("no chat completion")
    counts = {"usage": None} if wanted.with_usage and "usage" in answer else {}
    frame = {
        name: "chat.completion.chunk" if name == "object" else checked_plain(name, value)
        for name, value in answer.items()
        if name not in ("choices", "usage")
    }
    chunks = [
        {**frame, "choices": [piece], **counts}
        for choice in objects(take(answer, "choices", list))
        for piece in _pieces(choice)
    ]
    if counts and answer["usage"] is not None:
        chunks.append({**frame, "choices": [], "usage": answer["usage"]})
    return [*map(as_event, chunks), as_event(DONE)]


def _pieces(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A choice as the chunks have it: opening, texts, calls, finish."""
    index, message = take(choice, "index", int), take(choice, "message", dict)
    take(choice, "finish_reason", str)
    silent = {"logprobs": None} if "logprobs" in choice else {}
    # Beside the words that they are about.
    loud = {"logprobs": choice["logprobs"]} if choice.get("logprobs") else {}
    for delta in _deltas(message):
        says = loud and (delta.get("content") or not message.get("content"))
        yield {"index": index, "delta": delta, **silent, **(loud if says else {}),
               "finish_reason": None}  # fmt: skip
        loud = {} if says else loud
    rest = {
        name: checked_plain(name, value)
        for name, value in choice.items()
        if name not in ("message", "logprobs", "index")
    }
    yield {"index": index, "delta": {}, **silent, **rest}


def _deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    calls = message.get("tool_calls") or []
    named = message.get("function_call")
    opening: dict[str, Any] = {}
    for name, value in message.items():
        if name in TEXTS and isinstance(value, str):
            opening[name] = ""
        elif name == "role":
            opening[name] = take(message, "role", str)
        elif not (value and name in ("tool_calls", "function_call")):
            if value is not None and value != []:
                raise Unconvertible(f"nothing is known of {name!r} in a stream")
            opening[name] = value
    yield opening
    for name in TEXTS:
        if message.get(name):
            yield {name: message[name]}
    for at, call in enumerate(objects(calls)):
        yield from _calling(at, call)
    if named:
        only(named, ("name", "arguments"))
        yield {"function_call": named}


def _calling(at: int, call: dict[str, Any]) -> Iterator[dict[str, Any]]:
    only(call, ("id", "type", "function"))
    function = only(take(call, "function", dict), ("name", "arguments"))
    if call.get("type") != "function":
        raise Unconvertible("a call of something else than a function")
    arguments = take(function, "arguments", str)
    opened = {"name": take(function, "name", str), "arguments": ""}
    opening = {"index": at, "id": take(call, "id", str), "type": "function", "function": opened}
    yield {"tool_calls": [opening]}
    if arguments:
        yield {"tool_calls": [{"index": at, "function": {"arguments": arguments}}]}


def value_of(events: list[Event]) -> dict[str, Any]:
    """
    The answer that a stream says.

    Raises:
        Unconvertible: something in it has no known place in an answer, or it does not say the
            usage, which every plain answer does.
    """
    chunks = _chunks(events)
    answer: dict[str, Any] = {}
    choices: dict[int, _Choice] = {}
    for chunk in chunks:
        for name, value in chunk.items():
            if name == "usage":
                answer[name] = answer.get(name) if value is None else value
            elif name == "choices":
                for piece in objects(take(chunk, "choices", list)):
                    choices.setdefault(take(piece, "index", int), _Choice()).add(piece)
            elif name != "obfuscation":
                keep(answer, name, value)
    if answer.get("usage") is None:
        raise Unconvertible("the stream does not say its usage")
    said = [choices[index].said(index) for index in sorted(choices)]
    return {**answer, "object": "chat.completion", "choices": said}


class _Choice:
    """One choice while its pieces come in."""

    def __init__(self) -> None:
        self._message: dict[str, Any] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._rest: dict[str, Any] = {}

    def add(self, piece: dict[str, Any]) -> None:
        for name, value in piece.items():
            if name == "delta":
                self._hear(take(piece, "delta", dict))
            elif name == "logprobs" and value is not None:
                there = self._rest.get(name) or {}
                for part in only(value, ("content", "refusal")):
                    extend(there, part, value[part])
                self._rest[name] = there
            elif name != "index":
                self._rest.setdefault(name, None)
                if value is not None:
                    self._rest[name] = checked_plain(name, value)

    def _hear(self, delta: dict[str, Any]) -> None:
        for name, value in delta.items():
            if name in TEXTS:
                join(self._message, name, value)
            elif name == "tool_calls" and value:
                for call in objects(take(delta, name, list)):
                    self._call(call)
            elif name == "function_call" and value:
                there = self._message.get(name) or {}
                for part in only(value, ("name", "arguments")):
                    join(there, part, value[part])
                self._message[name] = there
            elif name == "role" or value is None or value == []:
                if self._message.get(name) is None:
                    self._message[name] = value
            else:
                raise Unconvertible(f"nothing is known of {name!r} in an answer")

    def _call(self, piece: dict[str, Any]) -> None:
        only(piece, ("index", "id", "type", "function"))
        there = self._calls.setdefault(take(piece, "index", int), {"function": {}})
        for name in ("id", "type"):
            if piece.get(name):
                there.setdefault(name, piece[name])
        function = piece.get("function") or {}
        for part in only(function, ("name", "arguments")):
            join(there["function"], part, function[part])

    def said(self, index: int) -> dict[str, Any]:
        take(self._rest, "finish_reason", str)
        message = {"role": "assistant", "content": None, **self._message}
        if self._calls:
            message["tool_calls"] = [self._calls[at] for at in sorted(self._calls)]
        return {"index": index, "message": message, **self._rest}


def restream(events: list[Event], wanted: Form) -> list[bytes]:
    """
    A stream with the usage or without it.

    Raises:
        Unconvertible: the usage is wanted, and the stream does not say it.
    """
    chunks = _chunks(events)
    if wanted.with_usage:
        if not any(chunk.get("usage") for chunk in chunks):
            raise Unconvertible("the stream does not say its usage")
        return [*map(as_event, chunks), as_event(DONE)]
    kept = [
        {name: value for name, value in chunk.items() if name != "usage"}
        for chunk in chunks
        if chunk.get("choices") or not chunk.get("usage")
    ]
    return [*map(as_event, kept), as_event(DONE)]


def _chunks(events: list[Event]) -> list[dict[str, Any]]:
    *chunks, last = events or [Event("", "", None)]
    if last.text != DONE:
        raise Unconvertible("the stream does not end as this format's do")
    return objects([event.value for event in chunks])
