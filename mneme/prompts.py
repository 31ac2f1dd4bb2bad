"""
Where the prompt sits in a request.

An extractor takes a `Request` and returns what is asked, apart from all that the answer
depends on besides: an `Asked`, the prompt's text alone, or None for a request that is not to
be cached. These here know their part of a request; any callable of yours will do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mneme._core.http import asking
from mneme._core.http.asking import offers_tools
from mneme._core.http.exchange import PROMPT
from mneme._core.http.form import Form
from mneme._core.http.request import NotJSON, Request
from mneme._core.http.responses import StoredResponse
from mneme._core.http.routes import Extractor, Route
from mneme._core.messages import Asked

__all__ = ["ApiExtractor", "Asked", "Extractor", "Form", "NotJSON", "Request", "Route",
           "StoredResponse", "anthropic_messages", "json_field", "ollama_chat",
           "ollama_generate", "openai_chat", "openai_responses", "query_param"]  # fmt: skip


def json_field(path: str) -> Extractor:
    """
    The text at `path` in a JSON body: ``"prompt"``, ``"input.text"``, ``"messages.-1.content"``.

    Numbers count the items of a list. The rest of the body and the query string stay in the
    partition. A body without text there is no call to cache.

    Raises:
        ValueError: `path` is empty or has an empty step.
    """
    steps = tuple(path.split("."))
    if not all(steps):
        raise ValueError(f"{path!r} is no path into a body. Use names joined by dots.")
    return _JsonField(steps)


def query_param(name: str) -> Extractor:
    """
    The value of the query parameter `name`; for GET requests.

    The other parameters and the body stay in the partition. A request without it, or with two
    of it, is no call to cache.

    Raises:
        ValueError: `name` is empty.
    """
    if not name:
        raise ValueError("a query parameter has a name.")
    return _QueryParam(name)


@dataclass(frozen=True, slots=True, repr=False)
class ApiExtractor:
    """
    An extractor that knows the requests of one API.

    The final user turn is the prompt. Model, settings, system text, earlier turns and all that
    is not understood stay in the partition, and so do pictures and files, as a digest. Only
    ``stream`` does not: an answer that was stored as a stream is served as a value, too, and
    the other way round, where nothing is lost by that. A request that offers tools, or that
    ends in something else than a user's words, is only answered from an equal one.
    """

    name: str
    read: Callable[[dict[str, Any]], Asked | None]
    semantic_tools: bool = False

    def with_tools(self) -> ApiExtractor:
        """The same, but requests that offer tools are compared by meaning like all others."""
        return replace(self, semantic_tools=True)

    def __call__(self, request: Request) -> Asked | None:
        try:
            body = request.json()
            asked = self.read(body) if isinstance(body, dict) else None
        except (NotJSON, TypeError):
            return None
        if asked is None:
            return None
        semantic = asked.semantic and (self.semantic_tools or not offers_tools(body))
        return replace(asked, rest=[request.query, asked.rest], semantic=semantic)

    def __repr__(self) -> str:
        return f"{self.name}.with_tools()" if self.semantic_tools else self.name


openai_chat: ApiExtractor = ApiExtractor("openai_chat", asking.openai_chat)
"""Requests for chat completions, in OpenAI's format, which many servers speak."""

openai_responses: ApiExtractor = ApiExtractor("openai_responses", asking.openai_responses)
"""Requests to OpenAI's Responses API."""

anthropic_messages: ApiExtractor = ApiExtractor("anthropic_messages", asking.anthropic_messages)
"""Requests to Anthropic's Messages API."""

ollama_chat: ApiExtractor = ApiExtractor("ollama_chat", asking.ollama_chat)
"""Requests to Ollama's ``/api/chat``."""

ollama_generate: ApiExtractor = ApiExtractor("ollama_generate", asking.ollama_generate)
"""Requests to Ollama's ``/api/generate``; a ``raw`` prompt must be equal."""


@dataclass(frozen=True, slots=True)
class _JsonField:
    steps: tuple[str, ...]

    def __call__(self, request: Request) -> Asked | None:
        try:
            body = request.json()
        except NotJSON:
            return None
        *way, last = self.steps
        inner = body
        for step in way:
            inner = _at(inner, step)
        prompt = _at(inner, last)
        if not isinstance(prompt, str):
            return None
        # The body is this call's own: json() reads it anew each time.
        inner[_key(inner, last)] = PROMPT
        return Asked(prompt, [request.query, body])

    def __repr__(self) -> str:
        return f"json_field({'.'.join(self.steps)!r})"


@dataclass(frozen=True, slots=True)
class _QueryParam:
    name: str
    methods: tuple[str, ...] = field(default=("GET",), repr=False)

    def __call__(self, request: Request) -> Asked | None:
        found: list[str] = []
        rest: list[object] = []
        for name, value, raw in request.parameters():
            if name == self.name:
                found.append(value)
                rest.append([name, PROMPT])
            else:
                rest.append(raw)
        return Asked(found[0], [rest, request.body]) if len(found) == 1 else None

    def __repr__(self) -> str:
        return f"query_param({self.name!r})"


def _at(value: Any, step: str) -> Any:
    """The item of an object or a list that `step` names; None where there is none."""
    try:
        return value[_key(value, step)]
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _key(value: Any, step: str) -> Any:
    if isinstance(value, list):
        return int(step)
    if isinstance(value, dict):
        return step
    raise TypeError(f"{type(value).__name__} has no {step!r}")
