"""A request, and the question that the pure part makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from mneme._core.http.exchange import Question, question
from mneme._core.http.request import Request
from mneme._core.http.routes import Route
from mneme.prompts import Extractor, json_field

ASK = Request("POST", "/ask", headers=(("host", "a.example"),), body=b'{"prompt": "hello"}')
PROMPT = json_field("prompt")

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


def asked(request: Request, extract: Extractor = PROMPT, **terms: Any) -> Question:
    namespace = terms.pop("namespace", "default")
    fields = terms.pop("fields", ())
    by_host = terms.pop("by_host", True)
    found = question(request, Route(extract, **terms), namespace, fields=fields, by_host=by_host)
    assert found is not None
    return found


def with_fields(*pairs: tuple[str, str]) -> Request:
    return replace(ASK, headers=(*ASK.headers, *pairs))
