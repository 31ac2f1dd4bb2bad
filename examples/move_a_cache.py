"""
A cache moves to another embedder, the run is interrupted, and an archive takes it elsewhere.

Run ``python examples/move_a_cache.py``. Needs nothing beside mneme.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mneme import EmbeddingError, MemoryStore, SemanticCache
from mneme.migrate import reembed
from mneme.testing import HashEmbedder

ANSWERS = {
    "How do I reset my password?": "Settings, then Security, then Reset.",
    "How can I get my money back?": "Write to us within 30 days.",
    "Where is my parcel?": "The link in your confirmation shows it.",
    "Do you ship to Norway?": "Yes, within five days.",
}


class Unreliable(HashEmbedder):
    """A better model, whose provider is down after three texts."""

    def embed_batch(self, texts: Sequence[str]) -> list[Any]:
        if self.calls >= 3:
            raise ConnectionError("503")
        return [self.embed(text) for text in texts]


def main() -> None:
    old, new = HashEmbedder(64, name="old"), HashEmbedder(256, name="new")
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "old.db"), Path(folder, "new.db")
        with SemanticCache(before, embedder=old) as cache:
            cache.put_many(ANSWERS, tags=["help"])

        try:
            reembed(before, after, Unreliable(256, name="new"), batch_size=3)
        except EmbeddingError as exc:
            print("The provider failed.", str(exc).partition(". ")[2].partition(";")[0])
        print(f"Run again: {reembed(before, after, new)} entry was left to do")
        print(f"And again: {reembed(before, after, new)}")

        archive = Path(folder, "cache.mneme")
        with SemanticCache(after, embedder=new) as cache:
            print(f"{cache.dumps(archive)} entries in an archive")
        with SemanticCache.loads(archive, store=MemoryStore(), embedder=new) as cache:
            found = cache.get("how do I reset my password, please", namespace="default")
            assert found is not None
            print(f"{found.layer} hit, {found.similarity:.2f}: {found.response}")


if __name__ == "__main__":
    main()
