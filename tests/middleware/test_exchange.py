"""What a request asks and whom it may share an answer with; pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.exchange import ASK, asked, leaves, with_fields

from mneme._core.http.exchange import (
    Question,
    cache_status,
    hit_fields,
    is_objected_to,
    wants_fresh,
)
from mneme._core.http.fields import directives
from mneme._core.http.request import Request
from mneme.prompts import query_param
from mneme.records import Hit

# The names of fields by which callers are told apart; any case is the shells' affair.
CREDENTIALS = (
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-api-key",
    "api-key",
    "ocp-apim-subscription-key",
    "x-goog-api-key",
    "x-auth-token",
    "x-amz-security-token",
    "x-forwarded-user",
    "x-ms-client-principal-id",
    "x-tenant-id",
)

texts = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=8)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
ALIKE = st.sampled_from([0, 0.0, False, "", None, [], {}, "0", [0], [[]], {"": 0}, "hello"])


# Whom a request may share an answer with


@given(st.dictionaries(st.text(), values), st.text(), st.text())
def test_item_15_requests_that_differ_in_the_prompt_alone_share_a_partition(
    rest: dict[str, Any], one: str, other: str
) -> None:
    """Two wordings of a question are compared, whatever surrounds them."""
    bodies = [json.dumps({**rest, "prompt": prompt}).encode() for prompt in (one, other)]
    first, second = (asked(replace(ASK, body=body)) for body in bodies)
    assert first.partition == second.partition
    assert (first.prompt, second.prompt) == (one, other)


def as_json(value: Any) -> str:
    """A text that differs for values that an application may tell apart."""
    return json.dumps(value, sort_keys=True).replace("-0.0", "0.0")


@given(st.dictionaries(st.text(), values, max_size=2), st.text(), values, values | ALIKE)
def test_item_15_requests_that_differ_in_the_rest_of_the_body_never_meet(
    rest: dict[str, Any], name: str, one: Any, other: Any
) -> None:
    """Another model, another setting, another value or type anywhere: another partition."""
    assume(name != "prompt" and as_json(one) != as_json(other))
    bodies = [{**rest, "prompt": "hello", name: value} for value in (one, other)]
    first, second = (asked(replace(ASK, body=json.dumps(body).encode())) for body in bodies)
    assert first.partition != second.partition


@given(
    st.sampled_from(["method", "raw_path", "query", "host", "namespace", "caller", "stream"]),
    texts,
    texts,
)
def test_item_15_requests_that_differ_in_anything_else_never_meet(
    part: str, one: str, other: str
) -> None:
    """Method, path, query string, host, namespace, caller and `stream` are part of who asks."""
    assume(one != other)

    def made(value: str) -> Question:
        if part == "namespace":
            return asked(ASK, namespace=f"n{value}")
        if part == "host":
            return asked(replace(ASK, headers=(("host", value),)))
        if part == "stream":
            return asked(replace(ASK, body=json.dumps({"prompt": "hello", part: value}).encode()))
        if part in ("raw_path", "query"):
            return asked(replace(ASK, **{part: value.encode("latin-1") + b"/"}))
        return asked(replace(ASK, **{part: (value,) if part == "caller" else f"M{value}"}))

    assert made(one).partition != made(other).partition


@given(st.sampled_from(CREDENTIALS), texts, texts)
def test_item_16_requests_with_other_credentials_never_meet(
    name: str, one: str, other: str
) -> None:
    """Who sends another credential, or none, has answers of their own."""
    assume(one != other)
    partitions = {
        asked(request).partition
        for request in (ASK, with_fields((name, one)), with_fields((name, other)))
    }
    assert len(partitions) == 3


@given(
    st.lists(st.tuples(st.sampled_from(CREDENTIALS), texts), max_size=3),
    st.lists(st.tuples(st.sampled_from(CREDENTIALS), texts), max_size=3),
)
def test_item_16_no_two_sets_of_credentials_meet(
    one: list[tuple[str, str]], other: list[tuple[str, str]]
) -> None:
    """Several credentials are told apart by names, values and the order within one name."""

    def by_name(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return sorted(pairs, key=lambda pair: pair[0])

    same = asked(with_fields(*one)).partition == asked(with_fields(*other)).partition
    assert same == (by_name(one) == by_name(other))


@given(st.sampled_from(CREDENTIALS), texts)
def test_item_16_shared_answers_are_for_everybody(name: str, value: str) -> None:
    """`shared=True` is the developer's word that it does not matter who asks."""
    one, other = (asked(request, shared=True) for request in (ASK, with_fields((name, value))))
    assert one.partition == other.partition


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user-agent", "curl/8"),
        ("idempotency-key", "stainless-python-retry-7"),
        ("x-request-id", "7"),
        ("x-stainless-retry-count", "1"),
        ("traceparent", "00-1-2-01"),
        ("accept-encoding", "br"),
    ],
)
def test_item_15_fields_that_every_request_has_anew_do_not_matter(name: str, value: str) -> None:
    """What clients change from call to call, or what the application never sees, costs no hit."""
    assert asked(with_fields((name, value))).partition == asked(ASK).partition


