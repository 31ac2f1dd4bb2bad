"""
Requests that nobody would write by hand, from a seeded generator; and what an application says.

Every request is a value, so that it can be sent to the bare application and to the same behind
a cache, under ASGI and under WSGI.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from support.raw import Case, Headers

__all__ = ["CREDENTIALS", "PASSING", "TENANT", "Reply", "Seen", "again", "kind_of", "marks",
           "reply_to", "structured", "torn"]  # fmt: skip

CREDENTIALS = (b"authorization", b"cookie", b"x-api-key", b"api-key", b"x-auth-token",
               b"x-user-id", b"x-session-token", b"proxy-authorization")  # fmt: skip
TENANT = b"x-tenant"
HOSTS = (b"host", b"x-forwarded-host")

APIS = ("field", "find", "chat", "responses", "messages", "ollama", "generate", "custom")
KINDS = ("plain", "plain", "plain", "plain", "text", "events", "lines", "created", "error",
         "cookie", "private", "vary", "everything", "raises", "late", "empty", "odd")  # fmt: skip


# What the application makes of a request


@dataclass(frozen=True)
class Seen:
    """What of a request reached the application, and what the application may go by."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.headers if known == name]

    @property
    def owner(self) -> str:
        """A mark of who asks: nobody else may ever read it."""
        who = [(name, self.values(name)) for name in (TENANT, *CREDENTIALS, *HOSTS)]
        return f"@{sha256(repr(who).encode()).hexdigest()}@"

    @property
    def digest(self) -> str:
        # A cache takes off what it undoes itself.
        undone = (b"accept-encoding", b"content-length", b"transfer-encoding")
        kept = sorted(pair for pair in self.headers if pair[0] not in undone)
        all_of_it = (self.method, self.path, self.query, kept, self.body)
        return sha256(repr(all_of_it).encode()).hexdigest()[:8]


def marks(body: bytes) -> set[str]:
    """The marks of all those for whom a body was made."""
    return {f"@{part.decode()}@" for part in body.split(b"@") if len(part) == 64}


@dataclass(frozen=True)
class Reply:
    """A response, or the error that is raised instead: after the head if there is a status."""

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    chunks: tuple[bytes, ...] = ()
    error: str | None = None


JSON = ("content-type", "application/json")


PASSING = ("error", "created", "cookie", "everything", "raises", "late", "odd")
"""Kinds of answers that must not be stored; `private` ones may be, for who asked alone."""


def kind_of(path: str) -> str:
    kind = path.strip("/").partition("/")[2]
    return kind if kind in KINDS else "plain"


def reply_to(seen: Seen) -> Reply:
    """The one answer to a request: its kind told by the path, its text by all there is."""
    kind = kind_of(seen.path)
    if seen.method not in ("GET", "HEAD", "POST", "QUERY"):
        return Reply(405, (JSON, ("allow", "GET, POST")), (b"{}",))
    if kind == "raises":
        return Reply(error=f"raised for {seen.digest}")
    if not seen.path.startswith("/find"):
        try:
            json.loads(seen.body)
        except (ValueError, RecursionError):
            return Reply(400, (JSON,), (b'{"error": "no JSON"}',))
    return _of_kind(kind, seen)


def _of_kind(kind: str, seen: Seen) -> Reply:
    text = f"{seen.owner} {seen.digest}"
    value = json.dumps({"choices": [{"finish_reason": "stop", "message": {"content": text}}]})
    chunks = (value[:20].encode(), b"", value[20:].encode())
    more: dict[str, tuple[tuple[str, str], ...]] = {
        "cookie": (("set-cookie", "a=b"), ("set-cookie", "c=d")),
        "private": (("cache-control", "private, max-age=60"),),
        "vary": (("vary", "X-Plan"),),
        "everything": (("vary", "*"),),
        "odd": (("cache-control", 'max-age="x, no='), ("cache-status", "edge; hit"), ("age", "x"),
                ("connection", "x-gone"), ("x-gone", "1"), ("expires", "soon")),
    }  # fmt: skip
    if kind == "text":
        return Reply(200, (("content-type", "text/plain"),), (text.encode(), b"\xff\x00\r\n"))
    if kind == "events":
        events = tuple(f"data: {part}\n\n".encode() for part in text.split())
        return Reply(200, (("content-type", "text/event-stream"),), events)
    if kind == "lines":
        lines = tuple(json.dumps({"a": part}).encode() + b"\n" for part in text.split())
        return Reply(200, (("content-type", "application/x-ndjson"),), lines)
    if kind == "late":
        return Reply(200, (JSON,), chunks[:1], error=f"broke off for {seen.digest}")
    if kind == "empty":
        return Reply(200, (JSON, ("content-length", "0")))
    if kind == "vary":
        value = json.dumps({"plan": repr(seen.values(b"x-plan")), "for": text})
        chunks = (value.encode(),)
    status = {"created": 201, "error": 503}.get(kind, 200)
    return Reply(status, (JSON, ("x-request-id", seen.digest), *more.get(kind, ())), chunks)


