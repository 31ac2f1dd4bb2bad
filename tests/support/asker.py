"""
A process that calls a cached function; run as a script, it is that process.

It says ``ready``, and is told the question on a line of its own. Then it says ``waits`` when
another process has the lock of it, ``calls`` when its function runs, which returns the next
line (``fork``: it says the number of a child that lives on, and reads again), and ``has ...``
when it has the answer.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio

from mneme import AsyncSemanticCache, SemanticCache, semantic_cache
from mneme.stores._flight_lock import SQLiteFlightLock
from mneme.testing import HashEmbedder

PATIENCE = 20.0


class Asker:
    """Such a process on the cache file `path`, in the world called `world`."""

    def __init__(self, path: Path, world: str, durability: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(path), world, durability],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Asker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self.process.communicate()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def says(self) -> str:
        """
        Its next line.

        Raises:
            AssertionError: it says nothing.
        """
        assert self.process.stdout is not None
        line = b""
        # Byte by byte: what a buffer already holds, `select` does not see.
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
            assert ready, "it says nothing"
            byte = os.read(self.process.stdout.fileno(), 1)
            assert byte, "it is dead"
            line += byte
        return line.decode().strip()


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def answer() -> str:
    say("calls")
    while (line := sys.stdin.readline().strip()) == "fork":
        child = os.fork()
        if not child:
            signal.pause()
        say(f"{child}")
    return line


class Telling(SQLiteFlightLock):
    """Says when another has the lock, once."""

    has_said = False

    def acquire(self) -> bool:
        is_mine = super().acquire()
        if not is_mine and not self.has_said:
            self.has_said = True
            say("waits")
        return is_mine


def main(path: str, world: str, durability: Any) -> None:
    settings: Any = {"embedder": HashEmbedder(8), "durability": durability, "self_check": False}
    kind = SemanticCache if world == "threads" else AsyncSemanticCache
    cache = kind(path, **settings)
    store: Any = cache._core.store
    store.flight_lock = lambda identity: Telling(Path(f"{path}-flights"), identity, store._flush)

    if world == "threads":

        @semantic_cache(cache=cache, single_flight="machine")
        def ask(prompt: str) -> str:
            return answer()

        say("ready")
        for line in sys.stdin:
            say(f"has {ask(line.strip())}")
        return

    @semantic_cache(cache=cache, single_flight="machine")
    async def ask_later(prompt: str) -> str:
        return await anyio.to_thread.run_sync(answer)

    async def serve() -> None:
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            say(f"has {await ask_later(line.strip())}")

    say("ready")
    anyio.run(serve, backend=world)


if __name__ == "__main__":
    main(*sys.argv[1:])
