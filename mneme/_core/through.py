"""A call through the cache: from memory, from an equal call that is running, or by calling."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeGuard

from mneme._core.across import across
from mneme._core.flights import Ending, Flight
from mneme._core.flow import Port, begun, compare, fill, known, learn
from mneme._core.keys import Ask
from mneme.records import Hit, Miss, Terms

__all__ = ["through"]

Call = Callable[[], Awaitable[Any]]


async def through(
    port: Port,
    ask: Ask,
    call: Call,
    terms: Terms,
    *,
    admit: Callable[[Any], bool] | None = None,
    single_flight: bool = True,
    patience: float | None = None,
) -> Any:
    """
    The answer: from the cache, from an equal call that is running, or from `call`.

    With `patience` that may be one of another process, for so many seconds; the store has
    `FlightLocks` then.
    """
    core = port.core
    ask, outcome = await begun(port, ask)
    if isinstance(outcome, Hit):
        core.tally.hit(outcome, ask.counts)
        return outcome.response
    work = _Work(port, ask, call, terms, admit, patience)
    if outcome is not None and outcome.reason == "bypass":
        core.told(outcome, ask)
        return await call()
    if outcome is not None or not single_flight:
        return await work.alone(outcome)
    return await work.together()


@dataclass(frozen=True, slots=True)
class _Work:
    """One call that the exact layer could not answer."""

    port: Port
    ask: Ask
    call: Call
    terms: Terms
    admit: Callable[[Any], bool] | None
    patience: float | None

    async def together(self) -> Any:
        """Lead the flight of this question, or wait for the one that is on its way."""
        core, ask = self.port.core, self.ask
        while True:
            flight, leads = core.flights.board(ask.identity, may_wait=self.port.may_wait)
            if flight is None:
                return await self.alone()
            if leads:
                with core.flights.leading(flight):
                    return await self.alone(await known(self.port, ask), flight)
            await self.port.follow(flight)
            if flight.ending == "answered" and isinstance(flight.found, Hit):
                # A copy: what one caller does to his answer is nothing to the others.
                hit = replace(flight.found, response=deepcopy(flight.found.response))
                core.told(hit, ask)
                return hit.response
            if flight.ending == "failed":
                found = flight.found
                return await self.alone(
                    replace(found, ask=ask) if isinstance(found, Miss) else None
                )
            if flight.ending == "filled":
                return await self.alone(await known(self.port, ask))

    async def alone(self, found: Hit | Miss | None = None, flight: Flight | None = None) -> Any:
        """Compare, and on a miss call; `flight` is the one this caller leads."""
        if found is None:
            found = await compare(self.port, self.ask)
        if flight is None or self.patience is None or not self._calls_now(found):
            return await self.finished(found, flight)
        return await across(self.port, self.ask, flight, found, self.patience, self.finished)

    async def finished(self, found: Hit | Miss, flight: Flight | None) -> Any:
        """The answer that was found, or that of a call."""
        core = self.port.core
        audited = found
        if isinstance(audited, Miss) and (served := self._served_meanwhile(audited)) is not None:
            self.port.start(partial(self.audit, audited))
            found = served
        core.told(found, self.ask)
        if isinstance(found, Hit):
            self._land(flight, "answered", found)
            return found.response
        stale = found.stale
        if stale is not None and self._renews(stale):
            # Landed first: the renewal takes off on a flight of its own.
            self._land(flight, "answered", stale)
            self.port.start(self.renew)
            return stale.response
        if flight is not None:
            flight.found = found
        try:
            value = await self.call()
        except Exception as exc:
            if stale is None or not _is_within(stale, self.terms.stale_if_error):
                raise
            core.tally.failed_open("function", self.ask.namespace, exc, core.clock())
            return stale.response
        if (self.admit is None or self.admit(value)) and await fill(
            self.port, found, value, self.terms
        ):
            self._land(flight, "filled", None)
        return value

    def _calls_now(self, found: Hit | Miss) -> TypeGuard[Miss]:
        """Whether the caller has to wait for a call."""
        if isinstance(found, Hit) or self._served_meanwhile(found) is not None:
            return False
        return found.stale is None or not self._renews(found.stale)

    def _renews(self, stale: Hit) -> bool:
        return self.port.has_crew and _is_within(stale, self.terms.stale_for)

    def _served_meanwhile(self, miss: Miss) -> Hit | None:
        """The hit that an audit holds back, where the audit can be done in the background."""
        if miss.reason != "audited" or not self.port.has_crew or miss.trial.decision is not None:
            return None
        return miss.would_serve

    async def audit(self, miss: Miss) -> None:
        """Call, and compare the answer with the hit that was served; nobody waits for this."""
        core, ask = self.port.core, self.ask
        try:
            value = await self.call()
            if self.admit is None or self.admit(value):
                await fill(self.port, miss, value, self.terms)
            else:
                await learn(self.port, miss.trial, ask, value, kept=False)
        except Exception as exc:
            core.tally.failed_open("audit", ask.namespace, exc, core.clock())

    async def renew(self) -> None:
        """Call and overwrite, unless somebody is at it or was just now; nobody waits for this."""
        core, ask = self.port.core, self.ask
        # Not the flights of callers: those who ask meanwhile are served stale, not held up.
        flight, leads = core.renewals.board(ask.identity, may_wait=False)
        if flight is None or not leads:
            return
        try:
            with core.renewals.leading(flight):
                if isinstance(await known(self.port, ask), Hit):
                    return
                value = await self.call()
                miss = core.miss(ask, "stale")
                if (self.admit is None or self.admit(value)) and await fill(
                    self.port, miss, value, self.terms
                ):
                    core.renewals.land(flight, "filled")
        except Exception as exc:
            core.tally.failed_open("refresh", ask.namespace, exc, core.clock())

    def _land(self, flight: Flight | None, ending: Ending, found: Hit | None) -> None:
        if flight is not None:
            self.port.core.flights.land(flight, ending, found)


def _is_within(stale: Hit, window: float) -> bool:
    return stale.ttl_seconds is not None and -stale.ttl_seconds < window
