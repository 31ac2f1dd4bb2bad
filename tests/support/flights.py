"""A look at the flights of a cache: who waits for whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from support.worlds import Count

from mneme import AsyncSemanticCache, SemanticCache
from mneme._core.core import core_of
from mneme._core.flights import Flight, Flights


def flights_of(cache: SemanticCache | AsyncSemanticCache) -> Flights:
    return core_of(cache).flights


@contextmanager
def followers(cache: SemanticCache | AsyncSemanticCache) -> Iterator[Count]:
    """
    Counts the callers that began to wait for another's flight.

    At the end of the block no flight may be left over.
    """
    flights, count = flights_of(cache), Count()
    join = flights.join

    def joined(flight: Flight, wake: Callable[[], object]) -> bool:
        waits = join(flight, wake)
        if waits:
            count.add()
        return waits

    patched: Any = flights
    patched.join = joined
    try:
        yield count
    finally:
        del patched.join
    assert len(flights) == 0, "a flight was never landed"
