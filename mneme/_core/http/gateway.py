"""
What middlewares and transports do between a request and its response: ask, follow, keep.

The steps are the flow's, over a port: async shells await them, sync shells drive them.
Nothing here may turn a request that the application would answer into an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias

from mneme import context
from mneme._core import flow
from mneme._core.core import Core
from mneme._core.flights import Flight
from mneme._core.freshness import as_seconds
from mneme._core.http.exchange import (
    ANSWERED_OR_REFUSED,
    Forward,
    Refused,
    forward_of,
    is_of_one,
    limits_of,
    says,
    unkeyed,
    wants_fresh,
)
from mneme._core.http.known import Known, Varying, fingerprint_of
from mneme._core.http.namespaces import Namespace, check_namespace_setting
from mneme._core.http.questions import Questions
from mneme._core.http.recorded import Followed, Recorded
from mneme._core.http.recording import Recording
from mneme._core.http.relay import Lead, Relay
from mneme._core.http.request import Request
from mneme._core.http.responses import StoredResponse, has_other_form
from mneme._core.http.routes import Route, Routes
from mneme._core.keeper import DEFAULT_NAMESPACE
from mneme._core.keys import (
    Ask,
    NoStableForm,
    Unaskable,
)
from mneme._core.settings import check_count
from mneme.errors import NamespaceRequiredError
from mneme.records import Hit, Identity, Miss, Terms

__all__ = ["Gateway", "Outcome"]


class Port(flow.Port, Protocol):
    """As the flow's, and how to wait for a response that another request is getting."""

    async def woken(
        self,
        join: Callable[[Callable[[], object]], bool],
        leave: Callable[[Callable[[], object]], object],
    ) -> None: ...


NOT_RECORDED = ("bypass", "embedder_failed")
"""Misses that are not filled: an embedder that is down would be waited for a second time."""


Outcome: TypeAlias = Hit | Recorded | Followed | Refused | Forward
"""A stored answer, a recording to fill, another's answer to pass on, or why none of these."""


def anybody(place: object) -> bool:
    """Whom to follow where it does not matter where the leader runs."""
    return True


