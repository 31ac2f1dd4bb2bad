"""Frozen dataclasses made in less than half of the time, where one is made for each put."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields, make_dataclass
from typing import Any, ParamSpec, TypeVar

__all__ = ["maker"]

P = ParamSpec("P")
T = TypeVar("T")


def maker(kind: Callable[P, T]) -> Callable[P, T]:
    """
    What makes a `kind`, a frozen dataclass with slots, as calling it does.

    A frozen one sets each field by ``object.__setattr__``. This fills one that is not frozen,
    of the same slots, which then becomes a `kind`.
    """
    frozen: Any = kind

    def freeze(filled: Any) -> None:
        filled.__class__ = frozen

    made: Any = make_dataclass(
        frozen.__name__,
        [
            (one.name, one.type, field(default=one.default, default_factory=one.default_factory))
            for one in fields(frozen)
        ],
        namespace={"__post_init__": freeze},
        slots=True,
    )
    return made  # type: ignore[no-any-return]
