"""Ollama: what is sent over httpx, and what each refusal tells the user."""

from __future__ import annotations

import base64
import sys
import traceback
from collections.abc import Callable
from contextlib import aclosing, closing
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

PASSWORD = "hunter2"


def error(words: str) -> object:
    return {"error": words}


@pytest.mark.parametrize("truncate", [False, True])
def test_one_request_carries_a_batch(
    examples: SimpleNamespace, provider: Any, truncate: bool
) -> None:
    """It names the model, all texts, and whether to cut long ones; a given `dim` asks nothing."""
    embedder = examples.ollama.OllamaEmbedder(
        "m:1b", dim=768, base_url=provider.url, truncate=truncate
    )
    assert provider.asked == []
    with closing(embedder):
        embedder.embed_batch(["a", "b"])
    assert [asked.body for asked in provider.asked] == [
        {"model": "m:1b", "input": ["a", "b"], "truncate": truncate}
    ]


def test_long_texts_are_refused_by_default(examples: SimpleNamespace, provider: Any) -> None:
    """Cutting would give prompts that differ at their ends one vector: nobody gets that unasked."""
    with closing(examples.ollama.OllamaEmbedder(base_url=provider.url)):
        assert provider.asked[0].body["truncate"] is False


def test_the_dimension_is_asked_for_once(examples: SimpleNamespace, provider: Any) -> None:
    """Without `dim` the first vector tells it, when the embedder is made."""
    with closing(examples.ollama.OllamaEmbedder(base_url=provider.url)) as embedder:
        assert (embedder.dim, len(provider.asked)) == (768, 1)


@pytest.mark.parametrize("end", ["", "/"])
def test_a_base_url_may_have_a_path(examples: SimpleNamespace, provider: Any, end: str) -> None:
    """Behind a proxy the API sits under a path, written with or without its last slash."""
    provider.says(200, {"embeddings": [[3.0, 4.0]]})
    examples.ollama.OllamaEmbedder(base_url=f"{provider.url}/models{end}").close()
    assert provider.asked[0].path == "/models/api/embed"


def test_your_client_stays_open(examples: SimpleNamespace, provider: Any) -> None:
    """Your headers, timeouts and proxies apply, and closing stays your affair."""
    with httpx.Client(headers={"authorization": "Bearer mine"}) as client:
        examples.ollama.OllamaEmbedder(client=client, base_url=provider.url).close()
        assert client.is_closed is False
    assert provider.asked[0].headers["authorization"] == "Bearer mine"


