"""How long an answer is good for."""

from __future__ import annotations

import math
import sys
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme._core.freshness import as_seconds, deadlines, freshness

NOWS = st.floats(0, 4e9)
SPANS = st.floats(0, 1e9)
ORDER = ["fresh", "stale", "expired"]


class TestAsSeconds:
    @pytest.mark.parametrize(
        ("value", "seconds"),
        [
            (None, None),
            (0, 0.0),
            (1, 1.0),
            (2.5, 2.5),
            (math.inf, math.inf),
            (sys.float_info.max, sys.float_info.max),
            (10**400, math.inf),
            (timedelta(minutes=1, microseconds=500), 60.0005),
            (timedelta.max, timedelta.max.total_seconds()),
        ],
        ids=lambda value: str(value)[:20],
    )
    def test_numbers_and_timedeltas_are_seconds(self, value: Any, seconds: float | None) -> None:
        """A span is a float of seconds, however it was given."""
        found = as_seconds(value, "ttl")
        assert found == seconds
        assert type(found) is type(seconds)

    @pytest.mark.parametrize("value", [-1, -0.001, math.nan, -math.inf, timedelta(seconds=-1)])
    def test_negative_spans_are_refused(self, value: Any) -> None:
        """A span that ends before it begins is refused by the name of its setting."""
        with pytest.raises(ValueError, match=r"^ttl must not be negative.*None for no limit\.$"):
            as_seconds(value, "ttl")

    @pytest.mark.parametrize("value", ["60", True, False, b"1", [1], Decimal(1), 1j])
    def test_what_is_no_span_is_refused(self, value: Any) -> None:
        """Text, truth and other kinds of number are refused by the name of the setting."""
        with pytest.raises(ValueError, match=r"^ttl must be seconds or a timedelta, not ") as exc:
            as_seconds(value, "ttl")
        assert repr(value) in str(exc.value)


class TestFreshness:
    @given(NOWS, SPANS, SPANS, SPANS)
    def test_an_answer_is_fresh_then_stale_then_expired(
        self, now: float, ttl: float, window: float, later: float
    ) -> None:
        """Before its end it is fresh, in the window after it stale, from then on expired."""
        expires_at, dies_at = deadlines(now, ttl, window)
        assert expires_at is not None
        assert dies_at is not None
        assert now <= expires_at <= dies_at
        then = now + later
        expected = "fresh" if then < expires_at else "stale" if then < dies_at else "expired"
        assert freshness(then, expires_at, dies_at) == expected

    @given(NOWS, SPANS, st.one_of(st.none(), SPANS), SPANS, SPANS)
    def test_an_answer_never_gets_younger(
        self, now: float, ttl: float, window: float | None, early: float, late: float
    ) -> None:
        """What is stale or expired is so for good."""
        expires_at, dies_at = deadlines(now, ttl, window or 0.0)
        found = [
            ORDER.index(freshness(now + after, expires_at, None if window is None else dies_at))
            for after in sorted((early, late))
        ]
        assert found == sorted(found)

    @given(NOWS, SPANS)
    def test_without_a_ttl_it_is_fresh_for_ever(self, now: float, window: float) -> None:
        """No TTL, and an infinite one, mean no end."""
        assert deadlines(now, None, window) == deadlines(now, math.inf, window) == (None, None)
        assert freshness(now, None, None) == "fresh"

    @given(NOWS, SPANS)
    def test_without_a_window_it_is_never_stale(self, now: float, ttl: float) -> None:
        """An answer without a stale window goes from fresh to expired."""
        expires_at, dies_at = deadlines(now, ttl)
        assert expires_at == dies_at == now + ttl
        for then in (now, now + ttl / 2, now + ttl, now + 2 * ttl):
            assert freshness(then, expires_at, dies_at) != "stale"
            assert freshness(then, expires_at, None) != "stale"

    def test_the_very_moment_belongs_to_what_comes_after(self) -> None:
        """At its end an answer is no longer fresh, at the end of the window no longer stale."""
        assert freshness(9.0, 10.0, 20.0) == "fresh"
        assert freshness(10.0, 10.0, 20.0) == "stale"
        assert freshness(20.0, 10.0, 20.0) == "expired"

    def test_a_window_may_have_no_end(self) -> None:
        """An answer may be served stale for as long as nobody renews it."""
        expires_at, dies_at = deadlines(0.0, 1.0, math.inf)
        assert freshness(1e12, expires_at, dies_at) == "stale"
