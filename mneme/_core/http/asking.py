"""
What the requests of known APIs ask: body to prompt, rest and form.

What is not understood stays in the rest, so it is never dropped: a setting that is new to
this file makes fewer hits, not wrong ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mneme._core.http.exchange import PROMPT
from mneme._core.http.form import Form
from mneme._core.messages import Asked, are_messages, split

__all__ = ["anthropic_messages", "offers_tools", "ollama_chat", "ollama_generate", "openai_chat",
           "openai_responses"]  # fmt: skip

Body = dict[str, Any]


def offers_tools(body: Body) -> bool:
    """Whether the model may call something, or have something called, before it answers."""
    return any(body.get(name) for name in ("tools", "functions", "mcp_servers"))


def openai_chat(body: Body) -> Asked | None:
    """A chat completion; `TypeError` for messages that are none."""
    form, body = _form("openai_chat", body)
    options = body.get("stream_options")
    if form is not None and form.streams and isinstance(options, dict | None):
        others = dict(options or {})
        with_usage = others.pop("include_usage", None)
        if with_usage is None or isinstance(with_usage, bool):
            form = Form(form.format, streams=True, with_usage=bool(with_usage))
            body = {k: v for k, v in body.items() if k != "stream_options"}
            if others:
                body["stream_options"] = others
    return _conversation(body, form)


def anthropic_messages(body: Body) -> Asked | None:
    """A message of Anthropic's; the system text stands beside the turns."""
    form, body = _form("anthropic_messages", body)
    return _conversation(body, form)


def ollama_chat(body: Body) -> Asked | None:
    """A chat with Ollama, which streams unless it is told not to."""
    form, body = _form("ollama", body, streams=True)
    return _conversation(body, form)


def ollama_generate(body: Body) -> Asked | None:
    """A completion by Ollama. A raw prompt holds a whole conversation, so it must be equal."""
    form, body = _form("ollama", body, streams=True)
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        # Without a prompt it is a request to load the model.
        return None
    return Asked(prompt, {**body, "prompt": PROMPT}, semantic=not body.get("raw"), form=form)


def openai_responses(body: Body) -> Asked | None:
    """A request to the Responses API: text, or items of which the last is what is asked."""
    form, body = _form("openai_responses", body)
    items = body.get("input")
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    if not isinstance(items, list) or not items:
        return None
    *earlier, last = items
    if are_messages([last]):
        asked = split([last])
        prompt, rest, semantic = asked.prompt, [earlier, asked.rest], asked.semantic
    else:
        # The result of a tool, or an item that is referred to.
        prompt, rest, semantic = "(item)", [items], False
    return Asked(prompt, {**body, "input": rest}, semantic, form)


def _conversation(body: Body, form: Form | None) -> Asked | None:
    messages: Sequence[Any] | None = body.get("messages")
    if messages is None or not are_messages(messages):
        return None
    asked = split(messages)
    return Asked(asked.prompt, {**body, "messages": asked.rest}, asked.semantic, form)


def _form(api: str, body: Body, *, streams: bool = False) -> tuple[Form | None, Body]:
    """
    The form that the body asks for, and the body without the word for it.

    Something else than true, false or nothing is not understood: it stays, and there is none.
    """
    said = body.get("stream")
    if said is not None and not isinstance(said, bool):
        return None, body
    rest = {name: value for name, value in body.items() if name != "stream"}
    return Form(api, streams=streams if said is None else said), rest
