"""OpenAI and Anthropic at once: whole answers with usage and calls of tools, in both forms."""

from __future__ import annotations

import json
from typing import Any

from support.models import CHAT_CALLS, CHAT_WORDS, MESSAGE, RESPONSE, on_the_wire

from mneme import MemoryStore, SemanticCache
from mneme.prompts import anthropic_messages, openai_chat, openai_responses
from mneme.testing import HashEmbedder

ROUTES: Any = {
    "/v1/chat/completions": openai_chat.with_tools(),
    "/v1/responses": openai_responses.with_tools(),
    "/v1/messages": anthropic_messages.with_tools(),
}


def shared_cache() -> SemanticCache:
    return SemanticCache(
        store=MemoryStore(),
        embedder=HashEmbedder(),
        similarity_threshold=0.7,
        self_check=False,
    )


def spoken(path: str, body: Any, number: int) -> tuple[str, list[bytes]]:
    """The type and the chunks of an answer to `body`; `number` is that of the call."""
    if path.endswith("/messages"):
        value, events = MESSAGE
    elif path.endswith("/responses"):
        value, events = RESPONSE
    else:
        value, events = CHAT_CALLS if body.get("tools") else CHAT_WORDS
    value = {**value, "id": f"call-{number}"}
    if not body.get("stream"):
        return "application/json", [json.dumps(value).encode()]
    # Only chat completions leave it to the caller; the others have named events.
    asks = bool((body.get("stream_options") or {}).get("include_usage"))
    return "text/event-stream", on_the_wire(events, with_usage=asks or isinstance(events[0], tuple))
