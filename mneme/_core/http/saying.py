"""What a stored response says, without what differs from call to call."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["words_of"]

OF_THE_CALL = frozenset((
    "created", "created_at", "date", "duration", "elapsed", "etag", "fingerprint", "id", "model",
    "object", "request_id", "service_tier", "session_id", "stats", "system_fingerprint", "time",
    "timestamp", "timings", "took", "trace_id", "updated_at", "usage", "uuid", "version",
))  # fmt: skip
"""Names in any JSON whose values tell of one call, not of its answer."""

OF_THE_ANSWER = frozenset(("arguments", "content", "input", "name", "refusal", "response", "text"))
"""Names under which the known formats say what the model said; all else is about the call."""


def words_of(content_type: str, body: bytes, *, is_known: bool) -> str | bytes:
    """
    The answer in a body as text, the bytes of a body that is none; `is_known` says that it is
    a plain answer of a known format.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return body
    if "json" not in content_type.lower():
        return text
    try:
        return "\n".join(_said(json.loads(text), only_answer=is_known))
    except (ValueError, RecursionError):
        return text


def _said(value: Any, *, only_answer: bool, within: bool = False) -> list[str]:
    if isinstance(value, dict):
        return [
            line
            for name, one in value.items()
            if name not in OF_THE_CALL
            for line in _said(one, only_answer=only_answer, within=within or name in OF_THE_ANSWER)
        ]
    if isinstance(value, list):
        return [
            line for one in value for line in _said(one, only_answer=only_answer, within=within)
        ]
    if only_answer and not (within and isinstance(value, str)):
        return []
    return [value if isinstance(value, str) else json.dumps(value)]
