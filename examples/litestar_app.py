"""
A Litestar application whose model is asked once for each question, and once for each tenant.

Run ``python examples/litestar_app.py``, then, twice or in other words::

    curl -i localhost:8000/ask -H 'x-tenant: acme' -H 'content-type: application/json' \
        -d '{"prompt": "How do I reset my password?"}'

Needs ``pip install litestar 'mneme-toolkit[demo]'``; the embedder works offline.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import uvicorn
from litestar import Litestar, Request, post
from litestar.middleware import DefineMiddleware
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


# Litestar answers a POST with 201, and without `Route(statuses=...)` only a 200 is stored.
@post("/ask", status_code=200)
async def ask(request: Request[Any, Any, Any]) -> dict[str, str]:
    prompt = (await request.json())["prompt"]
    await anyio.sleep(0.3)  # as long as a fast model takes
    return {"answer": f"You asked: {prompt}"}


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    async with cache:
        yield


app = Litestar(
    route_handlers=[ask],
    lifespan=[lifespan],
    middleware=[
        # Authentication and rate limits stand before these lines: a hit must pass them. Guards
        # run inside them, so a hit skips those of its route.
        DefineMiddleware(NamespaceMiddleware, namespace=tenant_of),  # type: ignore[arg-type]
        DefineMiddleware(
            SemanticCacheMiddleware,  # type: ignore[arg-type]
            cache=cache,
            routes={"/ask": json_field("prompt")},
        ),
    ],
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
