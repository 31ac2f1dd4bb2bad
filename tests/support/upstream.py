"""
A provider of language models on a real socket: it counts its calls, and can misbehave.

It speaks just enough HTTP/1.1 by hand, in threads, so that a test decides when each chunk
goes out and can cut the connection in the middle.
"""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.worlds import Count, Gate


def sse(*events: Any, names: bool = False) -> list[bytes]:
    """Events as they go over the wire; a text goes as it is."""
    found = []
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        name = f"event: {event['type']}\n" if names else ""
        found.append(f"{name}data: {data}\n\n".encode())
    return found


def openai_answer(number: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"answer number {number}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "c", "created": 1, "model": "m", "object": "chat.completion", "choices": [choice]}


def openai_stream(number: int) -> list[bytes]:
    base = {"id": "c", "created": 1, "model": "m", "object": "chat.completion.chunk"}
    words = ["answer", " number", f" {number}"]
    choices = [{"index": 0, "delta": {"content": word}, "finish_reason": None} for word in words]
    choices.append({"index": 0, "delta": {}, "finish_reason": "stop"})
    return sse(*({**base, "choices": [choice]} for choice in choices), "[DONE]")


def anthropic_answer(number: int) -> dict[str, Any]:
    return {
        "id": "m", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None,
        "stop_reason": "end_turn", "usage": {"input_tokens": 1, "output_tokens": 3},
        "content": [{"type": "text", "text": f"answer number {number}"}],
    }  # fmt: skip


def anthropic_stream(number: int) -> list[bytes]:
    begun = {**anthropic_answer(number), "content": [], "stop_reason": None}
    text = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": f"answer number {number}"}
    return sse(
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": text},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
         "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
        names=True,
    )  # fmt: skip


@dataclass
class Upstream:
    """
    ``answer number <n>`` to the n-th call, as OpenAI or Anthropic would say it.

    While `gate` is closed, a call waits after its first chunk (a plain one before it);
    `cut_after` is the number of chunks after which the connection is cut.
    """

    calls: Count = field(default_factory=Count)
    chunks_sent: Count = field(default_factory=Count)
    connections: Count = field(default_factory=Count)
    asked: list[Any] = field(default_factory=list)
    fields: list[dict[str, str]] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=list)
    status: int = 200
    coding: str | None = None
    cut_after: int | None = None
    gate: Gate = field(default_factory=Gate)
    url: str = ""

    def __post_init__(self) -> None:
        self.gate.open()

    def chunks(self, path: str, body: Any, number: int) -> tuple[str, list[bytes]]:
        is_anthropic = path.endswith("/messages")
        if isinstance(body, dict) and body.get("stream"):
            make = anthropic_stream if is_anthropic else openai_stream
            return "text/event-stream", make(number)
        plain = anthropic_answer(number) if is_anthropic else openai_answer(number)
        return "application/json", [json.dumps(plain).encode()]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: Upstream

    def setup(self) -> None:
        super().setup()
        self.upstream.connections.add()

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        up = self.upstream
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw)
        except ValueError:
            body = raw
        up.asked.append(body)
        up.fields.append({name.lower(): value for name, value in self.headers.items()})
        kind, chunks = up.chunks(self.path, body, up.calls.add())
        if up.coding:
            chunks = [gzip.compress(b"".join(chunks))]
        if kind == "application/json":
            up.gate.wait()
        with suppress(OSError):
            self._send(kind, chunks)

    def _send(self, kind: str, chunks: list[bytes]) -> None:
        up = self.upstream
        self.send_response(up.status)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        if up.coding:
            self.send_header("Content-Encoding", up.coding)
        for name, value in up.headers:
            self.send_header(name, value)
        self.end_headers()
        for at, chunk in enumerate(chunks):
            if at == up.cut_after:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.wfile.flush()
            up.chunks_sent.add()
            if at == 0:
                up.gate.wait()
        self.wfile.write(b"0\r\n\r\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has left is no error of a test's."""


@contextmanager
def upstream() -> Iterator[Upstream]:
    up = Upstream()
    handler = type("Handler", (_Handler,), {"upstream": up})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    up.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield up
    finally:
        up.gate.open()
        server.shutdown()
        thread.join()
        server.server_close()
