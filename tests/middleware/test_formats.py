"""Answers from a value to a stream and back; pure."""

from __future__ import annotations

import copy
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.answers import ANSWERS, body, completions, leaves, stream, value
from support.models import CHAT_CALLS, CHAT_WORDS, RESPONSE, on_the_wire
from support.models import MESSAGE as MESSAGES

from mneme._core.http.answers import is_whole_answer
from mneme._core.http.form import Form, Unconvertible
from mneme._core.http.formats import STREAM_TYPES, convert

NAMES = list(ANSWERS)


def to_stream(name: str, answer: Any) -> tuple[bytes, ...]:
    return convert(body(answer), value(name), stream(name))


def to_value(name: str, chunks: tuple[bytes, ...] | bytes) -> Any:
    raw = chunks if isinstance(chunks, bytes) else b"".join(chunks)
    return json.loads(b"".join(convert(raw, stream(name), value(name))))


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_item_29_a_value_made_a_stream_and_a_value_again_is_the_same(
    name: str, data: st.DataObject
) -> None:
    """Words, calls of tools, reasoning, usage, probabilities: all of it comes back."""
    answer = data.draw(ANSWERS[name][1])
    assert to_value(name, to_stream(name, answer)) == answer


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_item_27_a_stream_that_was_made_is_whole_and_none_of_its_parts_is(
    name: str, data: st.DataObject
) -> None:
    """It ends with the terminal event of its format, one event to a chunk."""
    chunks = to_stream(name, data.draw(ANSWERS[name][1]))
    content_type = STREAM_TYPES[ANSWERS[name][0]]
    assert is_whole_answer(content_type, b"".join(chunks))
    for at in range(len(chunks)):
        assert not is_whole_answer(content_type, b"".join(chunks[:at]))
        with pytest.raises(Unconvertible):
            to_value(name, b"".join(chunks[:at]))
    end = b"\n" if name.startswith("ollama") else b"\n\n"
    assert all(chunk.endswith(end) and chunk.count(end) == 1 for chunk in chunks)


@given(completions)
def test_item_29_usage_is_told_to_those_who_asked_for_it(answer: dict[str, Any]) -> None:
    """With `include_usage` a chunk without choices has it; without, no chunk speaks of it."""
    told = to_stream("openai_chat", answer)
    untold = convert(body(answer), value("openai_chat"), stream("openai_chat", with_usage=False))
    assert not any(b'"usage":' in chunk.replace(b" ", b"") for chunk in untold)
    assert b"".join(untold) == b"".join(
        convert(b"".join(told), stream("openai_chat"), stream("openai_chat", with_usage=False))
    )
    if answer.get("usage"):
        last = json.loads(told[-2].removeprefix(b"data: "))
        assert (last["choices"], last["usage"]) == ([], answer["usage"])
        assert all(b'"usage":null' in chunk for chunk in told[:-2])


@pytest.mark.parametrize("without", [{"usage": None}, {}])
def test_item_29_an_answer_without_usage_makes_a_stream_but_no_stream_makes_it(
    without: dict[str, Any],
) -> None:
    """Servers that count nothing are answered in both forms from their plain answers only."""
    bare = {**{k: v for k, v in CHAT.items() if k != "usage"}, **without}
    for form in (stream("openai_chat"), stream("openai_chat", with_usage=False)):
        chunks = convert(body(bare), value("openai_chat"), form)
        assert not any(b"total_tokens" in chunk for chunk in chunks)
        with pytest.raises(Unconvertible, match="does not say its usage"):
            convert(b"".join(chunks), form, value("openai_chat"))


@given(completions)
def test_item_29_what_a_stream_does_not_say_is_not_made_up(answer: dict[str, Any]) -> None:
    """From a stream without usage comes neither a plain answer nor a stream with it."""
    short = stream("openai_chat", with_usage=False)
    untold = b"".join(convert(body(answer), value("openai_chat"), short))
    for wanted in (value("openai_chat"), stream("openai_chat")):
        with pytest.raises(Unconvertible, match="does not say its usage"):
            convert(untold, short, wanted)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("openai_chat", CHAT_WORDS),
        ("openai_chat", CHAT_CALLS),
        ("openai_responses", RESPONSE),
        ("anthropic_messages", MESSAGES),
    ],
)
def test_item_29_a_stream_as_models_send_it_says_what_their_plain_answer_says(
    name: str, answer: tuple[dict[str, Any], list[Any]]
) -> None:
    """Both forms were written by hand; only ids and dates differ."""
    plain, events_ = answer
    found = to_value(name, tuple(on_the_wire(events_)))
    of_one_call = ("id", "created", "created_at")
    assert {k: v for k, v in found.items() if k not in of_one_call} == {
        k: v for k, v in plain.items() if k not in of_one_call
    }


