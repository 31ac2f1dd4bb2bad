"""What all reference embedders promise alike, whoever is asked."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mneme.types import AsyncEmbedder, Embedder

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "bring-your-own-embedder.md"
TEXTS = ["How do I reset my password?", "", "Öffnungszeiten?", "x" * 3000]

asks_someone = pytest.mark.needs("boto3", "httpx", "openai")


@asks_someone
def test_a_text_becomes_one_unit_vector(embedder: Any, provider: Any) -> None:
    """`embed` gives float32, shape ``(dim,)``, length 1, whatever length the provider's has."""
    for text in TEXTS:
        vector = embedder.embed(text)
        assert (vector.shape, vector.dtype) == ((embedder.dim,), np.float32)
        np.testing.assert_allclose(vector, provider.unit(text, embedder.dim), atol=1e-6)


@asks_someone
def test_a_batch_has_one_row_for_each_text(embedder: Any, provider: Any) -> None:
    """`embed_batch` gives float32, shape ``(n, dim)``, in order; Titan's model takes no batch."""
    assert hasattr(embedder, "embed_batch") is not embedder.fingerprint.startswith("bedrock:amazon")
    if hasattr(embedder, "embed_batch"):
        rows = embedder.embed_batch(tuple(TEXTS))
        assert (rows.shape, rows.dtype) == ((len(TEXTS), embedder.dim), np.float32)
        expected = [provider.unit(text, embedder.dim) for text in TEXTS]
        np.testing.assert_allclose(rows, expected, atol=1e-6)


@asks_someone
def test_an_empty_batch_asks_nobody(embedder: Any, provider: Any) -> None:
    """No texts are no rows and no request."""
    if hasattr(embedder, "embed_batch"):
        assert embedder.embed_batch([]).shape == (0, embedder.dim)
    assert provider.asked == []


@asks_someone
def test_an_embedder_shows_its_fingerprint(embedder: Any) -> None:
    """The repr tells which vectors it gives and no more; mneme takes it for an embedder."""
    assert repr(embedder) == f"{type(embedder).__name__}({embedder.fingerprint!r})"
    assert isinstance(embedder, Embedder)


@asks_someone
@pytest.mark.anyio
async def test_async_embedders_keep_the_same_promises(async_embedder: Any, provider: Any) -> None:
    """In asyncio and in trio: unit vectors, rows in order, no request for no texts."""
    dim = async_embedder.dim
    try:
        assert (await async_embedder.embed_batch([])).shape == (0, dim)
        assert provider.asked == []
        vector = await async_embedder.embed(TEXTS[0])
        rows = await async_embedder.embed_batch(TEXTS)
    finally:
        await async_embedder.aclose()
    assert (vector.shape, vector.dtype, rows.dtype) == ((dim,), np.float32, np.float32)
    np.testing.assert_allclose(vector, provider.unit(TEXTS[0], dim), atol=1e-6)
    np.testing.assert_allclose(rows, [provider.unit(text, dim) for text in TEXTS], atol=1e-6)
    assert repr(async_embedder).endswith(f"Embedder({async_embedder.fingerprint!r})")
    assert isinstance(async_embedder, AsyncEmbedder)


def calls_on_the_page() -> Iterator[tuple[str, ast.Call]]:
    """Each call of a plain name in the page's snippets, run or not."""
    fences = r"(?ms)^```python(?: notest)?\n(.*?)^```"
    for snippet in re.findall(fences, PAGE.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield node.func.id, node


def test_the_page_makes_each_embedder_in_a_way_that_exists(examples: SimpleNamespace) -> None:
    """Snippets that need a network pass arguments the classes take, and no class is left out."""
    classes = {
        name: value
        for module in vars(examples).values()
        for name, value in vars(module).items()
        if name.endswith("Embedder") and inspect.isclass(value)
    }
    shown = [(name, call) for name, call in calls_on_the_page() if name in classes]
    assert {name for name, _ in shown} == set(classes)
    for name, call in shown:
        keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        inspect.signature(classes[name]).bind(*call.args, **keywords)
