"""
A local server that answers as OpenAI, Ollama and Bedrock do, and the embedders that ask it.

The providers' own clients talk to it over a socket. Packages that a profile may lack are
imported in fixtures, because this file is read in every profile.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

EXAMPLES = Path(__file__).parents[2] / "examples" / "reference_embedders"

Json = dict[str, Any]


def example(name: str) -> Any:
    """The module, by its path: with the root on `sys.path`, the tree would hide the wheel."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def examples() -> SimpleNamespace:
    """The modules of the reference embedders."""
    names = ("openai", "sentence_transformers", "bedrock", "ollama", "offline")
    return SimpleNamespace(**{name: example(f"{name}_embedder") for name in names})


# What the services answer


def numbers(text: str, dim: int) -> NDArray[np.float32]:
    """The text's own vector, far from unit length."""
    return np.random.default_rng(zlib.crc32(text.encode())).normal(3, 5, dim).astype(np.float32)


def unit(text: str, dim: int) -> NDArray[np.float32]:
    """The vector that an embedder makes of `numbers`."""
    return numbers(text, dim) / np.float32(np.linalg.norm(numbers(text, dim)))


def openai_json(body: Json) -> Json:
    vectors = [numbers(text, body["dimensions"]).astype("<f4") for text in body["input"]]
    packed = body.get("encoding_format") == "base64"
    items = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(v.tobytes()).decode() if packed else v.tolist(),
        }
        for index, v in enumerate(vectors)
    ]
    usage = {"prompt_tokens": 8, "total_tokens": 8}
    return {"object": "list", "data": items[::-1], "model": body["model"], "usage": usage}


def ollama_json(body: Json) -> Json:
    vectors = [numbers(text, 768).tolist() for text in body["input"]]
    took = {"total_duration": 14143917, "load_duration": 1019500, "prompt_eval_count": 8}
    return {"model": body["model"], "embeddings": vectors, **took}


def titan_json(body: Json) -> Json:
    make = unit if body["normalize"] else numbers
    vector = make(body["inputText"], body["dimensions"]).tolist()
    return {"embedding": vector, "inputTextTokenCount": 8, "embeddingsByType": {"float": vector}}


def cohere_json(body: Json) -> Json:
    vectors = [numbers(text, 1024).tolist() for text in body["texts"]]
    texts = [text.lower() for text in body["texts"]]
    return {"id": "7", "response_type": "embeddings_floats", "embeddings": vectors, "texts": texts}


ROUTES: dict[str, Callable[[Json], Json]] = {
    "/v1/embeddings": openai_json,
    "/api/embed": ollama_json,
    "/model/amazon.titan-embed-text-v2%3A0/invoke": titan_json,
    "/model/cohere.embed-english-v3/invoke": cohere_json,
    "/model/cohere.embed-multilingual-v3/invoke": cohere_json,
}


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: Json


