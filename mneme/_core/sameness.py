"""Whether two answers say the same, as far as their text alone can tell."""

from __future__ import annotations

import json
from typing import Any

from mneme._core.keys import normalize
from mneme.records import Payload
from mneme.types import Codec

__all__ = ["said", "same_text"]

LEAST_CHARACTERS, LEAST_WORDS = 24, 4
"""What is shorter is a label, a number, a yes: near in meaning is not the same there."""


def said(codec: Codec, payload: Payload) -> str | bytes:
    """
    What an answer says, for comparing: its text, the strings and numbers of its JSON, else
    its bytes. A codec that knows better has a method of the same name.
    """
    knows_better = getattr(codec, "said", None)
    if knows_better is not None:
        return knows_better(payload)  # type: ignore[no-any-return]
    if isinstance(payload.data, bytes):
        return payload.data
    if payload.kind == "text":
        return payload.data
    return "\n".join(_leaves(json.loads(payload.data)))


def same_text(one: str | bytes, other: str | bytes) -> bool | None:
    """True or False where the text decides; None where only its meaning can."""
    if isinstance(one, bytes) or isinstance(other, bytes):
        return one == other
    one, other = normalize(one), normalize(other)
    if one == other:
        return True
    return False if _is_short(one) or _is_short(other) else None


def _is_short(text: str) -> bool:
    return len(text) < LEAST_CHARACTERS or len(text.split()) < LEAST_WORDS


def _leaves(value: Any) -> list[str]:
    """The scalars of a JSON value in order, each after the names that lead to it."""
    if isinstance(value, dict):
        return [f"{name}: {leaf}" for name in sorted(value) for leaf in _leaves(value[name])]
    if isinstance(value, list):
        return [leaf for one in value for leaf in _leaves(one)]
    return [value if isinstance(value, str) else json.dumps(value)]