def test_its_own_client_is_closed(
    examples: SimpleNamespace, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`close` closes it, and so does a constructor that fails after making it."""
    made: list[httpx.Client] = []

    class Counted(httpx.Client):
        def __init__(self, *, timeout: float) -> None:
            super().__init__(timeout=timeout)
            made.append(self)

    monkeypatch.setattr(httpx, "Client", Counted)
    examples.ollama.OllamaEmbedder(base_url=provider.url).close()
    provider.says(200, {"embeddings": [[]]})
    with pytest.raises(ValueError, match=r"^llama3 gave .*Pass the name of an embedding model\.$"):
        examples.ollama.OllamaEmbedder("llama3", base_url=provider.url)
    assert [client.is_closed for client in made] == [True, True]


@pytest.mark.anyio
async def test_async_clients_are_closed_by_their_owner(examples: SimpleNamespace) -> None:
    """`aclose` closes what the embedder made, and only that."""
    own = examples.ollama.AsyncOllamaEmbedder(dim=8)
    await own.aclose()
    async with httpx.AsyncClient() as client:
        await examples.ollama.AsyncOllamaEmbedder(dim=8, client=client).aclose()
        assert (client.is_closed, own._client.is_closed) == (False, True)


@pytest.mark.parametrize("name", ["OllamaEmbedder", "AsyncOllamaEmbedder"])
def test_the_missing_package_is_named(
    examples: SimpleNamespace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is imported when an embedder is made, and the error says what to run."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ImportError, match=rf"^{name} needs .*Run: pip install httpx$"):
        getattr(examples.ollama, name)(dim=1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda body: body["embeddings"].pop(), r"1 vectors of length \[768\], expected 768"),
        (lambda body: body["embeddings"][0].pop(), r"length \[767, 768\], expected 768"),
    ],
)
def test_an_answer_that_does_not_fit_is_dropped(
    examples: SimpleNamespace, provider: Any, change: Callable[[Any], object], told: str
) -> None:
    """No text gets a lost vector's neighbour, or a vector of another length."""
    with closing(examples.ollama.OllamaEmbedder(base_url=provider.url)) as embedder:
        provider.changes(change)
        with pytest.raises(ValueError, match=rf"2 texts with .*{told}.* as dim=\.$"):
            embedder.embed_batch(["a", "b"])


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (400, error("exceeds context length"), r"exceeds context.* Shorten .* truncate=True\.$"),
        (401, error("unauthorized"), r"401, .*unauthorized.* Check the credentials in base_url="),
        (403, error("forbidden"), r"403, .*forbidden.* Check the credentials in base_url="),
        (404, error("model not found"), r"404, .*not found.* Pull the model: ollama pull m:1b$"),
        (500, error("boom"), r"500, .*boom.* Look at the server's log\.$"),
        (
            200,
            "<html></html>",
            r"no embeddings in the answer of http://127\S+\. Check base_url=\.$",
        ),
        (200, {"embeddings": None}, r"no embeddings in the answer.* Check base_url=\.$"),
        (200, error("?"), r"no embeddings in the answer.* Check base_url=\.$"),
        (200, [], r"no embeddings in the answer.* Check base_url=\.$"),
    ],
)
def test_a_refusal_comes_with_its_remedy(
    examples: SimpleNamespace, provider: Any, status: int, body: object, told: str
) -> None:
    """The server's words are passed on, and the remedy is last."""
    provider.says(status, body)
    with (
        closing(examples.ollama.OllamaEmbedder("m:1b", dim=4, base_url=provider.url)) as embedder,
        pytest.raises(RuntimeError, match=f"^m:1b embedded nothing: .*{told}"),
    ):
        embedder.embed("a")


@pytest.mark.anyio
async def test_async_refusals_are_the_same(examples: SimpleNamespace, provider: Any) -> None:
    """In asyncio and in trio a refusal comes with its remedy."""
    provider.says(404, error("model not found"))
    async with aclosing(
        examples.ollama.AsyncOllamaEmbedder("m", dim=4, base_url=provider.url)
    ) as embedder:
        with pytest.raises(RuntimeError, match=r"ollama pull m$"):
            await embedder.embed("a")


def test_a_server_that_is_down_is_named(examples: SimpleNamespace, nobody: str) -> None:
    """No connection is a clear error too."""
    with pytest.raises(
        RuntimeError, match=rf"ConnectError at {nobody}, .*refused.*: ollama serve,"
    ):
        examples.ollama.OllamaEmbedder(base_url=nobody)


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_the_password_stays_out_of_errors(
    examples: SimpleNamespace, provider: Any, nobody: str, status: int
) -> None:
    """Even when the server repeats every header, and in the traceback as well."""
    sent = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    provider.quotes(status, error)
    address = provider.url.replace("//", f"//me:{PASSWORD}@")
    embedder = examples.ollama.OllamaEmbedder(dim=4, base_url=address)
    with closing(embedder), pytest.raises(RuntimeError) as refused:
        embedder.embed("a")
    address = nobody.replace("//", f"//me:{PASSWORD}@")
    with pytest.raises(RuntimeError) as down:
        examples.ollama.OllamaEmbedder(base_url=address)
    assert sent in str(provider.asked[0].headers), "the server had nothing to repeat"
    told = "".join(traceback.format_exception(refused.value))
    told += "".join(traceback.format_exception(down.value))
    told += repr(embedder) + embedder.fingerprint
    assert not any(secret in told for secret in (sent, PASSWORD))
