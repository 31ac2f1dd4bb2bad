"""
Chat messages to what is asked and what it depends on.

The text of the final user turn is the prompt. Everything before it, and every part of it that
is not text (an image, a file), belongs to the partition: a follow-up like "yes, cancel it"
only ever meets the same conversation. Where the last message is not a user's turn with text
in it (a tool's result, an answer to go on with, a picture alone), only the exact layer may
answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mneme._core.http.form import Form

__all__ = ["Asked", "are_messages", "split", "without_turns"]

USER_ROLES = ("user", "human")
INSTRUCTING_ROLES = ("system", "developer")
TEXT_PARTS = ("text", "input_text")
_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "refusal", "type", "text")


@dataclass(frozen=True, slots=True)
class Asked:
    """
    What a request asks: the `prompt` that is compared, and the `rest` that is hashed.

    `semantic` is False where only an equal request may get the answer. `form` is how the
    answer is to be said, where this is known and not in the rest: an answer that came in
    another form of the same format is converted.
    """

    prompt: str
    rest: object
    semantic: bool = True
    form: Form | None = None


def are_messages(value: object) -> bool:
    """Whether `value` is a non-empty list of chat messages: each with a role and content."""
    return (
        isinstance(value, (list, tuple))
        and bool(value)
        and all(_field(one, "role") is not None for one in value)
    )


def split(messages: Sequence[Any]) -> Asked:
    """
    The question that a conversation ends with.

    Raises:
        TypeError: an item is no chat message.
    """
    plain = [_plain(message, at) for at, message in enumerate(messages)]
    *earlier, last = plain
    text, others = _text_of(last.get("content"))
    if last["role"] in USER_ROLES and text.strip() and not _has_results(last.get("content")):
        frame = {name: value for name, value in last.items() if name != "content"}
        return Asked(text, [*earlier, {**frame, "content": others}])
    return Asked(text if text.strip() else f"({last['role']})", plain, semantic=False)


def without_turns(messages: Sequence[Any]) -> object | None:
    """
    What a conversation's last question depends on once it stands alone: the instructions,
    and what the last turn has beside text. None where there are no earlier turns, or where
    the last one is no question.
    """
    *earlier, last = [_plain(message, at) for at, message in enumerate(messages)]
    instructions = [message for message in earlier if message["role"] in INSTRUCTING_ROLES]
    text, others = _text_of(last.get("content"))
    if len(instructions) == len(earlier) or last["role"] not in USER_ROLES or not text.strip():
        return None
    frame = {name: value for name, value in last.items() if name != "content"}
    return [*instructions, {**frame, "content": others}]


def _text_of(content: object) -> tuple[str, list[object]]:
    """The text of a message's content, and the parts of it that are none, with their places."""
    if isinstance(content, str):
        return content, []
    texts: list[str] = []
    others: list[object] = []
    parts = content if isinstance(content, (list, tuple)) else [content]
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        text = _field(part, "text")
        if isinstance(text, str) and _field(part, "type") in TEXT_PARTS and _is_bare(part):
            texts.append(text)
        elif part is not None:
            # How much text stands before a picture says which words speak of it.
            others.append([len(texts), part if text is None else _fields_of(part)])
    if others:
        others.append(len(texts))
    return "\n".join(texts), others


def _has_results(content: object) -> bool:
    """Whether a turn brings the result of a tool, as a user's turn does in Anthropic's format."""
    parts = content if isinstance(content, (list, tuple)) else ()
    kinds = (_field(part, "type") for part in parts)
    return any(isinstance(kind, str) and kind.endswith("tool_result") for kind in kinds)


def _is_bare(part: object) -> bool:
    """Whether a text part says no more than its text (cache marks say how, not what)."""
    return all(name in ("type", "text", "cache_control") for name in _fields_of(part))


def _plain(message: Any, at: int) -> dict[str, Any]:
    fields = _fields_of(message)
    if not isinstance(fields.get("role"), str):
        raise TypeError(
            f"messages[{at}] is {type(message).__name__}, not a chat message: it has no role. "
            'Pass {"role": ..., "content": ...} or an object with these attributes.'
        )
    return fields


def _fields_of(value: Any) -> dict[str, Any]:
    """What a mapping holds, or what an object says of itself, `None` and private names apart."""
    if isinstance(value, Mapping):
        return dict(value)
    kind = type(value)
    # Not the known names alone: two turns that differ in another field are two turns.
    names = dict.fromkeys(_FIELDS)
    for declared in (
        getattr(kind, "__dataclass_fields__", ()),
        getattr(kind, "_fields", ()),
        getattr(value, "__dict__", ()),
        getattr(value, "model_extra", None) or (),
    ):
        names.update(dict.fromkeys(declared))
    found = {name: getattr(value, name, None) for name in names if not name.startswith("_")}
    return {name: one for name, one in found.items() if one is not None}


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
