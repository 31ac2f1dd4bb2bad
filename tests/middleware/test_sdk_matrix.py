"""
The SDKs of OpenAI and Anthropic, in every world, through the cache in each of its places.

What is asked is the same everywhere: plain and streaming, with usage and with tools, each
question once, equal, and reworded. The model counts its calls.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from support import behind_gunicorn
from support.asgi import read_all
from support.providers import ROUTES, shared_cache, spoken
from support.servers import on_hypercorn_trio, on_uvicorn
from support.upstream import Upstream, upstream
from support.worlds import LOOPS, PATIENCE, WORLDS, World

from mneme.asgi import SemanticCacheMiddleware
from mneme.transports import AsyncSemanticCacheTransport, SemanticCacheTransport

pytestmark = [
    pytest.mark.needs("gunicorn"),
    # openai leaves its own generators, and through them httpx2's, when it has seen `[DONE]`.
    pytest.mark.filterwarnings("ignore:Async generator '(openai|httpx2|httpcore2):ResourceWarning"),
]

TOOL = {"name": "brew", "description": "Tea", "parameters": {"type": "object", "properties": {}}}
CHAT_TOOLS = [{"type": "function", "function": TOOL}]
RESPONSE_TOOLS = [{"type": "function", **TOOL}]
CLAUDE_TOOLS = [{"name": "brew", "description": "Tea", "input_schema": TOOL["parameters"]}]
WITH_USAGE = {"stream_options": {"include_usage": True}}


def turns(text: str) -> Any:
    return [{"role": "user", "content": text}]


@dataclass(frozen=True)
class Kind:
    """One way to ask: the method of which client, and what it is given beside the question."""

    name: str
    method: Callable[[Any, Any], Any]
    asks: Callable[[str], dict[str, Any]]

    def __str__(self) -> str:
        return self.name


def chat(text: str) -> dict[str, Any]:
    return {"model": "m", "messages": turns(text)}


def response(text: str) -> dict[str, Any]:
    return {"model": "m", "input": text, "tools": RESPONSE_TOOLS}


def message(text: str) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 9, "messages": turns(text), "tools": CLAUDE_TOOLS}


def completions(gpt: Any, claude: Any) -> Any:
    return gpt.chat.completions.create


KINDS = (
    Kind("chat", completions, chat),
    Kind("chat with tools", completions, lambda text: {**chat(text), "tools": CHAT_TOOLS}),
    Kind("responses", lambda gpt, claude: gpt.responses.create, response),
    Kind("messages", lambda gpt, claude: claude.messages.create, message),
)


class Asker:
    """Both SDKs in one world; awaited in each, and in that of threads nothing suspends."""

    def __init__(self, world: World, url: str, transport: Callable[[], Any] | None) -> None:
        self._is_async = world.is_async
        kinds: Any = (openai.OpenAI, openai.DefaultHttpxClient)
        claudes: Any = (anthropic.Anthropic, anthropic.DefaultHttpxClient)
        if world.is_async:
            kinds = (openai.AsyncOpenAI, openai.DefaultAsyncHttpxClient)
            claudes = (anthropic.AsyncAnthropic, anthropic.DefaultAsyncHttpxClient)
        terms: Any = {"api_key": "k", "max_retries": 0}

        def http(kind: Any) -> Any:
            return {} if transport is None else {"http_client": kind(transport=transport())}

        self.gpt = kinds[0](base_url=f"{url}/v1", **terms, **http(kinds[1]))
        self.claude = claudes[0](base_url=url, **terms, **http(claudes[1]))

    async def ask(self, kind: Kind, text: str, *, streams: bool) -> Any:
        """All that the SDK's objects say: of one, or of each event of a stream."""
        call, asks = kind.method(self.gpt, self.claude), kind.asks(text)
        if kind.method is completions and streams:
            asks |= WITH_USAGE
        found = call(**asks, stream=streams)
        found = await found if self._is_async else found
        if not streams:
            return found.model_dump(warnings=False)
        events = [event async for event in found] if self._is_async else list(found)
        return [event.model_dump(warnings=False) for event in events]

    async def close(self) -> None:
        for client in (self.gpt, self.claude):
            closing = client.close()
            if self._is_async:
                await closing


@contextmanager
def on_gunicorn(up: Upstream) -> Iterator[str]:
    """The URL of the relay behind the middleware, on threads of gunicorn's."""
    root = Path(behind_gunicorn.__file__).parents[1]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        behind_gunicorn.VARIABLE: up.url.removeprefix("http://"),
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        options = ["--bind", f"fd://{number}", "--worker-class", "gthread", "--threads", "4"]
        command = [sys.executable, "-m", "gunicorn", *options, "--log-level", "warning"]
        process = subprocess.Popen(
            [*command, "support.behind_gunicorn:app"], env=environ, pass_fds=[number], cwd=root
        )
        try:
            # The socket listens already: who connects waits until the worker is there.
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.terminate()
            process.wait(PATIENCE)


def behind_asgi(up: Upstream) -> Any:
    """The model as an ASGI application behind the middleware; `up` counts its calls."""

    async def model(scope: Any, receive: Any, send: Any) -> None:
        body = json.loads(await read_all(receive))
        kind, chunks = up.chunks(scope["path"], body, up.calls.add())
        headers = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return SemanticCacheMiddleware(model, cache=shared_cache(), routes=ROUTES)


PLACES = ["uvicorn", *(["hypercorn -k trio"] if "trio" in LOOPS else []), "gunicorn", "transport"]


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, Upstream]]:
    """Where the cache is: its name, the URL to ask, and the model that counts."""
    name: str = request.param
    with upstream() as up:
        up.chunks = spoken  # type: ignore[method-assign]
        if name == "uvicorn":
            with on_uvicorn(behind_asgi(up)) as url:
                yield name, url, up
        elif name == "gunicorn":
            with on_gunicorn(up) as url:
                yield name, url, up
        elif name == "transport":
            yield name, up.url, up
        else:
            with on_hypercorn_trio(behind_asgi(up)) as url:
                yield name, url, up


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_item_29_32_every_sdk_reads_from_a_hit_what_it_read_from_the_miss(
    place: tuple[str, str, Upstream], world: World
) -> None:
    """One call for three requests, and equal objects field by field, of every event."""
    name, url, up = place
    cache = shared_cache()
    cached = AsyncSemanticCacheTransport if world.is_async else SemanticCacheTransport
    transport = (lambda: cached(cache=cache, routes=ROUTES)) if name == "transport" else None
    before = up.calls.value

    async def scenario() -> None:
        asker = Asker(world, url, transport)
        try:
            for number, kind in enumerate(KINDS):
                for streams in (False, True):
                    where = f"{world} {number} {streams}".lower().replace("-", "")
                    text = f"please tell me how do i make good tea in {where}"
                    # The equal request waits for the flight of the first, so that the
                    # answer has been stored when the reworded one comes.
                    miss, exact, near = [
                        await asker.ask(kind, words, streams=streams)
                        for words in (text, text, f"{text} today")
                    ]
                    assert miss == exact == near
                    assert "usage" in str(miss)
                    assert ("brew" in str(miss) or "weather" in str(miss)) is (kind.name != "chat")
        finally:
            await asker.close()

    world.run(scenario)
    assert up.calls.value - before == 2 * len(KINDS)