def pieces(text: str, cuts: list[int]) -> list[str]:
    marks = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(marks)]


@given(completions, st.lists(st.integers(0, 12), max_size=4))
def test_item_29_how_a_stream_was_cut_does_not_matter(
    answer: dict[str, Any], cuts: list[int]
) -> None:
    """Words and arguments may come in any pieces, as models send them."""
    cut = []
    for chunk in to_stream("openai_chat", answer)[:-1]:
        said = json.loads(chunk.removeprefix(b"data: "))
        delta = said["choices"][0]["delta"] if said["choices"] else {}
        cut += [body(one) for one in _cut(said, delta, cuts)]
    raw = b"".join(b"data: " + one + b"\n\n" for one in [*cut, b"[DONE]"])
    assert to_value("openai_chat", raw) == answer


def _cut(said: dict[str, Any], delta: dict[str, Any], cuts: list[int]) -> list[dict[str, Any]]:
    """One chunk as several; its probabilities stay with the first."""
    for path in (["content"], ["reasoning"], ["tool_calls", 0, "function", "arguments"]):
        place: Any = delta
        try:
            for step in path[:-1]:
                place = place[step]
            text = place[path[-1]]
        except (KeyError, TypeError, IndexError):
            continue
        if not text or "name" in place:
            continue
        several = []
        for at, piece in enumerate(pieces(text, cuts)):
            one = copy.deepcopy(said)
            inner: Any = one["choices"][0]["delta"]
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = piece
            if at and one["choices"][0].get("logprobs"):
                one["choices"][0]["logprobs"] = None
            several.append(one)
        return several
    return [said]


CHAT: dict[str, Any] = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": None,
    "choices": [{"index": 0, "finish_reason": "stop",
                 "message": {"role": "assistant", "content": "hi"}}],
}  # fmt: skip
ITEM: dict[str, Any] = {"id": "i", "type": "message", "role": "assistant", "content": []}
COMPLETED: dict[str, Any] = {"id": "r", "object": "response", "status": "completed",
                            "output": [ITEM]}  # fmt: skip
MESSAGE: dict[str, Any] = {
    "id": "m", "type": "message", "role": "assistant", "model": "m", "content": [],
    "stop_reason": "end_turn", "stop_sequence": None, "usage": {"output_tokens": 1},
}  # fmt: skip
TEXT = {"type": "text", "text": "a"}
OLLAMA: dict[str, Any] = {"model": "m", "created_at": "t", "response": "hi", "done": True}


def choice(**more: Any) -> dict[str, Any]:
    return {**CHAT, "choices": [{**CHAT["choices"][0], **more}]}


