"""
An embedder without a network: wordllama's static vectors, which come inside its wheel.

Needs ``pip install wordllama``. A text's vector is the mean of its tokens' vectors: 50 µs for a
short one, and the order of the words is lost. Good for demos and tests, weak on trick questions.
"""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DIM = 256


class WordLlamaEmbedder:
    """
    256 numbers a text, the same ones each time.

    Threads may share one. Its tokenizer's padding and truncation are set when it is loaded, and
    `embed` only reads: eight threads get what one gets, bit for bit.
    A text without tokens (``""``) has no direction; its vector is zero, which mneme refuses.
    """

    dim = DIM
    fingerprint = f"wordllama:l2_supercat:{DIM}:l2"

    def __init__(self) -> None:
        self._model = _load()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.fingerprint!r})"

    def embed(self, text: str) -> NDArray[np.float32]:
        vector = np.asarray(self._model.embed(text), dtype=np.float32).reshape(DIM)
        vector /= np.maximum(np.linalg.norm(vector), 1e-30)
        return vector

    def embed_batch(self, texts: Sequence[str]) -> NDArray[np.float32]:
        # One by one: padding all to the longest would cost memory and save no time.
        rows = np.empty((len(texts), DIM), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = self.embed(text)
        return rows


def _load() -> Any:
    root = logging.getLogger()
    configured = logging.NullHandler()
    # wordllama calls basicConfig when imported, which leaves a root that has a handler alone.
    root.addHandler(configured)
    try:
        wordllama: Any = importlib.import_module("wordllama")
    except ModuleNotFoundError as exc:
        raise ImportError(
            "WordLlamaEmbedder needs the wordllama package. Run: pip install wordllama"
        ) from exc
    finally:
        root.removeHandler(configured)
    inside = Path(wordllama.__file__).parent
    try:
        return wordllama.WordLlama.load(cache_dir=inside, disable_download=True)
    except FileNotFoundError as exc:
        raise FileNotFoundError(
            f"This wordllama came without its weights: {exc} "
            "Install a wheel that has them: pip install 'wordllama>=0.4.0.post1'"
        ) from exc
