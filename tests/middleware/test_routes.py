"""Which route a request takes; pure."""

from __future__ import annotations

from typing import Any

import pytest

from mneme._core.http.routes import Route, Routes
from mneme.prompts import json_field, query_param


def test_routes_prefer_the_exact_and_the_longer_path() -> None:
    """Exact before pattern, longer pattern before shorter, and each with its methods."""
    one, two, three, four = (Route(json_field("p")) for _ in range(4))
    routes = Routes({"/v1/*": two, "/v1/chat": one, "/*": three, ("QUERY", "/q"): four})

    def found(method: str, path: str) -> Any:
        route = routes.find(method, path)
        return route.extract if isinstance(route, Route) else route

    assert found("POST", "/v1/chat") is one.extract
    assert found("POST", "/v1/chats") is two.extract
    assert found("POST", "/v2") is three.extract
    assert found("GET", "/v1/chat") == found("POST", "/q") == "method"
    assert found("QUERY", "/q") is four.extract
    assert Routes({"/a": one}).find("POST", "/a/") is None


def test_routes_of_get_bring_head_and_one_path_may_have_two() -> None:
    """`query_param` is for GET, so for HEAD; another method may ask in another way."""
    routes = Routes({("GET", "/a"): query_param("q"), ("POST", "/a"): json_field("q")})
    assert routes.find("GET", "/a") is routes.find("HEAD", "/a")
    assert routes.find("POST", "/a") not in (routes.find("GET", "/a"), "method")
    assert routes.find("DELETE", "/a") == "method"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Routes({"ask": json_field("p")}), "starts with '/'"),
        (lambda: Routes({"/a/*/b": json_field("p")}), "may only end it"),
        (lambda: Routes({"/a": 5}), "extract must be callable"),  # type: ignore[dict-item]
        (lambda: Route(json_field("p"), methods=("DELETE",)), "never answered from a cache"),
        (lambda: Route(json_field("p"), threshold=85), "Did you mean 0.85"),
        (lambda: Route(json_field("p"), max_request_bytes=0), "max_request_bytes"),
        (lambda: Route(json_field("p"), max_response_bytes=-1), "max_response_bytes"),
        (lambda: Route(json_field("p"), ttl=-1), "ttl must not be negative"),
        (lambda: Route(json_field("p"), statuses=(200, 429)), "would be everybody's"),
        (lambda: Route(json_field("p"), vary="x"), "vary must be a tuple"),  # type: ignore[arg-type]
    ],
)
def test_a_route_that_makes_no_sense_is_refused(make: Any, message: str) -> None:
    """Routes are checked when they are mounted, and the message names the setting."""
    with pytest.raises(ValueError, match=message):
        make()
