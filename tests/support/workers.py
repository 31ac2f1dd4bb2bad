"""
An application that several worker processes serve, with one cache file between them.

``wsgi`` and ``asgi`` are the same thing for servers of either kind. A request with `ROUND` is
held until the other worker holds one of the same round, so that both answer; a worker that
holds one already says 503. A worker stores after it has answered, and takes nothing up before
it has.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mneme import SemanticCache
from mneme.asgi import SemanticCacheMiddleware as AsyncMiddleware
from mneme.prompts import json_field
from mneme.testing import HashEmbedder
from mneme.wsgi import SemanticCacheMiddleware

FOLDER = "MNEME_TEST_FOLDER"
"""Names the environment variable that says where the cache file is, and the rounds are."""

ROUND = "X-Round"
WORKER = "X-Worker"
ROUTES = {"/ask": json_field("prompt")}

folder = Path(os.environ[FOLDER])
# Open from the first line on: with --preload, before there are any workers.
cache = SemanticCache(
    folder / "cache.db", embedder=HashEmbedder(8), self_check=False, durability="commit"
)
cache.put("preloaded by", os.getpid())


def said(path: str) -> bytes:
    """What the application says itself: who it is, and when."""
    if path == "/forget":
        return b"%d" % cache.clear()
    if path == "/preloaded":
        hit = cache.get("preloaded by")
        return json.dumps(hit and hit.response).encode()
    return json.dumps([os.getpid(), time.time_ns()]).encode()


class Rounds:
    """Who has come to which round, as names of files."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.mine = folder / f"round-{name}-{os.getpid()}"

    def join(self) -> bool:
        """Whether this worker was not there before."""
        if self.name is None:
            return True
        try:
            self.mine.touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    @property
    def is_full(self) -> bool:
        return self.name is None or len(list(folder.glob(f"round-{self.name}-*"))) >= 2


def _wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [said(environ["PATH_INFO"])]


_cached: Any = SemanticCacheMiddleware(_wsgi, cache=cache, routes=ROUTES)


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    rounds = Rounds(environ.get("HTTP_X_ROUND"))
    if not rounds.join():
        start_response("503 Service Unavailable", [])
        return []
    while not rounds.is_full:
        time.sleep(0.002)

    def start(status: str, headers: list[Any], *rest: Any) -> Any:
        return start_response(status, [*headers, (WORKER, str(os.getpid()))], *rest)

    answer: Iterable[bytes] = _cached(environ, start)
    return answer


async def _asgi(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    body = await asyncio.to_thread(said, scope["path"])
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_async_cached: Any = AsyncMiddleware(_asgi, cache=cache.as_async(), routes=ROUTES)
_answering = asyncio.Lock()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        await _async_cached(scope, receive, send)
        return
    async with _answering:
        pass
    headers = dict(scope["headers"])
    name = headers.get(ROUND.lower().encode())
    rounds = Rounds(None if name is None else name.decode())
    if not rounds.join():
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    # Another process fills it: there is no event to wait for.
    while not rounds.is_full:  # noqa: ASYNC110
        await asyncio.sleep(0.002)

    async def told(message: Any) -> None:
        if message["type"] == "http.response.start":
            name = (WORKER.lower().encode(), b"%d" % os.getpid())
            message = {**message, "headers": [*message["headers"], name]}
        await send(message)

    async with _answering:
        await _async_cached(scope, receive, told)
