"""What is remembered of requests between them: the questions they ask, and what answers vary by."""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mneme._core.http.routes import Route
from mneme._core.keys import Ask, digest
from mneme.records import Identity

__all__ = ["NO_FIELDS", "Known", "Varying", "fingerprint_of"]

PURE = ("mneme.prompts",)
"""Where extractors come from that look at nothing but their request."""

MAX_KNOWN = 1_024
MAX_KNOWN_PROMPT = 4_096
"""Questions that are known by the bytes of their request: so many, of so many characters."""

MAX_FIELDS = 16
MAX_VARYING = 4_096
NO_FIELDS: frozenset[str] = frozenset()


def fingerprint_of(route: Route, namespace: str | None, *parts: Any) -> bytes | None:
    """
    A digest of the parts of a request as they came, bytes and texts in lists and tuples; None
    where equal requests may still be different questions.
    """
    if getattr(route.extract, "__module__", None) not in PURE:
        return None
    # A digest, because the parts hold credentials, which are not kept. The older format is
    # told by values alone; in the later ones it matters how often each is in use.
    try:
        return digest(marshal.dumps((id(route), namespace, *parts), 2))
    except ValueError:
        # A server whose lists are of types of its own.
        return None


class Known:
    """Questions by the fingerprints of the requests that asked them."""

    def __init__(self) -> None:
        self._found: dict[bytes, _Found] = {}

    def add(
        self, fingerprint: bytes, asks: tuple[Ask, ...], route: Route, fields: frozenset[str]
    ) -> None:
        """`asks` are the question, and the same where answers of one form alone are kept."""
        if len(asks[0].prompt) <= MAX_KNOWN_PROMPT:
            if len(self._found) >= MAX_KNOWN:
                self._found.clear()
            self._found[fingerprint] = _Found(asks, route, fields)

    def get(self, fingerprint: bytes, varying: Varying) -> tuple[Ask, ...]:
        """What was added, unless more is known by now of what its route's answers vary by."""
        found = self._found.get(fingerprint)
        if found is None or found.fields is not varying.fields(found.route):
            return ()
        return found.asks


@dataclass(frozen=True, slots=True)
class _Found:
    asks: tuple[Ask, ...]
    route: Route
    fields: frozenset[str]


class Varying:
    """
    The request fields that responses have named in ``Vary``, by route, and which questions had
    such a response.

    It is lost with the process: then the first response names its fields again.
    """

    def __init__(self) -> None:
        # Assigned whole, so it needs no lock.
        self._fields: Mapping[Route, frozenset[str]] = {}
        self._asked: dict[Identity, None] = {}

    def fields(self, route: Route) -> frozenset[str]:
        return self._fields.get(route, NO_FIELDS)

    def learn(self, route: Route, named: frozenset[str]) -> frozenset[str] | None:
        """All fields of `route` by now; None if they are too many to tell answers apart by."""
        fields = self.fields(route) | named
        if len(fields) > MAX_FIELDS:
            return None
        self._fields = {**self._fields, route: fields}
        return fields

    def note(self, bare: Identity | None) -> None:
        """An answer to `bare`, the question without those fields, has been stored."""
        if bare is None:
            return
        if len(self._asked) >= MAX_VARYING:
            self._asked = {}
        self._asked[bare] = None

    def has(self, bare: Identity) -> bool:
        return bare in self._asked