def message(**more: Any) -> dict[str, Any]:
    return choice(message={"role": "assistant", "content": "hi", **more})


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("openai_chat", {**CHAT, "prompt_filter_results": [{"hate": "safe"}]}),
        ("openai_chat", {**CHAT, "object": "text_completion"}),
        ("openai_chat", choice(content_filter_results={"hate": "safe"})),
        ("openai_chat", choice(finish_reason=None)),
        ("openai_chat", choice(index="0")),
        ("openai_chat", message(audio={"id": "a"})),
        ("openai_chat", message(annotations=[{"type": "url_citation"}])),
        ("openai_chat", message(tool_calls=[{"id": "1", "type": "custom", "custom": {}}])),
        ("openai_chat", message(tool_calls=[{"id": "1", "type": "function", "function": {}}])),
        ("openai_chat", message(tool_calls="no")),
        ("openai_chat", message(new_idea="x")),
        ("openai_responses", {**COMPLETED, "status": "in_progress"}),
        ("openai_responses", {**COMPLETED, "output": [{**ITEM, "type": "image_generation_call"}]}),
        ("openai_responses", {**COMPLETED, "output": [{**ITEM, "id": None}]}),
        ("openai_responses", {**COMPLETED, "output": [{**ITEM, "content": [{"type": "refusal"}]}]}),
        ("anthropic_messages", {**MESSAGE, "context_management": {"applied_edits": []}}),
        ("anthropic_messages", {**MESSAGE, "content": [{"type": "hologram"}]}),
        ("anthropic_messages", {**MESSAGE, "content": [{"type": "tool_use", "input": "x"}]}),
        ("anthropic_messages", {**MESSAGE, "stop_reason": None}),
        ("anthropic_messages", {**MESSAGE, "content": [{**TEXT, "citations": 1}]}),
        (
            "openai_responses",
            {
                **COMPLETED,
                "output": [
                    {**ITEM, "content": [{"type": "output_text", "text": "a", "annotations": 1}]}
                ],
            },
        ),
        ("ollama_generate", {**OLLAMA, "done": False}),
        ("ollama_generate", {**OLLAMA, "response": ["hi"]}),
        ("ollama_generate", {**OLLAMA, "response": "", "logprobs": [{"token": "x"}]}),
        ("ollama_chat", {**OLLAMA, "message": {"role": "assistant", "content": "", "x": [1]}}),
        *((name, answer) for name in NAMES for answer in ({}, [], None, 5, "x")),
    ],
    ids=lambda given: given if isinstance(given, str) else None,
)
def test_item_29_what_no_stream_can_say_is_not_converted(name: str, answer: Any) -> None:
    """What is not understood is no reason to drop it: the answer keeps its form."""
    with pytest.raises(Unconvertible):
        to_stream(name, answer)


def chunk(**more: Any) -> dict[str, Any]:
    first = {"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}
    return {"object": "chat.completion.chunk", "choices": [{**first, **more}]}


def events(*values: Any, done: bool = True) -> bytes:
    lines = [json.dumps(one) for one in values] + (["[DONE]"] if done else [])
    return "".join(f"data: {line}\n\n" for line in lines).encode()


START = {"type": "message_start", "message": {**MESSAGE, "usage": {}}}
STOP = {"type": "message_stop"}
PIECE = {"type": "content_block_delta", "index": 0}
CITED = {"type": "content_block_start", "index": 0, "content_block": {**TEXT, "citations": 1}}
BLOCK = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("openai_chat", events(chunk(), done=False)),
        ("openai_chat", events(chunk())[:-1]),
        ("openai_chat", events(chunk(finish_reason=None))),
        ("openai_chat", events(chunk(delta={"new_idea": "x"}))),
        ("openai_chat", events(chunk(delta={"content": 5}))),
        ("openai_chat", events(chunk(delta={"tool_calls": [{"id": "1"}]}))),
        ("openai_chat", events(chunk(delta={"tool_calls": [{"index": 0, "custom": {}}]}))),
        ("openai_chat", events(chunk(logprobs={"new": []}))),
        ("openai_chat", events(chunk(content_filter_results={"hate": "safe"}))),
        ("openai_chat", events({**chunk(), "x_groq": {"id": "1"}})),
        ("openai_chat", b"data: {no\n\ndata: [DONE]\n\n"),
        ("openai_chat", b"\xff"),
        ("openai_chat", events(chunk(delta={"content": "\ud800"}))),
        ("openai_chat", events(chunk(seed=float("nan")))),
        ("openai_responses", events({"type": "response.created"})),
        ("openai_responses", events({"type": "response.completed", "response": {}})),
        ("anthropic_messages", events(STOP, done=False)),
        ("anthropic_messages", events(START, done=False)),
        ("anthropic_messages", events(START, {"type": "new_idea"}, STOP, done=False)),
        ("anthropic_messages", events(START, {"type": "message_delta", "delta": {}, "usage": 5},
                                      STOP, done=False)),
        ("anthropic_messages", events(START, CITED, {**PIECE, "delta": {
            "type": "citations_delta", "citation": {}}}, STOP, done=False)),
        ("anthropic_messages", events(START, {**PIECE, "delta": {}}, STOP, done=False)),
        ("anthropic_messages", events(START, BLOCK, {**PIECE, "delta": {"type": "hologram_delta"}},
                                      STOP, done=False)),
        ("anthropic_messages", events(START, BLOCK, {**PIECE, "delta": {
            "type": "input_json_delta", "partial_json": "{"}}, STOP, done=False)),
        ("ollama_chat", b'{"done": false}\n'),
        ("ollama_chat", b'{"done": true}\n'),
        ("ollama_chat", b'{"done": true, "message": {}'),
        ("ollama_chat", b"no json\n"),
        ("ollama_chat", b'{"message": {"content": 5}, "done": true}\n'),
        ("ollama_chat", b'{"message": {"tool_calls": 5}, "done": true}\n'),
        *((name, raw) for name in NAMES for raw in (b"", b"\n\n", b": awake\n\n")),
    ],
)  # fmt: skip
def test_item_29_what_no_value_can_say_is_not_converted(name: str, raw: bytes) -> None:
    """Torsos, other formats, and pieces whose place is not known."""
    with pytest.raises(Unconvertible):
        to_value(name, raw)


