"""
What makes a fork safe while mneme is in use: `os.fork`, multiprocessing, gunicorn --preload.

A child has one thread, and a copy of every lock as it stood. So just before a fork the locks
made here are taken, in the order in which they are nested: then nobody is in the midst of
anything, and what they guard is whole in the child. Where somebody does not let go of one in
time, the fork goes on all the same, and the child gets that lock new.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from typing import Any

__all__ = [
    "COMMITS",
    "GROUP",
    "GROUP_WRITING",
    "INDEX",
    "INNER",
    "LIVE",
    "NEVER",
    "STORE",
    "Forked",
    "lock",
    "rlock",
    "watch",
]

log = logging.getLogger("mneme")

# The order of nesting: who holds one of these may take those behind it.
COMMITS, GROUP_WRITING, GROUP, STORE, LIVE, INDEX, INNER = range(7)

NEVER = -1
"""The order of a lock that is held for long: a fork does not wait for it, the child gets it new."""

PATIENCE = 10.0
"""Seconds for which a fork waits for all locks together; longer than a store waits for others."""


class Forked:
    """What is told of forks once it is watched, while all locks are held: it takes none itself."""

    def before_fork(self) -> None:
        """Let go of what must not reach a child."""

    def in_child(self) -> None:
        """Forget what only the parent can finish."""


_registry = threading.Lock()
_locks: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
_watched: weakref.WeakSet[Forked] = weakref.WeakSet()
_this = threading.local()


def lock(order: int = INNER) -> Any:
    """A lock that is free in a child."""
    return _known(threading.Lock(), order)


def rlock(order: int) -> Any:
    """As `lock`, for one thread to take again and again."""
    return _known(threading.RLock(), order)


def watch(one: Forked) -> None:
    """Tell `one` of forks, for as long as it lives."""
    with _registry:
        _watched.add(one)


def _known(made: Any, order: int) -> Any:
    with _registry:
        _locks[made] = order
    return made


def _before() -> None:
    until = time.monotonic() + PATIENCE
    with _registry:
        known = sorted(_locks.items(), key=lambda item: item[1])
    _this.taken = []
    # The registry last: who makes a lock may hold others.
    for one in [*(made for made, order in known if order != NEVER), _registry]:
        if one.acquire(timeout=max(0.0, until - time.monotonic())):
            _this.taken.append(one)
    for watched in list(_watched):
        _tell(watched.before_fork)


def _in_parent() -> None:
    for one in reversed(_this.__dict__.pop("taken", ())):
        one.release()


def _in_child() -> None:
    taken = _this.__dict__.get("taken", ())
    held = {id(one) for one in taken}
    for one in [*_locks, _registry]:
        if id(one) not in held:
            one._at_fork_reinit()
    for watched in list(_watched):
        _tell(watched.in_child)
    _in_parent()


def _tell(hear: Any) -> None:
    try:
        hear()
    except Exception:
        log.exception("a fork may not have gone well with %r", hear)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
