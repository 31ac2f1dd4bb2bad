"""
The cache under trio: a decorated function, and fifty tasks that ask the same at once.

Run ``python examples/trio_quickstart.py``. Needs trio beside mneme.
"""

from __future__ import annotations

import trio

from mneme import Hit, MemoryStore, observe, semantic_cache
from mneme.testing import HashEmbedder

model_calls = 0


# HashEmbedder counts the words that two texts share. It stands in for a real embedder here.
@semantic_cache(embedder=HashEmbedder(), store=MemoryStore(), threshold=0.7)
async def ask(prompt: str) -> str:
    global model_calls
    model_calls += 1
    await trio.sleep(0.2)
    return f"An answer to: {prompt}"


async def main() -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask, "What is the capital of France?")
    print(f"50 tasks asked the same at once: {model_calls} model call")

    with observe() as seen:
        answer = await ask("Tell me, what is the capital of France?")
    [outcome] = seen
    assert isinstance(outcome, Hit)
    print(f"asked in other words: {outcome.layer} hit, similarity {outcome.similarity:.2f}")
    print(f"  {answer}")
    print(ask.cache_info())


if __name__ == "__main__":
    trio.run(main)
