"""The embedder that a command is told to use, or one that needs no network."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mneme.types import AnyEmbedder

__all__ = ["OfflineEmbedder", "embedder_named"]


def embedder_named(spec: str) -> AnyEmbedder:
    """
    The embedder at ``module:attribute``, or what the class or function of that name makes.

    The working directory is looked in first, as ``python -m`` does.

    Raises:
        ValueError: there is none; the message says what is there instead.
    """
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise ValueError(
            f"--embedder is written module:attribute, as in my_app.models:embedder; got {spec!r}."
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found: Any
    try:
        found = importlib.import_module(module_name)
    except Exception as exc:  # a module that is being imported may raise anything
        raise ValueError(f"--embedder: importing {module_name} failed: {_told(exc)}.") from exc
    for name in path.split("."):
        if not hasattr(found, name):
            raise ValueError(f"--embedder: {module_name} has no {path}. Check the spelling.")
        found = getattr(found, name)
    if isinstance(found, type) or (callable(found) and not hasattr(found, "embed")):
        try:
            found = found()
        except Exception as exc:  # as above
            raise ValueError(f"--embedder: calling {spec}() failed: {_told(exc)}.") from exc
    missing = [name for name in ("dim", "fingerprint", "embed") if not hasattr(found, name)]
    if missing:
        raise ValueError(
            f"--embedder: {spec} is {type(found).__name__} without {', '.join(missing)}. "
            "An embedder has dim, fingerprint and embed(text)."
        )
    embedder: AnyEmbedder = found
    return embedder


class OfflineEmbedder:
    """
    wordllama's static vectors, which come inside its wheel: 256 numbers, no network.

    The same vectors, under the same fingerprint, as the reference embedder of the examples.
    """

    dim = 256
    fingerprint = "wordllama:l2_supercat:256:l2"

    def __init__(self) -> None:
        root = logging.getLogger()
        configured = logging.NullHandler()
        # wordllama configures logging when imported, unless the root has a handler.
        root.addHandler(configured)
        try:
            wordllama = importlib.import_module("wordllama")
        except ModuleNotFoundError as exc:
            raise ValueError(
                "the offline embedder needs wordllama. Run: pip install wordllama, or name "
                "yours with --embedder module:attribute"
            ) from exc
        finally:
            root.removeHandler(configured)
        inside = Path(str(wordllama.__file__)).parent
        self._model = wordllama.WordLlama.load(cache_dir=inside, disable_download=True)

    def embed(self, text: str, /) -> NDArray[np.float32]:
        return np.asarray(self._model.embed(text), dtype=np.float32).reshape(self.dim)

    def embed_batch(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        # One by one: padding all to the longest would cost memory and save no time.
        return [self.embed(text) for text in texts]


def _told(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
