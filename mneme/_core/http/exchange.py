"""
The cache's side of an HTTP exchange, decided without I/O, clock or lock.

A POST answered from a cache is not RFC 9111 caching: mneme answers as part of the origin
application, on routes that the developer opted in. It borrows the RFC's fields as the means
by which a client, and the application behind it, say what they want.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mneme._core.freshness import Limits
from mneme._core.http.fields import (
    Fields,
    directives,
    listed,
    seconds,
    tells_one,
    tells_who,
    values_of,
)
from mneme._core.http.form import Form
from mneme._core.http.request import NotJSON, Request, credentials
from mneme._core.http.responses import StoredResponse
from mneme._core.http.routes import Route
from mneme._core.keys import key_of, normalize, partition_of
from mneme._core.messages import Asked
from mneme.records import Hit, Miss, Partition

__all__ = [
    "ANSWERED_OR_REFUSED",
    "COLLAPSED",
    "OBJECTING",
    "Forward",
    "Question",
    "Refused",
    "cache_status",
    "forward_of",
    "hit_fields",
    "is_objected_to",
    "is_of_one",
    "limits_of",
    "miss_status",
    "question",
    "says",
    "unkeyed",
    "wants_fresh",
]

Forward = Literal["bypass", "method", "miss", "request", "stale", "vary-miss"]
"""Why a request went to the application (RFC 9211 §2.2)."""

KEYED = ("accept", "accept-language", "content-type", "origin")
"""Request fields that responses depend on so often that they need not say so."""

KEYED_PREFIXES = ("anthropic-", "openai-")

VALUE_TYPES = frozenset(("*/*", "application/json"))
STREAM_TYPES = frozenset(("application/x-ndjson", "text/event-stream"))

UNSEEN = "accept-encoding"
"""Not in the key: it is taken out of what the application sees, and answers are kept plain."""

CONDITIONS = ("range", "if-range", "if-match", "if-none-match", "if-modified-since",
              "if-unmodified-since")  # fmt: skip

COLLAPSED = "mneme; fwd=miss; collapsed"
"""What ``Cache-Status`` says of a request that was given another's response (RFC 9211 §2.6)."""

OBJECTING = (*CONDITIONS, "content-encoding", "cache-control")
"""Request fields that may keep the cache out; see `is_objected_to`."""

PROMPT = b"prompt"
"""Stands where the prompt was: no JSON and no text has a value of this type."""


# What a client says in Cache-Control, and what it gets. "The no-store request directive
# indicates that a cache MUST NOT store any part of either this request or any response to it"
# (RFC 9111 §5.2.1.5); nor is it answered from the cache here.
LEFT_ALONE = ("no-store",)

# "The no-cache request directive indicates that the client prefers a stored response not be
# used to satisfy the request without successful validation on the origin server" (§5.2.1.4).
ANSWERED_ANEW = "no-cache"

# "The max-age request directive indicates that the client prefers a response whose age is less
# than or equal to the specified number of seconds" (§5.2.1.1); "The min-fresh request directive
# indicates that the client prefers a response whose freshness lifetime is no less than its
# current age plus the specified time in seconds" (§5.2.1.3).
MAX_AGE, MIN_FRESH = "max-age", "min-fresh"

# "The no-transform request directive indicates that the client is asking for intermediaries to
# avoid transforming the content" (§5.2.1.6): no conversion between stream and value.
NOT_CONVERTED = "no-transform"

# "The only-if-cached request directive indicates that the client only wishes to obtain a stored
# response. Caches that honor this request directive SHOULD, upon receiving it, respond with
# either a stored response consistent with the other constraints of the request or a 504
# (Gateway Timeout) status code" (§5.2.1.7).
ANSWERED_OR_REFUSED = "only-if-cached"

# "The max-stale request directive indicates that the client will accept a response that has
# exceeded its freshness lifetime" (§5.2.1.2): it may, and here it never has to.


def is_objected_to(headers: Fields, *, heeds_client: bool = True) -> bool:
    """
    Whether a request is not for the cache, told by its fields alone.

    A condition or a range speaks of one representation, and a similar question's is another.
    `heeds_client` is False on a route whose developer ignores the directives of clients.
    """
    names = {name for name, _ in headers}
    if names.isdisjoint(OBJECTING):
        return False
    if not names.isdisjoint(CONDITIONS):
        return True
    values = {name: value.strip().lower() for name, value in headers}
    if values.get("content-encoding", "identity") not in ("", "identity"):
        return True
    said = _directives(headers) if heeds_client else {}
    return said is None or not said.keys().isdisjoint(LEFT_ALONE)


