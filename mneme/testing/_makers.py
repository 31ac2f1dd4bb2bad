"""What the contracts put in, and how they compare what comes out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np

from mneme.records import Entry, Key, Partition, Payload, Vector

__all__ = ["entry", "in_threads", "same", "unit"]


def unit(*components: float, dim: int = 8) -> Vector:
    """The direction of `components`, filled up with zeros to shape ``(dim,)``."""
    vector = np.zeros(dim, dtype=np.float32)
    vector[: len(components)] = components
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def entry(
    prompt: str = "what is a cache",
    response: str = "a memory",
    *,
    namespace: str = "default",
    vector: Vector | None = None,
    **changes: Any,
) -> Entry:
    """An entry with an identity of its own for each namespace and prompt."""
    fields: dict[str, Any] = {
        "namespace": namespace,
        "partition": Partition(blake2b(namespace.encode(), digest_size=16).digest()),
        "key": Key(blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).digest()),
        "prompt": prompt,
        "payload": Payload("text", response),
        "vector": unit(1.0) if vector is None else vector,
        "created_at": 1_700_000_000.0,
    }
    return Entry(**{**fields, **changes})


def same(left: Entry | None, right: Entry | None) -> bool:
    """Equal in every field; vectors component by component."""
    if left is None or right is None:
        return left is right
    if (left.vector is None) is not (right.vector is None):
        return False
    if left.vector is not None and not np.array_equal(left.vector, right.vector):  # type: ignore[arg-type]
        return False
    names = [name for name in Entry.__slots__ if name != "vector"]
    return all(getattr(left, name) == getattr(right, name) for name in names)


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """`work` in `count` threads at once; what any of them raises is raised here."""
    failures: list[BaseException] = []
    start = threading.Barrier(count)

    def run(at: int) -> None:
        start.wait()
        try:
            work(at)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=run, args=(at,)) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
