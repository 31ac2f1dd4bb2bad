"""
Texts and their vectors, in a folder that all processes of a run read.

Three kinds: `like text` is drawn, and the same everywhere; `questions` are embedded by the
offline embedder of the examples; `given` are vectors from a file.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["QUESTIONS", "Corpus", "generated", "public_questions", "write"]

QUESTIONS = 4_000
"""The last so many are asked, not stored."""

ASKED = (
    "how do i", "can you help me", "what is the best way to", "is it possible to",
    "i would like to", "why can i not", "please tell me how to", "where do i go to",
    "what happens if i", "who can", "when should i", "do i have to pay to",
)  # fmt: skip
DONE = (
    "cancel", "change", "renew", "download", "print", "share", "delete", "restore", "translate",
    "upgrade", "return", "track", "verify", "export", "import", "schedule", "rename", "archive",
    "block", "report", "activate", "transfer", "refund", "review", "sign",
)  # fmt: skip
THINGS = (
    "subscription", "password", "invoice", "order", "account", "address", "phone number",
    "photo", "contract", "booking", "flight", "table", "recipe", "playlist", "document",
    "calendar", "message", "contact", "card", "loan", "parcel", "warranty", "licence", "profile",
    "newsletter", "team", "backup", "device", "router", "printer",
)  # fmt: skip
WHERE = (
    "on my phone", "on the website", "in the app", "from abroad", "without an account",
    "after the trial", "as a student", "for my company", "before friday", "at the weekend",
    "for a friend", "with two people", "by letter", "in the evening", "without a fee",
    "on a tablet", "at the counter", "in another country", "for a child", "on a slow line",
)  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """Entries to store and questions to ask; vectors are unit rows, float32."""

    texts: list[str]
    vectors: Any

    @staticmethod
    def read(folder: Path, name: str) -> Corpus:
        texts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        return Corpus(texts, np.load(folder / f"{name}.npy", mmap_mode="r"))

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def spare(self) -> int:
        """How many are questions."""
        return min(QUESTIONS, len(self.texts) // 4)

    def entries(self, count: int) -> tuple[list[str], Any]:
        """The first `count`, but no questions."""
        count = min(count, len(self.texts) - self.spare)
        return self.texts[:count], np.asarray(self.vectors[:count])

    def questions(self) -> Iterator[tuple[str, Any]]:
        """Each once: asked again it would be known by its text."""
        first = len(self.texts) - self.spare
        yield from zip(self.texts[first:], np.asarray(self.vectors[first:]), strict=True)


def write(folder: Path, name: str, texts: Sequence[str], vectors: Any) -> None:
    (folder / f"{name}.json").write_text(json.dumps(list(texts)), encoding="utf-8")
    np.save(folder / f"{name}.npy", vectors)


def generated(count: int) -> list[str]:
    """So many questions in other words each, in an order of no meaning."""
    parts = [ASKED, DONE, THINGS, WHERE]
    made = [f"{asked} {done} my {thing} {where}?" for asked, done, thing, where in product(*parts)]
    order = np.random.default_rng(0).permutation(len(made))
    texts = [made[at] for at in order[:count]]
    texts += [f"{made[at % len(made)][:-1]}, case {at}?" for at in range(len(texts), count)]
    return texts


def public_questions(folder: Path) -> list[str]:
    """The distinct texts of all ``*.jsonl.gz`` there, in an order of no meaning."""
    found: dict[str, None] = {}
    for file in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                for field in ("q", "a", "b"):
                    if isinstance(row.get(field), str) and row[field].strip():
                        found[row[field].strip()] = None
    # The exact layer takes texts that differ by case, spaces or the last mark for the same.
    distinct = {" ".join(text.casefold().split()).rstrip("?!. "): text for text in found}
    texts = [text for key, text in distinct.items() if key]
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[at] for at in order]
