"""Whether a body is a whole answer; pure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme._core.http.answers import is_whole_answer


def events(*data: Any, end: str = "\n\n") -> bytes:
    lines = [item if isinstance(item, str) else json.dumps(item) for item in data]
    return ("".join(f"data: {line}\n\n" for line in lines).removesuffix("\n\n") + end).encode()


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def named(*kinds: str, **more: Any) -> bytes:
    return "".join(
        f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n" for kind in kinds
    ).encode()


LINES = "application/x-ndjson"
USAGE = {"object": "chat.completion.chunk", "choices": [], "usage": {"total_tokens": 5}}
SECOND = {
    "object": "chat.completion.chunk",
    "choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": None}],
}
STOPPED = b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"%b"}}\n\n'

WHOLE_STREAMS = [
    events(chunk(content="a"), chunk("stop"), USAGE, "[DONE]"),
    events(chunk(content="a"), chunk("stop"), "[DONE]").replace(b"\n", b"\r\n"),
    events(chunk(content="a"), chunk("stop"), "[DONE]") + b": bye\n\n",
    events(chunk("tool_calls", tool_calls=[{"index": 0}]), "[DONE]"),
    named("response.created", "response.output_text.delta", "response.completed"),
    named("message_start", "ping", "content_block_delta") + STOPPED % b"end_turn"
    + named("message_stop"),
    events("hello", "world"),
    events("{no json"),
    b"\xef\xbb\xbf" + events("hello"),
    b"retry: 5\n\n: hello\n\n" + events("x"),
]  # fmt: skip
TORN_STREAMS = [
    b"",
    b": awake\n\n",
    events("hello", "wor", end=""),
    events("hello", "world", end="\n"),
    b"data: caf\xc3\n\n",
    events(chunk(content="a")),
    events(chunk(content="a"), chunk("stop")),
    events(chunk(content="a"), "[DONE]"),
    events(chunk(content="a"), chunk("stop"), SECOND, "[DONE]"),
    events(chunk(content="a"), chunk("length"), "[DONE]"),
    events(chunk("content_filter"), "[DONE]"),
    events(chunk(refusal="I cannot"), chunk("stop"), "[DONE]"),
    events(chunk(content="a"), {"error": {"message": "overloaded"}}, "[DONE]"),
    events(chunk(content="a"), {"error": {"message": "overloaded"}}),
    named("response.created", "response.output_text.delta"),
    named("response.created", "response.incomplete"),
    named("response.created", "response.completed", response={"status": "incomplete"}),
    named("response.created", "response.refusal.delta", "response.completed"),
    named("message_start", "content_block_delta"),
    named("message_start") + STOPPED % b"max_tokens" + named("message_stop"),
    named("message_start") + STOPPED % b"refusal" + named("message_stop"),
    named("message_start", "error", "message_stop"),
    b"event: error\ndata: gone\n\n",
]


@pytest.mark.parametrize("body", WHOLE_STREAMS)
def test_item_28_a_whole_stream_is_stored(body: bytes) -> None:
    """The terminal event of its format was seen; for other formats, the end of an event."""
    assert is_whole_answer("text/event-stream; charset=utf-8", body)


@pytest.mark.parametrize("body", TORN_STREAMS)
def test_item_28_a_torso_or_an_early_end_is_not_stored(body: bytes) -> None:
    """Cut streams, errors within, answers cut short, refusals."""
    assert not is_whole_answer("text/event-stream", body)


@pytest.mark.parametrize("body", WHOLE_STREAMS[:6])
def test_item_28_no_part_of_a_stream_is_taken_for_the_whole(body: bytes) -> None:
    """Of a model's stream, cut anywhere before its terminal event, nothing is stored."""
    last = max(body.rfind(word) for word in (b"[DONE]", b"response.completed", b"message_stop"))
    for at in range(last + 1):
        assert not is_whole_answer("text/event-stream", body[:at])


def completion(**choice: Any) -> bytes:
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


@pytest.mark.parametrize(
    ("body", "is_whole"),
    [
        (completion(finish_reason="stop", message={"content": "a"}), True),
        (completion(finish_reason="length", message={"content": "a"}), False),
        (completion(finish_reason="stop", message={"refusal": "no"}), False),
        (b'{"object": "response", "status": "completed", "output": []}', True),
        (b'{"object": "response", "status": "in_progress"}', False),
        (b'{"object":"response","output":[{"content":[{"type":"refusal"}]}]}', False),
        (b'{"type": "message", "stop_reason": "end_turn"}', True),
        (b'{"type": "message", "stop_reason": "max_tokens"}', False),
        (b'{"error": "overloaded"}', False),
        (b'{"created_at": "t", "response": "a", "done": true, "done_reason": "stop"}', True),
        (b'{"created_at": "t", "response": "a", "done": true, "done_reason": "length"}', False),
        (b'{"created_at": "t", "response": "", "done": true, "done_reason": "load"}', False),
        (b'{"created_at": "t", "response": "a", "done": false}', False),
        (b'{"task": "a", "done": false}', True),
        (b'{"error": null, "answer": 1}', True),
        (b'{"answer": 1', False),
        (b"", False),
        (b"[1]", True),
        (b"[" * 100_000, False),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else None,
)
def test_item_28_json_answers_are_judged_too(body: bytes, is_whole: bool) -> None:
    """JSON that does not parse, errors, answers cut short and refusals are not stored."""
    assert is_whole_answer("application/json", body) is is_whole


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


SAYS = {"message": {"content": "a"}, "done": False}


@pytest.mark.parametrize(
    ("body", "is_whole"),
    [
        (lines(SAYS, {"done": True, "done_reason": "stop"}), True),
        (lines(SAYS, {"done": True}), True),
        (lines({"a": 1}, {"a": 2}), True),
        (lines([1], 2), True),
        (lines(SAYS, {"done": True, "done_reason": "length"}), False),
        (lines(SAYS, {"done": True, "done_reason": "load"}), False),
        (lines(SAYS, SAYS), False),
        (lines(SAYS, 5), False),
        (lines(SAYS, {"error": "out of memory"}), False),
        (lines(SAYS, {"error": "out of memory"}, {"done": True}), False),
        (lines(SAYS, {"done": True})[:-1], False),
        (lines(SAYS) + b'{"done": tr\n', False),
        (b"", False),
    ],
)
def test_item_28_lines_of_json_are_judged_too(body: bytes, is_whole: bool) -> None:
    """Ollama's streams: the last line says that it is the last, and how it came to that."""
    assert is_whole_answer(LINES, body) is is_whole


def test_item_28_other_types_are_whole_when_they_end() -> None:
    """Text has no terminal mark."""
    assert is_whole_answer("text/plain", b"half a sen")


@given(st.binary(max_size=80))
def test_no_body_makes_the_judgement_fail(body: bytes) -> None:
    """Whatever an application sends is judged."""
    for content_type in ("text/event-stream", "application/json", LINES, "text/plain", ""):
        assert is_whole_answer(content_type, body) in (True, False)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["choices", "delta", "message", "type", "object", "response", "output"]
                )
                | st.text(),
                inner,
            )
        ),
    )
)
def test_no_json_makes_the_judgement_fail(value: Any) -> None:
    """JSON of any shape, alone or as an event, is judged."""
    assert is_whole_answer("application/json", json.dumps(value).encode()) in (True, False)
    assert is_whole_answer("text/event-stream", events(value)) in (True, False)
    assert is_whole_answer(LINES, json.dumps(value).encode() + b"\n") in (True, False)
