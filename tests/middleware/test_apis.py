"""What the requests of known APIs ask, and what they depend on; pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.exchange import ASK, asked

from mneme._core.http.exchange import Question
from mneme.prompts import (
    ApiExtractor,
    Form,
    Request,
    anthropic_messages,
    ollama_chat,
    ollama_generate,
    openai_chat,
    openai_responses,
)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def turns(content: Any) -> dict[str, Any]:
    return {"messages": [user("Book a table"), {"role": "assistant", "content": "Done."},
                         user(content)]}  # fmt: skip


def items(content: Any) -> dict[str, Any]:
    return {"input": turns(content)["messages"]}


CONVERSATIONS: list[tuple[ApiExtractor, Any]] = [
    (openai_chat, turns),
    (openai_responses, items),
    (anthropic_messages, turns),
    (ollama_chat, turns),
]
ALL = [*CONVERSATIONS, (ollama_generate, lambda content: {"prompt": content})]


def ask(extract: ApiExtractor, body: dict[str, Any], *fields: tuple[str, str]) -> Question:
    headers = (*ASK.headers, *fields)
    return asked(replace(ASK, body=json.dumps(body).encode(), headers=headers), extract)


def is_none(extract: ApiExtractor, body: Any) -> bool:
    return extract(Request("POST", "/", body=json.dumps(body).encode())) is None


@pytest.mark.parametrize(("extract", "said"), ALL, ids=repr)
def test_item_15_the_final_user_turn_is_asked(extract: ApiExtractor, said: Any) -> None:
    """Its words are the prompt, and nothing of the digest depends on them."""
    one, other = ask(extract, said("cancel it")), ask(extract, said("please cancel"))
    assert (one.prompt, one.semantic) == ("cancel it", True)
    assert one.partition == other.partition


@pytest.mark.parametrize(("extract", "said"), ALL, ids=repr)
@given(name=st.text(min_size=1), given_=st.integers() | st.text() | st.lists(st.text()))
def test_item_15_all_else_keeps_requests_apart(
    extract: ApiExtractor, said: Any, name: str, given_: Any
) -> None:
    """Any field of the body, known or not, belongs to the question's digest."""
    known = ("messages", "input", "prompt", "stream")
    if name in known:
        return
    bare = ask(extract, said("hi"))
    more = ask(extract, {**said("hi"), name: given_})
    assert more.partition != bare.partition


@pytest.mark.parametrize(("extract", "said"), CONVERSATIONS, ids=repr)
@pytest.mark.parametrize(
    "change",
    [
        lambda body, at: {**body, "model": "n"},
        lambda body, at: {**body, "temperature": 0},
        lambda body, at: {**body, "system": "be kind"},
        lambda body, at: {**body, "instructions": "be kind"},
        lambda body, at: {**body, "response_format": {"type": "json_object"}},
        lambda body, at: {**body, "tools": [{"type": "function", "function": {"name": "f"}}]},
        lambda body, at: {**body, "previous_response_id": "r1"},
        lambda body, at: {**body, "user": "7"},
        lambda body, at: {**body, at: body[at][-1:]},
        lambda body, at: {**body, at: [user("Book a room"), *body[at][1:]]},
        lambda body, at: {**body, at: [{"role": "system", "content": "x"}, *body[at]]},
        lambda body, at: {**body, at: [*body[at][:-1], {**body[at][-1], "name": "Ann"}]},
        lambda body, at: {**body, at: [*body[at][:-1], {**body[at][-1], "images": ["aGk="]}]},
    ],
)
def test_item_15_what_an_answer_depends_on_keeps_requests_apart(
    extract: ApiExtractor, said: Any, change: Any
) -> None:
    """Settings, system text, tools, the form of the answer, earlier turns."""
    body = said("hi")
    changed = change(body, "input" if "input" in body else "messages")
    assert ask(extract, changed).partition != ask(extract, body).partition


@pytest.mark.parametrize(("extract", "said"), CONVERSATIONS, ids=repr)
def test_tools_are_answered_from_equal_requests_only(extract: ApiExtractor, said: Any) -> None:
    """Tools on offer, or a tool's result at the end; `with_tools` opts in for the first."""
    offering = {**said("hi"), "tools": [{"name": "f"}]}
    assert not ask(extract, offering).semantic
    assert ask(extract, {**said("hi"), "tools": []}).semantic
    assert ask(extract.with_tools(), offering).semantic
    assert ask(extract.with_tools(), offering).partition == ask(extract, offering).partition
    results = [{"type": "tool_result", "tool_use_id": "1", "content": "42"},
               {"type": "text", "text": "and now?"}]  # fmt: skip
    assert not ask(extract.with_tools(), said(results)).semantic
    assert (repr(extract), repr(extract.with_tools())) == (
        extract.name,
        f"{extract.name}.with_tools()",
    )


def test_ends_without_a_users_words_are_answered_from_equal_requests_only() -> None:
    """A tool's result, an answer to go on with, an item of another kind, a raw prompt."""
    messages = turns("hi")["messages"]
    result = {"role": "tool", "tool_call_id": "1", "content": "42"}
    assert not ask(openai_chat, {"messages": [*messages, result]}).semantic
    assert not ask(openai_chat, {**turns("hi"), "functions": [{"name": "f"}]}).semantic
    prefill = {"role": "assistant", "content": "I think"}
    assert not ask(anthropic_messages, {"messages": [*messages, prefill]}).semantic
    assert not ask(anthropic_messages, {**turns("hi"), "mcp_servers": [{"url": "x"}]}).semantic
    output = {"type": "function_call_output", "call_id": "1", "output": "42"}
    one = ask(openai_responses, {"input": [*messages, output]})
    other = ask(openai_responses, {"input": [*messages, {**output, "output": "43"}]})
    assert (one.semantic, one.partition == other.partition) == (False, False)
    assert not ask(ollama_generate, {"prompt": "<|user|> hi", "raw": True}).semantic


