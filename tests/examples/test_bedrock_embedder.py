"""Bedrock: what is sent through boto3, and what each refusal tells the user."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.needs("boto3")

TOKEN = "session-token-0987654321"


def error(words: str) -> object:
    return {"message": words}


def test_cohere_batches_stop_at_the_services_limit(
    examples: SimpleNamespace, provider: Any, bedrock_client: Any
) -> None:
    """97 texts go in two requests, each of one input type and never cut."""
    texts = [str(i) for i in range(97)]
    embedder = examples.bedrock.BedrockCohereEmbedder(
        input_type="classification", client=bedrock_client
    )
    rows = embedder.embed_batch(texts)
    assert [asked.body for asked in provider.asked] == [
        {"texts": part, "input_type": "classification", "truncate": "NONE"}
        for part in (texts[:96], texts[96:])
    ]
    np.testing.assert_allclose(rows, [provider.unit(text, 1024) for text in texts], atol=1e-6)


def test_titan_may_leave_the_length_alone(
    examples: SimpleNamespace, provider: Any, bedrock_client: Any
) -> None:
    """``normalize=False`` reaches the service, the vector and the fingerprint."""
    embedder = examples.bedrock.BedrockTitanEmbedder(
        dimensions=512, normalize=False, client=bedrock_client
    )
    np.testing.assert_allclose(embedder.embed("a"), provider.numbers("a", 512), rtol=1e-6)
    assert provider.asked[0].body == {"inputText": "a", "dimensions": 512, "normalize": False}
    assert embedder.fingerprint == "bedrock:amazon.titan-embed-text-v2:0:512:raw"


def test_without_a_client_boto3_finds_the_credentials(
    examples: SimpleNamespace, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials and address come from the environment, the region from the argument."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", provider.url)
    with closing(examples.bedrock.BedrockTitanEmbedder(region="eu-west-1")) as embedder:
        np.testing.assert_allclose(embedder.embed("a"), provider.unit("a", 1024), atol=1e-6)
    assert "/eu-west-1/bedrock/" in provider.asked[0].headers["authorization"]


def test_your_client_stays_open_and_its_own_is_closed(
    examples: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`close` closes what the embedder made, and only that."""
    closed: list[str] = []

    def client(name: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(close=lambda: closed.append(name))

    monkeypatch.setattr("boto3.client", client)
    examples.bedrock.BedrockTitanEmbedder(client=client("yours")).close()
    examples.bedrock.BedrockTitanEmbedder().close()
    assert closed == ["bedrock-runtime"]


@pytest.mark.parametrize(
    ("name", "arguments", "remedy"),
    [
        ("BedrockTitanEmbedder", {"dimensions": 300}, r"300 .*one of \(256, 512, 1024\)\.$"),
        ("BedrockCohereEmbedder", {"input_type": "query"}, r"'query'\. Pass one of \('search_qu"),
        ("BedrockTitanEmbedder", {"client": object(), "region": "x"}, r"either client= or region="),
    ],
)
def test_a_wrong_argument_is_refused_at_once(
    examples: SimpleNamespace, name: str, arguments: dict[str, Any], remedy: str
) -> None:
    """The constructor says what it got and what it takes."""
    with pytest.raises(ValueError, match=remedy):
        getattr(examples.bedrock, name)(**arguments)


@pytest.mark.parametrize("name", ["BedrockTitanEmbedder", "BedrockCohereEmbedder"])
def test_the_missing_package_is_named(
    examples: SimpleNamespace, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is imported when an embedder is made, and the error says what to run."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ImportError, match=rf"^{name} needs .*Run: pip install boto3$"):
        getattr(examples.bedrock, name)()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda body: body["embeddings"].pop(), r"1 vectors of length \[1024\], expected 1024"),
        (lambda body: body["embeddings"][0].pop(), r"length \[1023, 1024\], expected 1024"),
        (lambda body: body.pop("embeddings"), r"0 vectors of length \[\], expected 1024"),
    ],
)
def test_an_answer_that_does_not_fit_is_dropped(
    examples: SimpleNamespace,
    provider: Any,
    bedrock_client: Any,
    change: Callable[[Any], object],
    told: str,
) -> None:
    """No text gets a lost vector's neighbour, or a vector of another length."""
    provider.changes(change)
    embedder = examples.bedrock.BedrockCohereEmbedder(client=bedrock_client)
    with pytest.raises(ValueError, match=rf"2 texts with .*{told}.* Check the model id\.$"):
        embedder.embed_batch(["a", "b"])


@pytest.mark.parametrize("change", [lambda b: b["embedding"].pop(), lambda b: b.pop("embedding")])
def test_titans_answer_has_to_fit_as_well(
    examples: SimpleNamespace, provider: Any, bedrock_client: Any, change: Callable[[Any], object]
) -> None:
    """A model id of another kind answers something else, and the error says so."""
    provider.changes(change)
    embedder = examples.bedrock.BedrockTitanEmbedder(dimensions=256, client=bedrock_client)
    with pytest.raises(ValueError, match=r"length \[(255|0)\], expected 256.* Check the model id"):
        embedder.embed("a")


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (400, "ValidationException", r"expected maxLength: 2048, .*3000\. Shorten the text, and "),
        (403, "AccessDeniedException", r"AccessDeniedException\. Allow bedrock:InvokeModel"),
        (403, "ExpiredTokenException", r"ExpiredTokenException\. Renew the AWS credentials\.$"),
        (404, "ResourceNotFoundException", r"Check the model id and the region\.$"),
        (429, "ThrottlingException", r"Wait, raise the quota, or pass a client with more retries"),
        (500, "InternalServerException", r"Check the AWS credentials, the region and the network"),
    ],
)
def test_a_refusal_comes_with_its_remedy(
    examples: SimpleNamespace,
    provider: Any,
    bedrock_client: Any,
    status: int,
    code: str,
    told: str,
) -> None:
    """AWS's code is passed on, its words only about a text, and the remedy is last."""
    words = "Malformed input request: expected maxLength: 2048, actual: 3000."
    provider.says(status, error(words), x_amzn_ErrorType=code)
    embedder = examples.bedrock.BedrockCohereEmbedder(client=bedrock_client)
    with pytest.raises(RuntimeError, match=rf"^{embedder.model} embedded nothing: .*{told}"):
        embedder.embed("a")


def test_a_server_that_is_down_is_told(
    examples: SimpleNamespace, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No connection is a clear error too."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", nobody)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    embedder = examples.bedrock.BedrockTitanEmbedder(region="us-east-1")
    with (
        closing(embedder),
        pytest.raises(RuntimeError, match=r"Could not connect .* the region and the network\.$"),
    ):
        embedder.embed("a")


@pytest.mark.parametrize("code", ["InvalidSignatureException", "AccessDeniedException"])
def test_the_session_token_stays_out_of_errors(
    examples: SimpleNamespace, provider: Any, bedrock_client: Any, code: str
) -> None:
    """Even when AWS repeats the signed headers, and in the traceback as well."""
    provider.quotes(403, lambda words: {"__type": code, "message": words})
    embedder = examples.bedrock.BedrockTitanEmbedder(client=bedrock_client)
    with pytest.raises(RuntimeError, match=f": {code}. ") as caught:
        embedder.embed("a")
    assert TOKEN in str(provider.asked[0].headers), "the server had nothing to repeat"
    told = "".join(traceback.format_exception(caught.value))
    assert TOKEN not in told + repr(embedder) + embedder.fingerprint