# Structured requests

PROMPTS = ("how do i reset my old password", "how do i reset my old password please",
           "Where is my order?", "where is my order", "what is 2 + 2", "what is 2 + 3",
           "", "   ", "\\u0000", "\\ud800", "caf\\u00e9 \U0001f600", "a" * 5_000)  # fmt: skip
LEAVES = ("null", "true", "0", "-0", "-0.0", "1e5", "1E400", "-1e999", "1.0", "NaN", "Infinity",
          "-Infinity", "9" * 30, "9" * 5_000, '"x"', '"\\ud83d"', '"\\ude00\\ud83d"', '""',
          '"user"', '"text"', "[]", "{}", "0x1", "01", "'x'", "1,", '"\x01"')  # fmt: skip
NAMES = ("model", "stream", "temperature", "messages", "prompt", "input", "role", "content",
         "tools", "type", "text", "system", "stream_options", "raw", "",
         "\\u0070rompt")  # fmt: skip


def structured(r: random.Random) -> Case:
    """A request of the right shape, more or less."""
    api, kind = r.choice(APIS), r.choice(KINDS)
    body = b"" if api == "find" and r.random() < 0.8 else _body(r, api)
    method = "GET" if api == "find" else "POST"
    if r.random() < 0.08:
        method = r.choice(("GET", "HEAD", "OPTIONS", "PUT", "QUERY", "PATCH", "post", "X" * 300))
    elif api == "find" and r.random() < 0.1:
        method = "HEAD"
    path = f"/{api}/{kind}"
    if r.random() < 0.04:
        path = r.choice(("/", "//", f"/{api}", "/field/\u00e9", "/%", "/../field/plain", "/other"))
    case = Case(method, path, _query(r, api), _headers(r), body, _pieces(r, len(body)))
    return replace(case, cut=r.random() < 0.02, length=_length(r, body))


def _body(r: random.Random, api: str) -> bytes:
    prompt = f'"{r.choice(PROMPTS)}"' if r.random() < 0.9 else r.choice(LEAVES)
    pairs = [("model", r.choice(('"m"', '"m"', '"n"', r.choice(LEAVES))))]
    if api in ("chat", "messages", "ollama"):
        pairs.append(("messages", _messages(r, prompt)))
    elif api == "responses":
        pairs.append(("input", prompt if r.random() < 0.5 else _messages(r, prompt)))
    else:
        pairs.append(("prompt", prompt))
    if r.random() < 0.3:
        pairs.append(("stream", r.choice(("true", "false", "null", '"true"', "1"))))
    while r.random() < 0.25:
        pairs.append((r.choice(NAMES), _value(r, 3)))
    if r.random() < 0.05:
        pairs.append(("deep", _deep(r)))
    if r.random() < 0.1:
        r.shuffle(pairs)
    if r.random() < 0.05:
        del pairs[r.randrange(len(pairs))]
    text = "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"
    if r.random() < 0.03:
        text = r.choice(("", "null", "[]", text[:-1], text * 2, f"[{text}]", f"\ufeff{text}"))
    coding = "utf-8" if r.random() < 0.97 else r.choice(("latin-1", "utf-16", "utf-32-le"))
    return text.encode(coding, "replace")


def _messages(r: random.Random, prompt: str) -> str:
    roles = ('"user"', '"user"', '"user"', '"assistant"', '"system"', '"tool"', r.choice(LEAVES))
    turns = [
        f'{{"role": {r.choice(roles)}, "content": "{r.choice(PROMPTS)}"}}'
        for _ in range(r.choice((0, 0, 0, 1, 2)))
    ]
    content = prompt
    if r.random() < 0.3:
        parts = [f'{{"type": "text", "text": {prompt}}}']
        while r.random() < 0.3:
            kind = r.choice(("image_url", "text", "input_audio", "tool_result", "\\u0000"))
            parts.append(f'{{"type": "{kind}", "{kind}": {_value(r, 2)}}}')
        content = "[" + ", ".join(parts) + "]"
    role = '"user"' if r.random() < 0.9 else r.choice(roles)
    turns.append(f'{{"role": {role}, "content": {content}}}')
    if r.random() < 0.05:
        turns.append(_value(r, 2))
    return "[" + ", ".join(turns) + "]" if r.random() < 0.97 else _value(r, 2)


