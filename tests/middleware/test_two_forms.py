"""One entry for a stream and a plain answer, through both middlewares."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from support.asgi import mounted, read_all, say, start
from support.models import CHAT_WORDS, MESSAGE, RESPONSE, Events, on_the_wire
from support.wsgi import ByHand as ByHandWSGI

from mneme.prompts import (
    Route,
    anthropic_messages,
    ollama_chat,
    ollama_generate,
    openai_chat,
    openai_responses,
)
from mneme.wsgi import SemanticCacheMiddleware as WSGIMiddleware

LINES = "application/x-ndjson"
WORDS = "how do i reset my old password"
REWORDED = "how do i reset my old password please"


def lines(*values: dict[str, Any]) -> list[bytes]:
    return [json.dumps(value).encode() + b"\n" for value in values]


OLLAMA = {"model": "m", "created_at": "2026-01-01T00:00:00Z"}
ENDED = {"done": True, "done_reason": "stop", "eval_count": 2, "total_duration": 5}
HELLO = {"role": "assistant", "content": "hello you"}
FORMATS: list[tuple[Any, dict[str, Any], Callable[[str], dict[str, Any]], list[bytes], str]] = [
    (openai_chat, CHAT_WORDS[0], lambda text: {"messages": [{"role": "user", "content": text}]},
     on_the_wire(CHAT_WORDS[1]), "text/event-stream"),
    (openai_responses, RESPONSE[0], lambda text: {"input": text},
     on_the_wire(RESPONSE[1]), "text/event-stream"),
    (anthropic_messages, MESSAGE[0],
     lambda text: {"messages": [{"role": "user", "content": text}]},
     on_the_wire(MESSAGE[1]), "text/event-stream"),
    (ollama_chat, {**OLLAMA, "message": HELLO, **ENDED},
     lambda text: {"messages": [{"role": "user", "content": text}]},
     lines({**OLLAMA, "message": {**HELLO, "content": "hello"}, "done": False},
           {**OLLAMA, "message": {**HELLO, "content": " you"}, "done": False},
           {**OLLAMA, "message": {**HELLO, "content": ""}, **ENDED}), LINES),
    (ollama_generate, {**OLLAMA, "response": "hello you", **ENDED},
     lambda text: {"prompt": text},
     lines({**OLLAMA, "response": "hello", "done": False},
           {**OLLAMA, "response": " you", "done": False},
           {**OLLAMA, "response": "", **ENDED}), LINES),
]  # fmt: skip
EACH = pytest.mark.parametrize(
    ("extract", "value", "asking", "stream", "content_type"), FORMATS, ids=lambda one: None
)


class Model:
    """Says `value`, or `stream` chunk by chunk, as it is asked; sync and async."""

    def __init__(self, value: Any, stream: list[bytes], content_type: str) -> None:
        self.said = [json.dumps(value).encode()], stream
        self.types = "application/json", content_type
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        streams = json.loads(await read_all(receive))["stream"]
        await start(send, (b"content-type", self.types[streams].encode()))
        for chunk in self.said[streams]:
            await say(send, chunk)
        await say(send, b"", more=False)

    def wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        self.asked += 1
        length = int(environ["CONTENT_LENGTH"])
        streams = json.loads(environ["wsgi.input"].read(length))["stream"]
        start_response("200 OK", [("Content-Type", self.types[streams])])
        return self.said[streams]


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
@pytest.mark.parametrize("stores_stream", [False, True])
@EACH
def test_item_29_one_entry_answers_both_forms(
    extract: Any, value: Any, asking: Any, stream: list[bytes], content_type: str,
    stores_stream: bool, world: str, cache: Any,
) -> None:  # fmt: skip
    """Exact and semantic hits, in the form that was stored and in the other, event by event."""
    model = Model(value, stream, content_type)
    options: Any = {"stream_options": {"include_usage": True}} if extract is openai_chat else {}

    def post(text: str, *, streams: bool) -> Any:
        body = {**asking(text), "stream": streams, **(options if streams else {})}
        if world == "wsgi":
            app = WSGIMiddleware(model.wsgi, cache=cache, routes={"/x": extract})
            return ByHandWSGI(app).post("/x", json.dumps(body).encode())
        client = mounted(model, cache, routes={"/x": extract})
        return anyio.run(client.post, "/x", body)

    assert post(WORDS, streams=stores_stream).layer is None
    for text, layer in ((WORDS, "exact"), (REWORDED, "semantic")):
        plain, streamed = post(text, streams=False), post(text, streams=True)
        assert (plain.layer, streamed.layer) == (layer, layer)
        types = [{k.lower(): v for k, v in one.headers}["content-type"].split(";")[0]
                 for one in (plain, streamed)]  # fmt: skip
        assert types == ["application/json", content_type]
        assert _without_ids(json.loads(plain.body)) == _without_ids(value)
        assert len(streamed.chunks) >= 2
        if stores_stream:
            assert streamed.chunks == stream
    assert model.asked == 1


def _without_ids(answer: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in answer.items() if k not in ("id", "created", "created_at")}


@pytest.mark.parametrize("is_plain_first", [True, False])
def test_item_29_answers_that_cannot_be_converted_are_kept_side_by_side(
    is_plain_first: bool, cache: Any
) -> None:
    """Each form from the application, once; neither serves the other or takes its place."""
    value = {**CHAT_WORDS[0], "prompt_filter_results": [{"hate": "safe"}]}
    events: Events = [{**CHAT_WORDS[1][0], "prompt_filter_results": [1]}, *CHAT_WORDS[1][1:]]
    model = Model(value, on_the_wire(events), "text/event-stream")
    client = mounted(model, cache, routes={"/x": openai_chat})

    def post(text: str, *, streams: bool) -> Any:
        body = {"messages": [{"role": "user", "content": text}], "stream": streams}
        return anyio.run(client.post, "/x", body)

    first = post(WORDS, streams=not is_plain_first)
    assert (first.layer, model.asked) == (None, 1)
    assert post(WORDS, streams=is_plain_first).layer is None
    found = [post(text, streams=streams) for text in (WORDS, REWORDED) for streams in (True, False)]
    assert [answer.layer is None for answer in found] == [False] * 4
    assert model.asked == 2
    assert post(WORDS, streams=not is_plain_first).body == first.body
    assert cache.stats().hits_exact + cache.stats().hits_semantic == 5
    assert cache.stats().misses == 2


def test_item_29_callers_at_once_each_get_their_form(cache: Any) -> None:
    """A stream and a plain answer to one question, asked for together."""
    _, value, asking, stream, content_type = FORMATS[0]
    model = Model(value, stream, content_type)
    client = mounted(model, cache, routes={"/x": openai_chat})
    told: list[tuple[bool, str]] = []

    async def ask(streams: bool) -> None:
        options = {"stream_options": {"include_usage": True}} if streams else {}
        answer = await client.post("/x", {**asking(WORDS), "stream": streams, **options})
        told.append((streams, dict(answer.headers)["content-type"].partition(";")[0]))

    async def main() -> None:
        for _ in range(2):
            async with anyio.create_task_group() as group:
                for at in range(6):
                    group.start_soon(ask, bool(at % 2))

    anyio.run(main)
    kinds = {False: "application/json", True: content_type}
    assert [kind for _, kind in told] == [kinds[streams] for streams, _ in told]
    assert len(told) == 12


def test_item_29_an_application_that_does_not_stream_is_replayed_as_it_is(cache: Any) -> None:
    """A plain answer to a streaming call is for those who stream, and only for them."""
    model = Model({}, [b'{"answer": 1}'], "application/json")
    client = mounted(model, cache, routes={"/x": openai_chat})

    def post(*, streams: bool) -> Any:
        body = {"messages": [{"role": "user", "content": WORDS}], "stream": streams}
        return anyio.run(client.post, "/x", body)

    assert post(streams=True).layer is None
    again = post(streams=True)
    assert (again.layer, again.body) == ("exact", b'{"answer": 1}')
    assert post(streams=False).layer is None


def test_item_20_streams_that_say_no_cache_are_stored_where_the_route_says_so(cache: Any) -> None:
    """`ignore_no_cache` overrides what servers of event streams send by habit."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_all(receive)
        await start(send, (b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache"))
        for chunk in on_the_wire(CHAT_WORDS[1]):
            await say(send, chunk)
        await say(send, b"", more=False)

    body = {"messages": [{"role": "user", "content": WORDS}], "stream": True}
    for ignores, layer in ((False, None), (True, "exact")):
        route = Route(openai_chat, ignore_no_cache=ignores)
        client = mounted(app, cache, routes={"/x": route})
        for _ in range(2):
            answer = anyio.run(client.post, "/x", body)
        assert answer.layer == layer


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_item_19_who_wants_a_stored_answer_or_none_gets_504_on_a_miss(
    world: str, heeds: bool, cache: Any
) -> None:
    """`only-if-cached`: the application is not asked, unless the route ignores clients."""
    name, value, asking, stream, content_type = FORMATS[0]
    model = Model(value, stream, content_type)
    routes = {"/x": Route(name, heeds_client=heeds)}
    body = {**asking(WORDS), "stream": False}

    def post(*headers: tuple[str, str]) -> Any:
        if world == "wsgi":
            app = WSGIMiddleware(model.wsgi, cache=cache, routes=routes)
            return ByHandWSGI(app).post("/x", json.dumps(body).encode(), headers=headers)
        client = mounted(model, cache, routes=routes)
        return anyio.run(lambda: client.post("/x", body, headers=headers))

    only = ("cache-control", "only-if-cached")
    refused = post(only)
    if heeds:
        assert str(refused.status).startswith("504")
        assert (refused.body, refused.cache_status) == (b"", "mneme; detail=only-if-cached")
        assert model.asked == 0
        post()
    assert post(only).layer == "exact"
    assert model.asked == 1


@pytest.mark.parametrize("who", ["client", "application"])
def test_item_19_nothing_is_converted_for_whom_no_transform_is_said(who: str, cache: Any) -> None:
    """By the client or by the application: the form is as it was, or it is asked for anew."""
    _, value, asking, stream, content_type = FORMATS[0]
    asked: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        streams = bool(json.loads(await read_all(receive))["stream"])
        asked.append(streams)
        forbids = [(b"cache-control", b"no-transform")] if who == "application" else []
        kind = content_type if streams else "application/json"
        await start(send, (b"content-type", kind.encode()), *forbids)
        await say(send, b"".join(stream) if streams else json.dumps(value).encode(), more=False)

    client = mounted(app, cache, routes={"/x": openai_chat})
    headers = [("cache-control", "no-transform")] if who == "client" else []
    for streams in (False, False, True):
        body = {**asking(WORDS), "stream": streams}
        anyio.run(lambda body=body: client.post("/x", body, headers=headers))
    assert asked == [False, True]
