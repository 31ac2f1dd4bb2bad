"""What holds for every cached call inside a ``with`` block: namespace, bypass, refresh, observe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Literal, TypeVar

from mneme._core.keys import check_namespace
from mneme.records import Hit, Miss

__all__ = ["bypass", "namespace", "observe", "refresh"]

Mode = Literal["serve", "bypass", "refresh"]
T = TypeVar("T")

current_namespace: ContextVar[str | None] = ContextVar("mneme_namespace", default=None)
current_mode: ContextVar[Mode] = ContextVar("mneme_mode", default="serve")
observers: ContextVar[tuple[list[Hit | Miss], ...]] = ContextVar("mneme_observers", default=())

is_plain: ContextVar[bool] = ContextVar("mneme_is_plain", default=True)
"""Whether the mode is to serve and nobody observes: one look for what every hit has to know."""

_blocks: ContextVar[tuple[object, ...]] = ContextVar("mneme_blocks", default=())
"""The blocks that are open here; a copy of the context has them too."""


@contextmanager
def namespace(name: str) -> Iterator[str]:
    """
    Keep every cached call inside to the namespace `name`, which no other one can see.

    Raises:
        TypeError: `name` is not text.
        ValueError: empty, over 1,024 bytes, or with a NUL.
    """
    with _set(current_namespace, check_namespace(name)):
        yield name


@contextmanager
def bypass() -> Iterator[None]:
    """Neither read nor write: cached calls inside behave as if there were no cache."""
    with mode("bypass"):
        yield


@contextmanager
def refresh() -> Iterator[None]:
    """Call and overwrite: cached calls inside read nothing and store what comes."""
    with mode("refresh"):
        yield


@contextmanager
def mode(value: Mode) -> Iterator[None]:
    """Serve, bypass or refresh inside the block."""
    plain = value == "serve" and not observers.get()
    with _set(current_mode, value), _set(is_plain, plain):
        yield


@contextmanager
def observe() -> Iterator[list[Hit | Miss]]:
    """Collect the `Hit` or `Miss` of every cached call inside, in order, nested blocks too."""
    seen: list[Hit | Miss] = []
    with _set(observers, (*observers.get(), seen)), _set(is_plain, False):
        yield seen


@contextmanager
def _set(variable: ContextVar[T], value: T) -> Iterator[None]:
    before, block = variable.get(), object()
    opened = _blocks.set((*_blocks.get(), block))
    token: Token[T] = variable.set(value)
    try:
        yield
    finally:
        try:
            variable.reset(token)
            _blocks.reset(opened)
        except ValueError:
            # Entered in one context and left in another (a fixture, a generator that moved or
            # was collected). A copy of ours gets the old value back by hand; any other has
            # nothing of ours, and may be in a block of its own.
            if _blocks.get()[-1:] == (block,):
                variable.set(before)
                _blocks.set(_blocks.get()[:-1])
