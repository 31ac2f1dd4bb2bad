"""How near candidates are judged, as it was asked for."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from mneme._core.freshness import as_seconds
from mneme.types import SameAnswer, Verifier

__all__ = ["Manner", "Mode", "PolicyName", "is_async"]

PolicyName = Literal["threshold", "learned"]
Mode = Literal["serve", "shadow"]

LEARNED_MAX_ERROR, AUDITED_MAX_ERROR = 0.01, 0.02
"""Of all lookups, and of semantic hits."""

LEARNED_AUDIT_RATE = 0.01
"""What the learned policy cannot do without: its error would be twice the target."""


@dataclass(frozen=True, slots=True)
class Manner:
    """
    Checked settings of a `Judge`; shares from 0 to 1, times in seconds.

    ``max_error`` is of all lookups with the learned policy, of semantic hits with audits.
    ``verify_band`` is how far below and above the threshold the verifier is asked.
    """

    policy: PolicyName = "threshold"
    max_error: float = 0.01
    same_answer: SameAnswer | None = None
    mode: Mode = "serve"
    audit_rate: float = 0.0
    verify: Verifier | None = None
    verify_band: tuple[float, float] = (0.1, 0.0)
    verify_timeout: float | None = 2.0
    seed: int = 0

    @staticmethod
    def checked(
        *,
        policy: PolicyName = "threshold",
        max_error: float | None = None,
        same_answer: SameAnswer | None = None,
        mode: Mode = "serve",
        audit_rate: float | None = None,
        verify: Verifier | None = None,
        verify_band: tuple[float, float] = (0.1, 0.0),
        verify_timeout: float | timedelta | None = 2.0,
        seed: int = 0,
    ) -> Manner:
        """
        Raises:
            ValueError: naming the setting, its value and what it may be.
        """
        _one_of(policy, "policy", get_args(PolicyName))
        _one_of(mode, "mode", get_args(Mode))
        if max_error is not None and policy != "learned" and not audit_rate:
            raise ValueError(
                f"max_error={max_error!r} needs policy='learned', or an audit_rate= by which the "
                "threshold can be tightened. For a threshold that keeps to an error see "
                "mneme.calibrate.guaranteed_threshold."
            )
        for name, function in (("same_answer", same_answer), ("verify", verify)):
            if function is not None and not callable(function):
                raise ValueError(f"{name} must be callable or None, got {function!r}.")
        if audit_rate is None:
            audit_rate = LEARNED_AUDIT_RATE if policy == "learned" else 0.0
        if max_error is None:
            max_error = LEARNED_MAX_ERROR if policy == "learned" else AUDITED_MAX_ERROR
        below, above = _pair(verify_band)
        return Manner(
            policy=policy,
            max_error=_share(max_error, "max_error", open_=True),
            same_answer=same_answer,
            mode=mode,
            audit_rate=_share(audit_rate, "audit_rate"),
            verify=verify,
            verify_band=(below, above),
            verify_timeout=as_seconds(verify_timeout, "verify_timeout"),
            seed=_seed(seed),
        )

    def refuse_async(self) -> None:
        """
        Raises:
            TypeError: a callable here is async, and the cache is not.
        """
        for name, function in (("same_answer", self.same_answer), ("verify", self.verify)):
            if function is not None and is_async(function):
                raise TypeError(
                    f"{name} is async and SemanticCache is not. Pass a plain function, "
                    "or use AsyncSemanticCache."
                )


def is_async(function: object) -> bool:
    """Whether calling it gives something to await."""
    called = getattr(type(function), "__call__", None)  # noqa: B004  asks what it is, not whether
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def _one_of(value: object, name: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}.")


def _share(value: Any, name: str, *, open_: bool = False) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not (0.0 < value < 1.0 if open_ else 0.0 <= value <= 1.0):
        between = "between 0 and 1, both excluded" if open_ else "from 0 to 1"
        hint = f" Did you mean {value / 100:g}?" if is_number and 1.0 <= value <= 100.0 else ""
        raise ValueError(f"{name} must be a share {between}, got {value!r}.{hint}")
    return float(value)


def _pair(band: Any) -> tuple[float, float]:
    try:
        below, above = band
        return _share(below, "verify_band"), _share(above, "verify_band")
    except (TypeError, ValueError) as exc:
        raise ValueError(
            "verify_band must be two shares, how far below and above the threshold "
            f"the verifier is asked, got {band!r}."
        ) from exc


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {value!r}.")
    return value
