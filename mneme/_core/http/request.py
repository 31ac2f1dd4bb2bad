"""
What a request is to the cache: plain values, read strictly.

A body that two readers could read differently (a name given twice, bytes that are no UTF-8)
is not understood at all: it goes to the application as it came.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from mneme._core.http.fields import Fields, tells_who, values_of

__all__ = ["NotJSON", "Request", "credentials"]

MAX_DEPTH = 60
"""Below what `keys.canonical` takes, with room for what is wrapped around a body."""


class NotJSON(ValueError):
    """The body is not JSON, or is JSON that two readers could understand differently."""


@dataclass(frozen=True, slots=True)
class Request:
    """
    A request whose body has come in whole.

    `path` is decoded and without the prefix under which the application is mounted; `query`
    is the raw query string. `headers` have names in lower case. `raw_path` is the path as the
    client sent it, where the server tells, and `caller` what the server itself knows of the
    caller (``REMOTE_USER``, the name in a client certificate).
    """

    method: str
    path: str
    query: bytes = b""
    headers: Fields = ()
    body: bytes = field(default=b"", repr=False)
    raw_path: bytes = b""
    caller: tuple[str, ...] = ()

    def values(self, name: str) -> list[str]:
        """The values of every field called `name`, in order; none for an absent one."""
        return values_of(self.headers, name.lower())

    def header(self, name: str) -> str | None:
        """The value of the field `name`, several joined by commas; None where it is absent."""
        found = self.values(name)
        return ", ".join(found) if found else None

    def parameters(self) -> list[tuple[str, str, bytes]]:
        """
        The query string's parameters in order: name, value, and both as they were sent.

        Bytes that are not UTF-8 become lone surrogates, which no prompt may hold.
        """
        return [
            (_decoded(raw.partition(b"=")[0]), _decoded(raw.partition(b"=")[2]), raw)
            for raw in self.query.split(b"&")
            if raw
        ]

    def json(self) -> Any:
        """
        The body as JSON.

        Raises:
            NotJSON: (a `ValueError`) no JSON, not UTF-8, a name given twice in one object,
                NaN, infinity or a number too large for a float, or nested too deep.
        """
        try:
            value = json.loads(
                self.body.decode(),
                object_pairs_hook=_without_duplicates,
                parse_constant=_refused,
                parse_float=_finite,
            )
        except RecursionError as exc:
            raise NotJSON("the body is nested too deep") from exc
        except ValueError as exc:
            raise NotJSON(f"the body is not JSON that reads one way only: {exc}") from exc
        _check_depth(value)
        return value


def _decoded(raw: bytes) -> str:
    return unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8", "surrogateescape")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    # 1e400 and 1e999 are one to Python, and neither is to readers of greater precision.
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is too large")
    return number


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level for item in _inside(outer)]
        if not level:
            return
    raise NotJSON(f"the body is nested more than {MAX_DEPTH} deep")


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def credentials(request: Request) -> list[list[str]]:
    """Every field that may say who is asking, and what the server knows of it; sorted."""
    found = [[name, value] for name, value in request.headers if tells_who(name)]
    found += [["", known] for known in request.caller]
    # Stable, so that fields of one name keep their order, which may mean something.
    return sorted(found, key=lambda pair: pair[0])
