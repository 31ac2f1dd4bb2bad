"""How long an answer is good for."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

__all__ = ["Freshness", "Limits", "as_seconds", "deadlines", "freshness"]

Freshness = Literal["fresh", "stale", "expired"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How old an answer may be for one asker, and how long it must still be good; seconds."""

    max_age: float = math.inf
    min_left: float = 0.0

    def allow(self, age: float, left: float | None) -> bool:
        """Whether an answer of this `age` will do, with so much `left`; None: without end."""
        return age <= self.max_age and (left is None or left >= self.min_left)


def as_seconds(value: float | timedelta | None, name: str) -> float | None:
    """
    A span in seconds, from a number or a `timedelta`; ``None`` stays ``None``.

    Raises:
        ValueError: negative or not a number; the message calls it `name`.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be seconds or a timedelta, not {value!r}.")
    # Written so that NaN is refused too.
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, got {value!r}. Use None for no limit.")
    # A whole number may be past what a float can hold.
    return float(value) if value <= sys.float_info.max else math.inf


def deadlines(
    now: float, ttl: float | None, stale_window: float = 0.0
) -> tuple[float | None, float | None]:
    """``(expires_at, dies_at)`` of an answer given at `now`; both ``None`` without a TTL."""
    if ttl is None or math.isinf(ttl):
        return None, None
    return now + ttl, now + ttl + stale_window


def freshness(now: float, expires_at: float | None, dies_at: float | None) -> Freshness:
    """Fresh before `expires_at`, stale before `dies_at`, expired from then on."""
    if expires_at is None or now < expires_at:
        return "fresh"
    if dies_at is not None and now < dies_at:
        return "stale"
    return "expired"
