"""
What the ASGI middleware costs on a real server: throughput, first byte, memory.

uvicorn runs in a process of its own and serves the same application twice, bare and under the
middleware, so that both are measured in one run; rounds alternate, and medians are told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from lines import Line
from report import table

ROUNDS = 60
REQUESTS = 160
"""Requests of one round, over all connections."""

CONNECTIONS = 4
STREAMS = 10_000
"""Streamed responses over which memory has to stay flat."""

WARM = 1_000
"""Streams before the first look at memory: buffers and caches have grown by then."""

PROMPT = "What is the capital of France, and since when is it that, if one may ask?"
CHAT = {"model": "m", "temperature": 0.0, "messages": [{"role": "user", "content": PROMPT}]}
ANSWER = json.dumps({"answer": "Paris, since 987. " * 10}).encode()
EVENTS = [b'data: {"word": %d}\n\n' % at for at in range(10)]


# The server


def serve(port: int) -> None:
    """Serve the application under ``/bare``, ``/mounted`` and others until killed."""
    import uvicorn

    from mneme import MemoryStore, SemanticCache
    from mneme.asgi import SemanticCacheMiddleware
    from mneme.prompts import json_field, openai_chat

    class Embedder:
        """Vectors that are made anew each time: a memory of its own would be measured."""

        dim = 64
        fingerprint = "benchmark"

        def embed(self, text: str, /) -> Any:
            seed = int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
            return np.random.default_rng(seed).standard_normal(self.dim).astype(np.float32)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/memory":
            await answer(send, str(most_memory()).encode())
        elif scope["path"] == "/stream":
            await stream(send)
        else:
            await answer(send, ANSWER)

    async def answer(send: Any, body: bytes) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def stream(send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in EVENTS:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    cache = SemanticCache(store=MemoryStore(), embedder=Embedder(), max_entries=1_000)
    routes: dict[Any, Any] = {"/ask": json_field("prompt"), "/chat": openai_chat,
                              "/stream": json_field("prompt")}  # fmt: skip
    mounted = SemanticCacheMiddleware(app, cache=cache, routes=routes)

    async def both(scope: Any, receive: Any, send: Any) -> None:
        first, _, rest = scope["path"][1:].partition("/")
        inner = mounted if first == "mounted" else app
        await inner({**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode()}, receive, send)

    uvicorn.run(both, port=port, log_level="critical", lifespan="off", access_log=False)


def most_memory() -> int:
    """KiB that this process had in memory at most (Linux)."""
    # Not `getrusage`, which counts what the parent had when it started this process.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@contextmanager
def server() -> Iterator[int]:
    """The port of a server process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, "--serve", str(port)])
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


# The client


def request(path: str, body: object) -> bytes:
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


class Connection:
    """A kept connection, read by hand: what the client costs is no part of the figure."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, raw: bytes) -> None:
        self._socket.sendall(raw)

    def read(self) -> bytes:
        """One response whose length is told; its body."""
        data = self._socket.recv(65_536)
        head, _, body = data.partition(b"\r\n\r\n")
        at = head.lower().index(b"content-length:") + 15
        length = int(head[at:].partition(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(65_536)
        return body

    def first_byte(self, raw: bytes) -> float:
        """Seconds to the first event of a streamed response; the rest is read as well."""
        start = time.perf_counter()
        self.send(raw)
        data = b""
        while b"data:" not in data:
            data += self._socket.recv(65_536)
        took = time.perf_counter() - start
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += self._socket.recv(65_536)
        return took


def throughput(connections: Sequence[Connection], raw: bytes) -> float:
    """Requests a second, one on its way on each connection."""
    rounds = REQUESTS // len(connections)
    start = time.perf_counter()
    for _ in range(rounds):
        for connection in connections:
            connection.send(raw)
        for connection in connections:
            connection.read()
    return rounds * len(connections) / (time.perf_counter() - start)


def alternating(*measures: Callable[[], float]) -> list[list[float]]:
    """The values of each, over rounds in which they take turns at being first."""
    found: list[list[float]] = [[] for _ in measures]
    for at in range(ROUNDS + 4):
        order = list(zip(measures, found, strict=True))
        for measure, own in order if at % 2 else reversed(order):
            value = measure()
            if at >= 4:
                own.append(value)
    return found


# The figures


def ratios(port: int) -> list[Line]:
    connections = [Connection(port) for _ in range(CONNECTIONS)]

    def of(path: str, body: object) -> Callable[[], float]:
        raw = request(path, body)
        return lambda: throughput(connections, raw)

    lines = []
    for what, path, body, bar in (
        ("HTTP exact hits, `json_field`", "/ask", {"prompt": PROMPT}, 0.80),
        ("HTTP exact hits, `openai_chat`", "/chat", CHAT, 0.80),
        ("HTTP, uncached routes", "/other", {"prompt": PROMPT}, 0.95),
    ):
        bares, mounteds = alternating(of(f"/bare{path}", body), of(f"/mounted{path}", body))
        # Round by round: a busy moment of the machine slows both of a round alike.
        share = statistics.median(m / b for b, m in zip(bares, mounteds, strict=True))
        bare, mounted = statistics.median(bares), statistics.median(mounteds)
        told = {"ours": mounted, "against": bare}
        lines.append(Line(what, share, "of bare", "≥", bar, told, "requests/s"))
    return lines


def first_byte(port: int) -> Line:
    connection = Connection(port)
    numbers = iter(range(1_000_000))

    def median_of(path: str) -> float:
        # Another question each time, so that each is a miss.
        asked = [request(path, {"prompt": f"question {next(numbers)} of many"}) for _ in range(10)]
        return statistics.median(connection.first_byte(raw) for raw in asked) * 1_000

    bare, mounted = map(
        statistics.median,
        alternating(lambda: median_of("/bare/stream"), lambda: median_of("/mounted/stream")),
    )
    told = {"ours": mounted, "against": bare}
    what = "HTTP, first byte of a streamed miss"
    return Line(what, mounted - bare, "ms over bare", "≤", 5.0, told, "ms")


def memory(port: int) -> Line:
    connection = Connection(port)

    def size() -> float:
        connection.send(request("/bare/memory", {}))
        return int(connection.read()) / 1_024

    for at in range(WARM):
        connection.first_byte(request("/mounted/stream", {"prompt": f"warm {at}"}))
    before = size()
    for at in range(STREAMS):
        connection.first_byte(request("/mounted/stream", {"prompt": f"question {at} of many"}))
    told = {"ours": size(), "against": before}
    what = f"HTTP, memory after {STREAMS:,} streamed misses"
    return Line(what, told["ours"] - before, "MiB more", "≤", 5.0, told, "MiB")


def run() -> list[Line]:
    with server() as port:
        return [*ratios(port), first_byte(port), memory(port)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument("--serve", type=int, metavar="PORT", help="be the server")
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    lines = run()
    print(json.dumps([line.as_dict() for line in lines]) if args.json else table(lines))


if __name__ == "__main__":
    main()
