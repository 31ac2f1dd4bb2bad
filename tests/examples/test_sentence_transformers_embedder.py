"""sentence-transformers: a double with the true signature, because the real one brings torch."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


def test_the_model_is_loaded_on_the_device_asked_for(
    examples: SimpleNamespace, encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is imported, and the model loaded, when the embedder is made."""
    package = SimpleNamespace(SentenceTransformer=type(encoder))
    monkeypatch.setitem(sys.modules, "sentence_transformers", package)
    made = examples.sentence_transformers.SentenceTransformersEmbedder("e5-small", device="cuda")
    assert (made._encoder.model, made._encoder.device) == ("e5-small", "cuda")


def test_the_missing_package_is_named(
    examples: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to run."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"needs .*Run: pip install sentence-transformers$"):
        examples.sentence_transformers.SentenceTransformersEmbedder()


def test_a_model_that_cannot_be_loaded_says_what_to_do(
    examples: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong name and a missing network look alike; the error has the remedy for both."""

    def unreachable(model: str, device: str | None) -> object:
        raise OSError(f"{model} is not a local folder")

    package = SimpleNamespace(SentenceTransformer=unreachable)
    monkeypatch.setitem(sys.modules, "sentence_transformers", package)
    with pytest.raises(RuntimeError, match=r"'e5': .*folder\. Check its name, or download it"):
        examples.sentence_transformers.SentenceTransformersEmbedder("e5")


def test_the_length_may_be_left_alone(
    examples: SimpleNamespace, encoder: Any, provider: Any
) -> None:
    """``normalize=False`` reaches the model and the fingerprint, and no progress bar appears."""
    embedder = examples.sentence_transformers.SentenceTransformersEmbedder(
        "e5", encoder=encoder, normalize=False
    )
    np.testing.assert_allclose(embedder.embed("a"), provider.numbers("a", 384), rtol=1e-6)
    assert embedder.fingerprint == "sentence-transformers:e5:384:raw"
    assert set(encoder.progress_bars) == {False}


@pytest.mark.parametrize(
    ("window", "given", "max_chars"),
    [(256, None, 768), (256, 1000, 1000), (None, None, None), (None, 1000, 1000)],
)
def test_text_past_the_models_window_is_declared(
    examples: SimpleNamespace,
    encoder: Any,
    window: int | None,
    given: int | None,
    max_chars: int | None,
) -> None:
    """`max_chars` follows the model's window unless you know better."""
    encoder.max_seq_length = window
    embedder = examples.sentence_transformers.SentenceTransformersEmbedder(
        encoder=encoder, max_chars=given
    )
    assert embedder.max_chars == max_chars


def test_an_encoder_has_its_device_already(examples: SimpleNamespace, encoder: Any) -> None:
    """A device that would be ignored is refused."""
    with pytest.raises(ValueError, match=r"Pass either encoder= or device=\.$"):
        examples.sentence_transformers.SentenceTransformersEmbedder(encoder=encoder, device="cpu")


def test_a_dimension_that_changes_later_is_noticed(examples: SimpleNamespace, encoder: Any) -> None:
    """The fingerprint names a dimension, and no vector of another one follows it."""
    embedder = examples.sentence_transformers.SentenceTransformersEmbedder(encoder=encoder)
    encoder.truncate_dim = 128
    with pytest.raises(ValueError, match=r"\(1, 128\) .* \(1, 384\).* Set truncate_dim before "):
        embedder.embed("a")