def _value(r: random.Random, depth: int) -> str:
    if depth == 0 or r.random() < 0.5:
        return r.choice(LEAVES)
    inner = [_value(r, depth - 1) for _ in range(r.randrange(4))]
    if r.random() < 0.5:
        return "[" + ", ".join(inner) + "]"
    return "{" + ", ".join(f'"{r.choice(NAMES)}": {one}' for one in inner) + "}"


def _deep(r: random.Random) -> str:
    depth = r.choice((5, 58, 59, 60, 61, 70, 200, 2_000, 50_000))
    opened, closed = r.choice((("[", "]"), ('{"a": ', "}")))
    inner = opened * depth + "1" + closed * depth
    return inner if r.random() < 0.8 else inner[:-1]


def _query(r: random.Random, api: str) -> bytes:
    if api == "find":
        asked = r.choice(PROMPTS[:7]).replace(" ", r.choice(("+", "%20")))
        pairs = [b"q=" + asked.encode()]
        pairs += r.choices((b"q=x", b"a=1", b"%71=2", b"q", b"=", b"a=%FF", b"%"), k=_few(r))
        r.shuffle(pairs)
        return r.choice((b"&", b"&", b"&", b";", b"&&")).join(pairs)
    if r.random() < 0.9:
        return b""
    return r.choice((b"a=1", b"\xff\xfe", b"?", b"&&&", b"a=" + b"x" * 9_000, b"%zz=%"))


def _few(r: random.Random) -> int:
    return r.choice((0, 0, 0, 0, 1, 2))


WISHES = (b"no-store", b"no-cache", b"max-age=0", b"max-age=5, max-age=x", b"only-if-cached",
          b"no-transform", b'"', b"=,=", b"private=x", b"\xe9", b"max-stale", b"")  # fmt: skip
PLAIN_FIELDS: tuple[tuple[bytes, tuple[bytes, ...]], ...] = (
    (b"accept", (b"*/*", b"text/event-stream", b"application/json", b";;,\xff", b"")),
    (b"accept-encoding", (b"gzip", b"identity;q=0", b"\x80", b"")),
    (b"accept-language", (b"en", b"de;q=2", b"\xff")),
    (b"content-encoding", (b"gzip", b"identity", b"br, gzip", b"", b"\xff")),
    (b"content-type", (b"text/plain", b"application/json; charset=utf-16", b"/", b"\xff", b"")),
    (b"cache-control", WISHES),
    (b"pragma", (b"no-cache", b"\xff")),
    (b"range", (b"bytes=0-1", b"x")),
    (b"if-none-match", (b"*", b'"a"')),
    (b"host", (b"a.example", b"b.example", b"", b"\xff")),
    (b"x-forwarded-host", (b"c.example",)),
    (b"x-plan", (b"free", b"paid", b"\xe9")),
    (b"openai-beta", (b"a", b"\xff")),
    (b"anthropic-version", (b"1", b"2")),
    (b"connection", (b"close", b"x-plan, authorization")),
    (b"expect", (b"100-continue",)),
    (b"x-absurd", (b"\x00", b"\xff" * 9, b"x" * 20_000, b" ", b"\t", b"\xe2\x82\xac")),
)
WHO = (b"alice", b"bob", b"alice ", b"ALICE", b"", b"\xe9", b"Bearer alice", b"a=1; b=2", b"b=2")
TENANTS = (b"acme", b"acme", b"zenith", b"zenith", b"Acme", b"", b"broken", b"\xe9", b"a/../b")


def _headers(r: random.Random) -> Headers:
    found = [(b"content-type", b"application/json"), (b"host", b"a.example")]
    if r.random() < 0.9:
        found.append((TENANT, r.choice(TENANTS)))
    found += [(r.choice(CREDENTIALS), r.choice(WHO)) for _ in range(_few(r))]
    if r.random() < 0.35:
        some = r.choices(PLAIN_FIELDS, k=r.choice((1, 1, 2, 3)))
        found += [(name, r.choice(values)) for name, values in some]
    if r.random() < 0.05:
        found.append(r.choice(found))
    if r.random() < 0.02:
        found += [(b"x-%d" % n, b"%d" % n) for n in range(500)]
    if r.random() < 0.1:
        r.shuffle(found)
    return tuple(found)


