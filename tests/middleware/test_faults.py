"""
One table of faults, run on an ASGI and a WSGI application that follow the same script.

Whatever fails, the client gets what the application alone would have given, a part of an
answer is never stored, no flight is left, and the next request is answered.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pytest
from support import asgi, wsgi
from support.flights import flights_of
from support.worlds import LOOPS, PATIENCE

from mneme import MemoryStore, SemanticCache
from mneme.testing import HashEmbedder

WHOLE = (b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n")


class Mine(Exception):
    """What the application raises."""


@dataclass(frozen=True)
class Script:
    """What the application does; it raises before the chunk ``raises_at``."""

    chunks: tuple[bytes, ...] = WHOLE
    raises_at: int | None = None
    raises_before_start: bool = False
    headers: tuple[tuple[str, str], ...] = (("content-type", "text/event-stream"),)


@dataclass(frozen=True)
class Fault:
    """What goes wrong, what the client sees of it, and how many entries there are then."""

    name: str
    script: Script = field(default_factory=Script)
    leaves_after: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    in_bytes: bool = False
    part: str = ""
    sees: tuple[bytes, ...] = WHOLE
    raises: bool = False
    entries: int = 0


BOMB = tuple((f"x-field-{at}", "x" * 500) for at in range(200))
BROKEN = (("content-type", "text/event-stream"), ("cache-control", ',,="'), ("vary", ","))

FAULTS = [
    Fault("none", entries=1),
    Fault("raises before start", Script(raises_before_start=True), sees=(), raises=True),
    Fault("raises after start", Script(raises_at=0), sees=(), raises=True),
    Fault("raises mid-stream", Script(raises_at=1), sees=WHOLE[:1], raises=True),
    Fault("raises at the end", Script(raises_at=3), raises=True),
    Fault("client leaves mid-stream", leaves_after=1, sees=WHOLE[:1]),
    Fault("body byte by byte", in_bytes=True, entries=1),
    Fault("request fields by the hundred", headers=BOMB, entries=1),
    Fault("response fields by the hundred", Script(headers=(*Script().headers, *BOMB)), entries=1),
    Fault("response fields that cannot be read", Script(headers=BROKEN)),
    Fault("an answer without a byte", Script(chunks=()), sees=()),
    Fault("an error in the stream", Script((b'data: {"error": 1}\n\n',)),
          sees=(b'data: {"error": 1}\n\n',)),
    Fault("half an event at the end", Script((b"data: 1",)), sees=(b"data: 1",)),
    Fault("store fails on write", part="store"),
    Fault("embedder fails", part="embedder"),
    Fault("embedder hangs", part="hang"),
    Fault("validator fails", part="validator"),
    Fault("resolver fails", part="resolver"),
]  # fmt: skip


class Full(MemoryStore):
    is_full = False

    def commit(self, changes: Any) -> int:
        if self.is_full and changes.puts:
            raise OSError("disk full")
        return super().commit(changes)


class Ill(HashEmbedder):
    """An embedder that fails, or hangs until the test is over."""

    def __init__(self) -> None:
        super().__init__()
        self.part = ""
        self.is_over = threading.Event()

    def embed(self, text: str, /) -> Any:
        if self.part == "embedder":
            raise OSError("no route to host")
        if self.part == "hang":
            self.is_over.wait(PATIENCE)
        return super().embed(text)


class Bench:
    """A cache with a fault in it, and what to mount it with."""

    def __init__(self, part: str) -> None:
        self.store, self.embedder = Full(), Ill()

        def validator(response: Any) -> bool:
            if part == "validator":
                raise TypeError("what is this")
            return True

        self.cache = SemanticCache(
            store=self.store,
            embedder=self.embedder,
            validator=validator,
            embed_timeout=0.02 if part == "hang" else PATIENCE,
        )
        self.options: dict[str, Any] = {}
        if part == "resolver":
            self.options["namespace"] = self.resolver
        self.store.is_full = part == "store"
        self.embedder.part = part

    def resolver(self, where: Any) -> str:
        raise LookupError("who is this")


@pytest.fixture
def bench(fault: Fault) -> Iterator[Bench]:
    bench = Bench(fault.part)
    yield bench
    bench.embedder.is_over.set()


async def on_asgi(script: Script, fault: Fault, bench: Bench) -> tuple[bytes, ...]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asgi.read_all(receive)
        if script.raises_before_start:
            raise Mine
        headers = [(name.encode(), value.encode()) for name, value in script.headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for at, chunk in enumerate(script.chunks):
            if at == script.raises_at:
                raise Mine
            await asgi.say(send, chunk)
        if script.raises_at == len(script.chunks):
            raise Mine
        await asgi.say(send, b"", more=False)

    answer = asgi.Answer()

    async def on_send(message: Any) -> None:
        if fault.leaves_after is not None and len(answer.chunks) >= fault.leaves_after:
            raise OSError("the client has left")

    body = json.dumps(asgi.ASKED).encode()
    await asgi.mounted(app, bench.cache, **bench.options).post(
        "/ask",
        body,
        headers=[("content-type", "application/json"), *fault.headers],
        messages=asgi.in_bytes(body) if fault.in_bytes else None,
        answer=answer,
        on_send=on_send,
    )
    return tuple(answer.chunks)


def on_wsgi(script: Script, fault: Fault, bench: Bench) -> tuple[bytes, ...]:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        wsgi.read_all(environ)
        if script.raises_before_start:
            raise Mine
        start_response("200 OK", list(script.headers))
        for at, chunk in enumerate(script.chunks):
            if at == script.raises_at:
                raise Mine
            yield chunk
        if script.raises_at == len(script.chunks):
            raise Mine

    class Slow:
        """A body that comes in byte by byte."""

        def __init__(self, raw: bytes) -> None:
            self._left = raw

        def read(self, size: int = -1) -> bytes:
            if not size:
                return b""
            byte, self._left = self._left[:1], self._left[1:]
            return byte

    body = json.dumps(wsgi.ASKED).encode()
    more: dict[str, Any] = {"wsgi.input": Slow(body)} if fault.in_bytes else {}
    answer = wsgi.Answer()
    wsgi.bare(app, bench.cache, **bench.options).post(
        "/ask",
        body,
        headers=fault.headers,
        leave_after=fault.leaves_after,
        answer=answer,
        **more,
    )
    return tuple(answer.chunks)


SHELLS = ["wsgi", *LOOPS]


def run(shell: str, script: Script, fault: Fault, bench: Bench) -> tuple[bytes, ...]:
    if shell == "wsgi":
        return on_wsgi(script, fault, bench)
    return anyio.run(on_asgi, script, fault, bench, backend=shell)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_the_applications_alone(shell: str, fault: Fault, bench: Bench) -> None:
    """As without a cache, nothing left behind, and the next one gets a whole answer."""
    core = bench.cache._core
    seen: tuple[bytes, ...] = ()
    try:
        seen = run(shell, fault.script, fault, bench)
    except Mine:
        assert fault.raises
    except OSError:
        assert fault.leaves_after is not None
    else:
        assert not fault.raises
        assert seen == fault.sees
    assert len(flights_of(bench.cache)) == 0
    assert bench.cache.stats().entries == fault.entries
    if fault.part:
        assert core.tally.total("failed_open") >= 1
    well = replace(fault, leaves_after=None)
    assert run(shell, Script(), well, bench)[: len(WHOLE)] == (
        fault.script.chunks if fault.entries else WHOLE
    )
    assert len(flights_of(bench.cache)) == 0
