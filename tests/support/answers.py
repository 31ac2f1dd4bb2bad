"""Answers of models in each known format, drawn at random, and streams of them cut at random."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from mneme._core.http.form import Form

texts = st.text(st.characters(codec="utf-8"), max_size=12)
words = texts.filter(bool)
counts = st.integers(0, 9)
leaves = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | texts
objects = st.dictionaries(texts, leaves | st.lists(leaves, max_size=2), max_size=3)


def maybe(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object that has each of these fields or has it not."""
    return st.fixed_dictionaries({}, optional=fields)


def merged(*parts: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(*parts).map(lambda all_: {k: v for one in all_ for k, v in one.items()})


def exactly(**fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    given = {k: v if isinstance(v, st.SearchStrategy) else st.just(v) for k, v in fields.items()}
    return st.fixed_dictionaries(given)


chances = exactly(token=texts, logprob=st.floats(-9, 0), bytes=st.lists(counts, max_size=2),
                  top_logprobs=st.just([]))  # fmt: skip

# -- OpenAI, chat

calls = exactly(id=words, type="function", function=exactly(name=words, arguments=texts))
chat_messages = merged(
    exactly(role="assistant", content=st.none() | texts),
    maybe(
        refusal=st.none(),
        reasoning_content=st.none() | texts,
        reasoning=texts,
        annotations=st.just([]),
        audio=st.none(),
        tool_calls=st.none() | st.lists(calls, max_size=3),
        function_call=st.none() | exactly(name=words, arguments=texts),
    ),
)
choices = merged(
    exactly(message=chat_messages, finish_reason=st.sampled_from(["stop", "tool_calls"])),
    maybe(
        logprobs=st.none()
        | exactly(content=st.none() | st.lists(chances, min_size=1, max_size=3), refusal=None),
        stop_reason=st.none() | counts,
    ),
)
usages = exactly(prompt_tokens=counts, completion_tokens=counts, total_tokens=counts,
                 prompt_tokens_details=exactly(cached_tokens=counts))  # fmt: skip
completions = merged(
    exactly(
        id=words,
        object="chat.completion",
        created=counts,
        model=words,
        choices=st.lists(choices, min_size=1, max_size=2).map(
            lambda found: [{"index": at, **one} for at, one in enumerate(found)]
        ),
        usage=usages,
    ),
    maybe(
        service_tier=st.none() | words,
        system_fingerprint=st.none() | words,
        moderation=st.none(),
    ),
)

# -- OpenAI, responses

token_chances = exactly(token=texts, logprob=st.floats(-9, 0), bytes=st.lists(counts, max_size=2),
                        top_logprobs=st.lists(exactly(token=texts, logprob=st.floats(-9, 0),
                                                      bytes=st.just([])), max_size=1))  # fmt: skip
notes = exactly(type="url_citation", url=words, title=texts, start_index=counts, end_index=counts)
said = exactly(type="output_text", text=texts, annotations=st.lists(notes, max_size=2),
               logprobs=st.lists(token_chances, max_size=2))  # fmt: skip
items = st.one_of(
    exactly(type="message", status="completed", role="assistant",
            content=st.lists(said, max_size=2)),
    merged(
        exactly(type="reasoning",
                summary=st.lists(exactly(type="summary_text", text=texts), max_size=2)),
        maybe(content=st.lists(exactly(type="reasoning_text", text=texts), max_size=2),
              encrypted_content=st.none() | words),
    ),
    exactly(type="function_call", status="completed", call_id=words, name=words, arguments=texts),
    exactly(type="custom_tool_call", call_id=words, name=words, input=texts),
)  # fmt: skip
responses = merged(
    exactly(
        id=words, object="response", created_at=counts, model=words, status="completed",
        error=st.none(), metadata=objects, tools=st.just([]), tool_choice="auto",
        parallel_tool_calls=True,
        output=st.lists(items, max_size=3).map(
            lambda found: [
                {"id": f"item_{at}", **one, **({"call_id": f"c{at}"} if "call_id" in one else {})}
                for at, one in enumerate(found)
            ]
        ),
        usage=exactly(input_tokens=counts, output_tokens=counts, total_tokens=counts),
    ),
    maybe(completed_at=counts, temperature=st.floats(0, 1)),
)  # fmt: skip

# -- Anthropic

blocks = st.one_of(
    merged(
        exactly(type="text", text=texts),
        maybe(citations=st.none() | st.lists(
            exactly(type="char_location", cited_text=texts, document_index=counts,
                    document_title=st.none(), file_id=st.none(),
                    start_char_index=counts, end_char_index=counts), max_size=2)),
    ),
    exactly(type="thinking", thinking=texts, signature=texts),
    exactly(type="redacted_thinking", data=texts),
    exactly(type="tool_use", id=words, name=words, input=objects),
    exactly(type="server_tool_use", id=words, name=st.just("web_search"), input=objects),
    exactly(type="web_search_tool_result", tool_use_id=words, content=st.just([])),
)  # fmt: skip
messages = merged(
    exactly(
        id=words, type="message", role="assistant", model=words,
        content=st.lists(blocks, max_size=3),
        stop_reason=st.sampled_from(["end_turn", "tool_use", "stop_sequence"]),
        stop_sequence=st.none() | words,
        usage=merged(
            exactly(input_tokens=counts, output_tokens=counts),
            maybe(cache_read_input_tokens=st.none() | counts, service_tier=st.just("standard"),
                  server_tool_use=st.none() | exactly(web_search_requests=counts)),
        ),
    ),
    maybe(container=st.none()),
)  # fmt: skip

# -- Ollama

ollama_frame = exactly(model=words, created_at=words, done=True, done_reason="stop",
                       total_duration=counts, eval_count=counts)  # fmt: skip
ollama_chats = merged(
    ollama_frame,
    exactly(message=merged(
        exactly(role="assistant", content=texts),
        maybe(thinking=texts, tool_calls=st.lists(
            exactly(function=exactly(name=words, arguments=objects)), min_size=1, max_size=2)),
    )),
)  # fmt: skip
ollama_texts = merged(
    ollama_frame,
    exactly(response=texts),
    maybe(thinking=texts, context=st.lists(counts)),
)

ANSWERS: dict[str, tuple[str, st.SearchStrategy[dict[str, Any]]]] = {
    "openai_chat": ("openai_chat", completions),
    "openai_responses": ("openai_responses", responses),
    "anthropic_messages": ("anthropic_messages", messages),
    "ollama_chat": ("ollama", ollama_chats),
    "ollama_generate": ("ollama", ollama_texts),
}
"""Name of the extractor -> name of the format, and its answers."""


def value(name: str) -> Form:
    return Form(ANSWERS[name][0], streams=False)


def stream(name: str, *, with_usage: bool = True) -> Form:
    return Form(ANSWERS[name][0], streams=True, with_usage=with_usage)


def body(answer: Any) -> bytes:
    return json.dumps(answer).encode()


Extract = Callable[..., Any]