def test_item_29_forms_of_two_formats_never_meet() -> None:
    """Nor do the streams of a format that has but one."""
    with pytest.raises(Unconvertible, match="no way from"):
        convert(body(CHAT), value("openai_chat"), stream("ollama_chat"))
    with pytest.raises(Unconvertible, match="no way from"):
        convert(body(CHAT), Form("new", streams=False), Form("new", streams=True))
    with pytest.raises(Unconvertible, match="one form"):
        convert(b"", stream("ollama_chat"), stream("ollama_chat", with_usage=False))


@pytest.mark.parametrize("name", NAMES)
@given(raw=st.binary(max_size=60))
def test_no_bytes_make_a_conversion_fail_otherwise(name: str, raw: bytes) -> None:
    """Whatever was stored, the outcome is an answer or `Unconvertible`."""
    for told, wanted in ((value(name), stream(name)), (stream(name), value(name))):
        try:
            convert(raw, told, wanted)
        except Unconvertible:
            pass


NAMES_IN_ANSWERS = sorted({
    "id", "object", "choices", "message", "delta", "index", "finish_reason", "content", "role",
    "tool_calls", "function", "arguments", "name", "type", "usage", "logprobs", "output", "status",
    "text", "done", "response", "thinking", "stop_reason", "input", "summary", "content_block",
})  # fmt: skip
ANY = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES_IN_ANSWERS), inner, max_size=4)
    ),
)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), odd=ANY)
def test_no_answer_of_another_shape_makes_a_conversion_fail(
    name: str, data: st.DataObject, odd: Any
) -> None:
    """An answer with any part of it replaced by anything: converted, or `Unconvertible`."""
    answer = data.draw(ANSWERS[name][1])
    parts = [part for part in [answer, *_inside(answer)] if isinstance(part, dict) and part]
    part = data.draw(st.sampled_from(parts))
    part[data.draw(st.sampled_from(sorted(part)))] = odd
    _try(name, answer)
    _try(name, odd)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data(), odd=ANY)
def test_no_stream_of_another_shape_makes_a_conversion_fail(
    name: str, data: st.DataObject, odd: Any
) -> None:
    """A stream with any part of one event replaced by anything: converted, or not."""
    chunks = list(to_stream(name, data.draw(ANSWERS[name][1])))
    at = data.draw(st.sampled_from(range(len(chunks))))
    head, brace, tail = chunks[at].partition(b"{")
    if not brace:
        return
    said = json.loads(brace + tail)
    parts = [part for part in [said, *_inside(said)] if isinstance(part, dict) and part]
    part = data.draw(st.sampled_from(parts))
    part[data.draw(st.sampled_from(sorted(part)))] = odd
    end = b"\n\n" if head else b"\n"
    chunks[at] = head + body(said) + end
    try:
        to_value(name, tuple(chunks))
    except Unconvertible:
        pass


def _inside(given: Any) -> list[Any]:
    inner = given.values() if isinstance(given, dict) else given if isinstance(given, list) else ()
    return [one for item in inner for one in (item, *_inside(item))]


def _try(name: str, answer: Any) -> None:
    try:
        convert(body(answer), value(name), stream(name))
    except Unconvertible:
        pass
    said = answer if isinstance(answer, list) else [answer]
    for raw in (events(*said), b"".join(body(one) + b"\n" for one in said)):
        try:
            convert(raw, stream(name), value(name))
        except Unconvertible:
            pass