def test_item_15_fields_that_choose_a_form_are_told_apart() -> None:
    """Negotiated forms, the route's own fields and those that a response varied by."""
    names = ("accept", "accept-language", "content-type", "origin", "openai-project", "x-plan")
    for name in names:
        terms: dict[str, Any] = {"vary": ("X-Plan",)}
        one, other = (asked(with_fields((name, value)), **terms) for value in ("a", "b"))
        assert one.partition != other.partition, name
    one, other = (asked(with_fields(("x-lang", v)), fields=["x-lang"]) for v in ("a", "b"))
    assert one.partition != other.partition


def test_item_18_an_absent_field_matches_only_an_absent_one() -> None:
    """An empty field is not an absent one, and two fields are not one with a comma."""
    forms = ((), (("accept", ""),), (("accept", "a, b"),), (("accept", "a"), ("accept", "b")))
    assert len({asked(with_fields(*form)).partition for form in forms}) == 4


def test_item_11_head_asks_for_what_get_would_answer() -> None:
    """HEAD and GET share a question; QUERY and POST do not."""
    get = Request("GET", "/ask", query=b"q=hello")
    extract = query_param("q")
    assert asked(get, extract) == asked(replace(get, method="HEAD"), extract)
    assert asked(ASK).partition != asked(replace(ASK, method="QUERY")).partition


def test_hosts_share_answers_where_the_developer_says_so() -> None:
    """`by_host=False`: one application under several names."""
    other = replace(ASK, headers=(("host", "b.example"),))
    assert asked(ASK).partition != asked(other).partition
    assert asked(ASK, by_host=False).partition == asked(other, by_host=False).partition


# Which requests are not for the cache


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("range", "bytes=0-5"),
        ("if-none-match", '"1"'),
        ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("if-match", "*"),
        ("if-range", '"1"'),
        ("if-unmodified-since", "x"),
        ("content-encoding", "gzip"),
        ("cache-control", "no-store"),
        ("cache-control", "max-age=60, NO-STORE"),
        ("cache-control", 'x="unterminated'),
        ("cache-control", "= ="),
    ],
)
def test_item_11_19_22_some_requests_pass_by_the_cache(name: str, value: str) -> None:
    """Ranges, conditions, encoded bodies, `no-store` and what cannot be read: no cache."""
    assert is_objected_to(((name, value),))


@pytest.mark.parametrize(
    ("headers", "is_fresh"),
    [
        ((("cache-control", "no-cache"),), True),
        ((("cache-control", "max-age=0"),), True),
        ((("cache-control", "max-age=x"),), True),
        ((("cache-control", "max-age=5, min-fresh=5"),), False),
        ((("pragma", "no-cache"),), True),
        ((("cache-control", "max-stale"), ("pragma", "no-cache")), False),
        ((("cache-control", "no-transform"),), False),
        ((), False),
    ],
)
def test_item_19_a_client_may_ask_for_a_new_answer(headers: Any, is_fresh: bool) -> None:
    """`no-cache` and its like are answered anew; the new answer may be stored."""
    assert not is_objected_to(headers)
    assert wants_fresh(headers) is is_fresh


@pytest.mark.parametrize("value", ["no-store", "no-cache", "max-age=0", 'x="unterminated'])
def test_item_19_a_route_may_ignore_what_clients_say(value: str) -> None:
    """`heeds_client=False`; conditions and encoded bodies are still not the cache's affair."""
    headers = (("cache-control", value), ("pragma", "no-cache"))
    assert not is_objected_to(headers, heeds_client=False)
    assert not wants_fresh(headers, heeds_client=False)
    assert is_objected_to((("if-match", "*"),), heeds_client=False)
    request = with_fields(("cache-control", "no-transform"))
    assert not asked(request).may_convert
    assert asked(request, heeds_client=False).may_convert
    assert asked(ASK).may_convert


def test_item_19_directives_are_read_as_the_rfc_writes_them() -> None:
    """Names in any case, quoted values with commas in them, empty members, several fields."""
    assert directives(['Private="set-cookie, x" , , MAX-AGE=5', "no-cache"]) == {
        "private": "set-cookie, x",
        "max-age": "5",
        "no-cache": None,
    }
    assert directives([]) == {}
    assert directives(["a b"]) is None


@given(st.text(max_size=40))
def test_item_19_no_text_makes_reading_directives_fail(text: str) -> None:
    """Whatever a client sends is read, or is called unreadable."""
    found = directives([text])
    assert found is None or all(name == name.lower() for name in found)


# What a response says of the cache


def test_item_21_a_hit_tells_its_age_and_layer() -> None:
    """Whole seconds, what is left of its lifetime if it has an end, and no similarity."""
    hit = Hit(None, 0.91234, 0.9, 12.9, "semantic", "n", {}, ttl_seconds=287.9)
    assert hit_fields(hit) == (
        ("age", "12"),
        ("cache-status", "mneme; hit; ttl=287; detail=semantic"),
    )
    assert cache_status(replace(hit, layer="exact", ttl_seconds=None)) == (
        "mneme; hit; detail=exact"
    )
    assert cache_status("bypass") == "mneme; fwd=bypass"
