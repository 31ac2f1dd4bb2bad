"""Cookies that only speak of the way a request took, and those that speak of who sent it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme._core.http.fields import is_personal, without_way

NAMES = st.sampled_from(["sid", "__cf_bm", "AWSALB", "_cfuvid", "x__cf_bm", "__cf_bm2"])


@pytest.mark.parametrize(
    ("cookie", "personal"),
    [
        ("__cf_bm=a; path=/", False),
        ("AWSALBCORS=a; SameSite=None", False),
        ("sid=__cf_bm=1", True),
        ("x__cf_bm=a", True),
        ("__cf_bm2=a", True),
        ("", True),
    ],
)
def test_only_known_cookies_are_of_the_way(cookie: str, personal: bool) -> None:
    """By their whole name; every other cookie is its client's."""
    assert is_personal((("Set-Cookie", cookie),)) is personal
    # One of the client's own among them decides.
    assert is_personal((("set-cookie", "__cf_bm=a"), ("set-cookie", cookie))) is personal


@given(st.lists(st.tuples(NAMES, st.text("abc=", max_size=5)), max_size=5))
def test_a_request_keeps_every_cookie_that_may_tell_who_asks(
    cookies: list[tuple[str, str]],
) -> None:
    """In order, and without the field where nothing is left of it."""
    header = "; ".join(f"{name}={value}" for name, value in cookies)
    own = [f"{n}={v}" for n, v in cookies if n.lower() not in ("__cf_bm", "awsalb", "_cfuvid")]
    found = dict(without_way((("host", "h"), ("cookie", header))))
    assert found["host"] == "h"
    assert [one.strip() for one in found.get("cookie", "").split(";") if one.strip()] == own
