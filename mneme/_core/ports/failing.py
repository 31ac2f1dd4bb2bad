"""What embedders and stores do wrong, in mneme's words; and calls that are given up on."""

from __future__ import annotations

import contextvars
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from mneme import _forks
from mneme._core.core import Core
from mneme.errors import EmbeddingError, MnemeError, StoreBackendError

__all__ = ["embedder_errors", "embeds_async", "late_store", "within"]

T = TypeVar("T")

MAX_LATE = 64
"""At most so many sync calls that were given up on may still be running."""


def embeds_async(embedder: object) -> bool:
    """Whether `embedder` is the kind whose ``embed`` is awaited."""
    return inspect.iscoroutinefunction(getattr(embedder, "embed", None))


class embedder_errors:
    """Whatever an embedder raises is an `EmbeddingError` from here on."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, Exception) and not isinstance(exc, MnemeError):
            what = "was late" if isinstance(exc, TimeoutError) else "failed"
            raise EmbeddingError(
                f"the embedder {what}: {type(exc).__name__}: {str(exc).rstrip('.')}. "
                "Nothing was stored. Check the embedder, or raise embed_timeout if it is slow."
            ) from exc


def late_store(core: Core) -> StoreBackendError:
    core.was_late()
    return StoreBackendError(
        f"{core.store.description} took longer than store_timeout "
        f"({core.settings.store_timeout} s). What it was doing may still happen. "
        "Check the store, or raise store_timeout."
    )


class _Late(_forks.Forked):
    """How many more calls may be given up on while they run."""

    def __init__(self) -> None:
        self.room = threading.BoundedSemaphore(MAX_LATE)
        _forks.watch(self)

    def in_child(self) -> None:
        # None of those that run in the parent runs here.
        self.room = threading.BoundedSemaphore(MAX_LATE)


_late = _Late()


def within(seconds: float | None, work: Callable[..., T], *args: Any) -> T:
    """
    ``work(*args)``, given up on after `seconds`; a thread of its own runs it then.

    Raises:
        TimeoutError: it took longer, or too many that did are still running.
    """
    if seconds is None:
        return work(*args)
    room = _late.room
    if not room.acquire(blocking=False):
        raise TimeoutError(f"{MAX_LATE} calls that were given up on are still running")
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work(*args))
        except BaseException as exc:
            outcome.set_exception(exc)
        finally:
            room.release()

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(run,), name="mneme-deadline", daemon=True).start()
    return outcome.result(seconds)
