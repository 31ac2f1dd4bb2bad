"""From a response to the entry that will be stored, or the reason why it will not be."""

from __future__ import annotations

from typing import Any

from mneme._core.entries import make_entry
from mneme._core.freshness import as_seconds, deadlines
from mneme._core.keys import Ask
from mneme._core.settings import Settings
from mneme.codecs import check_json, dump_json
from mneme.errors import NamespaceQuotaExceededError
from mneme.records import Entry, Terms

__all__ = ["Unkeepable", "draft"]


class Unkeepable(ValueError):
    """A response or its metadata is over its limit; nothing was stored."""


def draft(
    ask: Ask,
    response: Any,
    terms: Terms,
    settings: Settings,
    *,
    now: float,
    quota: int | None,
) -> Entry | None:
    """
    The entry to store, still without its vector; ``None`` if it is not to be kept: the
    validator refuses it, or its TTL is zero.

    Raises:
        CodecError: it would not come back equal.
        Unkeepable: (a `ValueError`) response or metadata over the limit.
        NamespaceQuotaExceededError: the namespace may keep nothing.
    """
    if settings.validator is not None and not settings.validator(response):
        return None
    ttl = settings.default_ttl if terms.ttl is None else as_seconds(terms.ttl, "ttl")
    if ttl == 0:
        return None
    if quota == 0:
        raise NamespaceQuotaExceededError(
            f"namespace {ask.namespace!r} has a quota of 0 entries. Nothing was stored. "
            "Raise it with set_namespace_quota, or lift it with None."
        )
    payload = ask.codec.encode(response)
    _check_size("response", payload.data, settings.max_response_bytes)
    written = "{}"
    if terms.metadata:
        metadata = dict(terms.metadata)
        check_json(metadata, "metadata")
        written = dump_json(metadata)
        _check_size("metadata", written, settings.max_metadata_bytes)
    window = max(terms.stale_for, terms.stale_if_error)
    expires_at, dies_at = deadlines(now, ttl, window)
    return make_entry(
        namespace=ask.namespace,
        partition=ask.partition,
        key=ask.key,
        prompt=ask.prompt,
        payload=payload,
        vector=None,
        created_at=now,
        expires_at=expires_at,
        dies_at=dies_at,
        metadata=written,
        tags=tuple(terms.tags),
    )


def _check_size(name: str, data: str | bytes, limit: int) -> None:
    if len(data) * 4 <= limit:
        # No character has more than four bytes.
        return
    size = len(data.encode() if isinstance(data, str) else data)
    if size > limit:
        raise Unkeepable(
            f"the {name} has {size:,} bytes, the limit is {limit:,}. Nothing was stored. "
            f"Make it smaller or raise max_{name}_bytes."
        )
