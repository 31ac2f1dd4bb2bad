"""
A Flask application whose model is asked once for each question, and once for each tenant.

Run ``python examples/flask_app.py``, then, twice or in other words::

    curl -i localhost:8000/ask -H 'x-tenant: acme' -H 'content-type: application/json' \
        -d '{"prompt": "How do I reset my password?"}'

Needs ``pip install flask 'mneme-toolkit[demo]'``; the embedder works offline.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from reference_embedders.offline_embedder import WordLlamaEmbedder

from mneme import MemoryStore, SemanticCache
from mneme.prompts import json_field
from mneme.wsgi import NamespaceMiddleware, SemanticCacheMiddleware

# `path="cache.db"` instead of `store=` outlives the process.
# Similarities of small models are lower than those of large ones: so is the threshold.
cache = SemanticCache(
    store=MemoryStore(),
    embedder=WordLlamaEmbedder(),
    similarity_threshold=0.7,
    default_ttl=3600,
)

app = Flask(__name__)


def tenant_of(environ: dict[str, Any]) -> str | None:
    """The tenant that a request names; without one it is answered without any cache."""
    return environ.get("HTTP_X_TENANT")


@app.post("/ask")
def ask() -> ResponseReturnValue:
    prompt = request.get_json()["prompt"]
    time.sleep(0.3)  # as long as a fast model takes
    return jsonify(answer=f"You asked: {prompt}")


# Flask's own `before_request` runs inside these, so a hit skips it. What must see every request,
# such as authentication and rate limits, is a WSGI middleware around them.
app.wsgi_app = NamespaceMiddleware(  # type: ignore[method-assign]
    SemanticCacheMiddleware(app.wsgi_app, cache=cache, routes={"/ask": json_field("prompt")}),
    namespace=tenant_of,
)

if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
