"""The offline embedder, for real."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.snippets import snippets

from mneme.types import Embedder

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "bring-your-own-embedder.md"

pytestmark = pytest.mark.needs("wordllama")


@pytest.fixture(scope="module")
def embedder(examples: SimpleNamespace) -> Any:
    return examples.offline.WordLlamaEmbedder()


QUESTIONS = [
    ("How do I reset my password?", "I forgot my password, how can I change it?"),
    ("When does the shop open on Sundays?", "What are your opening hours on Sunday?"),
    ("How do I cancel my subscription?", "Please help me end my subscription plan."),
]


@pytest.mark.parametrize(("asked", "reworded"), QUESTIONS)
def test_rewordings_are_nearer_than_other_questions(
    embedder: Any, asked: str, reworded: str
) -> None:
    """The model knows what belongs together, with room for a threshold between."""
    others = [text for pair in QUESTIONS if asked not in pair for text in pair]
    one, two, *rest = embedder.embed_batch([asked, reworded, *others])
    assert one @ two > max(one @ other for other in rest) + 0.1


def test_the_contract_is_kept(embedder: Any) -> None:
    """256 float32 of length 1, equal to the last bit alone and in a batch."""
    texts = ["How do I reset my password?", "Öffnungszeiten?", "a long text " * 500]
    rows = embedder.embed_batch(tuple(texts))
    assert (rows.shape, rows.dtype, embedder.dim) == ((3, 256), np.float32, 256)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    for row, text in zip(rows, texts, strict=True):
        vector = embedder.embed(text)
        assert (vector.shape, vector.dtype) == ((256,), np.float32)
        np.testing.assert_array_equal(vector, row)
    assert embedder.embed_batch([]).shape == (0, 256)
    assert repr(embedder) == "WordLlamaEmbedder('wordllama:l2_supercat:256:l2')"
    assert isinstance(embedder, Embedder)


def test_a_text_without_tokens_has_no_direction(embedder: Any) -> None:
    """Its vector is zero, so that mneme refuses it, and not NaN."""
    np.testing.assert_array_equal(embedder.embed(""), np.zeros(256))


def test_eight_threads_get_what_one_gets(embedder: Any) -> None:
    """Concurrent calls, single and batched, of all lengths, change nothing in any bit."""
    texts = [f"{'a longer question ' * (i % 9)}number {i}?" for i in range(600)]
    alone = np.stack([embedder.embed(text) for text in texts])
    with ThreadPoolExecutor(8) as threads:
        singles = threads.map(embedder.embed, texts)
        batches = threads.map(embedder.embed_batch, [texts[i : i + 6] for i in range(0, 600, 6)])
        np.testing.assert_array_equal(np.stack(list(singles)), alone)
        np.testing.assert_array_equal(np.concatenate(list(batches)), alone)


def test_offline_means_offline(examples: SimpleNamespace, tmp_path: Path) -> None:
    """Loading calls nobody, keeps no file of its own and leaves logging as it was."""
    script = f"""
import logging, runpy, socket, sys
def refuse(*_): raise SystemExit("it called out")
socket.socket.connect = socket.getaddrinfo = refuse
example = runpy.run_path({examples.offline.__file__!r})
assert "wordllama" not in sys.modules, "imported before it was needed"
example["WordLlamaEmbedder"]().embed("Hello")
root = logging.getLogger()
assert (root.handlers, root.level) == ([], logging.WARNING), root.handlers
"""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_the_missing_package_is_named(
    examples: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to run."""
    monkeypatch.setitem(sys.modules, "wordllama", None)
    with pytest.raises(ImportError, match=r"Run: pip install wordllama$"):
        examples.offline.WordLlamaEmbedder()


@pytest.mark.usefixtures("embedder")
def test_a_package_without_weights_says_what_to_install(
    examples: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never downloads: without weights it says where they come from."""
    absent = staticmethod(lambda *_, **__: "absent.safetensors")
    monkeypatch.setattr("wordllama.WordLlama.get_filename", absent)
    told = r"absent\.safetensors.* downloads are disabled\. Install .*'wordllama>=0\.4\.0\.post1'$"
    with pytest.raises(FileNotFoundError, match=told):
        examples.offline.WordLlamaEmbedder()


def test_the_pages_snippet_runs_as_written(
    examples: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader who copied the file next to a script gets the hit that the page shows."""
    [shown] = [s for s in snippets(PAGE.name, PAGE.read_text("utf-8")) if "WordLlama" in s.code]
    monkeypatch.syspath_prepend(Path(examples.offline.__file__).parent)
    monkeypatch.delitem(sys.modules, "offline_embedder", raising=False)
    namespace: dict[str, Any] = {}
    exec("from mneme import MemoryStore, SemanticCache", namespace)
    exec(shown.compiled(), namespace)
    assert namespace["hit"].response == "Settings, then Security."
