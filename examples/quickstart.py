"""
The cache by itself: put an answer in, ask in other words, see why it was a hit or none.

Run ``python examples/quickstart.py``. Needs ``pip install 'mneme-toolkit[demo]'`` for its
embedder, which works offline.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from reference_embedders.offline_embedder import WordLlamaEmbedder

from mneme import Hit, SemanticCache

ANSWERS = {
    "How do I reset my password?": "Settings, then Security, then Reset.",
    "How can I get my money back?": "Write to us within 30 days.",
    "Where is my parcel?": "The link in your confirmation shows it.",
}


def main() -> None:
    embedder = WordLlamaEmbedder()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cache.db")
        # Similarities of small models are lower than those of large ones: so is the threshold.
        with SemanticCache(path=path, embedder=embedder, similarity_threshold=0.7) as cache:
            cache.put_many(ANSWERS)

            for question in (
                "HOW DO I RESET MY PASSWORD",
                "I forgot my password, how do I reset it?",
                "Which currencies do you take?",
            ):
                found = cache.lookup(question)
                if isinstance(found, Hit):
                    print(f"{found.layer:8} {found.similarity:.2f}  {question}")
                    print(f"               {found.response}")
                else:
                    print(f"miss     {found.nearest_similarity:.2f}  {question}")

            print("\nWhy? cache.explain() says:")
            print(cache.explain("I forgot my password, how do I reset it?"))

        # What was put is in the file, and so are the counters.
        with SemanticCache(path=path, embedder=embedder) as cache:
            stats = cache.stats()
            print(
                f"\nOpened again: {stats.entries} entries, {stats.hits} hits, {stats.misses} miss"
            )


if __name__ == "__main__":
    main()
