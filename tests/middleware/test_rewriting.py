"""Follow-ups that are worded so that they stand alone, on HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.asgi import Counting, mounted

from mneme import MemoryStore, SemanticCache
from mneme._core.http.request import Request
from mneme._core.http.rewriting import alone, turns
from mneme.prompts import Route, openai_chat
from mneme.testing import HashEmbedder

SYSTEM = {"role": "system", "content": "be brief"}


def talk(*said: str, system: dict[str, str] = SYSTEM) -> dict[str, Any]:
    roles = ("user", "assistant")
    turns = [{"role": roles[at % 2], "content": text} for at, text in enumerate(said)]
    return {"model": "m", "messages": [system, *turns]}


def rewrite(messages: list[dict[str, str]]) -> str | None:
    if messages[-1]["content"] == "thanks":
        return None
    return f"{messages[-1]['content']} {messages[1]['content']}"


async def later(messages: list[dict[str, str]]) -> str | None:
    return rewrite(messages)


def answer(number: int) -> bytes:
    message = {"role": "assistant", "content": f"answer {number}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": f"c{number}", "object": "chat.completion", "created": 1, "model": "m",
                       "choices": [choice]}).encode()  # fmt: skip


@pytest.mark.parametrize("how", [rewrite, later])
async def test_follow_ups_meet_other_conversations(how: Any, anyio_backend: str) -> None:
    """Under the same instructions, and only where they are worded so."""
    cache = SemanticCache(
        store=MemoryStore(), embedder=HashEmbedder(), similarity_threshold=0.7, self_check=False
    )
    app = Counting()
    client = mounted(app, cache, routes={"/chat": Route(openai_chat, rewrite=how)})
    outcomes: list[str | None] = []
    for body in (
        talk("is the sky blue today", "yes", "but why"),
        talk("is the sky blue today", "it is", "but why"),
        talk("please, is the sky blue today", "it is", "but why"),
        talk("do cats ever purr", "yes", "but why"),
        talk("is the sky blue today", "yes", "but why", system={**SYSTEM, "content": "be long"}),
        talk("is the sky blue today", "yes", "thanks"),
        talk("is the sky blue today", "it is", "thanks"),
    ):
        app.chunks = [answer(len(outcomes))]
        outcomes.append((await client.post("/chat", body)).cache_status)
    hits = [outcome is not None and "hit" in outcome for outcome in outcomes]
    assert hits == [False, True, True, False, False, False, False]


def test_which_requests_have_turns_to_be_left_out() -> None:
    """Not a first question, not what ends in a picture or a tool's result, not what is no chat."""

    def of(body: Any) -> Request:
        return Request("POST", "/", body=json.dumps(body).encode())

    follow_up = talk("a", "b", "c")
    assert turns(of(follow_up)) == follow_up["messages"]
    assert alone(of(follow_up), "x").json() == talk("x")
    assert turns(of({"input": follow_up["messages"]})) is not None
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}},
                                           {"type": "text", "text": "c"}]}  # fmt: skip
    for body in (
        talk("a"),
        {"messages": [*talk("a", "b")["messages"], picture]},
        {"messages": [*talk("a", "b")["messages"], {"role": "tool", "content": "c"}]},
        {"messages": "a"},
        ["a"],
    ):
        assert turns(of(body)) is None
    assert turns(Request("POST", "/", body=b"{")) is None
