"""What clients and applications say of caching, and what they are told: both middlewares."""

from __future__ import annotations

import re
from typing import Any

import pytest
from support import asgi, wsgi
from support.asgi import ASKED, REWORDED

from mneme.prompts import Route, json_field
from mneme.testing import ManualClock

pytestmark = pytest.mark.anyio

AUTHORIZED = [("authorization", "Bearer one")]


class Both:
    """The same request, through either middleware."""

    def __init__(self, kind: str, cache: Any, *fields: tuple[str, str], **terms: Any) -> None:
        self.is_async = kind == "asgi"
        kit: Any = asgi if self.is_async else wsgi
        self.app = kit.Counting(headers=[kit.TEXT, *fields])
        self._client = kit.mounted(self.app, cache, **terms)

    async def says(self, body: Any = ASKED, *fields: tuple[str, str]) -> str:
        """``Cache-Status`` of the answer."""
        if self.is_async:
            answer = await self._client.post("/ask", body, headers=list(fields))
        else:
            environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in fields}
            answer = self._client.post("/ask", body, **environ)
        return str(answer.cache_status)


@pytest.fixture(params=["asgi", "wsgi"])
def kind(request: pytest.FixtureRequest, anyio_backend: str) -> str:
    found: str = request.param
    return found


@pytest.mark.parametrize(
    ("directive", "will_do"),
    [
        ("max-age=60", True),
        ("max-age=40", True),
        ("max-age=39", False),
        ("max-age=0", False),
        ("max-age=x", False),
        ("max-age", False),
        ("min-fresh=20", True),
        ("min-fresh=21", False),
        ("min-fresh=", False),
        ("max-age=40, min-fresh=20", True),
        ("max-age=40, min-fresh=21", False),
        ("max-age=39, min-fresh=20", False),
    ],
)
@pytest.mark.parametrize("body", [ASKED, REWORDED], ids=["exact", "semantic"])
async def test_item_19_age_and_lifetime_are_what_the_client_compares(
    cache: Any, clock: ManualClock, kind: str, body: Any, directive: str, will_do: bool
) -> None:
    """An answer of 40 s, with 20 s to go: it will do, or the application is asked anew."""
    both = Both(kind, cache, ttl=60)
    await both.says()
    clock.advance(40)
    said = await both.says(body, ("cache-control", directive))
    assert ("; hit;" in said) is will_do, said
    if not will_do:
        assert said == "mneme; fwd=request"
        # The new answer is stored, and young enough for this client.
        assert "; hit;" in await both.says(body, ("cache-control", "max-age=1, min-fresh=60"))
    assert len(both.app.asked) == 2 - will_do


async def test_item_19_an_answer_without_end_is_fresh_for_ever(cache: Any, kind: str) -> None:
    """`min-fresh` asks how long it lasts, and it does."""
    both = Both(kind, cache)
    await both.says()
    assert "; hit;" in await both.says(ASKED, ("cache-control", "min-fresh=99999999"))


async def test_item_19_an_answer_too_old_is_none_for_only_if_cached(
    cache: Any, clock: ManualClock, kind: str
) -> None:
    """Both wishes hold at once: no answer that is old, and none from the application."""
    both = Both(kind, cache)
    await both.says()
    clock.advance(40)
    said = [
        await both.says(ASKED, ("cache-control", f"only-if-cached, max-age={age}"))
        for age in (40, 39)
    ]
    assert said == ["mneme; hit; detail=exact", "mneme; detail=only-if-cached"]


PRIVATE = ("cache-control", "private, max-age=60")


@pytest.mark.parametrize(
    ("field", "is_stored"),
    [
        (("authorization", "Bearer one"), True),
        (("cookie", "session=1"), True),
        (("x-api-key", "k"), True),
        (("x-tenant-id", "acme"), False),
        (("openai-organization", "acme"), False),
        (("x-request-id", "7"), False),
    ],
)
async def test_item_20_private_is_for_one_requester(
    cache: Any, kind: str, field: tuple[str, str], is_stored: bool
) -> None:
    """Stored where a credential keeps it for one; the name of a group does not."""
    both = Both(kind, cache, PRIVATE)
    first, again = [await both.says(ASKED, field) for _ in "ab"]
    assert first == "mneme; fwd=miss"
    assert ("; hit;" in again) is is_stored
    assert await both.says(ASKED, (field[0], "other")) == "mneme; fwd=miss"
    assert await both.says() == "mneme; fwd=miss"


async def test_item_20_private_is_never_shared(cache: Any, kind: str) -> None:
    """Where answers are shared, no credential and no word of a route makes it one's own."""
    route = Route(json_field("prompt"), shared=True, private_namespace=True)
    both = Both(kind, cache, PRIVATE, routes={"/ask": route}, namespace="n")
    for _ in range(2):
        assert await both.says(ASKED, *AUTHORIZED) == "mneme; fwd=miss"
    assert cache.stats().entries == 0


async def test_item_20_private_in_a_namespace_of_ones_own(cache: Any, kind: str) -> None:
    """The developer's word for it; in the namespace of everybody it counts for nothing."""
    routes = {"/ask": Route(json_field("prompt"), private_namespace=True)}
    own = Both(kind, cache, PRIVATE, routes=routes, namespace="user-7")
    for said in ("mneme; fwd=miss", "mneme; hit; ttl=60; detail=exact"):
        assert await own.says() == said
    for of_all in (
        Both(kind, cache, PRIVATE, routes=routes),
        Both(kind, cache, PRIVATE, namespace="team"),
    ):
        assert [await of_all.says() for _ in "ab"] == ["mneme; fwd=miss"] * 2


async def test_item_21_a_miss_tells_that_another_variant_is_stored(cache: Any, kind: str) -> None:
    """`vary-miss`, for what responses have named; the same question is a plain miss elsewhere."""
    both = Both(kind, cache, ("vary", "X-Plan"))
    assert await both.says(ASKED, ("x-plan", "free")) == "mneme; fwd=miss"
    assert await both.says(ASKED, ("x-plan", "paid")) == "mneme; fwd=vary-miss"
    for plan in ("free", "paid"):
        assert await both.says(ASKED, ("x-plan", plan)) == "mneme; hit; detail=exact"
    assert await both.says({"prompt": "where is a bakery"}) == "mneme; fwd=miss"
    # Another caller's answers are no variants of this one's.
    assert await both.says(ASKED, ("x-plan", "new"), *AUTHORIZED) == "mneme; fwd=miss"


async def test_item_21_debugging_tells_key_similarity_and_reason(cache: Any, kind: str) -> None:
    """Only with `debug`; hits of one answer tell one key, that of the question it was given to."""
    both = Both(kind, cache, debug=True)
    other = {"prompt": "how do you bake bread in an old oven"}
    miss, exact, near, none = [await both.says(body) for body in (ASKED, ASKED, REWORDED, other)]
    key = re.compile(r' key="([0-9a-f]{32})"; detail="([^"]+)"')
    told = [key.search(said) for said in (miss, exact, near, none)]
    keys, details = zip(*(found.groups() for found in told if found), strict=True)
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]
    assert details[:2] == ("absent", "exact, similarity 1.0000")
    assert re.fullmatch(r"semantic, similarity 0\.[789]\d{3}", details[2])
    assert re.fullmatch(r"below_threshold, similarity -?0\.\d{4}", details[3])
    assert miss.startswith("mneme; fwd=miss; key=")
    assert exact.startswith("mneme; hit; key=")
