"""Scripts that run as no superuser, whom every permission would let through."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["a_shared_folder", "said_by"]

_PRELUDE = """
import os, sys, sqlite3, resource, signal
from mneme import *
from mneme.testing import HashEmbedder
folder = sys.argv[1]
# All that is imported late, before this user may no longer read it.
warm = SemanticCache(store=MemoryStore(), embedder=HashEmbedder(8))
warm.put("a", "b"); warm.get("c")
if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)
"""


def said_by(script: str, folder: Path, *words: str) -> str:
    """
    What `script` says in a process of its own that is no superuser; it knows `folder`, and
    `words` as ``sys.argv[2:]``.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + script, str(folder), *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def a_shared_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
