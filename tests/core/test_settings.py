"""A setting that exists is a setting that is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme._core.manner import Manner
from mneme._core.settings import Settings, check_count, check_threshold
from mneme.testing import ManualClock

NUMBERS = st.one_of(st.floats(), st.integers(), st.booleans())


def guard(asked: str, cached: str) -> str | None:
    return None


async def later(*args: Any) -> bool:
    return False


class Later:
    async def __call__(self, *args: Any) -> bool:
        return False


def settings(**changes: Any) -> Settings:
    given: dict[str, Any] = {
        "similarity_threshold": 0.85,
        "default_ttl": None,
        "max_entries": None,
        "namespace_quotas": None,
        "confidence_fn": None,
        "validator": None,
        "guards": (),
        "manner": Manner(),
        "metrics_hook": None,
        "normalize": str,
        "stale_check_interval": 0.0,
        "max_query_bytes": 1,
        "max_response_bytes": 1,
        "max_metadata_bytes": 1,
        "embed_timeout": None,
        "store_timeout": None,
        "require_namespace": False,
        "self_check": True,
        "open_later": False,
        "clock": ManualClock(),
    }
    return Settings.checked(**{**given, **changes})


class TestChecked:
    def test_right_settings_are_kept(self) -> None:
        """What makes sense is kept, spans in seconds and lists frozen."""
        quotas = {"a": 0, "b": 5}
        made = settings(
            similarity_threshold=1,
            default_ttl=timedelta(minutes=1),
            max_entries=3,
            namespace_quotas=quotas,
            guards=[guard],
            stale_check_interval=timedelta(seconds=2),
            embed_timeout=0.5,
            store_timeout=timedelta(milliseconds=5),
        )
        quotas["b"] = 99
        assert (made.similarity_threshold, made.default_ttl, made.max_entries) == (1.0, 60.0, 3)
        assert made.namespace_quotas == {"a": 0, "b": 5}
        assert made.guards == (guard,)
        assert (made.stale_check_interval, made.embed_timeout) == (2.0, 0.5)
        assert made.store_timeout == 0.005

    def test_none_is_the_absence_of_a_limit(self) -> None:
        """Left out, there is no limit, no deadline, and a look at the store each time."""
        made = settings(stale_check_interval=None)
        assert (made.default_ttl, made.max_entries, made.embed_timeout) == (None, None, None)
        assert (made.namespace_quotas, made.stale_check_interval) == ({}, 0.0)

    @pytest.mark.parametrize("name", ["embed_timeout", "store_timeout"])
    @pytest.mark.parametrize("value", [math.inf, 1e10, timedelta.max])
    def test_a_deadline_past_a_lifetime_is_none(self, name: str, value: Any) -> None:
        """A deadline that no clock can wait for is no deadline."""
        assert getattr(settings(**{name: value}), name) is None

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("default_ttl", -1),
            ("default_ttl", "60"),
            ("max_entries", 0),
            ("max_entries", 1.5),
            ("namespace_quotas", {"a": -1}),
            ("namespace_quotas", {"a": None}),
            ("namespace_quotas", ["a"]),
            ("confidence_fn", 0.5),
            ("validator", "yes"),
            ("metrics_hook", []),
            ("guards", [guard, None]),
            ("guards", guard),
            ("guards", None),
            ("stale_check_interval", math.nan),
            ("max_query_bytes", 0),
            ("max_response_bytes", -1),
            ("max_metadata_bytes", True),
            ("embed_timeout", -1),
            ("store_timeout", timedelta(-1)),
        ],
    )
    def test_a_wrong_setting_is_a_value_error_that_names_it(self, name: str, value: Any) -> None:
        """Every setting that makes no sense is refused by name."""
        with pytest.raises(ValueError, match=name.removesuffix("s")):
            settings(**{name: value})

    @pytest.mark.parametrize(
        "name", ["confidence_fn", "validator", "metrics_hook", "normalize", "guards"]
    )
    @pytest.mark.parametrize("function", [later, Later()])
    def test_what_nobody_would_await_is_refused(self, name: str, function: Any) -> None:
        """An async rule would pass or refuse everything unheard: it is refused by name."""
        value = [guard, function] if name == "guards" else function
        with pytest.raises(ValueError, match=f"{name} .*async") as refused:
            settings(**{name: value})
        assert str(refused.value).endswith("Pass a plain function.")

    def test_a_quota_is_for_a_namespace_that_can_be(self) -> None:
        """A quota for a name that no namespace can have is refused."""
        with pytest.raises(ValueError, match="no name for a namespace"):
            settings(namespace_quotas={"": 1})

    def test_the_message_of_a_quota_names_the_namespace(self) -> None:
        """Among many quotas the wrong one is found."""
        with pytest.raises(ValueError, match=r"namespace_quotas\['b'\].*at least 0, got 1.5"):
            settings(namespace_quotas={"a": 1, "b": 1.5})


class TestThreshold:
    @given(NUMBERS)
    def test_exactly_the_cosines_from_0_to_1_pass(self, value: Any) -> None:
        """Whatever number comes, a threshold is a float from 0 to 1 or a ValueError."""
        fits = not isinstance(value, bool) and 0 <= value <= 1
        if fits:
            assert check_threshold(value) == value
            assert type(check_threshold(value)) is float
        else:
            with pytest.raises(ValueError, match=r"^similarity_threshold must be a cosine from"):
                check_threshold(value)

    @pytest.mark.parametrize("value", [None, "0.9", True, [0.9], math.nan])
    def test_what_is_no_cosine_is_refused(self, value: Any) -> None:
        """Text, truth and what no float can hold are refused by the name they were given by."""
        with pytest.raises(ValueError, match=r"^threshold must be a cosine from 0.0 to 1.0, got"):
            check_threshold(value, "threshold")

    @pytest.mark.parametrize("sign", [1, -1])
    def test_a_number_past_every_float_is_refused(self, sign: int) -> None:
        """A whole number that no float can hold is refused like any other."""
        with pytest.raises(ValueError, match=r"must be a cosine from 0\.0 to 1\.0, got"):
            check_threshold(sign * 10**400)

    @pytest.mark.parametrize(
        ("value", "hint"),
        [(85, " Did you mean 0.85?"), (100, " Did you mean 1?"), (101, ""), (-0.5, "")],
    )
    def test_a_percentage_is_told_its_cosine(self, value: float, hint: str) -> None:
        """85 is told to be 0.85; what cannot be a percentage is not."""
        with pytest.raises(ValueError, match="must be a cosine") as refused:
            check_threshold(value)
        assert str(refused.value).endswith(f"got {value!r}.{hint}")


class TestCount:
    @given(NUMBERS, st.integers(0, 3))
    def test_exactly_the_whole_numbers_from_least_pass(self, value: Any, least: int) -> None:
        """Whatever number comes, a count is a whole number of at least so many."""
        if type(value) is int and value >= least:
            assert check_count(value, "n", least=least) == value
        else:
            with pytest.raises(ValueError, match=f"^n must be a whole number of at least {least}"):
                check_count(value, "n", least=least)

    def test_the_least_is_one(self) -> None:
        """A limit of nothing is refused unless the setting allows it."""
        with pytest.raises(ValueError, match="at least 1, got 0"):
            check_count(0, "max_entries")


def test_the_clock_is_not_shown() -> None:
    """The repr of settings says what was set, not how time is told."""
    clock: Callable[[], float] = ManualClock()
    assert "clock" not in repr(settings(clock=clock))
    assert settings(clock=clock).clock is clock
