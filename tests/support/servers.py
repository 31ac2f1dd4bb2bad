"""Real servers on real sockets, each in a thread for as long as a block runs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from support.worlds import PATIENCE


@contextmanager
def on_uvicorn(app: Any) -> Iterator[str]:
    """The URL of `app` on uvicorn."""
    import uvicorn

    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none")
    server = Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert started.wait(PATIENCE)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


@contextmanager
def on_hypercorn_trio(app: Any) -> Iterator[str]:
    """The URL of `app` on hypercorn, as with ``-k trio``."""
    import hypercorn.trio
    import trio

    bound: list[Any] = []
    started = threading.Event()

    async def main() -> None:
        stop = trio.Event()
        config = hypercorn.Config()
        config.bind = ["127.0.0.1:0"]
        config.graceful_timeout = PATIENCE
        serve = partial(hypercorn.trio.serve, app, config, shutdown_trigger=stop.wait)
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(serve)
            bound.extend([url, trio.lowlevel.current_trio_token(), stop])
            started.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert started.wait(PATIENCE)
    url, token, stop = bound
    try:
        yield url
    finally:
        token.run_sync_soon(stop.set)
        thread.join(PATIENCE)


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None: ...


class Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = False


@contextmanager
def on_wsgiref(app: Any) -> Iterator[str]:
    """The URL of `app` on the standard library's server, a thread for each request."""
    server = make_server("127.0.0.1", 0, app, Threaded, Quiet)
    with server, _serving(server.serve_forever, server.shutdown):
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def on_werkzeug(app: Any) -> Iterator[str]:
    """The URL of `app` on werkzeug's threaded server."""
    from werkzeug.serving import WSGIRequestHandler as Handler
    from werkzeug.serving import make_server

    class Silent(Handler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: object) -> None: ...

    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Silent)
    with _serving(server.serve_forever, server.shutdown):
        yield f"http://127.0.0.1:{server.server_port}"
    server.server_close()


@contextmanager
def _serving(serve: Callable[..., object], stop: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=serve, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(PATIENCE)


def frames(url: str, path: str, body: bytes, *headers: str) -> tuple[str, list[bytes]]:
    """The head of a response, and the frames of its chunked body as they came over the wire."""
    host, _, port = url.removeprefix("http://").partition(":")
    lines = [f"POST {path} HTTP/1.1", "Host: t", f"Content-Length: {len(body)}", *headers]
    head = "\r\n".join([*lines, "Connection: close", "", ""]).encode()
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(head + body)
        received = b""
        # Not to the end of the connection, which a server may keep open.
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += connection.recv(65_536)
    told, _, rest = received.partition(b"\r\n\r\n")
    found = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    assert found.pop() == b"", "the last frame is empty"
    return told.decode(), found
