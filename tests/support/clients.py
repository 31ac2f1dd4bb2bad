"""Clients of httpx2 and httpx over a cached transport, in every world, with one way to use them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
from support.worlds import WORLDS, World

from mneme.transports import AsyncSemanticCacheTransport, SemanticCacheTransport

PATH = "/v1/chat/completions"


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


@dataclass(frozen=True)
class Way:
    """A library in a world."""

    library: str
    world: World

    def __str__(self) -> str:
        return f"{self.library}-{self.world}"

    @property
    def module(self) -> Any:
        return import_module(self.library)

    @asynccontextmanager
    async def client(
        self, url: str, cache: Any, inner: Any = None, **options: Any
    ) -> AsyncIterator[Client]:
        kind = AsyncSemanticCacheTransport if self.world.is_async else SemanticCacheTransport
        transport: Any = kind(inner, cache=cache, **options)
        made = self.module.AsyncClient if self.world.is_async else self.module.Client
        client = Client(made(base_url=url, transport=transport, timeout=20.0), self.world)
        try:
            yield client
        finally:
            await client.close()


WAYS = tuple(Way(library, world) for library in ("httpx2", "httpx") for world in WORLDS)
ON_LOOPS = pytest.mark.parametrize("way", [way for way in WAYS if way.world.is_async], ids=str)


class Client:
    """Awaited in every world; in that of threads nothing suspends."""

    def __init__(self, http: Any, world: World) -> None:
        self.http = http
        self._is_async = world.is_async

    async def post(self, path: str = PATH, **more: Any) -> Any:
        found = self.http.post(path, **more)
        return await found if self._is_async else found

    async def send(self, **more: Any) -> Streamed:
        """The response to a streaming request, its head read and its body not."""
        request = self.http.build_request("POST", PATH, **more)
        found = self.http.send(request, stream=True)
        return Streamed(await found if self._is_async else found, self._is_async)

    async def close(self) -> None:
        if self._is_async:
            await self.http.aclose()
        else:
            self.http.close()


class Streamed:
    """A response that is read step by step."""

    def __init__(self, response: Any, is_async: bool) -> None:
        self.response = response
        self._is_async = is_async
        self._chunks: Any = None

    @property
    def cache_status(self) -> str | None:
        found: str | None = self.response.headers.get("cache-status")
        return found

    async def next(self) -> bytes | None:
        """The next chunk; None at the end."""
        if self._chunks is None:
            self._chunks = self.response.aiter_raw() if self._is_async else self.response.iter_raw()
        if not self._is_async:
            chunk: bytes | None = next(self._chunks, None)
            return chunk
        return await anext(self._chunks, None)

    async def rest(self) -> bytes:
        found = b""
        while (chunk := await self.next()) is not None:
            found += chunk
        await self.close()
        return found

    async def close(self) -> None:
        if self._is_async:
            if self._chunks is not None:
                await self._chunks.aclose()
            await self.response.aclose()
        else:
            self.response.close()
