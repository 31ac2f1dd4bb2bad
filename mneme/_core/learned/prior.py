"""The weights that the learned policy starts from, shipped as a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from mneme._core.learned.features import FEATURES
from mneme._core.learned.fit import Array

__all__ = ["Prior", "read_prior", "shipped_prior"]

FARTHEST = 8.0
"""Standard deviations beyond which a feature's value is taken for that far."""


@dataclass(frozen=True, slots=True)
class Prior:
    """
    What was learned where labels were at hand: a normal over weights, and how to scale.

    ``mean`` and ``scale`` of the features, shape ``(d,)``; ``weights``, the constant's first,
    shape ``(d + 1,)``, and their ``covariance`` between kinds of traffic, which says what weights
    go together: where some are seen to differ, the others that usually do follow.
    """

    mean: Array
    scale: Array
    weights: Array
    covariance: Array

    def scaled(self, rows: list[list[float]]) -> Array:
        """Rows as the score takes them, with a leading 1, shape ``(n, d + 1)``."""
        features = np.ones((len(rows), len(self.weights)))
        features[:, 1:] = (np.array(rows) - self.mean) / self.scale
        # Twice as fast as np.clip on so few numbers.
        np.minimum(features, FARTHEST, out=features)
        return np.maximum(features, -FARTHEST, out=features)


def read_prior(text: str) -> Prior:
    """
    The prior that `fit_prior.py` wrote as JSON.

    Raises:
        ValueError: fitted for other features than these.
    """
    found = json.loads(text)
    if tuple(found["features"]) != FEATURES:
        raise ValueError(
            f"this prior is for the features {found['features']}, the policy computes "
            f"{list(FEATURES)}. Nothing was learned. Run tests/benchmarks/fit_prior.py."
        )
    return Prior(*(np.array(found[name]) for name in ("mean", "scale", "weights", "covariance")))


@cache
def shipped_prior() -> Prior:
    """The prior that came with the package, read once a process."""
    return read_prior(files(__package__).joinpath("prior.json").read_text("utf-8"))
