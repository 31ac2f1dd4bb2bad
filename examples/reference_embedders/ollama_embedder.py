"""
Embeddings from an Ollama server, sync and async, by its ``POST /api/embed``.

Needs ``pip install httpx`` and a pulled model: ``ollama pull nomic-embed-text``. Threads may
share an `OllamaEmbedder`, and the tasks of one event loop an `AsyncOllamaEmbedder`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import httpx
    from numpy.typing import NDArray

LOCAL = "http://localhost:11434"
PATIENCE = 60.0  # seconds: the first request after a pause loads the model

REMEDIES = {
    400: "Shorten the text, or pass truncate=True.",
    401: "Check the credentials in base_url= or client=.",
    403: "Check the credentials in base_url= or client=.",
    404: "Pull the model: ollama pull {model}",
}


class _Ollama:
    """
    What both worlds share.

    With ``truncate=False`` the server refuses a text past the model's window. With ``True`` it
    cuts it, and prompts that differ only past the cut get one vector.
    The fingerprint has the model's name as given. One with the tag of a build, such as
    ``nomic-embed-text:137m-v1.5-fp16``, says more than ``latest``, which a pull may change.
    """

    dim: int

    def __init__(self, model: str, base_url: str, truncate: bool) -> None:
        try:
            import httpx
        except ModuleNotFoundError as exc:
            name = type(self).__name__
            raise ImportError(f"{name} needs the httpx package. Run: pip install httpx") from exc
        self.model = model
        self._url = httpx.URL(f"{base_url.rstrip('/')}/api/embed")
        self._truncate = truncate

    @property
    def fingerprint(self) -> str:
        return f"ollama:{self.model}:{self.dim}:l2"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.fingerprint!r})"

    def _body(self, texts: Sequence[str]) -> dict[str, object]:
        return {"model": self.model, "input": list(texts), "truncate": self._truncate}

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Any failure of a request as a ``RuntimeError`` with the remedy and without secrets."""
        import httpx

        server = f"{self._url.scheme}://{self._url.netloc.decode()}"
        failed = f"{self.model} embedded nothing"
        try:
            yield
        except httpx.HTTPError as exc:
            raise RuntimeError(
                f"{failed}: {type(exc).__name__} at {server}, {str(exc).rstrip('.')}. "
                "Start the server with: ollama serve, or check base_url=."
            ) from None
        except (KeyError, TypeError, ValueError):
            raise RuntimeError(
                f"{failed}: no embeddings in the answer of {server}. Check base_url=."
            ) from None

    def _vectors(self, response: httpx.Response) -> list[list[float]]:
        if response.is_success:
            return list(response.json()["embeddings"])
        status, words = response.status_code, response.text
        if sent := response.request.headers.get("authorization", "").rpartition(" ")[2]:
            words = words.replace(sent, "***")
        remedy = REMEDIES.get(status, "Look at the server's log.").format(model=self.model)
        raise RuntimeError(
            f"{self.model} embedded nothing: status {status}, {words[:300]}. {remedy}"
        )

    def _rows(self, vectors: list[list[float]], count: int) -> NDArray[np.float32]:
        """The answer as unit vectors, shape ``(count, dim)``."""
        lengths = sorted({len(vector) for vector in vectors})
        if len(vectors) != count or lengths != [self.dim]:
            raise ValueError(
                f"{self.model} answered {count} texts with {len(vectors)} vectors of length "
                f"{lengths}, expected {self.dim}. The answer was dropped. "
                "Pass the model's own length as dim=."
            )
        rows = np.asarray(vectors, dtype=np.float32)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        return rows

    def _none(self) -> NDArray[np.float32]:
        return np.empty((0, self.dim), dtype=np.float32)


class OllamaEmbedder(_Ollama):
    """
    For threads. Without ``dim`` the server is asked for it once, here.

    ``client`` is an ``httpx.Client`` of your own, say with credentials, and stays yours to
    close; `close` closes one that was made here.
    """

    def __init__(
        self,
        model: str = "nomic-embed-text",
        *,
        dim: int | None = None,
        base_url: str = LOCAL,
        truncate: bool = False,
        client: httpx.Client | None = None,
    ) -> None:
        super().__init__(model, base_url, truncate)
        import httpx

        self._owns_client = client is None
        self._client = client or httpx.Client(timeout=PATIENCE)
        try:
            self.dim = dim or self._discovered()
        except BaseException:
            self.close()
            raise

    def embed(self, text: str) -> NDArray[np.float32]:
        return self.embed_batch([text]).reshape(self.dim)

    def embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._rows(self._asked(texts), len(texts)) if texts else self._none()

    def close(self) -> None:
        if self._owns_client:
            self._client.close()

    def _discovered(self) -> int:
        vectors = self._asked(["How long is a vector?"])
        if len(vectors) != 1 or not vectors[0]:
            raise ValueError(f"{self.model} gave no vector. Pass the name of an embedding model.")
        return len(vectors[0])

    def _asked(self, texts: Sequence[str]) -> list[list[float]]:
        with self._explained():
            return self._vectors(self._client.post(self._url, json=self._body(texts)))


class AsyncOllamaEmbedder(_Ollama):
    """
    For asyncio and trio; as `OllamaEmbedder`, with an ``httpx.AsyncClient`` and `aclose`.

    A constructor cannot await, so ``dim`` must be given. Its connections belong to the event
    loop that opened them: make one for each loop.
    """

    def __init__(
        self,
        model: str = "nomic-embed-text",
        *,
        dim: int,
        base_url: str = LOCAL,
        truncate: bool = False,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        super().__init__(model, base_url, truncate)
        import httpx

        self.dim = dim
        self._owns_client = client is None
        self._client = client or httpx.AsyncClient(timeout=PATIENCE)

    async def embed(self, text: str) -> NDArray[np.float32]:
        return (await self.embed_batch([text])).reshape(self.dim)

    async def embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._rows(await self._asked(texts), len(texts)) if texts else self._none()

    async def aclose(self) -> None:
        if self._owns_client:
            await self._client.aclose()

    async def _asked(self, texts: Sequence[str]) -> list[list[float]]:
        with self._explained():
            return self._vectors(await self._client.post(self._url, json=self._body(texts)))