def _pieces(r: random.Random, size: int) -> tuple[int, ...]:
    if r.random() < 0.7:
        return ()
    return tuple(r.choice((0, 1, 2, 7, size // 2, size)) for _ in range(r.randrange(1, 6)))


def _length(r: random.Random, body: bytes) -> bytes | None:
    if r.random() < 0.85:
        return b"%d" % len(body)
    off = (None, None, None, b"", b"-1", b"x", b"1_0", b"0", b"9" * 30, b"9" * 5_000, b"\xb2",
           b" 5", b"5, 5", b"%d" % (len(body) + 9), b"%d" % (len(body) // 2))  # fmt: skip
    return r.choice(off)


# Torn requests


def torn(r: random.Random) -> Case:
    """A request whose bytes were changed on their way, without any regard for their meaning."""
    case = structured(r)
    body = case.body
    for _ in range(r.choice((0, 0, 0, 1, 1, 2, 5))):
        body = r.choice(TEARS)(r, body)
    headers = tuple(_torn_field(r, *pair) if r.random() < 0.05 else pair for pair in case.headers)
    if r.random() < 0.1:
        body, coding = r.choice(CODINGS)(body)
        if r.random() < 0.7:
            headers = (*headers, (b"content-encoding", coding))
    length = case.length if r.random() < 0.1 else b"%d" % len(body)
    pieces = _pieces(r, len(body))
    return replace(case, body=body, headers=headers, length=length, pieces=pieces)


def _torn_field(r: random.Random, name: bytes, value: bytes) -> tuple[bytes, bytes]:
    # Servers refuse names that are none; a value may hold any byte to some of them.
    for _ in range(r.choice((1, 1, 3))):
        value = r.choice(TEARS)(r, value)
    return name, value


def _changed(r: random.Random, body: bytes) -> bytes:
    at = r.randrange(len(body) + 1)
    return body[:at] + bytes([r.randrange(256)]) + body[at + 1 :]


def _put_in(r: random.Random, body: bytes) -> bytes:
    at = r.randrange(len(body) + 1)
    return (
        body[:at]
        + r.choice((b'"', b"\\", b"{", b"\x00", b"\xff", b"\xed\xa0\x80", b"\n"))
        + body[at:]
    )


def _cut_out(r: random.Random, body: bytes) -> bytes:
    at = r.randrange(len(body) + 1)
    return body[:at] + body[at + r.choice((1, 2, 20)) :]


def _doubled(r: random.Random, body: bytes) -> bytes:
    at = r.randrange(len(body) + 1)
    return body[:at] + body[at : at + 30] + body[at:]


def _ended(r: random.Random, body: bytes) -> bytes:
    return body[: r.randrange(len(body) + 1)]


TEARS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _changed, _put_in, _cut_out, _doubled, _ended,
)  # fmt: skip
CODINGS: tuple[Callable[[bytes], tuple[bytes, bytes]], ...] = (
    lambda body: (gzip.compress(body, 1), b"gzip"),
    lambda body: (gzip.compress(body, 1)[:-4], b"gzip"),
    lambda body: (zlib.compress(body, 1), b"deflate"),
    lambda body: (body, b"gzip"),
)


# Requests that were sent before


def again(r: random.Random, case: Case) -> Case:
    """A request once more: the same, in other words, in other pieces, or by somebody else."""
    way = r.choice(("same", "pieces", "words", "tenant", "caller", "host", "plan", "form"))
    if way == "pieces":
        return replace(case, pieces=_pieces(r, len(case.body)))
    if way in ("words", "form"):
        old, new = (
            (PROMPTS[0], PROMPTS[1]) if way == "words" else ('"model"', '"stream": true, "model"')
        )
        body = case.body.replace(old.encode(), new.encode(), 1)
        query = case.query.replace(b"password&", b"password please&")
        length = b"%d" % len(body) if case.length == b"%d" % len(case.body) else case.length
        return replace(case, body=body, query=query, length=length)
    changes = {
        "tenant": (TENANT, r.choice(TENANTS)),
        "caller": (r.choice(CREDENTIALS), r.choice(WHO)),
        "host": (r.choice(HOSTS), r.choice((b"a.example", b"b.example"))),
        "plan": (b"x-plan", r.choice((b"free", b"paid"))),
    }
    if way not in changes:
        return case
    name, value = changes[way]
    kept = [pair for pair in case.headers if pair[0] != name]
    return replace(case, headers=(*kept, (name, value)))
