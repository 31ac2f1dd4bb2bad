"""Where the prompt sits in a request; pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.exchange import ASK, asked, leaves, with_fields

from mneme._core.http.exchange import Question, question
from mneme._core.http.request import Request
from mneme._core.http.routes import Route
from mneme.prompts import (
    Asked,
    anthropic_messages,
    json_field,
    ollama_chat,
    ollama_generate,
    openai_chat,
    openai_responses,
    query_param,
)

APIS = (openai_chat, openai_responses, anthropic_messages, ollama_chat, ollama_generate)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"\xff\xfe",
        '{"prompt": "ä"}'.encode("latin-1"),
        '{"prompt": "a"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"prompt": "a"}',
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "x": {"y": 1, "y": 1}}',
        b'{"prompt": "a", "x": NaN}',
        b'{"prompt": "a", "x": -Infinity}',
        b'{"prompt": "a", "x": 1e999}',
        b'{"prompt": "a", "x": -1E400}',
        b'{"prompt": 5}',
        b'{"prompt": ["a"]}',
        b'{"prompt": null}',
        b'{"other": "a"}',
        b'["a"]',
        b'"prompt"',
        b'{"prompt": "a", "x": ' + b"[" * 70 + b"]" * 70 + b"}",
        b"[" * 100_000,
        b'{"prompt": "a", "x": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_body_that_cannot_be_read_one_way_is_no_call_to_cache(body: bytes) -> None:
    """No text in the named place, or a body that two readers could read differently."""
    request = replace(ASK, body=body)
    assert question(request, Route(json_field("prompt")), "default", by_host=True) is None


@given(st.binary(max_size=60), st.binary(max_size=30))
def test_no_body_makes_an_extractor_fail(body: bytes, query: bytes) -> None:
    """Every extractor answers `Asked` or None, whatever a client sends."""
    for body_sent in (body, b'{"messages": ' + body + b"}", b'{"a": [' + body + b"]}"):
        request = Request("POST", "/", query=query, body=body_sent)
        for extract in (json_field("a.0"), json_field("a.-1.b"), query_param("q"), *APIS):
            assert isinstance(extract(request), Asked | None)


@given(st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_no_messages_make_an_extractor_fail(messages: Any) -> None:
    """JSON of any shape in the place of messages is a call to cache or is none."""
    turn = [{"role": messages, "content": messages}]
    for said in (messages, turn, [*turn, {"role": "user", "content": messages}]):
        given = dict.fromkeys(("messages", "input", "prompt", "stream_options", "stream"), said)
        for stream in ({}, {"stream": True}):
            request = Request("POST", "/", body=json.dumps({**given, **stream}).encode())
            for extract in APIS:
                assert isinstance(extract(request), Asked | None)


def test_json_field_finds_inner_text() -> None:
    """Dots lead into objects, numbers into lists, from the end too."""
    body = json.dumps({"input": {"parts": [{"text": "a"}, {"text": "b"}]}}).encode()
    for path, prompt in (("input.parts.0.text", "a"), ("input.parts.-1.text", "b")):
        assert asked(replace(ASK, body=body), json_field(path)).prompt == prompt
    assert json_field("a.b")(ASK) is None
    with pytest.raises(ValueError, match="names joined by dots"):
        json_field("a..b")
    assert repr(json_field("a.b")) == "json_field('a.b')"


def test_query_param_reads_one_value() -> None:
    """The value is decoded, the other parameters stay apart, and twice is not once."""
    extract = query_param("q")
    one = asked(Request("GET", "/", query=b"a=1&q=caf%C3%A9+now&b=2"), extract)
    other = asked(Request("GET", "/", query=b"a=1&q=tea&b=2"), extract)
    assert one.prompt == "café now"
    assert one.partition == other.partition
    for query in (b"a=2&q=tea&b=2", b"a=1&b=2&q=tea", b"q=tea", b"a=1&q=tea&b=2&c"):
        assert asked(Request("GET", "/", query=query), extract).partition != one.partition
    for query in (b"", b"q=a&q=b", b"p=a"):
        assert extract(Request("GET", "/", query=query)) is None
    with pytest.raises(ValueError, match="has a name"):
        query_param("")
    assert repr(extract) == "query_param('q')"


def test_the_text_alone_leaves_the_rest_in_the_partition() -> None:
    """From a callable that names only the prompt, all else in body and query is the rest."""

    def extract(request: Request) -> str:
        return str(request.json()["in"]["text"])

    def sent(text: str, system: str = "s", query: bytes = b"") -> Question:
        body = json.dumps({"in": {"text": text}, "system": [system]}).encode()
        return asked(replace(ASK, body=body, query=query), extract)

    assert sent("a").partition == sent("b").partition
    assert sent("a").semantic
    assert sent("a", "t").partition != sent("b").partition
    assert sent("a", query=b"x").partition != sent("b").partition
    # Where the text stands twice, nobody can tell which of the two is the prompt.
    assert not sent("s").semantic
    assert sent("s").partition not in (sent("a").partition, sent("s", query=b"x").partition)


def test_the_text_alone_may_come_from_the_query_or_a_plain_body() -> None:
    """A parameter or a body that is the prompt leaves the rest, too."""

    def of_query(request: Request) -> str:
        return request.parameters()[0][1]

    def of_body(request: Request) -> str:
        return request.body.decode()

    one, other = (asked(Request("GET", "/", query=q), of_query) for q in (b"q=a&x", b"q=b&x"))
    assert one.semantic
    assert one.partition == other.partition
    one, other = (asked(Request("POST", "/", body=b), of_body) for b in (b"hi you", b"you"))
    assert one.semantic
    assert one.partition == other.partition


def test_an_extractor_that_gives_something_else_is_an_error() -> None:
    """A programming error is named, with what an extractor may return."""
    with pytest.raises(TypeError, match="returns Asked, text or None"):
        asked(ASK, lambda request: 5)  # type: ignore[arg-type, return-value]


def test_a_request_tells_its_fields() -> None:
    """By any case of the name, joined, or one by one; None where there is none."""
    request = with_fields(("x-a", "1"), ("x-a", "2"))
    assert request.header("X-A") == "1, 2"
    assert request.values("x-a") == ["1", "2"]
    assert request.header("x-b") is None
    assert "hello" not in repr(request)