@dataclass
class Answer:
    status: int
    body: object
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Provider:
    """The server: what it was asked, and the answer that replaces its usual one."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    instead: Callable[[Asked], Answer] | None = None
    numbers = staticmethod(numbers)
    unit = staticmethod(unit)

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        return self.instead(asked) if self.instead else Answer(200, ROUTES[asked.path](asked.body))

    def says(self, status: int, body: object, **headers: str) -> None:
        self.instead = lambda _: Answer(status, body, headers)

    def changes(self, change: Callable[[Any], object]) -> None:
        """Let `change` alter the usual answer in place."""

        def changed(asked: Asked) -> Answer:
            body = ROUTES[asked.path](asked.body)
            change(body)
            return Answer(200, body)

        self.instead = changed

    def quotes(self, status: int, error: Callable[[str], object]) -> None:
        """Refuse with an `error` that repeats every header of the request."""
        self.instead = lambda asked: Answer(status, error(f"you sent {asked.headers}"))


class Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing the server waits for the last answer

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.provider = Provider(f"http://127.0.0.1:{self.server_port}")


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Server)
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.provider.answer(Asked(self.path, headers, json.loads(body)))
        text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        self.send_response(answer.status)
        for name, value in {"content-type": "application/json", **answer.headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    # A proxy, a key or a profile of this machine must not take part.
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.provider
        server.shutdown()
        thread.join()


@pytest.fixture
def nobody() -> str:
    """A URL at which nothing listens."""
    with Server() as server:
        return server.provider.url


# The embedders that ask it


@pytest.fixture
def bedrock_client(provider: Provider) -> Iterator[Any]:
    """A real boto3 client with invented credentials and no retries."""
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    client = boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=provider.url,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="wJalrXUtnFEMI",
        aws_session_token="session-token-0987654321",
        config=Config(retries={"total_max_attempts": 1}),
    )
    yield client
    client.close()


class SentenceTransformer:
    """As ``sentence_transformers.SentenceTransformer`` 6.2, in what an embedder may touch."""

    def __init__(self, model: str = "m", device: str | None = None) -> None:
        self.model, self.device = model, device
        self.max_seq_length: int | None = 256
        self.truncate_dim = 384
        self.progress_bars: list[bool | None] = []

    def encode(
        self,
        inputs: list[str] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | list[str] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
    ) -> Any:
        self.progress_bars.append(show_progress_bar)
        make = unit if normalize_embeddings else numbers
        texts = [inputs] if isinstance(inputs, str) else inputs
        rows = [make(text, self.truncate_dim).astype(np.float64) for text in texts]
        return np.asarray(rows if isinstance(inputs, list) else rows[0])


@pytest.fixture
def encoder() -> SentenceTransformer:
    return SentenceTransformer()


# Fingerprint -> module, class and arguments of the embedder that has it.
SYNC: dict[str, tuple[str, str, Json]] = {
    "openai:text-embedding-3-small:1536:l2": ("openai", "OpenAIEmbedder", {}),
    "openai:text-embedding-3-large:256:l2": (
        "openai",
        "OpenAIEmbedder",
        {"model": "text-embedding-3-large", "dimensions": 256},
    ),
    "ollama:nomic-embed-text:768:l2": ("ollama", "OllamaEmbedder", {}),
    "bedrock:amazon.titan-embed-text-v2:0:1024:l2": ("bedrock", "BedrockTitanEmbedder", {}),
    "bedrock:amazon.titan-embed-text-v2:0:256:l2": (
        "bedrock",
        "BedrockTitanEmbedder",
        {"dimensions": 256},
    ),
    "bedrock:cohere.embed-english-v3:1024:l2:search_query": (
        "bedrock",
        "BedrockCohereEmbedder",
        {},
    ),
    "bedrock:cohere.embed-multilingual-v3:1024:l2:clustering": (
        "bedrock",
        "BedrockCohereEmbedder",
        {"model": "cohere.embed-multilingual-v3", "input_type": "clustering"},
    ),
    "sentence-transformers:e5-small:384:l2": (
        "sentence_transformers",
        "SentenceTransformersEmbedder",
        {"model": "e5-small"},
    ),
}

ASYNC: dict[str, tuple[str, str, Json]] = {
    "openai:text-embedding-3-large:3072:l2": (
        "openai",
        "AsyncOpenAIEmbedder",
        {"model": "text-embedding-3-large"},
    ),
    "ollama:nomic-embed-text:768:l2": ("ollama", "AsyncOllamaEmbedder", {"dim": 768}),
}


@pytest.fixture
def make(
    request: pytest.FixtureRequest,
    examples: SimpleNamespace,
    provider: Provider,
    encoder: SentenceTransformer,
) -> Callable[[str, str, Json], Any]:
    """Makes an embedder that asks the local server."""

    def made(module: str, name: str, arguments: Json) -> Any:
        connected: Json = {"base_url": provider.url}
        if module == "openai":
            connected = {"api_key": "sk-1", "base_url": f"{provider.url}/v1"}
        elif module == "bedrock":
            connected = {"client": request.getfixturevalue("bedrock_client")}
        elif module == "sentence_transformers":
            connected = {"encoder": encoder}
        return getattr(getattr(examples, module), name)(**arguments, **connected)

    return made


@pytest.fixture(params=SYNC)
def embedder(
    request: pytest.FixtureRequest, provider: Provider, make: Callable[..., Any]
) -> Iterator[Any]:
    """Each sync embedder that asks someone, before its first text."""
    made = make(*SYNC[request.param])
    assert made.fingerprint == request.param
    provider.asked.clear()
    yield made
    if hasattr(made, "close"):
        made.close()


@pytest.fixture(params=ASYNC)
def async_embedder(request: pytest.FixtureRequest, make: Callable[..., Any]) -> Any:
    """Each async embedder; the test closes it, in its own loop."""
    made = make(*ASYNC[request.param])
    assert made.fingerprint == request.param
    return made
