"""Starlette with the middleware on real servers, asked over real sockets and by a real SDK."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.to_thread
import httpx
import openai
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from support.servers import frames, on_hypercorn_trio, on_uvicorn
from support.worlds import PATIENCE

from mneme.asgi import SemanticCacheMiddleware
from mneme.prompts import json_field, openai_chat

SERVERS = [on_uvicorn, pytest.param(on_hypercorn_trio, marks=pytest.mark.needs("trio"))]
ASKED = "how do i reset my old password"
REWORDED = "how do i reset my old password please"


class Model:
    """
    Speaks OpenAI's chat format: answer ``n`` in three words, to its n-th question.

    While `gate` is closed, a stream waits after its first word.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.has_left = threading.Event()
        self.finish = "stop"

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body["messages"][-1]["content"])
        words = ["answer", " number", f" {len(self.asked)}"]
        base = {"id": "c1", "created": 1, "model": body["model"]}
        if body.get("stream"):
            return StreamingResponse(self.stream(words, base), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": self.finish}
        return JSONResponse({**base, "object": "chat.completion", "choices": [choice]})

    async def stream(self, words: list[str], base: dict[str, Any]) -> AsyncIterator[str]:
        try:
            for at, word in enumerate([*words, None]):
                choice = {"index": 0, "delta": {"content": word} if word else {}}
                choice["finish_reason"] = None if word else self.finish
                chunk = {**base, "object": "chat.completion.chunk", "choices": [choice]}
                yield f"data: {json.dumps(chunk)}\n\n"
                if at == 0:
                    await anyio.to_thread.run_sync(self.gate.wait, PATIENCE, abandon_on_cancel=True)
            yield "data: [DONE]\n\n"
        finally:
            self.has_left.set()

    def app(self, cache: Any, **options: Any) -> Starlette:
        path = "/v1/chat/completions"
        middleware = Middleware(
            SemanticCacheMiddleware, cache=cache, **{"routes": {path: openai_chat}, **options}
        )
        return Starlette(routes=[Route(path, self.chat, methods=["POST"])], middleware=[middleware])


@pytest.fixture
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.gate.set()


@pytest.fixture(params=SERVERS)
def url(request: pytest.FixtureRequest, model: Model, served: Any) -> Iterator[str]:
    with request.param(model.app(served)) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-1", max_retries=0) as client:
        yield client


def says(client: openai.OpenAI, text: str, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="m", messages=messages, **options)


def test_the_openai_client_is_answered_from_the_cache(
    client: openai.OpenAI, model: Model, stored: Any
) -> None:
    """Equal and reworded questions, plain: the model is asked once."""
    first = says(client, ASKED)
    stored.wait()
    assert first.choices[0].message.content == "answer number 1"
    for text in (ASKED, REWORDED):
        assert says(client, text).choices[0].message.content == "answer number 1"
    assert model.asked == [ASKED]
    assert says(client, "where is a bakery").choices[0].message.content == "answer number 2"


def test_item_29_a_stream_is_answered_by_a_stream_and_a_value_by_a_value(
    client: openai.OpenAI, model: Model, stored: Any
) -> None:
    """The two are kept apart, so that the SDK understands what it gets."""

    def words(text: str) -> list[str]:
        with says(client, text, stream=True) as stream:
            return [chunk.choices[0].delta.content or "" for chunk in stream]

    assert words(ASKED) == ["answer", " number", " 1", ""]
    stored.wait()
    assert words(REWORDED) == ["answer", " number", " 1", ""]
    assert model.asked == [ASKED]
    assert says(client, ASKED).choices[0].message.content == "answer number 2"


def test_item_06_a_stream_arrives_chunk_by_chunk_on_a_miss(
    client: openai.OpenAI, model: Model
) -> None:
    """The client reads the first chunk before the model has made the second."""
    model.gate.clear()
    with says(client, ASKED, stream=True) as stream:
        chunks = iter(stream)
        assert next(chunks).choices[0].delta.content == "answer"
        model.gate.set()
        assert len(list(chunks)) == 3


def test_item_30_a_stream_arrives_chunk_by_chunk_on_a_hit(url: str, stored: Any) -> None:
    """Each event in a frame of its own, as on the miss, and byte for byte the same."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": ASKED}]}
    path, raw = "/v1/chat/completions", json.dumps(body).encode()
    head, missed = frames(url, path, raw)
    stored.wait()
    assert "mneme; fwd=miss" in head
    head, hit = frames(url, path, raw)
    assert "mneme; hit; detail=exact" in head
    assert "text/event-stream" in head
    assert hit == missed
    assert len(hit) == 5


def test_item_05_a_client_that_leaves_mid_stream_stores_nothing(
    client: openai.OpenAI, model: Model, served: Any
) -> None:
    """A torso is never served: the next one gets all of an answer of its own."""
    model.gate.clear()
    with says(client, ASKED, stream=True) as stream:
        next(iter(stream))
    client.close()
    assert model.has_left.wait(PATIENCE)
    assert served.stats().entries == 0


@pytest.mark.parametrize("finish", ["length", "content_filter"])
def test_item_28_an_answer_cut_short_is_not_stored(
    client: openai.OpenAI, model: Model, served: Any, finish: str
) -> None:
    """Plain and as a stream, the model is asked again."""
    model.finish = finish
    for _ in range(2):
        says(client, ASKED)
        with says(client, ASKED, stream=True) as stream:
            assert list(stream)[-1].choices[0].finish_reason == finish
    assert (len(model.asked), served.stats().entries) == (4, 0)


def test_item_16_two_credentials_never_share(url: str, model: Model, stored: Any) -> None:
    """Two API keys, then two cookies: each caller has an answer of its own."""
    body = {"model": "m", "messages": [{"role": "user", "content": ASKED}]}
    callers = [{"authorization": f"Bearer {key}"} for key in "ab"]
    callers += [{"cookie": f"sid={key}"} for key in "ab"]
    with httpx.Client(base_url=url) as http:
        seen = []
        for caller in callers:
            seen.append(http.post("/v1/chat/completions", json=body, headers=caller).text)
            stored.wait()
        assert len(set(seen)) == len(model.asked) == 4
        for caller, text in zip(callers, seen, strict=True):
            again = http.post("/v1/chat/completions", json=body, headers=caller)
            assert again.text == text
            assert "; hit;" in again.headers["cache-status"]


@pytest.mark.parametrize("serve", SERVERS)
def test_item_07_a_background_task_holds_up_neither_answer_nor_entry(
    serve: Any, served: Any, stored: Any
) -> None:
    """The client has its answer, and the next one a hit, while the task still runs."""
    goes_on = threading.Event()

    async def work() -> None:
        await anyio.to_thread.run_sync(goes_on.wait, PATIENCE)

    async def ask(request: Request) -> Response:
        return JSONResponse({"answer": 1}, background=BackgroundTask(work))

    app = SemanticCacheMiddleware(
        Starlette(routes=[Route("/ask", ask, methods=["POST"])]),
        cache=served,
        routes={"/ask": json_field("prompt")},
    )
    with serve(app) as url, httpx.Client(base_url=url) as http:
        try:
            assert http.post("/ask", json={"prompt": ASKED}).json() == {"answer": 1}
            stored.wait()
            again = http.post("/ask", json={"prompt": ASKED})
            assert again.headers["cache-status"] == "mneme; hit; detail=exact"
        finally:
            goes_on.set()


@pytest.mark.parametrize("serve", SERVERS)
def test_it_works_inside_other_middleware_and_in_a_mounted_app(
    serve: Any, served: Any, stored: Any
) -> None:
    """Around it Starlette's own BaseHTTPMiddleware, under it a mounted application."""
    calls: list[str] = []

    async def ask(request: Request) -> Response:
        calls.append((await request.json())["prompt"])
        return JSONResponse({"answer": len(calls)})

    async def stamp(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers["x-stamp"] = "1"
        return response

    inner = Starlette(
        routes=[Route("/ask", ask, methods=["POST"])],
        middleware=[
            Middleware(SemanticCacheMiddleware, cache=served, routes={"/ask": json_field("prompt")})
        ],
    )
    app = Starlette(
        routes=[Mount("/api", inner)],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=stamp)],
    )
    with serve(app) as url, httpx.Client(base_url=url) as http:
        for text in (ASKED, REWORDED):
            answer = http.post("/api/ask", json={"prompt": text})
            assert answer.json() == {"answer": 1}
            assert answer.headers["x-stamp"] == "1"
            if text is ASKED:
                stored.wait()
        assert answer.headers["cache-status"] == "mneme; hit; detail=semantic"


@pytest.mark.parametrize("serve", SERVERS)
def test_item_02_bodies_that_are_no_question_pass_byte_for_byte(serve: Any, served: Any) -> None:
    """No JSON, names given twice, half characters, and a body over the cap, sent in chunks."""

    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="text/plain")

    app = SemanticCacheMiddleware(
        Starlette(routes=[Route("/ask", echo, methods=["POST"])]),
        cache=served,
        routes={"/ask": json_field("prompt")},
    )
    bodies = [b"", b"{", b'{"prompt": "\xff"}', b'{"prompt":"a","prompt":"b"}', b"x" * 2_000_000]
    with serve(app) as url, httpx.Client(base_url=url) as http:
        for body in bodies:
            for content in (body, iter([body[:1], body[1:]])):
                answer = http.post("/ask", content=content)
                assert answer.content == body
                assert answer.headers["cache-status"] == "mneme; fwd=bypass"
    assert served.stats().entries == 0
