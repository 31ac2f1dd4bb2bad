"""A threshold, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from mneme._core.calibration import Calibration
from mneme._core.settings import check_threshold

__all__ = ["DEFAULT_THRESHOLD", "CalibratedThreshold", "Threshold", "threshold_of"]

DEFAULT_THRESHOLD = 0.85


class CalibratedThreshold(Protocol):
    """What a search for a threshold came to, with the record of it."""

    @property
    def calibration(self) -> Calibration | None: ...


@dataclass(frozen=True, slots=True)
class Threshold:
    """A cosine from 0 to 1; ``source`` says in words why this one."""

    value: float = DEFAULT_THRESHOLD
    source: str = "the default"
    calibration: Calibration | None = None


def threshold_of(given: Any, fingerprint: str, dim: int) -> Threshold:
    """
    The threshold that a number, a calibration, or what `find_threshold` found stands for;
    the default for None.

    Raises:
        ValueError: no cosine from 0 to 1, or a calibration that found none.
        EmbedderMismatchError: a calibration of another embedder.
    """
    if given is None:
        return Threshold()
    found = getattr(given, "calibration", given)
    if isinstance(found, Calibration):
        return Threshold(found.threshold_for(fingerprint, dim), f"calibration: {found}", found)
    return Threshold(check_threshold(given), "set by hand")
