"""Which responses are stored, and what of them is sent again; pure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme._core.http.fields import listed, replayable
from mneme._core.http.form import Form
from mneme._core.http.recording import Recording
from mneme._core.http.responses import ResponseCodec, StoredResponse
from mneme._core.http.routes import Route
from mneme.errors import CodecError
from mneme.prompts import json_field
from mneme.records import Payload

JSON = ("content-type", "application/json")
NOW = 1_700_000_000.0
CODEC = ResponseCodec()


def recorded(
    *chunks: bytes,
    status: int = 200,
    headers: tuple[tuple[str, str], ...] = (JSON,),
    max_bytes: int = 100,
    **terms: Any,
) -> StoredResponse | None:
    recording = Recording(Route(json_field("p"), **terms), max_bytes=max_bytes)
    recording.start(status, headers, now=NOW)
    for chunk in chunks:
        recording.add(chunk)
    return recording.finish()


def ttl_of(*headers: tuple[str, str]) -> float | None:
    recording = Recording(Route(json_field("p")), max_bytes=100)
    recording.start(200, (JSON, *headers), now=NOW)
    return recording.ttl


def test_item_30_a_response_is_stored_in_its_chunks() -> None:
    """Bytes as they came, in the pieces in which they came; empty pieces are none."""
    found = recorded(b'{"a"', b"", b":1}")
    assert found == StoredResponse(200, (JSON,), (b'{"a"', b":1}"))
    assert found is not None
    assert found.body == b'{"a":1}'


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (404, [JSON]),
        (429, [JSON]),
        (500, [JSON]),
        (206, [JSON]),
        (304, [JSON]),
        (201, [JSON]),
        (200, []),
        (200, [("content-type", "image/png")]),
        (200, [JSON, JSON]),
        (200, [JSON, ("Set-Cookie", "a=1")]),
        (200, [JSON, ("clear-site-data", "*")]),
        (200, [JSON, ("vary", "accept, *")]),
        (200, [JSON, ("content-encoding", "gzip")]),
        (200, [JSON, ("cache-control", "no-store")]),
        (200, [JSON, ("cache-control", "Private")]),
        (200, [JSON, ("cache-control", 'private="x-a"')]),
        (200, [JSON, ("cache-control", "no-cache")]),
        (200, [JSON, ("cache-control", 'x="')]),
    ],
)
def test_item_09_17_18_20_31_some_responses_are_never_stored(status: int, headers: Any) -> None:
    """Errors, parts, cookies, other types, encodings, and what the application forbids."""
    assert recorded(b"{}", status=status, headers=tuple(headers)) is None


def test_item_09_the_developer_chooses_statuses_and_types() -> None:
    """`statuses`, `content_types` and `ignore_no_cache` of a route widen what is stored."""
    assert recorded(b"{}", status=201, statuses=(200, 201))
    png = (("content-type", "image/png"),)
    assert recorded(b"\x89", headers=png, content_types=("image/*",))
    no_cache = (JSON, ("cache-control", "no-cache"))
    assert recorded(b"{}", headers=no_cache, ignore_no_cache=True)
    for kind in ("text/plain", "application/problem+json", "Application/JSON; charset=utf-8"):
        assert recorded(b"{}", headers=(("content-type", kind),))


def test_item_09_too_much_is_dropped_at_once() -> None:
    """A body over the cap is not stored, and what was kept of it is let go."""
    assert recorded(b"x" * 60, b"x" * 40, headers=(("content-type", "text/plain"),))
    assert recorded(b"x" * 60, b"x" * 41, b"", headers=(("content-type", "text/plain"),)) is None


def test_item_05_a_body_shorter_than_it_said_is_a_torso() -> None:
    """Content-Length has to agree with what came, and is told anew."""
    assert recorded(b"{}", headers=(JSON, ("Content-Length", "3"))) is None
    found = recorded(b"{}", headers=(("Content-Length", "2"), JSON))
    assert found is not None
    assert found.headers == (JSON, ("content-length", "2"))


def test_item_26_a_response_that_begins_again_is_the_one_that_counts() -> None:
    """What was recorded of a response that never went out is forgotten."""
    recording = Recording(Route(json_field("p")), max_bytes=100)
    recording.start(200, (JSON,), now=NOW)
    recording.add(b"{")
    recording.start(200, (JSON,), now=NOW)
    recording.add(b"[]")
    assert recording.finish() == StoredResponse(200, (JSON,), (b"[]",))
    assert recording.finish() is None


def test_item_05_what_was_dropped_is_not_stored() -> None:
    """Nothing brings a dropped recording back."""
    recording = Recording(Route(json_field("p")), max_bytes=100)
    recording.start(200, (JSON,), now=NOW)
    recording.drop()
    recording.add(b"{}")
    assert recording.finish() is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([("cache-control", "max-age=60, s-maxage=9")], 9.0),
        ([("cache-control", "public, max-age=60"), ("expires", "0")], 60.0),
        ([("cache-control", "max-age=x")], 0.0),
        ([("cache-control", "max-age")], 0.0),
        ([("cache-control", "max-age=-1")], 0.0),
        ([("expires", "Tue, 14 Nov 2023 22:14:20 GMT")], 60.0),
        ([("expires", "Tue, 14 Nov 2000 22:14:20 GMT")], 0.0),
        ([("expires", "0")], 0.0),
        ([("cache-control", "public")], None),
        ([], None),
    ],
)
def test_item_20_the_application_caps_the_lifetime(headers: Any, seconds: float | None) -> None:
    """`s-maxage` before `max-age` before `Expires`; what cannot be read means not at all."""
    assert ttl_of(*headers) == seconds


names = st.text("abcdefghijklmnopqrstuvwxyz-ABC", min_size=1, max_size=12)
headers = st.lists(
    st.tuples(
        names
        | st.sampled_from(
            [
                "Date",
                "Server",
                "Set-Cookie",
                "Proxy-X",
                "Keep-Alive",
                "X-RateLimit-Limit",
                "x-request-id",
                "Connection",
                "ETag",
                "Age",
                "Transfer-Encoding",
                "X-Ok",
                "Via",
            ]
        ),
        st.text("abc, -", max_size=12),
    )
)


@given(headers)
def test_item_17_only_fields_that_may_be_sent_again_are_kept(
    given_headers: list[tuple[str, str]],
) -> None:
    """In order, duplicates kept, nothing changed; none of one hop, one exchange, one client."""
    fields = tuple(given_headers)
    kept = replayable(fields)
    rest = iter(fields)
    assert all(pair in rest for pair in kept), "an ordered part of what was given"
    never = {"date", "server", "set-cookie", "keep-alive", "x-request-id", "connection", "etag"}
    never |= {"age", "transfer-encoding", "x-ratelimit-limit", "proxy-x"}
    never |= listed(fields, "connection")
    assert not any(name.lower() in never for name, _ in kept)
    wanted = [pair for pair in fields if pair[0].lower() in {"x-ok", "via"} - never]
    assert [pair for pair in kept if pair[0].lower() in ("x-ok", "via")] == wanted


def test_item_17_fields_that_connection_names_are_of_one_hop() -> None:
    """In any case, from any of several `Connection` fields."""
    fields = (("X-Hop", "1"), ("Connection", "close, x-hop"), ("connection", "Y"), ("y", "2"))
    assert replayable((*fields, ("x-ok", "3"))) == (("x-ok", "3"),)


@given(
    st.integers(200, 299),
    st.lists(st.tuples(st.text(), st.text(st.characters(codec="latin-1")))),
    st.lists(st.binary() | st.text(st.characters(codec="utf-8")).map(str.encode)),
)
def test_item_30_a_stored_response_comes_back_byte_for_byte(
    status: int, given_headers: list[tuple[str, str]], chunks: list[bytes]
) -> None:
    """Any bytes in any pieces, text or not, in a form that is JSON."""
    clean = [(name.encode("utf-8", "replace").decode(), value) for name, value in given_headers]
    response = StoredResponse(status, tuple(clean), tuple(chunks))
    payload = CODEC.encode(response)
    assert payload.kind == "json"
    json.loads(payload.data)
    assert CODEC.decode(payload) == response


@pytest.mark.parametrize(
    "payload",
    [
        Payload("text", "hello"),
        Payload("json", "5"),
        Payload("json", "{}"),
        Payload("json", '{"status":200,"headers":[["a"]],"chunks":[]}'),
        Payload("json", '{"status":200,"headers":[],"chunks":[{"base64":"?"}]}'),
        Payload("json", '{"status":"x","headers":[],"chunks":[]}'),
    ],
)
def test_what_is_no_stored_response_is_not_served(payload: Payload) -> None:
    """A payload of another kind or shape is a CodecError, which a lookup takes for a miss."""
    with pytest.raises(CodecError, match="let the next answer overwrite it"):
        CODEC.decode(payload)


def test_item_22_a_hit_has_no_validator_of_another_questions_answer() -> None:
    """`ETag` and `Last-Modified` name one representation; a similar question has another."""
    found = recorded(b"{}", headers=(JSON, ("ETag", '"1"'), ("Last-Modified", "x"), ("X-A", "1")))
    assert found is not None
    assert found.headers == (JSON, ("X-A", "1"))


def test_only_recorded_responses_are_stored() -> None:
    """Anything else is refused with the remedy."""
    with pytest.raises(CodecError, match="Let the middleware store"):
        CODEC.encode("text")


def test_item_28_the_developer_may_judge_otherwise() -> None:
    """`is_whole` of a route replaces the judgement of a body that ended cleanly."""
    assert recorded(b"[", is_whole=lambda content_type, body: True)
    assert recorded(b"{}", is_whole=lambda content_type, body: False) is None


def test_the_developer_says_what_is_stored_and_how_much() -> None:
    """`cache_if` of a route sees the whole response; its limit holds under the middleware's."""
    assert recorded(b"{}", cache_if=lambda response: response.body == b"{}")
    assert recorded(b"{}", cache_if=lambda response: response.status != 200) is None
    assert recorded(b"{}", max_response_bytes=2)
    assert recorded(b"{ }", max_response_bytes=2) is None
    assert recorded(b"[" + b" " * 100 + b"]", max_response_bytes=1_000) is None


