"""
What is done to each cache: prepared once, then measured in short rounds.

A round tells figures by name: ``us``, ``ms``, ``s`` or ``bytes`` of the cache, ``against`` the
same of what it is compared with inside its own process, and others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hits import AsyncExactHit, ExactHit
from searches import AfterDeletes, FanOut, ManyNamespaces, MixedTrace, SemanticGet, SharedFile
from writes import (
    ClearNamespace,
    Fill,
    MemoryOfEntries,
    OpenFile,
    Puts,
    PutsAtTheLimit,
    Vacuum,
)

__all__ = ["SCENARIOS"]

SCENARIOS: dict[str, Callable[..., Any]] = {
    made.__name__: made
    for made in (
        AfterDeletes,
        AsyncExactHit,
        ClearNamespace,
        ExactHit,
        FanOut,
        Fill,
        ManyNamespaces,
        MemoryOfEntries,
        MixedTrace,
        OpenFile,
        Puts,
        PutsAtTheLimit,
        SemanticGet,
        SharedFile,
        Vacuum,
    )
}
