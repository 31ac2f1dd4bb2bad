"""Header fields: what they say of the caller, of caching, and which may be sent again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

__all__ = ["Fields", "directives", "is_personal", "is_streamed", "listed", "replayable",
           "seconds", "tells_one", "tells_who", "values_of", "without_way"]  # fmt: skip

Fields: TypeAlias = tuple[tuple[str, str], ...]
"""Header fields in their order, duplicates kept; values as Latin-1 text."""

# The parts of a name that speak of who is asking. Too many of them cost hits, too few would
# cost a secret.
_TELLING = frozenset((
    "accesstoken", "account", "apikey", "apitoken", "auth", "authentication", "authorization",
    "authtoken", "bearer", "cert", "cookie", "credential", "credentials", "customer", "dn",
    "email", "identity", "idtoken", "jwt", "key", "login", "oidc", "org", "organization", "passwd",
    "password", "principal", "saml", "secret", "session", "sessionid", "sid", "signature", "team",
    "tenant", "token", "uid", "user", "userid", "userinfo", "username", "usertoken", "workspace",
))  # fmt: skip
# Of these there may be many people.
_OF_MANY = frozenset((
    "account", "customer", "org", "organization", "team", "tenant", "workspace",
))  # fmt: skip
# In these names such a part says nothing about the caller. An idempotency key differs on each
# call, and clients send it with every POST.
_INNOCENT = frozenset(("user-agent", "sec-fetch-user", "idempotency-key", "x-idempotency-key"))
_SEPARATORS = re.compile(r"[-_]")

PERSONAL = frozenset(("set-cookie", "set-cookie2", "clear-site-data", "content-range"))
"""Fields of a response that is for this client alone."""

_OF_THE_WAY = frozenset((
    "__cf_bm", "__cflb", "__cfruid", "_cfuvid", "awsalb", "awsalbcors", "awsalbtg",
    "awsalbtgcors",
))  # fmt: skip
"""
Cookies by which content networks and load balancers know a connection. They say nothing of
the answer, change by the hour, and come with nearly every response of the large providers.
"""

# "Intermediaries MUST parse a received Connection header field before a message is forwarded
# and, for each connection-option in this field, remove any header or trailer field(s) from the
# message with the same name as the connection-option" (RFC 9110 §7.6.1); these go unnamed too.
_HOP_BY_HOP = frozenset((
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
    "upgrade",
))  # fmt: skip
# What was true of that one exchange. An ETag is that of another question's answer.
_OF_ONE_EXCHANGE = frozenset((
    "age", "alt-svc", "cf-ray", "content-length", "date", "etag", "last-modified",
    "openai-processing-ms", "request-id", "retry-after", "server", "server-timing",
    "traceparent", "tracestate", "x-amz-cf-id", "x-amzn-requestid", "x-amzn-trace-id",
    "x-cloud-trace-context", "x-correlation-id", "x-process-time", "x-request-id",
    "x-response-time", "x-runtime", "x-trace-id",
))  # fmt: skip
_PREFIXES = ("proxy-", "ratelimit", "x-ratelimit", "x-rate-limit", "anthropic-ratelimit")


def values_of(headers: Fields, wanted: str) -> list[str]:
    """The values of every field called `wanted` (in lower case), in order."""
    return [value for name, value in headers if name.lower() == wanted]


def listed(headers: Fields, wanted: str) -> frozenset[str]:
    """The members of a field that lists names, in lower case."""
    members = ",".join(values_of(headers, wanted)).lower().split(",")
    return frozenset(member.strip() for member in members) - {""}


def replayable(headers: Fields) -> Fields:
    """The fields of a response that may be sent again, in order, duplicates kept."""
    dropped = _HOP_BY_HOP | _OF_ONE_EXCHANGE | PERSONAL | listed(headers, "connection")
    return tuple(
        (name, value)
        for name, value in headers
        if name.lower() not in dropped and not name.lower().startswith(_PREFIXES)
    )


def is_personal(headers: Fields) -> bool:
    """Whether a response is for its client alone: a cookie, part of a representation."""
    return any(
        name.lower() in PERSONAL
        and not (name.lower() == "set-cookie" and _cookie_name(value) in _OF_THE_WAY)
        for name, value in headers
    )


def without_way(headers: Fields) -> Fields:
    """The fields of a request without the cookies that only speak of the way it took."""
    if not any(name == "cookie" for name, _ in headers):
        return headers
    kept = []
    for name, value in headers:
        if name == "cookie":
            cookies = [one for one in value.split(";") if _cookie_name(one) not in _OF_THE_WAY]
            value = ";".join(cookies).strip()
        if name != "cookie" or value:
            kept.append((name, value))
    return tuple(kept)


def _cookie_name(cookie: str) -> str:
    return cookie.partition("=")[0].strip().lower()


def is_streamed(headers: Fields) -> bool:
    """
    Whether the parts of a response are of use before its end: its length is not told, and it
    is no JSON, which nobody reads in parts.
    """
    media_type = next(iter(values_of(headers, "content-type")), "").partition(";")[0].strip()
    is_json = media_type.lower() == "application/json" or media_type.lower().endswith("+json")
    return not (is_json or values_of(headers, "content-length"))


def tells_who(name: str) -> bool:
    """Whether a field of this name, in lower case, may say who is asking."""
    return name not in _INNOCENT and not _TELLING.isdisjoint(_SEPARATORS.split(name))


def tells_one(name: str) -> bool:
    """As `tells_who`, and not merely of what group the caller is."""
    return name not in _INNOCENT and not (_TELLING - _OF_MANY).isdisjoint(_SEPARATORS.split(name))


_DIRECTIVE = re.compile(
    r'\s*(?:(?P<name>[^\s,="]+)(?:\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,"]*)))?)?'
    r"\s*(?:,|$)"
)


def directives(values: list[str]) -> Mapping[str, str | None] | None:
    """
    The directives of ``Cache-Control`` fields, names in lower case (RFC 9111 §5.2).

    None where they cannot be read, so that the caller takes the safest meaning. Of a
    directive that is given twice the first counts, as §4.2.1 allows.
    """
    found: dict[str, str | None] = {}
    text = ",".join(values)
    at = 0
    while at < len(text):
        one = _DIRECTIVE.match(text, at)
        if one is None or one.end() == at:
            return None
        at = one.end()
        if one["name"] is not None:
            value = one["quoted"] if one["quoted"] is not None else one["bare"]
            found.setdefault(one["name"].lower(), value)
    return found


def seconds(value: str | None) -> float | None:
    """A directive's span; None where there is none, or where it cannot be read."""
    if value is None or not (value.isascii() and value.isdigit() and len(value) < 16):
        return None
    return float(value)
