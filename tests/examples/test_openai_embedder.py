"""OpenAI: what is sent through its own client, and what each refusal tells the user."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import openai
import pytest

KEY = "sk-1234567890abcdefghij"


@pytest.fixture
def client(provider: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{provider.url}/v1", max_retries=0) as client:
        yield client


def error(words: str) -> object:
    kind = "invalid_request_error"
    return {"error": {"message": words, "type": kind, "param": None, "code": None}}


def test_one_request_carries_a_batch(
    examples: SimpleNamespace, client: openai.OpenAI, provider: Any
) -> None:
    """It names the model, the dimension and all texts, and carries the client's key."""
    model = "text-embedding-3-large"
    examples.openai.OpenAIEmbedder(model, dimensions=256, client=client).embed_batch(["a", "b"])
    [asked] = provider.asked
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {
        "input": ["a", "b"],
        "model": model,
        "dimensions": 256,
        "encoding_format": "base64",
    }


def test_batches_stop_at_the_services_limit(
    examples: SimpleNamespace, client: openai.OpenAI, provider: Any
) -> None:
    """2,049 texts go in two requests and come back as one array in order."""
    texts = [str(i) for i in range(2049)]
    rows = examples.openai.OpenAIEmbedder(dimensions=2, client=client).embed_batch(texts)
    assert [len(asked.body["input"]) for asked in provider.asked] == [2048, 1]
    np.testing.assert_allclose(rows, [provider.unit(text, 2) for text in texts], atol=1e-6)


@pytest.mark.anyio
async def test_async_batches_stop_at_the_same_limit(
    examples: SimpleNamespace, provider: Any
) -> None:
    """2,049 texts go in two requests there too."""
    texts = [str(i) for i in range(2049)]
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{provider.url}/v1") as client:
        embedder = examples.openai.AsyncOpenAIEmbedder(dimensions=2, client=client)
        rows = await embedder.embed_batch(texts)
    assert [len(asked.body["input"]) for asked in provider.asked] == [2048, 1]
    np.testing.assert_allclose(rows, [provider.unit(text, 2) for text in texts], atol=1e-6)


def test_a_compatible_server_may_answer_in_floats(
    examples: SimpleNamespace, client: openai.OpenAI, provider: Any
) -> None:
    """A server that knows no base64 is understood as well."""

    def in_floats(body: dict[str, Any]) -> None:
        body["data"][0]["embedding"] = provider.numbers("a", 8).tolist()

    provider.changes(in_floats)
    vector = examples.openai.OpenAIEmbedder(dimensions=8, client=client).embed("a")
    np.testing.assert_allclose(vector, provider.unit("a", 8), atol=1e-6)


def test_your_client_stays_open_and_its_own_is_closed(
    examples: SimpleNamespace, client: openai.OpenAI
) -> None:
    """`close` closes what the embedder made, and only that."""
    examples.openai.OpenAIEmbedder(client=client).close()
    own = examples.openai.OpenAIEmbedder(api_key=KEY)
    own.close()
    assert (client.is_closed(), own._client.is_closed()) == (False, True)


@pytest.mark.anyio
async def test_your_async_client_stays_open_and_its_own_is_closed(
    examples: SimpleNamespace,
) -> None:
    """`aclose` closes what the embedder made, and only that."""
    own = examples.openai.AsyncOpenAIEmbedder(api_key=KEY)
    await own.aclose()
    async with openai.AsyncOpenAI(api_key=KEY) as client:
        await examples.openai.AsyncOpenAIEmbedder(client=client).aclose()
        assert (client.is_closed(), own._client.is_closed()) == (False, True)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ({"dimensions": 0}, r"0 dimensions\. Pass 1 to 1536\.$"),
        ({"dimensions": 1537}, r"1537 dimensions\. Pass 1 to 1536\.$"),
        ({"model": "text-embedding-3-large", "dimensions": 3073}, r"Pass 1 to 3072\.$"),
        ({"model": "gpt-5"}, r"'gpt-5'\. Use one of text-embedding-3-small, .*NATIVE_DIM\.$"),
        ({"client": object(), "api_key": KEY}, r"Pass client=, or api_key=/base_url=\.$"),
        ({"client": object(), "base_url": "http://h"}, r"Pass client=, or api_key=/base_url=\.$"),
    ],
)
@pytest.mark.parametrize("name", ["OpenAIEmbedder", "AsyncOpenAIEmbedder"])
def test_a_wrong_argument_is_refused_at_once(
    examples: SimpleNamespace, name: str, arguments: dict[str, Any], remedy: str
) -> None:
    """The constructor says what it got and what it takes, and repeats no key."""
    with pytest.raises(ValueError, match=remedy) as caught:
        getattr(examples.openai, name)(**arguments)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", ["OpenAIEmbedder", "AsyncOpenAIEmbedder"])
