"""
What the SDKs of OpenAI and Anthropic make of hits, field by field, over real sockets.

The application says each answer in both forms, written by hand. A hit in the other form than
the one that was stored must give the same objects as asking the application itself.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import RawMessageStreamEvent
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from support.models import CHAT_CALLS, CHAT_WORDS, MESSAGE, RESPONSE, Events, on_the_wire
from support.servers import on_uvicorn

from mneme._core.http.form import Form
from mneme._core.http.formats import convert
from mneme._core.http.formats.events import events_of
from mneme.asgi import SemanticCacheMiddleware
from mneme.prompts import anthropic_messages, openai_chat, openai_responses

OF_ONE_CALL = ("id", "created", "created_at")
ROUTES = {
    "/v1/chat/completions": openai_chat.with_tools(),
    "/v1/responses": openai_responses,
    "/v1/messages": anthropic_messages,
}
Says = Callable[[Any], Any]


class TwoForms:
    """An application that says one answer, as a value or as a stream, as it is asked."""

    def __init__(self, answer: tuple[dict[str, Any], Events]) -> None:
        self.value, self.events = answer
        self.asked: list[bool] = []

    async def answers(self, request: Request) -> Response:
        body = await request.json()
        streams = bool(body.get("stream"))
        self.asked.append(streams)
        if not streams:
            return JSONResponse(self.value)
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        # Only chat completions leave it to the caller; the others have named events.
        is_chat = not isinstance(self.events[0], tuple)
        chunks = on_the_wire(self.events, with_usage=with_usage or not is_chat)
        return StreamingResponse(_each(chunks), media_type="text/event-stream")

    def app(self, *paths: str) -> Starlette:
        return Starlette(routes=[Route(path, self.answers, methods=["POST"]) for path in paths])


async def _each(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@contextmanager
def asked(model: TwoForms, cache: Any) -> Iterator[tuple[str, str]]:
    """The URLs of the application with the cache in front of it, and without."""
    app = model.app(*ROUTES, *(f"/direct{path}" for path in ROUTES))
    with on_uvicorn(SemanticCacheMiddleware(app, cache=cache, routes=ROUTES)) as url:
        yield url, f"{url}/direct"


def fields(found: Any) -> Any:
    """All that an SDK's object says, but for what differs on each call."""
    return {k: v for k, v in found.model_dump(warnings=False).items() if k not in OF_ONE_CALL}


def chat_value(url: str) -> Any:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        return fields(client.chat.completions.create(model="m", messages=WORDS))


def chat_stream(url: str, **options: Any) -> Any:
    state = ChatCompletionStreamState()
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
        client.chat.completions.create(model="m", messages=WORDS, stream=True, **options) as stream,
    ):
        for chunk in stream:
            state.handle_chunk(chunk)
    return fields(state.get_final_completion())


def chat_stream_with_usage(url: str) -> Any:
    return chat_stream(url, stream_options={"include_usage": True})


def response_value(url: str) -> Any:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        return fields(client.responses.create(model="m", input="hi there"))


def response_stream(url: str) -> Any:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client,
        client.responses.stream(model="m", input="hi there") as stream,
    ):
        return fields(stream.get_final_response())


def message_value(url: str) -> Any:
    with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client:
        return fields(client.messages.create(model="m", max_tokens=9, messages=WORDS))


def message_stream(url: str) -> Any:
    with (
        anthropic.Anthropic(base_url=url, api_key="k", max_retries=0) as client,
        client.messages.stream(model="m", max_tokens=9, messages=WORDS) as stream,
    ):
        return fields(stream.get_final_message())


WORDS: Any = [{"role": "user", "content": "hi there"}]
PAIRS = [
    pytest.param(CHAT_WORDS, chat_value, chat_stream_with_usage, id="chat"),
    pytest.param(CHAT_CALLS, chat_value, chat_stream_with_usage, id="chat with tools"),
    pytest.param(RESPONSE, response_value, response_stream, id="responses"),
    pytest.param(MESSAGE, message_value, message_stream, id="messages"),
]


@pytest.mark.parametrize("stores_stream", [False, True], ids=["stored value", "stored stream"])
@pytest.mark.parametrize(("answer", "value", "stream"), PAIRS)
def test_item_29_an_entry_answers_both_forms_as_the_application_would(
    answer: Any, value: Says, stream: Says, stores_stream: bool, served: Any, stored: Any
) -> None:
    """One entry, stored in one form: the SDK reads from it what it reads from the model."""
    model = TwoForms(answer)
    with asked(model, served) as (url, direct):
        first = (stream if stores_stream else value)(url)
        stored.wait()
        hits = [value(url), stream(url)]
        assert model.asked == [stores_stream]
        assert hits == [value(direct), stream(direct)]
        assert first in hits


@pytest.mark.parametrize(
    ("name", "answer", "kind"),
    [
        ("openai_chat", CHAT_WORDS, ChatCompletionChunk),
        ("openai_chat", CHAT_CALLS, ChatCompletionChunk),
        ("openai_responses", RESPONSE, ResponseStreamEvent),
        ("anthropic_messages", MESSAGE, RawMessageStreamEvent),
    ],
)
def test_item_27_each_event_of_a_stream_that_was_made_is_of_the_sdks_type(
    name: str, answer: tuple[dict[str, Any], Events], kind: Any
) -> None:
    """SDKs take what they are given and look later; here each event is checked strictly."""
    made = convert(
        json.dumps(answer[0]).encode(), Form(name, streams=False), Form(name, streams=True)
    )
    typed: TypeAdapter[Any] = TypeAdapter(kind)
    events = [event for event in events_of(b"".join(made).decode()) or [] if event.value]
    assert len(events) > 3
    for event in events:
        typed.validate_python(event.value)
    if kind is not ChatCompletionChunk:
        sent = {name for name, _ in answer[1]} - {"ping"}
        assert {event.name for event in events} == sent


def test_item_29_usage_goes_to_those_who_ask_for_it(served: Any, stored: Any) -> None:
    """From a plain answer: a stream without usage, and one with it, as the model sends them."""
    model = TwoForms(CHAT_WORDS)
    with asked(model, served) as (url, direct):
        chat_value(url)
        stored.wait()
        assert chat_stream(url) == chat_stream(direct)
        assert chat_stream(url)["usage"] is None
        assert chat_stream_with_usage(url)["usage"]["total_tokens"] == 12
        assert model.asked == [False, True]


def test_item_29_an_answer_that_would_lack_something_is_asked_for_anew(
    served: Any, stored: Any
) -> None:
    """A stream without usage makes no plain answer; both are kept, and the plain one streams."""
    model = TwoForms(CHAT_WORDS)
    with asked(model, served) as (url, _):
        chat_stream(url)
        stored.wait()
        assert chat_value(url)["usage"]["total_tokens"] == 12
        stored.wait()
        assert model.asked == [True, False]
        chat_stream(url)
        chat_value(url)
        assert chat_stream_with_usage(url)["usage"]["total_tokens"] == 12
        assert model.asked == [True, False]
