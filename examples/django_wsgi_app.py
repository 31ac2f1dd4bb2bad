"""
A Django application under WSGI: one call of the model for each question, and for each tenant.

Run ``python examples/django_wsgi_app.py``, then, twice or in other words::

    curl -i localhost:8000/ask -H 'x-tenant: acme' -H 'content-type: application/json' \
        -d '{"prompt": "How do I reset my password?"}'

Needs ``pip install django 'mneme-toolkit[demo]'``; the embedder works offline. What stands here
in one file is ``settings.py``, ``views.py``, ``urls.py`` and ``wsgi.py`` in a project.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from django.conf import settings
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from reference_embedders.offline_embedder import WordLlamaEmbedder

from mneme import MemoryStore, SemanticCache
from mneme.prompts import json_field
from mneme.wsgi import NamespaceMiddleware, SemanticCacheMiddleware

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY="of an example"
)

# `path="cache.db"` instead of `store=` outlives the process.
# Similarities of small models are lower than those of large ones: so is the threshold.
cache = SemanticCache(
    store=MemoryStore(),
    embedder=WordLlamaEmbedder(),
    similarity_threshold=0.7,
    default_ttl=3600,
)


def tenant_of(environ: dict[str, Any]) -> str | None:
    """The tenant that a request names; without one it is answered without any cache."""
    return environ.get("HTTP_X_TENANT")


def ask(request: HttpRequest) -> JsonResponse:
    prompt = json.loads(request.body)["prompt"]
    time.sleep(0.3)  # as long as a fast model takes
    return JsonResponse({"answer": f"You asked: {prompt}"})


urlpatterns = [path("ask", ask)]

# What `settings.MIDDLEWARE` lists runs inside these, so a hit skips it. What must see every
# request, such as authentication and rate limits, is a WSGI middleware around them.
application = NamespaceMiddleware(
    SemanticCacheMiddleware(
        get_wsgi_application(), cache=cache, routes={"/ask": json_field("prompt")}
    ),
    namespace=tenant_of,
)

if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with ThreadedWSGIServer(("127.0.0.1", port), WSGIRequestHandler) as server:
        server.set_app(application)
        print(f"Running on http://127.0.0.1:{server.server_port}", file=sys.stderr, flush=True)
        server.serve_forever()
