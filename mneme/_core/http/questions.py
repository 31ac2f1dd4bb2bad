"""A request as a question to one cache, and the neighbours of that question."""

from __future__ import annotations

from dataclasses import asdict, replace

from mneme._core.core import Core
from mneme._core.http.exchange import question
from mneme._core.http.known import NO_FIELDS
from mneme._core.http.request import Request
from mneme._core.http.responses import ResponseCodec
from mneme._core.http.rewriting import alone, turns
from mneme._core.http.routes import Route
from mneme._core.keys import Ask, Rewriting, partition_of
from mneme.records import Identity

__all__ = ["Questions"]


class Questions:
    """What requests ask a cache."""

    def __init__(self, core: Core, *, by_host: bool) -> None:
        self._core = core
        self._by_host = by_host

    def of(
        self, request: Request, route: Route, fields: frozenset[str], namespace: str | None = None
    ) -> Ask | None:
        """
        The question, told apart by `fields` beside the usual ones; None if it is none.

        Raises:
            Exception: what `question` and `Core.ask` raise.
        """
        # The one that the shell has opened for this request, or that was open around it.
        name = self._core.namespace(namespace)
        found = question(request, route, name, fields=fields, by_host=self._by_host)
        if found is None:
            return None
        ask = self._core.ask(
            found.prompt,
            name,
            partition=found.partition,
            codec=ResponseCodec(found.form, may_convert=found.may_convert),
            threshold=route.threshold,
            semantic=found.semantic,
        )
        if route.rewrite is not None and found.semantic and (said := turns(request)) is not None:
            once = replace(route, rewrite=None)

            def standing_alone(text: str) -> Ask | None:
                return self.of(alone(request, text), once, fields, name)

            ask.rewriting = Rewriting(route.rewrite, said, standing_alone)
        return ask

    def all(self, ask: Ask) -> tuple[Ask, ...]:
        """`ask`, and the question beside it if there is one."""
        beside = self.beside(ask)
        return (ask,) if beside is None else (ask, beside)

    def beside(self, ask: Ask) -> Ask | None:
        """The same question where answers are kept that have no form but the one asked for."""
        codec = ask.codec
        if not isinstance(codec, ResponseCodec) or codec.form is None:
            return None
        beside = self._core.ask(
            ask.prompt,
            ask.namespace,
            partition=partition_of(ask.namespace, "form", ask.partition, asdict(codec.form)),
            codec=codec,
            threshold=ask.threshold,
            semantic=ask.semantic,
        )
        beside.limits = ask.limits
        return beside

    def bare(self, request: Request, route: Route, namespace: str | None = None) -> Identity | None:
        """The question without the fields that were learned from responses."""
        ask = self.of(request, route, NO_FIELDS, namespace)
        return None if ask is None else ask.identity