class Gateway:
    """One mounted cache: its routes, and which request fields their responses vary by."""

    def __init__(
        self,
        core: Core,
        routes: Mapping[Any, Any],
        *,
        namespace: Namespace,
        shared: bool,
        ttl: Any,
        threshold: float | None,
        by_host: bool,
        max_request_bytes: int,
        max_response_bytes: int | None,
        debug: bool,
    ) -> None:
        """
        Raises:
            ValueError: a setting that makes no sense; the message names it.
        """
        if namespace is not None:
            check_namespace_setting(namespace)
        limit = core.settings.max_response_bytes
        if max_response_bytes is not None:
            limit = min(limit, check_count(max_response_bytes, "max_response_bytes"))
        self.core = core
        self.namespace = namespace
        self._max_request_bytes = check_count(max_request_bytes, "max_request_bytes")
        self._max_response_bytes = limit
        self._questions = Questions(core, by_host=by_host)
        self._routes = Routes(routes, ttl=ttl, threshold=threshold, shared=shared)
        self._known = Known()
        self._varying = Varying()
        self.debug = debug

    def find(self, method: str, path: str) -> Route | Forward | None:
        """The route, why not, or None for a path that is not the cache's affair."""
        return self._routes.find(method, path)

    def request_limit(self, route: Route) -> int:
        """How many bytes of a request's body are read to see what it asks."""
        own = route.max_request_bytes
        return self._max_request_bytes if own is None else own

    def left_out(self, why: Exception, *, is_routed: bool) -> None:
        """Count a request that has no namespace, unless it had no use for one."""
        if is_routed or not isinstance(why, NamespaceRequiredError):
            self.failed("namespace resolver", why)

    def failed(self, part: str, why: BaseException) -> None:
        """Count and log what went wrong, and go on without the cache."""
        name = context.current_namespace.get() or DEFAULT_NAMESPACE
        self.core.tally.failed_open(part, name, why, self.core.clock())

    def fingerprint(self, route: Route, *parts: Any) -> bytes | None:
        """A digest of the parts of a request; None where it does not say all of the question."""
        return fingerprint_of(route, context.current_namespace.get(), *parts)

    def recall(self, fingerprint: bytes) -> Hit | None:
        """The exact layer's answer to what was asked in just these bytes before, if it has one."""
        asks = self._known.get(fingerprint, self._varying)
        return self.core.at_hand(*asks) if asks else None

    def passed_by(self, why: Literal["bypass", "uncacheable"] = "bypass") -> Forward:
        """Tell hooks of a request on a route that is not looked up: not wanted, or no question."""
        name = context.current_namespace.get() or DEFAULT_NAMESPACE
        self.core.tally.miss(Miss(why, name))
        return "bypass"

    async def look(
        self,
        port: Port,
        request: Request,
        route: Route,
        *,
        place: object = None,
        may_follow: Callable[[object], bool] = anybody,
        fingerprint: bytes | None = None,
    ) -> Outcome:
        """
        The stored answer, that of an equal request on its way, a recording to fill, or why
        the cache stays out of it.

        `may_follow` is asked about the `place` that a leader gave. By its `fingerprint`,
        `recall` finds a question that was answered.
        """
        heeds = route.heeds_client
        fields = self._varying.fields(route)
        try:
            ask = self._questions.of(request, route, fields)
            bare = self._questions.bare(request, route) if fields else None
        except (Unaskable, NoStableForm):
            return self.passed_by("uncacheable")
        except Exception as exc:
            # The developer's extractor, or no namespace where one is required.
            self.failed("extraction of the prompt", exc)
            return "bypass"
        if ask is None:
            return self.passed_by("uncacheable")
        asked = _Asked(ask, request, route, fields, bare)
        try:
            if context.current_mode.get() == "serve":
                if wants_fresh(request.headers, heeds_client=heeds):
                    with context.refresh():
                        return await self._alone(port, asked)
                ask.limits = limits_of(request.headers, heeds_client=heeds)
                if request.method != "HEAD" and not asked.may_refuse and ask.limits is None:
                    found = await self._together(port, asked, place, may_follow)
                    if fingerprint is not None and isinstance(found, Hit):
                        self._known.add(fingerprint, self._questions.all(ask), route, fields)
                    return found
            return await self._alone(port, asked)
        except Exception as exc:
            self.failed("lookup", exc)
            return "bypass"

    async def _alone(self, port: Port, asked: _Asked, vector: Any = None) -> Outcome:
        found = await flow.look(port, asked.ask, vector, also=self._questions.beside(asked.ask))
        return self._outcome(asked, found)

    async def _together(
        self, port: Port, asked: _Asked, place: object, may_follow: Callable[[object], bool]
    ) -> Outcome:
        """As `_alone`, unless an equal request is on its way: then its answer."""
        core, ask = self.core, asked.ask
        if core.judges.of(ask).shadows:
            return await self._alone(port, asked)
        # Chunks are passed on as they come, so only to those who ask for the same form.
        asks = self._questions.all(ask)
        identity = asks[-1].identity
        while True:
            if (hit := core.at_hand(*asks)) is not None:
                return hit
            relay = Relay(self._max_response_bytes, place)
            flight, leads = core.flights.board(identity, may_wait=port.may_wait, shared=relay)
            if flight is not None and leads:
                return await self._lead(port, asked, Lead(core.flights, flight, relay))
            if flight is None or not isinstance(flight.shared, Relay):
                return await self._alone(port, asked)
            if not may_follow(flight.shared.place):
                return await self._alone(port, asked)
            found = await self._follow(port, ask, flight, flight.shared)
            if found is not None:
                return found
            if flight.ending != "cancelled":
                vector = flight.found.vector if isinstance(flight.found, Miss) else None
                return await self._alone(port, asked, vector)

    async def _lead(self, port: Port, asked: _Asked, lead: Lead) -> Outcome:
        try:
            found = await flow.look(port, asked.ask, also=self._questions.beside(asked.ask))
        except Exception:
            lead.cut()
            raise
        except BaseException:
            lead.cut("cancelled")
            raise
        outcome = self._outcome(asked, found, lead)
        if isinstance(found, Hit):
            lead.land("answered", found)
        elif isinstance(outcome, Recorded):
            lead.flight.found = found
        else:
            lead.cut()
        return outcome

    async def _follow(
        self, port: Port, ask: Ask, flight: Flight, relay: Relay
    ) -> Hit | Followed | None:
        """The answer of the request that leads `flight`; None if it has none for others."""
        core, flights = self.core, self.core.flights
        reader = relay.reader()
        if reader is None:
            return None

        def join(wake: Callable[[], object]) -> bool:
            if relay.join_head(reader, wake):
                if flights.join(flight, wake):
                    return True
                relay.leave(reader, wake)
            return False

        def leave(wake: Callable[[], object]) -> None:
            relay.leave(reader, wake)
            flights.leave(flight, wake)

        found: Hit | Followed | None = None
        try:
            await port.woken(join, leave)
            if reader.head is not None and (reader.chunks or reader.state != "cut"):
                found = Followed.live(relay, reader, reader.head)
            elif flight.ending == "answered" and isinstance(flight.found, Hit):
                found = flight.found
            elif flight.ending == "filled" and (stored := core.recall(ask)) is not None:
                found = Followed.stored(stored.response)
        finally:
            if not isinstance(found, Followed) or found.relay is None:
                relay.drop(reader)
        if found is not None:
            core.told(found if isinstance(found, Hit) else _collapsed(ask, found), ask)
        return found

    async def next_chunk(self, port: Port, followed: Followed) -> bytes | None:
        """
        What goes out next of a response that is followed; None at its end.

        Raises:
            CutOff: the response broke off.
        """
        reader, relay = followed.reader, followed.relay
        while True:
            if (chunk := reader.take()) is not None:
                return chunk
            if relay is None or reader.state == "ended":
                return None
            await port.woken(partial(relay.join, reader), partial(relay.leave, reader))

    def _outcome(self, asked: _Asked, found: Hit | Miss, lead: Lead | None = None) -> Outcome:
        if isinstance(found, Hit):
            return found
        if asked.may_refuse:
            return Refused()
        if found.reason in NOT_RECORDED or asked.request.method == "HEAD":
            return forward_of(found)
        recording = Recording(
            asked.route, max_bytes=self._max_response_bytes, is_for_one=self._is_of_one(asked)
        )
        forward = forward_of(found)
        if forward == "miss" and asked.bare is not None and self._varying.has(asked.bare):
            forward = "vary-miss"
        return Recorded(
            found, forward, asked.request, asked.route, asked.fields, recording, lead, self.debug
        )

    def _is_of_one(self, asked: _Asked) -> bool:
        """Whether none but this requester finds what is stored for him."""
        route = asked.route
        has_own = route.private_namespace and asked.ask.namespace != DEFAULT_NAMESPACE
        return is_of_one(asked.request, route) or (has_own and not route.shared)

    async def keep(self, port: Port, recorded: Recorded) -> bool:
        """Store the response that was recorded, if it may be; never an error of the client's."""
        is_kept = False
        recorded.end()
        try:
            response = recorded.recording.finish()
            if response is not None and (miss := self._addressed(recorded)) is not None:
                ask = miss.ask
                beside = self._questions.beside(ask)
                if beside and not has_other_form(response, ask.codec.form):
                    miss = replace(miss, ask=beside)
                is_kept = await flow.fill(port, miss, response, Terms(ttl=self._ttl(recorded)))
                recorded.is_stored = is_kept
                if is_kept and self._varying.fields(recorded.route):
                    bare = self._questions.bare(recorded.request, recorded.route, miss.namespace)
                    self._varying.note(bare)
        except Exception as exc:
            self.failed("storing of a response", exc)
        finally:
            if recorded.lead is not None:
                recorded.lead.land("filled" if is_kept else "failed")
        return is_kept

    def _addressed(self, recorded: Recorded) -> Miss | None:
        """The miss to fill, its question told apart by all that the response varies by."""
        request, route = recorded.request, recorded.route
        miss: Miss = recorded.miss
        named = unkeyed(recorded.recording.vary, request, route, recorded.fields)
        if not named:
            return miss
        learned = self._varying.learn(route, named)
        ask = self._questions.of(request, route, learned, miss.namespace) if learned else None
        return None if ask is None else replace(miss, ask=ask)

    def _ttl(self, recorded: Recorded) -> float | None:
        ttl = as_seconds(recorded.route.ttl, "ttl")
        if ttl is None:
            ttl = self.core.settings.default_ttl
        spans = [span for span in (ttl, recorded.recording.ttl) if span is not None]
        return min(spans) if spans else None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, and the question that it asks."""

    ask: Ask
    request: Request
    route: Route
    fields: frozenset[str]
    bare: Identity | None
    """The question without `fields`, if there are any."""

    @property
    def may_refuse(self) -> bool:
        """Whether the client would rather have no answer than one from the application."""
        heeds = self.route.heeds_client
        return says(self.request.headers, ANSWERED_OR_REFUSED, heeds_client=heeds)


def _collapsed(ask: Ask, followed: Followed) -> Hit:
    """What counters hear of a request that cost no call."""
    response = StoredResponse(followed.status, followed.headers, ())
    return Hit(response, 1.0, 1.0, 0.0, "exact", ask.namespace, {}, ask.prompt)
