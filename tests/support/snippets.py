"""The Python in a Markdown page, as a reader would run it: in order, in one namespace."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent
from types import CodeType

FENCE = re.compile(
    r"^(?P<indent>[ \t]*)(?P<ticks>`{3,}|~{3,})python(?P<info>[^\n`]*)\n"
    r"(?P<code>.*?)^(?P=indent)(?P=ticks)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Snippet:
    """One fenced block; `line` is that of its first line of code, counted from 1."""

    page: str
    line: int
    code: str
    is_run: bool

    def compiled(self) -> CodeType:
        """Code whose tracebacks point into the page."""
        return compile("\n" * (self.line - 1) + self.code, self.page, "exec")


def snippets(page: str, text: str) -> Iterator[Snippet]:
    """
    Each block fenced as ``python``, in order.

    Raises:
        ValueError: the fence says something after ``python`` that is not ``notest``.
    """
    for found in FENCE.finditer(text):
        info = found["info"].strip()
        line = text.count("\n", 0, found.start("code")) + 1
        if info not in ("", "notest"):
            raise ValueError(f"{page}:{line - 1}: a fence reads 'python' or 'python notest'")
        yield Snippet(page, line, dedent(found["code"]), is_run=not info)
