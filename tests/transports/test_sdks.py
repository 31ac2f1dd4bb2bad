"""The SDKs of OpenAI and Anthropic, as they are, over a cached transport."""

from __future__ import annotations

from typing import Any

import anthropic
import anyio
import openai
import pytest
from support.upstream import Upstream
from support.worlds import LOOPS

from mneme.transports import AsyncSemanticCacheTransport, SemanticCacheTransport

ASKED = "how do i reset my old password"
REWORDED = "how do i reset my old password please"
SAYS = "answer number 1"
COOKIE = ("Set-Cookie", "__cf_bm=abc.1; path=/; HttpOnly; Secure")


def messages(text: str) -> Any:
    return [{"role": "user", "content": text}]


def openai_client(up: Upstream, cache: Any, key: str = "sk-1", **options: Any) -> openai.OpenAI:
    http = openai.DefaultHttpxClient(transport=SemanticCacheTransport(cache=cache, **options))
    return openai.OpenAI(base_url=f"{up.url}/v1", api_key=key, max_retries=0, http_client=http)


def anthropic_client(up: Upstream, cache: Any) -> anthropic.Anthropic:
    http = anthropic.DefaultHttpxClient(transport=SemanticCacheTransport(cache=cache))
    return anthropic.Anthropic(base_url=up.url, api_key="sk-1", max_retries=0, http_client=http)


def chat(client: openai.OpenAI, text: str) -> str:
    return str(
        client.chat.completions.create(model="m", messages=messages(text))
        .choices[0]
        .message.content
    )


def chat_stream(client: openai.OpenAI, text: str) -> str:
    with client.chat.completions.create(model="m", messages=messages(text), stream=True) as stream:
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def message(client: anthropic.Anthropic, text: str) -> str:
    found = client.messages.create(model="m", max_tokens=9, messages=messages(text)).content[0]
    assert found.type == "text"
    return found.text


def message_stream(client: anthropic.Anthropic, text: str) -> str:
    with client.messages.stream(model="m", max_tokens=9, messages=messages(text)) as stream:
        return stream.get_final_text()


WAYS = [
    pytest.param(openai_client, chat, id="openai"),
    pytest.param(openai_client, chat_stream, id="openai-stream"),
    pytest.param(anthropic_client, message, id="anthropic"),
    pytest.param(anthropic_client, message_stream, id="anthropic-stream"),
]


@pytest.mark.parametrize(("make", "ask"), WAYS)
def test_item_32_a_question_is_paid_for_once(up: Upstream, cache: Any, make: Any, ask: Any) -> None:
    """Equal and reworded, the SDK understands what it gets, and the provider is called once."""
    with make(up, cache) as client:
        assert [ask(client, text) for text in (ASKED, ASKED, REWORDED)] == [SAYS] * 3
        assert up.calls.value == 1
        assert ask(client, "where is a bakery") == "answer number 2"


@pytest.mark.parametrize(("make", "ask"), WAYS)
def test_item_32_cookies_of_the_way_keep_nobody_from_his_answer(
    up: Upstream, cache: Any, make: Any, ask: Any
) -> None:
    """The large providers set one with every answer, and clients send it back."""
    up.headers = [COOKIE, ("Cache-Control", "no-cache")]
    with make(up, cache) as client:
        assert [ask(client, text) for text in (ASKED, ASKED, REWORDED)] == [SAYS] * 3
    assert up.calls.value == 1


def test_item_32_another_key_is_another_caller(up: Upstream, cache: Any) -> None:
    """Unless the developer says that answers are the same for all."""
    for shared, calls in ((False, 2), (True, 3)):
        for key in ("sk-1", "sk-2"):
            with openai_client(up, cache, key, shared=shared) as client:
                chat(client, ASKED)
        assert up.calls.value == calls


def test_item_29_32_a_value_answers_a_stream_too(up: Upstream, cache: Any) -> None:
    """Each caller gets the form that he can read, from one entry."""
    with openai_client(up, cache) as client:
        assert chat(client, ASKED) == SAYS
        assert chat_stream(client, REWORDED) == SAYS
        assert chat(client, ASKED) == SAYS
    assert up.calls.value == 1


def test_item_32_an_error_of_the_provider_is_retried_and_not_stored(
    up: Upstream, cache: Any
) -> None:
    """The transport is under the SDK's retries; a stored 429 would be for ever."""
    up.status = 429
    with openai_client(up, cache) as client:
        for calls in (1, 2):
            with pytest.raises(openai.RateLimitError):
                chat(client, ASKED)
            assert up.calls.value == calls
        up.status = 200
        assert chat(client, ASKED) == "answer number 3"


# openai leaves its own generators, and through them httpx2's, when it has seen ``[DONE]``.
@pytest.mark.filterwarnings("ignore:Async generator '(openai|httpx2):ResourceWarning")
@pytest.mark.parametrize("backend", LOOPS)
def test_item_32_async_clients_on_both_loops(up: Upstream, cache: Any, backend: str) -> None:
    """OpenAI's and Anthropic's, plain and streaming."""

    async def main() -> None:
        transport = AsyncSemanticCacheTransport(cache=cache)
        http = openai.DefaultAsyncHttpxClient(transport=transport)
        client = openai.AsyncOpenAI(base_url=f"{up.url}/v1", api_key="k", http_client=http)
        async with client:
            for text in (ASKED, ASKED, REWORDED):
                plain = await client.chat.completions.create(model="m", messages=messages(text))
                assert plain.choices[0].message.content == SAYS
                stream = await client.chat.completions.create(
                    model="m", messages=messages(text), stream=True
                )
                words = [chunk.choices[0].delta.content or "" async for chunk in stream]
                assert "".join(words) == SAYS
        assert up.calls.value == 1

        transport = AsyncSemanticCacheTransport(cache=cache)
        async with anthropic.AsyncAnthropic(
            base_url=up.url,
            api_key="k",
            http_client=anthropic.DefaultAsyncHttpxClient(transport=transport),
        ) as claude:
            for text in (ASKED, ASKED, REWORDED):
                found = await claude.messages.create(
                    model="m", max_tokens=9, messages=messages(text)
                )
                assert found.content[0].type == "text"
                assert found.content[0].text == "answer number 2"
                async with claude.messages.stream(
                    model="m", max_tokens=9, messages=messages(text)
                ) as events:
                    assert await events.get_final_text() == "answer number 2"
        assert up.calls.value == 2

    anyio.run(main, backend=backend)
