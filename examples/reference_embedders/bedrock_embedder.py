"""
Amazon Bedrock embeddings: Titan Text Embeddings v2 and Cohere Embed v3, by ``invoke_model``.

Needs ``pip install boto3``. Threads may share an embedder, because boto3's clients allow it.
"""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TITAN_DIMENSIONS = (256, 512, 1024)
COHERE_DIM = 1024
COHERE_MAX_TEXTS = 96  # in one request
COHERE_INPUT_TYPES = ("search_query", "search_document", "classification", "clustering")

REMEDIES = {
    "AccessDeniedException": "Allow bedrock:InvokeModel, and enable the model in this region.",
    "ExpiredTokenException": "Renew the AWS credentials.",
    "InvalidSignatureException": "Check the AWS credentials and this machine's clock.",
    "ResourceNotFoundException": "Check the model id and the region.",
    "ThrottlingException": "Wait, raise the quota, or pass a client with more retries.",
    "UnrecognizedClientException": "Check the AWS credentials.",
    "ValidationException": "Shorten the text, and check that the model id is one of this kind.",
}


class BedrockRuntime(Protocol):
    """The part of ``boto3.client("bedrock-runtime")`` that is used here."""

    def invoke_model(self, **request: Any) -> Any: ...

    def close(self) -> None: ...


class _Bedrock:
    """
    What both models share.

    ``client`` is a ``bedrock-runtime`` client of your own and stays yours to close; without it,
    one is made for ``region`` and the credentials that boto3 finds, and `close` closes it.
    """

    def __init__(
        self,
        fingerprint: str,
        *,
        model: str,
        dim: int,
        client: BedrockRuntime | None,
        region: str | None,
    ) -> None:
        if client is not None and region is not None:
            raise ValueError("A client has its region already. Pass either client= or region=.")
        self.fingerprint = fingerprint
        self.model = model
        self.dim = dim
        self._owns_client = client is None
        self._client = client if client is not None else self._connected(region)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.fingerprint!r})"

    def close(self) -> None:
        if self._owns_client:
            self._client.close()

    def _connected(self, region: str | None) -> BedrockRuntime:
        try:
            boto3 = importlib.import_module("boto3")
        except ModuleNotFoundError as exc:
            name = type(self).__name__
            raise ImportError(f"{name} needs the boto3 package. Run: pip install boto3") from exc
        client: BedrockRuntime = boto3.client("bedrock-runtime", region_name=region)
        return client

    def _asked(self, **body: object) -> Any:
        """The model's answer; any failure is a ``RuntimeError`` with the remedy."""
        json_type = "application/json"
        try:
            answer = self._client.invoke_model(
                modelId=self.model, body=json.dumps(body), contentType=json_type, accept=json_type
            )
            return json.loads(answer["body"].read())
        except Exception as exc:
            error = getattr(exc, "response", {}).get("Error", {})
            code = error.get("Code", type(exc).__name__)
            # What AWS says about a signature quotes signed headers, the session token included.
            words = str(exc)[:300] if code == "ValidationException" or not error else code
            remedy = REMEDIES.get(code, "Check the AWS credentials, the region and the network.")
            raise RuntimeError(
                f"{self.model} embedded nothing: {words.rstrip('.')}. {remedy}"
            ) from None

    def _rows(self, vectors: list[list[float]], count: int) -> NDArray[np.float32]:
        lengths = sorted({len(vector) for vector in vectors})
        if len(vectors) != count or lengths != [self.dim]:
            raise ValueError(
                f"{self.model} answered {count} texts with {len(vectors)} vectors of length "
                f"{lengths}, expected {self.dim}. The answer was dropped. Check the model id."
            )
        return np.asarray(vectors, dtype=np.float32)


class BedrockTitanEmbedder(_Bedrock):
    """
    ``dimensions`` is 256, 512 or 1024; ``normalize=False`` leaves the length to mneme.

    Titan takes one text in a request, so there is no ``embed_batch``.
    """

    max_chars = 50_000  # the service refuses longer texts, and those of more than 8,192 tokens

    def __init__(
        self,
        model: str = "amazon.titan-embed-text-v2:0",
        *,
        dimensions: int = 1024,
        normalize: bool = True,
        client: BedrockRuntime | None = None,
        region: str | None = None,
    ) -> None:
        if dimensions not in TITAN_DIMENSIONS:
            choice = f"one of {TITAN_DIMENSIONS}"
            raise ValueError(f"Titan v2 cannot give {dimensions} dimensions. Pass {choice}.")
        fingerprint = f"bedrock:{model}:{dimensions}:{'l2' if normalize else 'raw'}"
        super().__init__(fingerprint, model=model, dim=dimensions, client=client, region=region)
        self._normalize = normalize

    def embed(self, text: str) -> NDArray[np.float32]:
        answer = self._asked(inputText=text, dimensions=self.dim, normalize=self._normalize)
        return self._rows([answer.get("embedding", [])], 1).reshape(self.dim)


class BedrockCohereEmbedder(_Bedrock):
    """
    ``cohere.embed-english-v3`` or ``cohere.embed-multilingual-v3``.

    Prompts are compared with prompts, so stored and asked ones share one ``input_type``. It
    changes the vectors and is part of the fingerprint.
    """

    max_chars = 2048  # the service refuses longer texts

    def __init__(
        self,
        model: str = "cohere.embed-english-v3",
        *,
        input_type: str = "search_query",
        client: BedrockRuntime | None = None,
        region: str | None = None,
    ) -> None:
        if input_type not in COHERE_INPUT_TYPES:
            choice = f"one of {COHERE_INPUT_TYPES}"
            raise ValueError(f"Cohere Embed has no input_type {input_type!r}. Pass {choice}.")
        fingerprint = f"bedrock:{model}:{COHERE_DIM}:l2:{input_type}"
        super().__init__(fingerprint, model=model, dim=COHERE_DIM, client=client, region=region)
        self._input_type = input_type

    def embed(self, text: str) -> NDArray[np.float32]:
        return self.embed_batch([text]).reshape(self.dim)

    def embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        parts = [np.empty((0, self.dim), dtype=np.float32)]
        for start in range(0, len(texts), COHERE_MAX_TEXTS):
            part = list(texts[start : start + COHERE_MAX_TEXTS])
            answer = self._asked(texts=part, input_type=self._input_type, truncate="NONE")
            parts.append(self._rows(answer.get("embeddings", []), len(part)))
        rows = np.concatenate(parts)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        return rows