def wants_fresh(headers: Fields, *, heeds_client: bool = True) -> bool:
    """Whether the client will not have a stored answer, so that only a new one will do."""
    if not heeds_client:
        return False
    if not values_of(headers, "cache-control"):
        # "When the Cache-Control header field is not present in a request, caches MUST consider
        # the no-cache request pragma-directive as having the same effect as if 'Cache-Control:
        # no-cache' were present" (RFC 7234 §5.4, which RFC 9111 §5.4 deprecates).
        return any(name == "pragma" and "no-cache" in value.lower() for name, value in headers)
    said = _directives(headers)
    if said is None or ANSWERED_ANEW in said:
        return True
    spans = {name: seconds(said[name]) for name in (MAX_AGE, MIN_FRESH) if name in said}
    # A reload says `max-age=0`, and means it whatever the clock's grain.
    return None in spans.values() or spans.get(MAX_AGE) == 0


def limits_of(headers: Fields, *, heeds_client: bool = True) -> Limits | None:
    """How old an answer the client takes, and how long it must still be good; None: any."""
    if not heeds_client:
        return None
    said = _directives(headers) or {}
    oldest, left = seconds(said.get(MAX_AGE)), seconds(said.get(MIN_FRESH))
    if oldest is None and left is None:
        return None
    return Limits(math.inf if oldest is None else oldest, left or 0.0)


def says(headers: Fields, directive: str, *, heeds_client: bool = True) -> bool:
    """Whether the client's ``Cache-Control`` has `directive`."""
    return heeds_client and directive in (_directives(headers) or {})


def _directives(headers: Fields) -> Mapping[str, str | None] | None:
    return directives(values_of(headers, "cache-control"))


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks, the digest of who asks it and how, and the form it asks for."""

    prompt: str
    partition: Partition
    semantic: bool
    form: Form | None = None
    may_convert: bool = True


def question(
    request: Request, route: Route, namespace: str, *, fields: Iterable[str] = (), by_host: bool
) -> Question | None:
    """
    The request as a question to the cache; None if it is no call to cache.

    `fields` are the names of request fields that, beside the usual ones, the answer depends
    on. Credentials go into the digest and nowhere else.

    Raises:
        TypeError: the extractor gave something else than it may, or a rest of no stable form.
        Exception: whatever an extractor of the developer's own raises.
    """
    found = route.extract(request)
    if found is None:
        return None
    asked = _asked(found, request) if isinstance(found, str) else found
    if not isinstance(asked, Asked) or not isinstance(asked.prompt, str):
        raise TypeError(
            f"{route.extract!r} gave {type(found).__name__}. Nothing was looked up. "
            "An extractor returns Asked, text or None."
        )
    # Named even where it is absent: who has not learned of it yet must not find such an entry.
    learned = frozenset(fields)
    names = sorted(keyed_fields(request.headers, route, learned) - _told_by(asked.form, request))
    partition = partition_of(
        namespace,
        "http",
        # "The HEAD method is identical to GET except that the server MUST NOT send content in
        # the response" (RFC 9110 §9.3.2).
        "GET" if request.method == "HEAD" else request.method,
        [request.values("host"), request.values("x-forwarded-host")] if by_host else None,
        request.raw_path or request.path,
        [[name, values] for name in names if (values := request.values(name)) or name in learned],
        None if route.shared else credentials(request),
        asked.rest,
    )
    may_convert = not says(request.headers, NOT_CONVERTED, heeds_client=route.heeds_client)
    return Question(asked.prompt, partition, asked.semantic, asked.form, may_convert)


def _told_by(form: Form | None, request: Request) -> frozenset[str]:
    """``Accept`` where it says no more than the body does of the form that is asked for."""
    if form is None:
        return frozenset()
    types = {one.partition(";")[0].strip() for one in listed(request.headers, "accept")}
    # Some servers stream to whoever accepts a stream, whatever the body says.
    usual = VALUE_TYPES | STREAM_TYPES if form.streams else VALUE_TYPES
    return frozenset(("accept",)) if types <= usual else frozenset()


def keyed_fields(headers: Fields, route: Route, more: Iterable[str]) -> set[str]:
    """The names of the request fields that are part of the question's digest."""
    named = {name.lower() for name in (*KEYED, *route.vary, *more)}
    named.update(name for name, _ in headers if name.startswith(KEYED_PREFIXES))
    return named - {UNSEEN}


