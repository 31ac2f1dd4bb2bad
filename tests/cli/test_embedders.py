"""The command line's embedder without a network is that of the examples, or says what to do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mneme.cli.embedders import OfflineEmbedder, embedder_named
from mneme.testing import HashEmbedder

EXAMPLE = Path(__file__).parents[2] / "examples" / "reference_embedders" / "offline_embedder.py"


def of_the_examples() -> Any:
    spec = importlib.util.spec_from_file_location("offline_embedder", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WordLlamaEmbedder()


@pytest.mark.needs("wordllama")
def test_it_is_the_embedder_of_the_examples() -> None:
    """One fingerprint, and the same vectors: a calibration of the one is good for the other."""
    ours, theirs = OfflineEmbedder(), of_the_examples()
    assert (ours.fingerprint, ours.dim) == (theirs.fingerprint, theirs.dim)
    for text in ("how do I reset my password", "Where is it?"):
        vector = ours.embed(text)
        assert np.allclose(vector / np.linalg.norm(vector), theirs.embed(text), atol=1e-6)


def test_without_wordllama_both_ways_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install it, or name an embedder."""
    monkeypatch.setitem(sys.modules, "wordllama", None)
    with pytest.raises(ValueError, match=r"Run: pip install wordllama, or .*--embedder"):
        OfflineEmbedder()


@pytest.mark.parametrize("spec", ["models:made", "models:Made", "models:make", "models:inner.made"])
def test_objects_classes_and_functions_are_embedders(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the attribute is, an embedder comes of it."""
    (tmp_path / "models.py").write_text(
        "from mneme.testing import HashEmbedder as Made\nmade = Made()\n"
        "def make(): return made\nclass inner: made = made\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "models", raising=False)
    try:
        assert embedder_named(spec).fingerprint == HashEmbedder().fingerprint
    finally:
        sys.modules.pop("models", None)
