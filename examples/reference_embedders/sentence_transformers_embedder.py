"""
A sentence-transformers model on your own machine.

Needs ``pip install sentence-transformers``; the first use of a model downloads it.

Two threads must not call one model at once: its tokenizer keeps padding and truncation as state
that each call may set. Calls that meet fail with ``RuntimeError: Already borrowed``, or with newer
tokenizers read each other's settings. Let threads share ``mneme.serialized(embedder)``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Encoder(Protocol):
    """The part of ``sentence_transformers.SentenceTransformer`` that is used here."""

    @property
    def max_seq_length(self) -> int | None: ...

    @property
    def encode(self) -> Any: ...


class SentenceTransformersEmbedder:
    """
    Embeds with ``model``: a name on the Hugging Face hub, or a directory.

    ``device`` is ``"cpu"``, ``"cuda"``, ``"mps"``, or ``None`` for the best there is.
    ``encoder`` is a loaded model of your own. ``model`` still names it in the fingerprint: add
    there what else shapes its vectors, such as a prompt or ``truncate_dim``.
    ``normalize=False`` leaves the length of the vectors to mneme.
    ``max_chars`` is the longest text that the model reads whole. It cuts longer ones without a
    word, and prompts that differ only past the cut would get one vector. The default counts
    three characters for a token.
    """

    def __init__(
        self,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        encoder: Encoder | None = None,
        device: str | None = None,
        normalize: bool = True,
        max_chars: int | None = None,
    ) -> None:
        if encoder is not None and device is not None:
            raise ValueError("An encoder has its device already. Pass either encoder= or device=.")
        self.model = model
        self._encoder = encoder if encoder is not None else _load(model, device)
        self._normalize = normalize
        window = self._encoder.max_seq_length
        self.max_chars = max_chars if window is None or max_chars is not None else 3 * window
        self.dim = self._encode(["How long is a vector?"]).shape[-1]
        length = "l2" if normalize else "raw"
        self.fingerprint = f"sentence-transformers:{model}:{self.dim}:{length}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.fingerprint!r})"

    def embed(self, text: str) -> NDArray[np.float32]:
        return self.embed_batch([text]).reshape(self.dim)

    def embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        rows = self._encode(list(texts))
        if rows.shape != (len(texts), self.dim):
            raise ValueError(
                f"{self.model} gave shape {rows.shape} for {len(texts)} texts, expected "
                f"({len(texts)}, {self.dim}). The vectors were dropped. "
                "Set truncate_dim before making the embedder, not after."
            )
        return rows

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        vectors = self._encoder.encode(
            texts,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=self._normalize,
        )
        return np.asarray(vectors, dtype=np.float32)


def _load(model: str, device: str | None) -> Encoder:
    try:
        package = importlib.import_module("sentence_transformers")
    except ModuleNotFoundError as exc:
        raise ImportError(
            "SentenceTransformersEmbedder needs the sentence-transformers package. "
            "Run: pip install sentence-transformers"
        ) from exc
    try:
        encoder: Encoder = package.SentenceTransformer(model, device=device)
    except OSError as exc:
        raise RuntimeError(
            f"Could not load the model {model!r}: {exc}. "
            "Check its name, or download it where there is a network and pass the directory."
        ) from exc
    return encoder
