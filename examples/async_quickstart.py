"""
The cache under asyncio: an embedder of our own, and a hundred lookups at once.

Run ``python examples/async_quickstart.py``. Needs mneme alone.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from mneme import AsyncSemanticCache, MemoryStore

CITIES = [
    *("Athens", "Berlin", "Cairo", "Dublin", "Havana", "Jakarta", "Kigali", "Lima", "Madrid"),
    *("Nairobi", "Oslo", "Paris", "Quito", "Rome", "Seoul", "Tokyo", "Vienna", "Warsaw"),
    *("Yerevan", "Zagreb"),
]


class ToyEmbedder:
    """
    Each word is a direction of its own, from the 32 bytes of its hash; a text is their sum.

    So texts are as near as they share words. A real embedder has a model here, and no more.
    """

    dim = 32
    fingerprint = "toy:async-hash:v1"

    async def embed(self, text: str) -> NDArray[np.float32]:
        await asyncio.sleep(0.01)  # as long as a service would take
        vector = np.zeros(self.dim, dtype=np.float32)
        for word in re.findall(r"\w+", text.lower()):
            vector += np.frombuffer(sha256(word.encode()).digest(), dtype=np.uint8) - 127.5
        return vector


async def main() -> None:
    # To this embedder two cities differ in one word of eight, so the threshold must be high.
    async with AsyncSemanticCache(
        store=MemoryStore(), embedder=ToyEmbedder(), similarity_threshold=0.95
    ) as cache:
        for city in CITIES:
            await cache.put(f"How far is it to {city} by train?", f"The way to {city} is long.")

        # Twenty questions, each in five forms: three for the exact layer, two for the semantic.
        forms = (
            "How far is it to {} by train?",
            "HOW FAR IS IT TO {} BY TRAIN",
            "how  far  is  it  to  {}  by  train?",
            "By train, how far is it to {}?",
            "How far is it by train to {}?",
        )
        hits = await asyncio.gather(
            *(cache.get(form.format(city)) for city in CITIES for form in forms)
        )
        for hit, city in zip(hits, [city for city in CITIES for _ in forms], strict=True):
            assert hit is None or city in hit.response, "the answer about another city"
        layers = Counter(hit.layer if hit else "miss" for hit in hits)
        print(f"{len(hits)} lookups at once over {cache.stats().entries} entries:")
        for layer, count in sorted(layers.items()):
            print(f"  {count:3} {layer}")


if __name__ == "__main__":
    asyncio.run(main())