def test_the_missing_package_is_named(
    examples: SimpleNamespace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is imported when an embedder is made, and the error says what to run."""
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=rf"^{name} needs .*Run: pip install openai$"):
        getattr(examples.openai, name)()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda body: body["data"].pop(), r"2 texts with 1 vectors of length \[8\], expected 8"),
        (lambda body: body["data"][0].update(index=0), r"2 texts with 2 vectors"),
        (lambda body: body["data"][0].update(embedding=[0.5] * 7), r"length \[7, 8\], expected 8"),
    ],
)
def test_an_answer_that_does_not_fit_is_dropped(
    examples: SimpleNamespace,
    client: openai.OpenAI,
    provider: Any,
    change: Callable[[Any], object],
    told: str,
) -> None:
    """No text gets a lost vector's neighbour, or a vector of another length."""
    provider.changes(change)
    embedder = examples.openai.OpenAIEmbedder(dimensions=8, client=client)
    with pytest.raises(ValueError, match=rf"{told}.* Pass .* dimensions=, or check base_url=\.$"):
        embedder.embed_batch(["a", "b"])


@pytest.mark.parametrize(
    ("status", "words", "told"),
    [
        (400, "maximum context length is 8192", r"length is 8192.* Shorten the text, or send "),
        (401, f"Incorrect API key: {KEY[:8]}***", r"key was refused\. Check the API key: .*KEY\.$"),
        (403, f"No access with {KEY[:8]}***", r"key was refused\. Check what the project of this"),
        (404, "no such model", r"no such model.* Check model and base_url= .*/v1\)\.$"),
        (429, "quota exceeded", r"RateLimitError.* quota exceeded.* Wait, or raise the quota"),
        (500, "boom", r"InternalServerError, .*boom.* Try again; then check the network"),
    ],
)
def test_a_refusal_comes_with_its_remedy(
    examples: SimpleNamespace,
    client: openai.OpenAI,
    provider: Any,
    status: int,
    words: str,
    told: str,
) -> None:
    """The service's words are passed on, except those about a key, and the remedy is last."""
    provider.says(status, error(words))
    embedder = examples.openai.OpenAIEmbedder(client=client)
    with pytest.raises(RuntimeError, match=f"^text-embedding-3-small embedded nothing: .*{told}"):
        embedder.embed("a")


@pytest.mark.anyio
async def test_async_refusals_are_the_same(examples: SimpleNamespace, provider: Any) -> None:
    """In asyncio and in trio a refusal comes with its remedy."""
    provider.says(404, error("no such model"))
    async with openai.AsyncOpenAI(api_key=KEY, base_url=f"{provider.url}/v1") as client:
        embedder = examples.openai.AsyncOpenAIEmbedder(client=client)
        with pytest.raises(RuntimeError, match=r"no such model.* Check .*/v1\)\.$"):
            await embedder.embed("a")


def test_a_server_that_is_down_is_told(examples: SimpleNamespace, nobody: str) -> None:
    """No connection is a clear error too."""
    with openai.OpenAI(api_key=KEY, base_url=nobody, max_retries=0) as client:
        embedder = examples.openai.OpenAIEmbedder(client=client)
        with pytest.raises(RuntimeError, match=r"APIConnectionError, .* the network and base_url="):
            embedder.embed("a")


@pytest.mark.parametrize("body", ["<html></html>", {}, [], {"data": []}])
@pytest.mark.parametrize("kind", ["text/html", "application/json"])
def test_a_page_is_not_taken_for_an_answer(
    examples: SimpleNamespace, client: openai.OpenAI, provider: Any, body: object, kind: str
) -> None:
    """A base URL without its /v1 answers something else, and that is what the error says."""
    provider.says(200, body, content_type=kind)
    embedder = examples.openai.OpenAIEmbedder(client=client)
    with pytest.raises(RuntimeError, match=r"no embeddings in the answer\. Check .*/v1\)\.$"):
        embedder.embed("a")


@pytest.mark.parametrize("status", [400, 401, 403, 500])
def test_the_key_stays_out_of_errors(
    examples: SimpleNamespace, client: openai.OpenAI, provider: Any, status: int
) -> None:
    """Even when the server repeats every header, and in the traceback as well."""
    provider.quotes(status, error)
    embedder = examples.openai.OpenAIEmbedder(client=client)
    with pytest.raises(RuntimeError) as caught:
        embedder.embed("a")
    assert KEY in str(provider.asked[0].headers), "the server had nothing to repeat"
    told = "".join(traceback.format_exception(caught.value))
    assert KEY not in told + repr(embedder) + embedder.fingerprint
