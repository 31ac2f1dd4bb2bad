"""A chat request whose last turn may be asked outside its conversation."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from mneme._core.http.request import NotJSON, Request
from mneme._core.messages import INSTRUCTING_ROLES, are_messages, without_turns

__all__ = ["alone", "turns"]

NAMES = ("messages", "input")
"""Where the known formats have their turns."""


def turns(request: Request) -> list[Any] | None:
    """
    The messages of a request that has earlier turns and ends in a question of words alone;
    None for any other.
    """
    found = _found(request)
    if found is None:
        return None
    name, body = found
    messages: list[Any] = body[name]
    rest = without_turns(messages)
    # A picture in the last turn speaks with the words that would be replaced.
    return messages if isinstance(rest, list) and not rest[-1]["content"] else None


def alone(request: Request, text: str) -> Request:
    """The request as if `text` were the first turn, under the same instructions."""
    found = _found(request)
    assert found is not None
    name, body = found
    *earlier, last = body[name]
    instructions = [one for one in earlier if one.get("role") in INSTRUCTING_ROLES]
    asked = {**body, name: [*instructions, {**last, "content": text}]}
    return replace(request, body=json.dumps(asked).encode())


def _found(request: Request) -> tuple[str, dict[str, Any]] | None:
    try:
        body = request.json()
    except NotJSON:
        return None
    if not isinstance(body, dict):
        return None
    for name in NAMES:
        if isinstance(body.get(name), list) and are_messages(body[name]):
            return name, body
    return None
