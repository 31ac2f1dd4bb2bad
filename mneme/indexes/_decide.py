"""The last word on rows that were found by a cosine that may be off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from mneme.records import Key, Vector

__all__ = ["Exact", "Found", "decided"]

Exact: TypeAlias = Callable[[Sequence[Key]], Sequence[Vector | None]]
"""``keys -> float32 vectors``, in order; None for a key whose vector it does not have."""

Found: TypeAlias = list[tuple[Key, float]]

AT_ONCE = 64
"""Vectors that are fetched at a time, at least."""


def decided(
    found: Found, vector: Vector, k: int, at_least: float, slack: float, exact: Exact
) -> Found:
    """
    At most `k` of `found` with a cosine of `at_least`, best first, by their float32 vectors.

    `found` has the best first too, by cosines off by at most `slack`; as soon as nothing that
    follows can be better, no more vectors are fetched. What has no vector any more keeps the
    cosine that it was found by.
    """
    best: Found = []
    step = max(AT_ONCE, 2 * k)
    for start in range(0, len(found), step):
        if len(best) >= k and found[start][1] + slack < best[k - 1][1]:
            break
        some = found[start : start + step]
        for (key, cosine), own in zip(some, exact([key for key, _ in some]), strict=True):
            if own is not None:
                cosine = min(1.0, max(-1.0, float(own @ vector)))
            if cosine >= at_least:
                best.append((key, cosine))
        best.sort(key=lambda pair: -pair[1])
        del best[k:]
    return best
