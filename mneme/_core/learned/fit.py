"""The learned policy's score: logistic regression around a shipped prior, and its calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Calibration", "Posterior", "Rows", "chance", "chances", "focused"]

Array = NDArray[np.float64]

INDEPENDENT = 0.35
"""What one label counts for: those of neighbours and of like asks say nearly the same."""

HOPELESS = 0.1
"""The share of that for an option far from being served."""

NEARLY_SERVED = 1.0
"""A score at which a label counts half for the calibration."""

MAX_LOGIT = 30.0
MAX_HALVINGS = 10

PROBIT = math.pi / 8.0
"""MacKay 1992: the mean of a sigmoid under a normal of variance v is that of x / √(1 + πv/8)."""


def chance(logit: float) -> float:
    """The probability in (0, 1) of a logit, however large."""
    return 1.0 / (1.0 + math.exp(-min(max(logit, -MAX_LOGIT), MAX_LOGIT)))


def chances(logits: Array) -> Array:
    """`chance` of each."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -MAX_LOGIT, MAX_LOGIT))))


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled examples: features, shape ``(n, d)``; chance of a right answer; weight."""

    features: Array
    right: Array
    weight: Array


def focused(rows: Rows, weights: Array) -> Rows:
    """
    The rows with the weights to fit by: less where `weights` score an option as hopeless.

    Most options are, and a line through them all is bent to fit these and not the few that
    may be served.
    """
    hope = chances(2.0 * (rows.features @ weights + 1.0))
    share = INDEPENDENT * (HOPELESS + (1.0 - HOPELESS) * hope)
    return Rows(rows.features, rows.right, rows.weight * share)


def newton(rows: Rows, start: Array, centre: Array, precision: Array, steps: int) -> Array:
    """
    The weights after at most `steps` damped Newton steps from `start`.

    Minimizes the weighted log loss of `rows` plus ½ (w - centre)ᵀ precision (w - centre). Never
    returns weights of a greater loss than `start` has: an undamped step can run away.
    """

    def loss(weights: Array) -> float:
        logits, off = rows.features @ weights, weights - centre
        fit = np.logaddexp(0.0, logits) - rows.right * logits
        return float((rows.weight * fit).sum() + 0.5 * off @ precision @ off)

    weights, now = start, loss(start)
    for _ in range(steps):
        right = chances(rows.features @ weights)
        slope = rows.features.T @ (rows.weight * (rows.right - right))
        slope -= precision @ (weights - centre)
        step = np.linalg.solve(curvature(rows, weights, precision), slope)
        for halving in range(MAX_HALVINGS):
            trial = weights + step * 0.5**halving
            after = loss(trial)
            if after <= now:
                break
        else:
            return weights
        gain, weights, now = now - after, trial, after
        if gain < 1e-5 * (1.0 + now):
            break
    return weights


def curvature(rows: Rows, weights: Array, precision: Array) -> Array:
    """The second derivative of what `newton` minimizes."""
    right = chances(rows.features @ weights)
    spread = rows.weight * right * (1.0 - right)
    return np.asarray((rows.features * spread[:, None]).T @ rows.features + precision)


class Posterior:
    """
    What is believed of the weights: a normal, first the prior, then Laplace's approximation.

    A score is the logit that the answer is right, drawn towards 0 by as much as the weights
    are unsure in that direction, so an unfamiliar question is an unsure one.
    """

    def __init__(self, centre: Array, covariance: Array) -> None:
        self.centre = centre
        self.precision = np.asarray(np.linalg.inv(covariance), np.float64)
        self.weights = centre.copy()
        self.covariance = covariance

    def scores(self, features: Array) -> Array:
        """The logits of rows of features, shape ``(n, d)``."""
        spread = (features @ self.covariance * features).sum(1)
        return np.asarray(features @ self.weights / np.sqrt(1.0 + PROBIT * spread))

    def refit(self, rows: Rows, steps: int = 3) -> None:
        """Believe `rows` and the prior, and nothing of what was believed between."""
        self.weights = newton(rows, self.weights, self.centre, self.precision, steps)
        inverse = np.linalg.inv(curvature(rows, self.weights, self.precision))
        self.covariance = np.asarray(inverse, np.float64)


class Calibration:
    """
    A line from score to score, fitted to those that were decided on and labelled since.

    Platt 1999, around `CENTRE`: with few labels it changes little. Scores near those that
    are served count most: most labels are of worse ones, and a line through all of them is off
    just where it is needed.
    """

    CENTRE = np.array([0.05, 1.2])
    """Scores are too timid: fits held near (0, 1) came to 0.04 and 1.12 on four streams, and from
    here the budget is used more evenly than from (0, 1.1)."""

    def __init__(self, offset_spread: float, slope_spread: float) -> None:
        self.precision = np.diag([offset_spread**-2.0, slope_spread**-2.0])
        self.line = self.CENTRE.copy()

    def __call__(self, score: float) -> float:
        return float(self.line[0] + self.line[1] * score)

    def refit(self, scores: Array, right: Array, weight: Array) -> None:
        near = weight * chances(2.0 * (scores - NEARLY_SERVED))
        rows = Rows(np.column_stack([np.ones(len(scores)), scores]), right, near)
        line = newton(rows, self.line, self.CENTRE, self.precision, 4)
        # A falling line would serve the worst first.
        self.line = np.array([line[0], max(line[1], 0.1)])
