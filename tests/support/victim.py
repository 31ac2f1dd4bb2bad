"""
A process that works on a cache until it is killed; run as a script, or imported for its plan.

Each line on stdin is ``[what, path, durability, first number]``. For each it forks a child that
does operation after operation, numbered from the first, and writes to stdout the number and the
time (`time.monotonic_ns`) once one has returned; then it writes ``dead`` when the child has
been killed. A fork instead of a new interpreter makes a round take milliseconds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from mneme import SemanticCache
from mneme.stores import salvage
from mneme.testing import HashEmbedder

BIG = 600
"""Entries that are put at once, and cleared at once: more than one commit of a removal."""

State = dict[tuple[str, str], int]
"""What a cache holds: (namespace, prompt) -> number of the operation that put it."""


def plan(number: int) -> tuple[str, Any]:
    """What operation `number` is: its name, and what it is about."""
    space, prompt = f"space {number % 3}", f"key {number * 7 % 30}"
    match number % 100:
        case 40:
            return "put_many", ("big", [f"of many {at}" for at in range(BIG)])
        case 45:
            return "clear", "big"
        case 20 | 60:
            return "vacuum", None
        case 80:
            return "compact", None
    match number % 10:
        case 3:
            return "put_many", (space, [f"key {at}" for at in range(number % 7, 30, 7)])
        case 6:
            return "delete", (space, prompt)
        case 9:
            return "clear", space
    return "put", (space, prompt)


def after(state: State, number: int) -> State:
    """What a cache that held `state` holds once operation `number` is done."""
    what, about = plan(number)
    changed = dict(state)
    if what == "put":
        changed[about] = number
    elif what == "put_many":
        changed |= {(about[0], prompt): number for prompt in about[1]}
    elif what == "delete":
        changed.pop(about, None)
    elif what == "clear":
        changed = {name: put for name, put in state.items() if name[0] != about}
    return changed


def do(cache: SemanticCache, number: int) -> None:
    what, about = plan(number)
    vector = np.ones(8, np.float32)
    if what == "put":
        cache.put(about[1], number, embedding=vector, namespace=about[0])
    elif what == "put_many":
        space, prompts = about
        pairs = dict.fromkeys(prompts, number)
        cache.put_many(pairs, embeddings=[vector] * len(pairs), namespace=space)
    elif what == "delete":
        cache.delete(about[1], namespace=about[0])
    elif what == "clear":
        cache.clear_namespace(about)
    elif what == "vacuum":
        cache.put(f"short-lived {number}", number, embedding=vector, namespace="dead", ttl=1e-9)
        cache.vacuum()
    else:
        cache.compact()


def work(path: str, durability: Any, first: int) -> None:
    """Operation after operation on one file."""
    cache = SemanticCache(path, embedder=HashEmbedder(8), durability=durability, self_check=False)
    for number in count(first):
        do(cache, number)
        tell(number)


def restore(path: str, _: Any, first: int) -> None:
    """The archive at `path`, loaded into one new file after another beside it."""
    for number in count(first):
        SemanticCache.loads(path, f"{path}-{number}", HashEmbedder(8), self_check=False).close()
        tell(number)


def rescue(path: str, _: Any, first: int) -> None:
    """What can be read of the file at `path`, saved in one new file after another beside it."""
    for number in count(first):
        salvage(path, f"{path}-{number}")
        tell(number)


def tell(number: int) -> None:
    os.write(1, b"%d %d\n" % (number, time.monotonic_ns()))


def main() -> None:
    for line in sys.stdin:
        what, path, durability, first = json.loads(line)
        child = os.fork()
        if not child:
            try:
                {"work": work, "restore": restore, "rescue": rescue}[what](path, durability, first)
            finally:
                os._exit(1)
        os.write(1, b"child %d\n" % child)
        os.waitpid(child, 0)
        os.write(1, b"dead\n")


PATH = Path(__file__)

if __name__ == "__main__":
    main()