def unkeyed(
    vary: Iterable[str], request: Request, route: Route, more: Iterable[str]
) -> frozenset[str]:
    """Those names in a response's ``Vary`` that the question's digest knows nothing of."""
    known = keyed_fields(request.headers, route, more) | {UNSEEN}
    return frozenset(
        name for name in vary if name not in known and (route.shared or not tells_who(name))
    )


def is_of_one(request: Request, route: Route) -> bool:
    """Whether the digest of this request keeps its answers for one requester alone."""
    return not route.shared and (
        bool(request.caller) or any(tells_one(name) for name, _ in request.headers)
    )


def _asked(prompt: str, request: Request) -> Asked:
    """
    The rest of a request of which only the prompt is known.

    The prompt may be left out of it where it stands in one place only. In none or in several
    it cannot be told what else the text means there, and only an equal request will do.
    """
    try:
        body: Any = ["json", request.json()]
    except NotJSON:
        body = ["text", request.body.decode("utf-8", "surrogateescape")]
    places: list[object] = []
    body[1] = _without(body[1], prompt, places)
    query: list[object] = []
    for name, value, raw in request.parameters():
        query.append([name, _without(value, prompt, places)] if value == prompt else raw)
    if len(places) == 1:
        return Asked(prompt, [query, body])
    return Asked(prompt, [request.query, request.body], semantic=False)


def _without(value: Any, prompt: str, places: list[object]) -> Any:
    if isinstance(value, str) and value == prompt:
        places.append(value)
        return PROMPT
    if isinstance(value, dict):
        return {name: _without(item, prompt, places) for name, item in value.items()}
    if isinstance(value, list):
        return [_without(item, prompt, places) for item in value]
    return value


# What a response says of the cache


def forward_of(miss: Miss) -> Forward:
    """Why a request that missed goes to the application."""
    if miss.reason == "bypass":
        return "bypass"
    # "The cache was able to select a fresh response for the request, but the request's
    # semantics (...) did not allow its use" (RFC 9211 §2.2).
    if miss.reason in ("refresh", "too_old"):
        return "request"
    return "stale" if miss.reason in ("stale", "expired") else "miss"


@dataclass(frozen=True, slots=True)
class Refused:
    """What a client gets who wants a stored answer or none, where there is none."""

    # A type, because a WSGI checker wants one for whatever may have a body.
    response = StoredResponse(504, (("content-type", "text/plain"), ("content-length", "0")), ())


def cache_status(outcome: Hit | Refused | Forward, *, debug: bool = False) -> str:
    """
    The member that mneme appends to ``Cache-Status``.

    ``hit`` "indicates that the request was satisfied by the cache; that is, it was not
    forwarded, and the response was obtained from the cache" (RFC 9211 §2.1), ``fwd`` "indicates
    that the request went forward towards the origin" and why (§2.2), ``ttl`` "the response's
    remaining freshness lifetime" in seconds (§2.4). Key and similarity speak of other people's
    questions, so they are told to who debugs alone.
    """
    if isinstance(outcome, Refused):
        return f"mneme; detail={ANSWERED_OR_REFUSED}"
    if not isinstance(outcome, Hit):
        return f"mneme; fwd={outcome}"
    ttl = "" if outcome.ttl_seconds is None else f" ttl={int(outcome.ttl_seconds)};"
    if not debug:
        return f"mneme; hit;{ttl} detail={outcome.layer}"
    key = key_of(normalize(outcome.prompt)).hex()
    detail = f"{outcome.layer}, similarity {outcome.similarity:.4f}"
    return f'mneme; hit;{ttl} key="{key}"; detail="{detail}"'


def miss_status(miss: Miss, forward: Forward, *, is_stored: bool, debug: bool) -> str:
    """
    The same for a request that missed.

    ``stored`` "indicates whether the cache stored the response" (RFC 9211 §2.5): a middleware
    learns that when the body has ended, long after the header; a transport that has read the
    whole body knows.
    """
    said = cache_status(forward) + ("; stored" if is_stored else "")
    if not debug:
        return said
    near = miss.nearest_similarity
    detail = miss.reason if near is None else f"{miss.reason}, similarity {near:.4f}"
    return f'{said}; key="{key_of(normalize(miss.ask.prompt)).hex()}"; detail="{detail}"'


def hit_fields(outcome: Hit | Refused, *, debug: bool = False) -> Fields:
    """The fields that a hit has beside those stored: its age and where it came from."""
    told = ("cache-status", cache_status(outcome, debug=debug))
    if isinstance(outcome, Refused):
        return (told,)
    # "The 'Age' response header field conveys the sender's estimate of the time since the
    # response was generated or successfully validated at the origin server" (RFC 9111 §5.1).
    return ("age", str(int(outcome.age_seconds))), told
