"""What responses say, for comparing answers; and what the middleware learns from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.answers import body, stream, value
from support.asgi import ASKED, REWORDED, Counting, mounted
from support.models import CHAT_CALLS, CHAT_WORDS, on_the_wire

from mneme import MemoryStore, SemanticCache
from mneme._core.http.responses import ResponseCodec, StoredResponse
from mneme._core.http.saying import words_of
from mneme.testing import HashEmbedder

JSON = (("content-type", "application/json"),)
EVENTS = (("content-type", "text/event-stream"),)


def said(codec: ResponseCodec, response: StoredResponse) -> str | bytes:
    return codec.said(codec.encode(response))


@pytest.mark.parametrize("answer", [CHAT_WORDS, CHAT_CALLS], ids=["words", "calls"])
def test_a_stream_says_what_its_value_says(answer: Any) -> None:
    """Neither form, nor ids, dates and counts matter."""
    plain, events = answer
    one = said(ResponseCodec(value("openai_chat")), StoredResponse(200, JSON, (body(plain),)))
    chunks = tuple(on_the_wire(events))
    other = said(ResponseCodec(stream("openai_chat")), StoredResponse(200, EVENTS, chunks))
    assert one == other
    assert isinstance(one, str)
    assert "chatcmpl" not in one
    later = {**plain, "id": "chatcmpl-9", "created": 1, "usage": None}
    assert one == said(
        ResponseCodec(value("openai_chat")), StoredResponse(200, JSON, (body(later),))
    )


@pytest.mark.parametrize(
    ("content_type", "raw", "expected"),
    [
        ("application/json", b'{"answer": "A", "id": 7, "score": 0.5}', "A\n0.5"),
        ("application/json; charset=utf-8", b'[{"a": ["x", true]}]', "x\ntrue"),
        ("application/json", b"{broken", "{broken"),
        ("text/plain", b"as it is", "as it is"),
        ("image/png", b"\x89PNG\xff", b"\x89PNG\xff"),
    ],
)
def test_what_other_bodies_say(content_type: str, raw: bytes, expected: str | bytes) -> None:
    """JSON without what names tell is of one call; text as it is; bytes that are no text."""
    assert words_of(content_type, raw, is_known=False) == expected


@pytest.mark.parametrize(
    ("answers", "right"), [(("in the app", "In the app."), True), (("yes", "no"), False)]
)
async def test_shadow_mode_compares_what_the_application_says(
    answers: tuple[str, str], right: bool, anyio_backend: str
) -> None:
    """Nothing is served, each request is answered by the application, and labels tell."""
    cache = SemanticCache(
        store=MemoryStore(), embedder=HashEmbedder(), similarity_threshold=0.7, mode="shadow",
        self_check=False,
    )  # fmt: skip
    app = Counting(chunks=[])
    client = mounted(app, cache)
    for number, (asked, answer) in enumerate(zip((ASKED, REWORDED), answers, strict=True)):
        app.chunks = [json.dumps({"answer": answer, "id": number}).encode()]
        response = await client.post("/ask", asked)
        assert response.cache_status == "mneme; fwd=miss"
        assert json.loads(response.body)["answer"] == answer
    # Asked in the same words, too.
    assert (await client.post("/ask", ASKED)).cache_status == "mneme; fwd=miss"
    assert len(app.asked) == 3
    labels = cache.labels()
    assert labels[0].right is right
    assert len(labels) == 2