@pytest.mark.parametrize(
    ("extract", "body"),
    [
        (openai_responses, {}),
        (openai_responses, {"input": []}),
        (openai_responses, {"input": 5}),
        (ollama_generate, {"prompt": ""}),
        (ollama_generate, {"model": "m"}),
        *((extract, body) for extract, _ in ALL for body in ([], 5, {"messages": []}, {"x": 1})),
    ],
)
def test_what_is_no_question_passes(extract: ApiExtractor, body: Any) -> None:
    """Nothing is asked, or not in a way that this API knows."""
    assert is_none(extract, body)


def test_ways_to_say_one_thing_meet() -> None:
    """Text or a list with text in it: the same question."""
    short = ask(openai_responses, {"input": "hi"})
    long = ask(openai_responses, {"input": [user([{"type": "input_text", "text": "hi"}])]})
    assert (short.prompt, short.partition) == (long.prompt, long.partition)


PICTURE = "iVBORw0KGgo" * 20_000


@pytest.mark.parametrize(
    ("extract", "part"),
    [
        (openai_chat, {"type": "image_url", "image_url": {"url": f"data:x;base64,{PICTURE}"}}),
        (openai_chat, {"type": "file", "file": {"file_data": PICTURE}}),
        (openai_chat, {"type": "input_audio", "input_audio": {"data": PICTURE}}),
        (openai_responses, {"type": "input_image", "image_url": PICTURE}),
        (anthropic_messages, {"type": "image", "source": {"type": "base64", "data": PICTURE}}),
        (anthropic_messages, {"type": "document", "source": {"type": "text", "data": PICTURE}}),
    ],
)
def test_pictures_and_files_are_in_the_digest_alone(extract: ApiExtractor, part: Any) -> None:
    """Another picture is another question, and its megabytes are kept nowhere."""
    said = {anthropic_messages: turns, openai_chat: turns, openai_responses: items}[extract]
    text = {"type": "input_text" if extract is openai_responses else "text", "text": "what is it"}
    other = json.loads(json.dumps(part).replace(PICTURE[:80], PICTURE[1:81]))
    one, two = ask(extract, said([text, part])), ask(extract, said([text, other]))
    assert (one.prompt, one.semantic) == ("what is it", True)
    assert one.partition != two.partition
    assert len(one.partition) < 100
    assert not ask(extract, said([part])).semantic
    assert len(ask(extract, said([part])).prompt) < 100


@pytest.mark.parametrize(("extract", "said"), ALL, ids=repr)
def test_item_29_stream_chooses_a_form_and_no_partition(extract: ApiExtractor, said: Any) -> None:
    """True, false, null and nothing are understood; anything else is part of the rest."""
    by_itself = extract in (ollama_chat, ollama_generate)
    bare = ask(extract, said("hi"))
    for given_, streams in ((True, True), (False, False), (None, by_itself)):
        found = ask(extract, {**said("hi"), "stream": given_})
        assert found.partition == bare.partition
        assert found.form is not None
        assert found.form.streams is streams
    for odd in ("true", 1, 0, [], {}):
        found = ask(extract, {**said("hi"), "stream": odd})
        assert found.form is None
        assert found.partition != bare.partition


def test_item_29_stream_options_choose_a_form_where_they_are_understood() -> None:
    """`include_usage` is; what else there may be keeps streams apart."""
    bare = ask(openai_chat, turns("hi"))

    def streamed(options: Any) -> Question:
        return ask(openai_chat, {**turns("hi"), "stream": True, "stream_options": options})

    for options, with_usage in (
        (None, False), ({}, False), ({"include_usage": False}, False),
        ({"include_usage": None}, False), ({"include_usage": True}, True),
    ):  # fmt: skip
        assert streamed(options).partition == bare.partition
        assert streamed(options).form == Form("openai_chat", True, with_usage)
    for odd in ({"include_usage": 1}, {"include_obfuscation": False}, [], "x", {"new": None}):
        assert streamed(odd).partition != bare.partition
    more = streamed({"include_usage": True, "include_obfuscation": False})
    assert more.form == Form("openai_chat", True, True)
    assert more.partition == streamed({"include_obfuscation": False}).partition
    # No server takes them without a stream.
    plain = {**turns("hi"), "stream_options": {"include_usage": True}}
    assert ask(openai_chat, plain).partition != bare.partition


def test_item_29_accept_says_nothing_that_the_body_has_not_said() -> None:
    """Unless it asks for a stream that the body does not ask for: some servers heed it."""
    bare = ask(openai_chat, turns("hi"))
    streamed = {**turns("hi"), "stream": True}
    for accept in ("application/json", "*/*", "application/json, */*;q=0.5"):
        for body in (turns("hi"), streamed):
            assert ask(openai_chat, body, ("accept", accept)).partition == bare.partition
    for accept in ("text/event-stream", "text/event-stream, */*"):
        assert ask(openai_chat, streamed, ("accept", accept)).partition == bare.partition
        assert ask(openai_chat, turns("hi"), ("accept", accept)).partition != bare.partition
    assert ask(openai_chat, streamed, ("accept", "text/html")).partition != bare.partition
