"""
OpenAI embeddings, sync and async: ``text-embedding-3-small`` and ``text-embedding-3-large``.

Needs ``pip install openai``. Threads may share an `OpenAIEmbedder`, and the tasks of one event
loop an `AsyncOpenAIEmbedder`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from openai import AsyncOpenAI, OpenAI
    from openai.types import CreateEmbeddingResponse

NATIVE_DIM = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072}
MAX_INPUTS = 2048  # texts in one request; the service also stops at 300,000 tokens

REMEDIES = {
    400: "Shorten the text, or send fewer in one batch.",
    401: "Check the API key: client=, api_key= or OPENAI_API_KEY.",
    403: "Check what the project of this API key may use.",
    404: "Check model and base_url= (it usually ends in /v1).",
    429: "Wait, or raise the quota; a client of your own sets max_retries=.",
}


class _Embedding:
    """What both worlds share: the contract's attributes, and how an answer is read."""

    # The service refuses more than 8,192 tokens; English has about four characters in one.
    max_chars = 4 * 8192

    def __init__(self, model: str, dimensions: int | None) -> None:
        try:
            import openai  # noqa: F401
        except ModuleNotFoundError as exc:
            name = type(self).__name__
            raise ImportError(f"{name} needs the openai package. Run: pip install openai") from exc
        if model not in NATIVE_DIM:
            known = ", ".join(NATIVE_DIM)
            raise ValueError(f"Unknown model {model!r}. Use one of {known}, or extend NATIVE_DIM.")
        native = NATIVE_DIM[model]
        if dimensions is not None and not 1 <= dimensions <= native:
            raise ValueError(f"{model} cannot give {dimensions} dimensions. Pass 1 to {native}.")
        self.model = model
        self.dim = native if dimensions is None else dimensions
        self.fingerprint = f"openai:{model}:{self.dim}:l2"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.fingerprint!r})"

    @contextmanager
    def _explained(self, api_key: str) -> Iterator[None]:
        """Any failure of a request as a ``RuntimeError`` with the remedy and without the key."""
        from openai import OpenAIError

        failed = f"{self.model} embedded nothing"
        try:
            yield
        except OpenAIError as exc:
            # The service quotes parts of a refused key; a chained exception would print it again.
            status = getattr(exc, "status_code", 0)
            words = "the API key was refused" if status in (401, 403) else str(exc)
            words = words.replace(api_key, "***") if api_key else words
            words = f"{type(exc).__name__}, {words[:300].rstrip('.')}"
            remedy = REMEDIES.get(status, "Try again; then check the network and base_url=.")
            raise RuntimeError(f"{failed}: {words}. {remedy}") from None
        except (AttributeError, ValueError):  # what the client makes of another kind of answer
            raise RuntimeError(f"{failed}: no embeddings in the answer. {REMEDIES[404]}") from None

    def _rows(self, answer: CreateEmbeddingResponse, count: int) -> NDArray[np.float32]:
        """The answer in the order of the texts: unit vectors, shape ``(count, dim)``."""
        items = sorted(answer.data, key=lambda item: item.index)
        lengths = sorted({len(item.embedding) for item in items})
        if [item.index for item in items] != list(range(count)) or lengths != [self.dim]:
            raise ValueError(
                f"{self.model} answered {count} texts with {len(items)} vectors of length "
                f"{lengths}, expected {self.dim}. The answer was dropped. "
                "Pass the server's length as dimensions=, or check base_url=."
            )
        rows = np.asarray([item.embedding for item in items], dtype=np.float32)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        return rows

    def _joined(self, parts: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate([np.empty((0, self.dim), dtype=np.float32), *parts])


class OpenAIEmbedder(_Embedding):
    """
    For threads. ``dimensions`` asks the service for shorter vectors.

    ``client`` is an ``openai.OpenAI`` of your own and stays yours to close; without it, one is
    made from ``api_key``, ``base_url`` and the environment, and `close` closes it.
    """

    def __init__(
        self,
        model: str = "text-embedding-3-small",
        *,
        dimensions: int | None = None,
        client: OpenAI | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
    ) -> None:
        super().__init__(model, dimensions)
        from openai import OpenAI

        _refuse_both(client, api_key, base_url)
        self._owns_client = client is None
        self._client = client or OpenAI(api_key=api_key, base_url=base_url)

    def embed(self, text: str) -> NDArray[np.float32]:
        return self._request([text]).reshape(self.dim)

    def embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._joined([self._request(part) for part in _parts(texts)])

    def close(self) -> None:
        if self._owns_client:
            self._client.close()

    def _request(self, texts: list[str]) -> NDArray[np.float32]:
        with self._explained(self._client.api_key):
            answer = self._client.embeddings.create(
                input=texts, model=self.model, dimensions=self.dim
            )
        return self._rows(answer, len(texts))


class AsyncOpenAIEmbedder(_Embedding):
    """
    For asyncio and trio; as `OpenAIEmbedder`, with an ``openai.AsyncOpenAI`` and `aclose`.

    Its connections belong to the event loop that opened them: make one for each loop.
    """

    def __init__(
        self,
        model: str = "text-embedding-3-small",
        *,
        dimensions: int | None = None,
        client: AsyncOpenAI | None = None,
        api_key: str | None = None,
        base_url: str | None = None,
    ) -> None:
        super().__init__(model, dimensions)
        from openai import AsyncOpenAI

        _refuse_both(client, api_key, base_url)
        self._owns_client = client is None
        self._client = client or AsyncOpenAI(api_key=api_key, base_url=base_url)

    async def embed(self, text: str) -> NDArray[np.float32]:
        return (await self._request([text])).reshape(self.dim)

    async def embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._joined([await self._request(part) for part in _parts(texts)])

    async def aclose(self) -> None:
        if self._owns_client:
            await self._client.close()

    async def _request(self, texts: list[str]) -> NDArray[np.float32]:
        with self._explained(self._client.api_key):
            answer = await self._client.embeddings.create(
                input=texts, model=self.model, dimensions=self.dim
            )
        return self._rows(answer, len(texts))


def _refuse_both(client: object, api_key: str | None, base_url: str | None) -> None:
    if client is not None and (api_key or base_url):
        raise ValueError("A client has its key and address. Pass client=, or api_key=/base_url=.")


def _parts(texts: Sequence[str]) -> list[list[str]]:
    return [list(texts[i : i + MAX_INPUTS]) for i in range(0, len(texts), MAX_INPUTS)]
