"""One call for equal ones in all processes that a store has locks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, cast

from mneme._core.flights import Flight
from mneme._core.flow import STORE_BROKEN, Port, known
from mneme._core.keys import Ask
from mneme._core.store_errors import store_errors
from mneme.records import Hit, Miss
from mneme.types import FlightLock, FlightLocks, Store

__all__ = ["across", "check_locks"]

_is_held: ContextVar[bool] = ContextVar("mneme_flight_lock_is_held", default=False)
"""Whether the current call holds up other processes: then it does not wait for one of them."""

Finish = Callable[[Hit | Miss, Flight], Awaitable[Any]]


def check_locks(store: Store, name: str) -> None:
    """
    See that `across` can be used over `store`, for the function called `name`.

    Raises:
        TypeError: the store has no locks for it, or none where this process runs.
    """
    kind = type(store).__name__
    if not isinstance(store, FlightLocks):
        raise TypeError(
            f"{name} cannot share calls between processes by a {kind}. "
            "Keep the cache in a SQLiteStore, or leave out single_flight='machine'."
        )
    if not store.has_flight_locks:
        raise TypeError(
            f"{name} cannot share calls between processes here: {kind} needs Linux for that. "
            "Leave out single_flight='machine'."
        )


async def across(
    port: Port, ask: Ask, flight: Flight, miss: Miss, patience: float, finish: Finish
) -> Any:
    """
    What `finish` makes of `miss`, or of the hit that another process put meanwhile.

    Who gets the lock at once holds it until his answer can be found by others. Who had to
    wait for it, at most `patience` seconds, calls without it where there still is no answer:
    the other has failed, and those who waited must not fail one after another.
    """
    core = port.core
    with ExitStack() as stack:
        found: Hit | Miss = miss
        leads = False
        try:
            with store_errors(core.store):
                lock = cast(FlightLocks, core.store).flight_lock(ask.identity)
                stack.callback(lock.release)
                leads = await port.take(lock, 0.0)
                if not leads:
                    if port.may_wait and not _is_held.get():
                        await port.take(lock, patience)
                    lock.release()
            found = await _known_by_now(port, ask) or miss
        except STORE_BROKEN as exc:
            core.tally.failed_open("store", ask.namespace, exc, core.clock())
        if not leads:
            return await finish(found, flight)
        with _holding():
            value = await finish(found, flight)
        if flight.ending == "filled":
            await _settle(port, ask, lock)
        return value


async def _known_by_now(port: Port, ask: Ask) -> Hit | None:
    core = port.core
    # Just put: no interval for which an older state would do.
    if core.settings.stale_check_interval or core.is_behind():
        await port.catch_up()
    found = await known(port, ask)
    return found if isinstance(found, Hit) else None


async def _settle(port: Port, ask: Ask, lock: FlightLock) -> None:
    core = port.core
    try:
        await port.settle(lock)
    except STORE_BROKEN as exc:
        core.tally.failed_open("store", ask.namespace, exc, core.clock())


@contextmanager
def _holding() -> Iterator[None]:
    token = _is_held.set(True)
    try:
        yield
    finally:
        # A coroutine that is thrown away is closed in whatever context collects it.
        with suppress(ValueError):
            _is_held.reset(token)
