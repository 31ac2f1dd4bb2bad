"""
The Messages API of Anthropic: one object, or events from ``message_start`` to ``message_stop``.

Both lines of an event are needed: the SDK goes by ``event:``, and the data names itself too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mneme._core.http.form import Form, Unconvertible
from mneme._core.http.formats.events import Event, as_event, dumped, loaded, objects
from mneme._core.http.formats.merging import extend, join, only, take

__all__ = ["stream_of", "value_of"]

CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
WHOLE = ("redacted_thinking", "container_upload")
"""Blocks that come in one piece, as do all results of tools."""

AT_THE_END = ("stop_reason", "stop_sequence", "stop_details", "container")
COUNTED_LATE = ("output_tokens", "server_tool_use", "output_tokens_details")
"""Parts of the usage that are known when all is said."""


def stream_of(answer: Any, wanted: Form) -> list[bytes]:
    """
    The events of the stream that says what `answer` says.

    Raises:
        Unconvertible: it has a block whose events are not known.
    """
    if not isinstance(answer, dict) or answer.get("type") != "message":
        raise Unconvertible("no message")
    if answer.get("context_management") is not None:
        raise Unconvertible("nothing is known of 'context_management' in a stream")
    blocks = objects(take(answer, "content", list))
    usage = take(answer, "usage", dict)
    take(answer, "stop_reason", str)
    late = {name: usage[name] for name in COUNTED_LATE if usage.get(name) is not None}
    early = {name: value for name, value in usage.items() if name not in late}
    if "output_tokens" in late:
        early["output_tokens"] = 0
    end = {name: answer[name] for name in AT_THE_END if name in answer}
    opening = {**answer, "content": [], "usage": early, **dict.fromkeys(end)}
    said = [
        {"type": "message_start", "message": opening},
        *(event for at, block in enumerate(blocks) for event in _block(at, block)),
        {"type": "message_delta", "delta": end, "usage": late},
        {"type": "message_stop"},
    ]
    return [as_event(event, str(event["type"])) for event in said]


def _block(at: int, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kind = take(block, "type", str)
    blank: dict[str, Any] = {}
    deltas: list[dict[str, Any]] = []
    if kind == "text":
        blank = {"text": ""}
        deltas.append({"type": "text_delta", "text": take(block, "text", str)})
        if cited := block.get("citations"):
            blank["citations"] = []
            deltas += [{"type": "citations_delta", "citation": one} for one in objects(cited)]
    elif kind == "thinking":
        blank = {"thinking": ""}
        deltas.append({"type": "thinking_delta", "thinking": take(block, "thinking", str)})
        if block.get("signature"):
            blank["signature"] = ""
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
    elif kind in CALLS:
        blank = {"input": {}}
        given = take(block, "input", dict)
        deltas.append({"type": "input_json_delta", "partial_json": dumped(given) if given else ""})
    elif kind not in WHOLE and not kind.endswith("_tool_result"):
        raise Unconvertible(f"the events of {kind!r} are not known")
    yield {"type": "content_block_start", "index": at, "content_block": {**block, **blank}}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": at, "delta": delta}
    yield {"type": "content_block_stop", "index": at}


def value_of(events: list[Event]) -> dict[str, Any]:
    """
    The answer that a stream says.

    Raises:
        Unconvertible: an event whose place in an answer is not known.
    """
    first, *rest = objects([event.value for event in events]) or [{}]
    if first.get("type") != "message_start" or not rest or rest[-1].get("type") != "message_stop":
        raise Unconvertible("the stream does not begin and end as this format's do")
    message = dict(take(first, "message", dict))
    blocks: dict[int, dict[str, Any]] = {}
    inputs: dict[int, str] = {}
    for event in rest[:-1]:
        kind = event.get("type")
        if kind == "message_delta":
            only(event, ("type", "delta", "usage"))
            counted = {k: v for k, v in take(event, "usage", dict).items() if v is not None}
            message["usage"] = {**take(message, "usage", dict), **counted}
            message.update(only(event.get("delta"), AT_THE_END))
        elif kind == "content_block_start":
            blocks[take(event, "index", int)] = dict(take(event, "content_block", dict))
        elif kind == "content_block_delta":
            at = take(event, "index", int)
            if at not in blocks:
                raise Unconvertible("a piece of a block that has not begun")
            _hear(blocks[at], take(event, "delta", dict), at, inputs)
        elif kind not in ("ping", "content_block_stop"):
            raise Unconvertible(f"nothing is known of the event {kind!r}")
    for at, text in inputs.items():
        if text:
            blocks[at]["input"] = loaded(text)
    return {**message, "content": [blocks[at] for at in sorted(blocks)]}


def _hear(block: dict[str, Any], delta: dict[str, Any], at: int, inputs: dict[int, str]) -> None:
    kind = delta.get("type")
    if kind == "text_delta":
        join(block, "text", delta.get("text"))
    elif kind == "thinking_delta":
        join(block, "thinking", delta.get("thinking"))
    elif kind == "signature_delta":
        block["signature"] = delta.get("signature")
    elif kind == "citations_delta":
        extend(block, "citations", [delta.get("citation")])
    elif kind == "input_json_delta":
        inputs[at] = inputs.get(at, "") + take(delta, "partial_json", str)
    else:
        raise Unconvertible(f"nothing is known of the piece {kind!r}")
