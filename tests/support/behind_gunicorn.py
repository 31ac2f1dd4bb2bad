"""A WSGI application that a server runs in a process of its own; its model is elsewhere."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from typing import Any

from support.providers import ROUTES, shared_cache

from mneme.wsgi import SemanticCacheMiddleware

VARIABLE = "MNEME_TEST_UPSTREAM"
"""Names the environment variable that says where the model is: host and port."""


def relay(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """What the model answers, as it comes."""
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    connection = http.client.HTTPConnection(os.environ[VARIABLE])
    connection.request("POST", environ["PATH_INFO"], body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    start_response("200 OK", [("Content-Type", str(response.getheader("Content-Type")))])
    while chunk := response.read1():
        yield chunk
    connection.close()


app = SemanticCacheMiddleware(relay, cache=shared_cache(), routes=ROUTES)
