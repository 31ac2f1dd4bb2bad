"""
A FastAPI application whose model is asked once for each question, and once for each tenant.

Run ``python examples/fastapi_app.py``, then, twice or in other words::

    curl -i localhost:8000/ask -H 'x-tenant: acme' -H 'content-type: application/json' \
        -d '{"prompt": "How do I reset my password?"}'

Needs ``pip install fastapi 'mneme-toolkit[demo]'``; the embedder works offline.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from reference_embedders.offline_embedder import WordLlamaEmbedder

from mneme import AsyncSemanticCache, MemoryStore
from mneme.asgi import NamespaceMiddleware, SemanticCacheMiddleware
from mneme.prompts import json_field

# `path="cache.db"` instead of `store=` outlives the process.
# Similarities of small models are lower than those of large ones: so is the threshold.
cache = AsyncSemanticCache(
    store=MemoryStore(),
    embedder=WordLlamaEmbedder(),
    similarity_threshold=0.7,
    default_ttl=3600,
)


def tenant_of(scope: MutableMapping[str, Any]) -> str | None:
    """The tenant that a request names; without one it is answered without any cache."""
    name: bytes | None = dict(scope["headers"]).get(b"x-tenant")
    return name.decode("latin-1") if name else None


class Question(BaseModel):
    prompt: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with cache:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(question: Question) -> dict[str, str]:
    await anyio.sleep(0.3)  # as long as a fast model takes
    return {"answer": f"You asked: {question.prompt}"}


# The last one added is the outermost: authentication, CORS and rate limits come after these
# lines. Dependencies (`Depends`) run inside the cache, so a hit skips those of its route.
app.add_middleware(SemanticCacheMiddleware, cache=cache, routes={"/ask": json_field("prompt")})
app.add_middleware(NamespaceMiddleware, namespace=tenant_of)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
