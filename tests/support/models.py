"""
Models that speak the known formats, written by hand after their documentation.

Each says one answer in both forms, its stream cut as the real ones are. An answer is plain
JSON; a stream is a list of events: values, or (name, value) pairs where events have names.
"""

from __future__ import annotations

import json
from typing import Any

Events = list[Any]


def _chunk(*choices: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-2", "object": "chat.completion.chunk", "created": 1700000002,
        "model": "gpt-x", "service_tier": "default", "system_fingerprint": "fp_1",
        "choices": list(choices), "usage": None, **more,
    }  # fmt: skip


def _piece(finish: str | None = None, *, logprobs: Any = None, **delta: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _token(text: str, chance: float) -> dict[str, Any]:
    return {"token": text, "logprob": chance, "bytes": list(text.encode()), "top_logprobs": []}


CHAT_USAGE = {
    "prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
}  # fmt: skip


def _completion(message: dict[str, Any], finish: str, logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1700000001, "model": "gpt-x",
        "choices": [choice], "usage": CHAT_USAGE, "service_tier": "default",
        "system_fingerprint": "fp_1",
    }  # fmt: skip


CHAT_WORDS: tuple[dict[str, Any], Events] = (
    _completion(
        {"role": "assistant", "content": "Grüß dich, 世界", "refusal": None},
        "stop",
        {"content": [_token("Grüß", -0.1), _token(" dich, 世界", -0.25)], "refusal": None},
    ),
    [
        _chunk(_piece(role="assistant", content="", refusal=None)),
        _chunk(_piece(content="Grüß", logprobs={"content": [_token("Grüß", -0.1)],
                                                "refusal": None})),
        _chunk(_piece(content=" dich, 世界", logprobs={"content": [_token(" dich, 世界", -0.25)],
                                                       "refusal": None})),
        _chunk(_piece("stop")),
        _chunk(usage=CHAT_USAGE),
        "[DONE]",
    ],
)  # fmt: skip


def _call(at: int, arguments: str, name: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    opening = {} if name is None else {"id": f"call_{at}", "type": "function"}
    return {"index": at, **opening, "function": function}


def _called(at: int, name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{at}", "type": "function",
            "function": {"name": name, "arguments": arguments}}  # fmt: skip


CHAT_CALLS: tuple[dict[str, Any], Events] = (
    _completion(
        {"role": "assistant", "content": None, "refusal": None, "reasoning_content": "Two cities.",
         "tool_calls": [_called(0, "weather", '{"city":"Köln"}'), _called(1, "now", "{}")]},
        "tool_calls",
    ),
    [
        _chunk(_piece(role="assistant", content=None, refusal=None)),
        _chunk(_piece(reasoning_content="Two ")),
        _chunk(_piece(reasoning_content="cities.")),
        _chunk(_piece(tool_calls=[_call(0, "", "weather")])),
        _chunk(_piece(tool_calls=[_call(0, '{"city":')])),
        _chunk(_piece(tool_calls=[_call(0, '"Köln"}')])),
        _chunk(_piece(tool_calls=[_call(1, "", "now")])),
        _chunk(_piece(tool_calls=[_call(1, "{}")])),
        _chunk(_piece("tool_calls")),
        _chunk(usage=CHAT_USAGE),
        "[DONE]",
    ],
)  # fmt: skip


def _message(content: list[Any], stop: str, **usage: Any) -> dict[str, Any]:
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
        "content": content, "stop_reason": stop, "stop_sequence": None,
        "usage": {"input_tokens": 9, "cache_read_input_tokens": 0, "service_tier": "standard",
                  "output_tokens": 7, **usage},
    }  # fmt: skip


def _started(at: int, block: dict[str, Any], *deltas: dict[str, Any]) -> Events:
    return [
        {"type": "content_block_start", "index": at, "content_block": block},
        *({"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": at},
    ]


def _messages_stream(stop: str, *blocks: Events) -> Events:
    opening = {**_message([], stop), "id": "msg_2", "stop_reason": None}
    opening["usage"] = {**opening["usage"], "output_tokens": 1}
    events = [
        {"type": "message_start", "message": opening},
        {"type": "ping"},
        *(event for block in blocks for event in block),
        {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None},
         "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    ]  # fmt: skip
    return [(event["type"], event) for event in events]


CITED = {"type": "char_location", "cited_text": "Tea", "document_index": 0, "document_title": None,
         "file_id": None, "start_char_index": 0, "end_char_index": 3}  # fmt: skip
MESSAGE: tuple[dict[str, Any], Events] = (
    _message(
        [
            {"type": "thinking", "thinking": "Tea or not?", "signature": "c2ln"},
            {"type": "text", "text": "Tea, für dich.", "citations": [CITED]},
            {"type": "tool_use", "id": "t1", "name": "brew", "input": {"cups": 2, "of": "世"}},
            {"type": "tool_use", "id": "t2", "name": "wait", "input": {}},
        ],
        "tool_use",
    ),
    _messages_stream(
        "tool_use",
        _started(0, {"type": "thinking", "thinking": "", "signature": ""},
                 {"type": "thinking_delta", "thinking": "Tea "},
                 {"type": "thinking_delta", "thinking": "or not?"},
                 {"type": "signature_delta", "signature": "c2ln"}),
        _started(1, {"type": "text", "text": "", "citations": []},
                 {"type": "text_delta", "text": "Tea, "},
                 {"type": "citations_delta", "citation": CITED},
                 {"type": "text_delta", "text": "für dich."}),
        _started(2, {"type": "tool_use", "id": "t1", "name": "brew", "input": {}},
                 {"type": "input_json_delta", "partial_json": ""},
                 {"type": "input_json_delta", "partial_json": '{"cups": 2, '},
                 {"type": "input_json_delta", "partial_json": '"of": "世"}'}),
        _started(3, {"type": "tool_use", "id": "t2", "name": "wait", "input": {}},
                 {"type": "input_json_delta", "partial_json": ""}),
    ),
)  # fmt: skip


def _response(output: list[Any], status: str = "completed", at: int = 1) -> dict[str, Any]:
    cached = {"cached_tokens": 0, "cache_write_tokens": 0}
    usage = {"input_tokens": 9, "input_tokens_details": cached, "output_tokens": 7,
             "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 16}  # fmt: skip
    return {
        "id": f"resp_{at}", "object": "response", "created_at": 1700000000 + at, "status": status,
        "error": None, "incomplete_details": None, "instructions": None, "model": "gpt-x",
        "output": output, "parallel_tool_calls": True, "previous_response_id": None,
        "metadata": {}, "temperature": 1.0, "tool_choice": "auto", "tools": [], "top_p": 1.0,
        "usage": usage if status == "completed" else None,
    }  # fmt: skip


_REASONED = {"id": "rs_1", "type": "reasoning",
             "summary": [{"type": "summary_text", "text": "Think."}]}  # fmt: skip
_NOTE = {"type": "url_citation", "url": "https://x.test", "title": "X", "start_index": 0,
         "end_index": 3}  # fmt: skip
_PART = {"type": "output_text", "text": "Tea, für dich.", "annotations": [_NOTE], "logprobs": []}
_SAID = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
         "content": [_PART]}  # fmt: skip
_CALL = {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1",
         "name": "brew", "arguments": '{"cups":2}'}  # fmt: skip


def _responses_stream() -> Events:
    begun = _response([], "in_progress", at=2)
    text = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
    summary = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
    call = {"item_id": "fc_1", "output_index": 2}
    empty = {**_PART, "text": "", "annotations": []}
    open_summary = {"type": "summary_text", "text": ""}
    said: list[tuple[str, dict[str, Any]]] = [
        ("created", {"response": begun}),
        ("in_progress", {"response": begun}),
        ("output_item.added", {"output_index": 0, "item": {**_REASONED, "summary": []}}),
        ("reasoning_summary_part.added", {**summary, "part": open_summary}),
        ("reasoning_summary_text.delta", {**summary, "delta": "Think."}),
        ("reasoning_summary_text.done", {**summary, "text": "Think."}),
        ("reasoning_summary_part.done", {**summary, "part": _REASONED["summary"][0]}),
        ("output_item.done", {"output_index": 0, "item": _REASONED}),
        ("output_item.added", {"output_index": 1,
                               "item": {**_SAID, "status": "in_progress", "content": []}}),
        ("content_part.added", {**text, "part": empty}),
        ("output_text.delta", {**text, "delta": "Tea, ", "logprobs": []}),
        ("output_text.delta", {**text, "delta": "für dich.", "logprobs": []}),
        ("output_text.annotation.added", {**text, "annotation_index": 0, "annotation": _NOTE}),
        ("output_text.done", {**text, "text": "Tea, für dich.", "logprobs": []}),
        ("content_part.done", {**text, "part": _PART}),
        ("output_item.done", {"output_index": 1, "item": _SAID}),
        ("output_item.added", {"output_index": 2,
                               "item": {**_CALL, "status": "in_progress", "arguments": ""}}),
        ("function_call_arguments.delta", {**call, "delta": '{"cups"'}),
        ("function_call_arguments.delta", {**call, "delta": ":2}"}),
        ("function_call_arguments.done", {**call, "arguments": '{"cups":2}'}),
        ("output_item.done", {"output_index": 2, "item": _CALL}),
        ("completed", {"response": _response([_REASONED, _SAID, _CALL], at=2)}),
    ]  # fmt: skip
    return [
        (f"response.{kind}", {"type": f"response.{kind}", "sequence_number": at, **more})
        for at, (kind, more) in enumerate(said)
    ]


RESPONSE: tuple[dict[str, Any], Events] = (
    _response([_REASONED, _SAID, _CALL]),
    _responses_stream(),
)


def on_the_wire(events: Events, *, with_usage: bool = True) -> list[bytes]:
    """A stream's events as bytes, one item each; without usage as OpenAI sends it then."""
    found = []
    for event in events:
        name, value = event if isinstance(event, tuple) else ("", event)
        if not with_usage and isinstance(value, dict):
            if value.get("usage"):
                continue
            value = {k: v for k, v in value.items() if k != "usage"}
        text = value if isinstance(value, str) else json.dumps(value)
        found.append((f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode())
    return found
