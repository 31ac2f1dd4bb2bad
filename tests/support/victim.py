"""
A process that writes to a cache until it is killed; run as a script, never imported.

Each line on stdin is ``[path, durability, first number]``. For each it forks a child that puts
numbered entries for ever and writes a number to stdout once `put` has returned; then it
writes ``dead`` when the child has been killed. A fork instead of a new interpreter makes a
round take milliseconds.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np

from mneme import SemanticCache
from mneme.testing import HashEmbedder

BATCH = 3


def write(path: str, durability: str, number: int) -> None:
    cache = SemanticCache(path, embedder=HashEmbedder(8), durability=durability)  # type: ignore[arg-type]
    vector = np.ones(8, np.float32)
    while True:
        if number % 4 == 0:
            batch = {f"batch {number} {part}": number for part in range(BATCH)}
            cache.put_many(batch, embeddings=[vector] * BATCH)
        else:
            cache.put(f"single {number}", number, embedding=vector)
        os.write(1, b"%d\n" % number)
        number += 1


def main() -> None:
    for line in sys.stdin:
        path, durability, first = json.loads(line)
        child = os.fork()
        if not child:
            try:
                write(path, durability, first)
            finally:
                os._exit(1)
        os.write(1, b"child %d\n" % child)
        os.waitpid(child, 0)
        os.write(1, b"dead\n")


if __name__ == "__main__":
    main()
