"""Configuration, checked once: a setting that exists is a setting that is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

from mneme._core.freshness import as_seconds
from mneme._core.keys import check_namespace
from mneme._core.manner import Manner, is_async
from mneme.types import Confidence, Guard, MetricsHook, Normalizer, Validator

__all__ = ["SelfCheck", "Settings", "check_count", "check_threshold"]

T = TypeVar("T")

SelfCheck = Literal[True, False, "later"]
"""When the threshold is tried on two unrelated sentences: on opening, never, at the first hit."""

LONGEST_DEADLINE = 1e9
"""Seconds: what is longer is no deadline, and more than a lock or a loop can wait for."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a cache was told; times in seconds, sizes in bytes."""

    similarity_threshold: float | None
    """As it was asked for; None: that of the calibration that the store keeps, or the default."""
    default_ttl: float | None
    max_entries: int | None
    namespace_quotas: Mapping[str, int]
    confidence_fn: Confidence | None
    validator: Validator | None
    guards: tuple[Guard, ...]
    manner: Manner
    metrics_hook: MetricsHook | None
    normalize: Normalizer
    stale_check_interval: float
    max_query_bytes: int
    max_response_bytes: int
    max_metadata_bytes: int
    embed_timeout: float | None
    store_timeout: float | None
    require_namespace: bool
    self_check: SelfCheck
    open_later: bool
    clock: Callable[[], float] = field(repr=False)

    @staticmethod
    def checked(
        *,
        similarity_threshold: float | None,
        default_ttl: float | timedelta | None,
        max_entries: int | None,
        namespace_quotas: Mapping[str, int] | None,
        confidence_fn: Confidence | None,
        validator: Validator | None,
        guards: Any,
        manner: Manner,
        metrics_hook: MetricsHook | None,
        normalize: Normalizer,
        stale_check_interval: float | timedelta,
        max_query_bytes: int,
        max_response_bytes: int,
        max_metadata_bytes: int,
        embed_timeout: float | timedelta | None,
        store_timeout: float | timedelta | None,
        require_namespace: bool,
        self_check: SelfCheck,
        open_later: bool,
        clock: Callable[[], float],
    ) -> Settings:
        """
        The settings, every one of them valid.

        Raises:
            ValueError: naming the setting, its value and what it may be.
        """
        quotas = _made(dict, namespace_quotas or {}, "namespace_quotas", "a dict")
        for name, quota in quotas.items():
            check_namespace(name)
            check_count(quota, f"namespace_quotas[{name!r}]", least=0)
        for name, function in (
            ("confidence_fn", confidence_fn),
            ("validator", validator),
            ("metrics_hook", metrics_hook),
        ):
            if function is not None and not callable(function):
                raise ValueError(f"{name} must be callable or None, got {function!r}.")
        guards = _made(tuple, guards, "guards", "a list of callables")
        if not all(callable(guard) for guard in guards):
            raise ValueError("guards must be callables (asked, cached) -> None or a reason.")
        for name, functions in (
            ("confidence_fn", (confidence_fn,)),
            ("validator", (validator,)),
            ("metrics_hook", (metrics_hook,)),
            ("normalize", (normalize,)),
            ("guards", guards),
        ):
            if any(map(is_async, functions)):
                # A coroutine is true: a validator would pass whatever it is asked about.
                raise ValueError(f"{name} is async, and nobody awaits it. Pass a plain function.")
        return Settings(
            similarity_threshold=similarity_threshold,
            default_ttl=as_seconds(default_ttl, "default_ttl"),
            max_entries=None if max_entries is None else check_count(max_entries, "max_entries"),
            namespace_quotas=quotas,
            confidence_fn=confidence_fn,
            validator=validator,
            guards=guards,
            manner=manner,
            metrics_hook=metrics_hook,
            normalize=normalize,
            stale_check_interval=as_seconds(stale_check_interval, "stale_check_interval") or 0.0,
            max_query_bytes=check_count(max_query_bytes, "max_query_bytes"),
            max_response_bytes=check_count(max_response_bytes, "max_response_bytes"),
            max_metadata_bytes=check_count(max_metadata_bytes, "max_metadata_bytes"),
            embed_timeout=_deadline(embed_timeout, "embed_timeout"),
            store_timeout=_deadline(store_timeout, "store_timeout"),
            require_namespace=require_namespace,
            self_check=_known(self_check, "self_check", (True, False, "later")),
            open_later=_known(open_later, "open_later", (True, False)),
            clock=clock,
        )


def _known(value: T, name: str, values: tuple[T, ...]) -> T:
    if value not in values:
        raise ValueError(f"{name} must be one of {values}, got {value!r}.")
    return value


def _made(kind: Callable[[Any], T], value: Any, name: str, what: str) -> T:
    try:
        return kind(value)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"{name} must be {what}, got {value!r}.") from exc


def _deadline(value: float | timedelta | None, name: str) -> float | None:
    seconds = as_seconds(value, name)
    return seconds if seconds is not None and seconds < LONGEST_DEADLINE else None


def check_threshold(value: float, name: str = "similarity_threshold") -> float:
    """
    A cosine from 0 to 1.

    Raises:
        ValueError: anything else; 85 is told to be 0.85.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a cosine from 0.0 to 1.0, got {value!r}.")
    if not 0.0 <= value <= 1.0:
        hint = f" Did you mean {value / 100:g}?" if 1.0 < value <= 100.0 else ""
        raise ValueError(f"{name} must be a cosine from 0.0 to 1.0, got {value!r}.{hint}")
    return float(value)


def check_count(value: int, name: str, *, least: int = 1) -> int:
    """
    A whole number of at least `least`.

    Raises:
        ValueError: anything else, `True` included.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return value
