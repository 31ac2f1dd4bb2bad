"""
A cache in another process, driven from the test; run as a script, it is that process.

Requests and replies are lines of JSON: ``[method, args, kwargs]`` and ``["ok", result]`` or
``[name of the error, message]``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from mneme import Hit, MnemeError, SemanticCache
from mneme.testing import HashEmbedder


class Remote:
    """
    A `SemanticCache` on `path` in a process of its own, with `HashEmbedder` of 8 dimensions.

    Methods give what the real ones give, as far as JSON carries it: a `Hit` as its response.
    """

    def __init__(self, path: Path, **settings: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(path), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdin.write(json.dumps([method, args, kwargs]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            if not line:
                # What it died of tells more than the broken pipe.
                return self.process.wait()
            kind, value = json.loads(line)
            assert kind == "ok", f"{kind}: {value}"
            return value

        return call


class _Dying:
    """A connection whose COMMIT kills the process, before it or right after it."""

    def __init__(self, connection: Any, when: str) -> None:
        self._connection = connection
        self._when = when

    def execute(self, statement: str, *args: Any) -> Any:
        if statement == "COMMIT" and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        cursor = self._connection.execute(statement, *args)
        if statement == "COMMIT":
            os.kill(os.getpid(), signal.SIGKILL)
        return cursor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _serve(path: str, settings: dict[str, Any]) -> None:
    cache: Any = SemanticCache(path, embedder=HashEmbedder(8), **settings)
    for line in sys.stdin:
        method, args, kwargs = json.loads(line)
        try:
            if method == "die_in_commit":
                file = cache._core.store._file
                file.connection = _Dying(file.connection, *args)
                cache.put("last words", "of a dying process")
            outcome = getattr(cache, method)(*args, **kwargs)
        except (MnemeError, ValueError) as exc:
            print(json.dumps([type(exc).__name__, str(exc)]), flush=True)  # noqa: T201
            continue
        if isinstance(outcome, Hit):
            outcome = outcome.response
        print(json.dumps(["ok", outcome]), flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve(sys.argv[1], json.loads(sys.argv[2]))