CHUNK = {"id": "1", "object": "chat.completion.chunk", "choices": [], "usage": {"total_tokens": 2}}
SAYS = {"index": 0, "delta": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
STREAM = Form("openai_chat", streams=True)
VALUE = Form("openai_chat", streams=False)
STREAMED = StoredResponse(
    200,
    (("content-type", "text/event-stream"), ("x-a", "1"), ("x-a", "2")),
    (f"data: {json.dumps({**CHUNK, 'choices': [SAYS]})}\n\n".encode(), b"data: [DONE]\n\n"),
)


def test_item_29_a_response_is_read_in_the_form_that_is_asked_for() -> None:
    """Type and length are those of the form; the other fields stay, in order."""
    stored = ResponseCodec(STREAM).encode(STREAMED)
    assert ResponseCodec(STREAM).decode(stored) == STREAMED
    plain = ResponseCodec(VALUE).decode(stored)
    assert json.loads(plain.body)["choices"][0]["message"]["content"] == "hi"
    assert plain.headers == (
        ("x-a", "1"), ("x-a", "2"), ("content-type", "application/json"),
        ("content-length", str(len(plain.body))),
    )  # fmt: skip
    again = ResponseCodec(STREAM).decode(ResponseCodec(VALUE).encode(plain))
    assert again.headers == (
        ("x-a", "1"), ("x-a", "2"), ("content-type", "text/event-stream; charset=utf-8"),
    )  # fmt: skip
    assert [chunk.count(b"\n\n") for chunk in again.chunks] == [1] * len(again.chunks)


@pytest.mark.parametrize(
    ("told", "wanted"),
    [(STREAM, None), (None, STREAM), (VALUE, STREAM), (STREAM, Form("ollama", True)),
     (STREAM, Form("unheard_of", True))],
)  # fmt: skip
def test_item_29_what_has_no_other_form_is_not_served_in_it(told: Any, wanted: Any) -> None:
    """Nothing is known of one of the two, or the body is none of its form."""
    stored = ResponseCodec(told).encode(STREAMED)
    with pytest.raises(CodecError, match="Ask the application for this form"):
        ResponseCodec(wanted).decode(stored)


def test_item_29_a_form_that_is_none_is_no_stored_response() -> None:
    """A row that says nonsense of its form is a bad row."""
    for form in (5, {}, {"format": "x"}, {"format": "x", "streams": 1, "odd": 2}):
        stored = json.loads(CODEC.encode(STREAMED).data)
        with pytest.raises(CodecError, match="no stored response"):
            CODEC.decode(Payload("json", json.dumps({**stored, "form": form})))
