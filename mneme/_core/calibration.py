"""A threshold together with what it was found for, so that it is used for nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from mneme.errors import EmbedderMismatchError

__all__ = ["Calibration"]

FORMAT = "mneme-calibration-1"

TARGETS = ("max_error", "precision", "recall", "f1")

KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "bool": (bool,),
    "float | None": (float, int, type(None)),
}


@dataclass(frozen=True, slots=True)
class Calibration:
    """
    A threshold, what was asked of it, what the labels showed, and whose cosines it is for.

    ``threshold`` is None where the labels cannot promise anything: then only the exact layer
    should answer. ``target`` says what `limit` limits: with ``"max_error"`` the share of wrong
    hits, with `confidence`. The others are as counted and promise nothing (``confidence``
    None); ``limit`` is None where the best was asked for. Of the ``labels``, ``hits`` are at
    or above the threshold, and ``wrong`` of these are wrong; the true share is at most
    ``upper_bound``. ``guarded`` says that pairs which guards refuse were counted as no hits.
    ``created_at`` is in seconds since the epoch.
    """

    threshold: float | None
    target: Literal["max_error", "precision", "recall", "f1"]
    limit: float | None
    confidence: float | None
    labels: int
    hits: int
    wrong: int
    upper_bound: float | None
    embedder_fingerprint: str
    dim: int
    vector_dtype: str = "float32"
    guarded: bool = False
    created_at: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            kinds = KINDS.get(str(field.type), (str,))
            is_kind = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
            if not is_kind or (isinstance(value, float) and not math.isfinite(value)):
                raise ValueError(f"{field.name} of a calibration cannot be {value!r}.")
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold must be a cosine from 0.0 to 1.0, got {self.threshold!r}.")
        if self.target not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {self.target!r}.")
        if (self.target == "max_error") is not (None not in (self.limit, self.confidence)):
            raise ValueError("max_error needs a limit and a confidence, and nothing else has both.")
        if not 0 <= self.wrong <= self.hits <= self.labels:
            raise ValueError(
                f"{self.wrong} wrong of {self.hits} hits of {self.labels} labels cannot be."
            )

    @property
    def hit_rate(self) -> float:
        """The share of the labels that would be served."""
        return self.hits / self.labels if self.labels else 0.0

    @property
    def precision(self) -> float:
        """The share of the hits that are right, as counted; 1 where nothing is served."""
        return 1.0 - self.wrong / self.hits if self.hits else 1.0

    def threshold_for(
        self, embedder_fingerprint: str, dim: int, vector_dtype: str = "float32"
    ) -> float:
        """
        The threshold, for a cache of this embedder and dtype.

        Raises:
            EmbedderMismatchError: it was found for another embedder, dimension or dtype.
            ValueError: it has no threshold, because the labels promise none.
        """
        mine = (self.embedder_fingerprint, self.dim, self.vector_dtype)
        theirs = (embedder_fingerprint, dim, vector_dtype)
        if mine != theirs:
            raise EmbedderMismatchError(
                f"the calibration was made with {_named(*mine)}, the cache uses {_named(*theirs)}: "
                "cosines of the one say nothing of the other. The threshold was not set. "
                "Run python -m mneme calibrate with the cache's embedder."
            )
        if self.threshold is None:
            raise ValueError(
                "the calibration has no threshold: its labels promise none. Nothing was set. "
                "Label more pairs, or allow a larger share of errors."
            )
        return float(self.threshold)

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back equal."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Calibration:
        """
        The calibration that `to_json` wrote.

        Raises:
            ValueError: it is not one, or of another version; the message says what is wrong.
        """
        try:
            found: Any = json.loads(text)
        except ValueError as exc:
            raise ValueError(f"not a calibration: not JSON ({exc}).") from exc
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            kind = found.get("format") if isinstance(found, dict) else type(found).__name__
            raise ValueError(
                f"not a calibration: the format is {kind!r}, this version reads {FORMAT!r}. "
                "Run python -m mneme calibrate again."
            )
        names = {field.name for field in fields(cls)}
        given = found.keys() - {"format"}
        if given != names:
            raise ValueError(
                f"not a calibration: lacking {sorted(names - given)}, unknown "
                f"{sorted(given - names)}. Run python -m mneme calibrate again."
            )
        return cls(**{name: found[name] for name in names})

    def __str__(self) -> str:
        counts = f"{self.wrong} of {self.hits} hits wrong, {self.hit_rate:.1%} of the pairs served"
        if self.confidence is None:
            least = "the best" if self.limit is None else f"at least {self.limit:.1%}"
            asked = f"{least} {self.target}, as counted"
        else:
            asked = (
                f"at most {self.limit:.1%} wrong among hits, with {self.confidence:.0%} confidence"
            )
        if self.threshold is None:
            return f"no threshold: {self.labels} labels do not show {asked}"
        return f"threshold {self.threshold:.4f}: {asked} ({counts})"


def _named(fingerprint: str, dim: int, dtype: str) -> str:
    return f"{fingerprint!r} ({dim}, {dtype})"
