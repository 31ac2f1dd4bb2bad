"""
Fit the weights that the learned policy ships with, and those that never saw one domain.

    python tests/benchmarks/fit_prior.py FOLDER --out FOLDER      (some 5 minutes)

Every stream is replayed with every embedder, and each replay is one domain with weights of its
own. The prior is the normal that the domains' weights seem to be drawn from (empirical Bayes
by expectation maximization): where domains agree it is narrow, and where they do not the policy
is left to find out. What is near a query depends on what was
served before, so replay and fit take turns; each replay uses the prior that has not seen its
own domain. Writes prior.json (all domains) and without-<stream>.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from labelled import EMBEDDERS, STREAMS, Vectors
from replays import Stream, read_stream, replay_learned

from mneme._core.learned.features import FEATURES
from mneme._core.learned.fit import Rows, curvature, focused, newton
from mneme._core.learned.policy import LearnedPolicy
from mneme._core.learned.prior import Prior

EM_STEPS = 25
FOCUS_AT = (0, 5, 10)
"""Steps before which it is decided anew what rows matter."""
FIRST_SPREAD, LEAST_SPREAD = 0.5, 0.02
CORRELATED = 0.7
"""What is believed of the correlations between weights that the domains show."""
ROUNDS = 3
DIMENSION = len(FEATURES)

Log = tuple[np.ndarray, np.ndarray]
"""Rows of features and whether the option was right, of all options of one replay."""

Domain = tuple[str, str]
"""Embedder and stream."""


def flat() -> Prior:
    """A prior that knows nothing, and is sure of it: nothing is ever served."""
    zeros = np.zeros(DIMENSION)
    return Prior(zeros, zeros + 1.0, np.zeros(DIMENSION + 1), np.eye(DIMENSION + 1) * 1e-6)


def logged(stream: Stream, prior: Prior, seed: int) -> tuple[Log, str]:
    """Every option met in one replay with its label, and how the replay went."""
    rows: list[list[float]] = []
    right: list[bool] = []

    def log(query: int, decision: Any, is_right: list[bool]) -> None:
        for option in decision.view.options:
            rows.append(option.row)
            right.append(is_right[option.at])

    policy = LearnedPolicy(seed=seed, prior=prior)
    figures = replay_learned(stream.shuffled(seed), policy, log=log).figures()
    said = f"hit {figures['hit']:.3f} error {figures['error']:.4f}"
    return (np.array(rows), np.array(right, np.float64)), said


def fitted(logs: Sequence[Log]) -> Prior:
    """The prior of the domains that `logs` are of."""
    means = np.array([rows.mean(0) for rows, _ in logs])
    spreads = np.array([rows.std(0) for rows, _ in logs])
    mean = means.mean(0)
    scale = np.sqrt((spreads**2).mean(0) + means.var(0)) + 1e-6
    weights = np.zeros(DIMENSION + 1)
    covariance = np.diag([4.0] + [FIRST_SPREAD**2] * DIMENSION)
    scaler = Prior(mean, scale, weights, covariance)
    domains = [
        Rows(scaler.scaled(rows.tolist()), right, np.ones(len(right))) for rows, right in logs
    ]
    found = np.array([weights for _ in domains])
    for step in range(EM_STEPS):
        if step in FOCUS_AT:
            near = [focused(rows, own) for rows, own in zip(domains, found, strict=True)]
        precision = np.linalg.inv(covariance)
        found = np.array(
            [
                newton(rows, start, weights, precision, 10)
                for rows, start in zip(near, found, strict=True)
            ]
        )
        unsure = [
            np.linalg.inv(curvature(rows, own, precision))
            for rows, own in zip(near, found, strict=True)
        ]
        weights = found.sum(0) / (len(found) + 0.3)
        off = found - weights
        covariance = shrunk((off.T @ off + sum(unsure)) / len(found))
    return Prior(mean, scale, weights, covariance)


def shrunk(covariance: np.ndarray) -> np.ndarray:
    """So few domains show correlations larger than they are (Ledoit & Wolf 2004)."""
    variance = np.diag(np.maximum(np.diag(covariance), LEAST_SPREAD**2))
    return np.asarray(
        CORRELATED * covariance + variance - CORRELATED * np.diag(np.diag(covariance))
    )


def as_json(prior: Prior, domains: Sequence[Domain]) -> str:
    def rounded(values: np.ndarray) -> list[float]:
        return [float(f"{value:.5g}") for value in values]

    out: dict[str, Any] = {"features": FEATURES, "domains": [" ".join(one) for one in domains]}
    for name in ("mean", "scale", "weights"):
        out[name] = rounded(getattr(prior, name))
    out["covariance"] = [rounded(row) for row in prior.covariance]
    return (
        "{\n"
        + ",\n".join(f'"{name}": {json.dumps(found)}' for name, found in out.items())
        + "\n}\n"
    )


def one(job: tuple[Domain, Prior], streams: dict[Domain, Stream], seed: int) -> tuple[Log, str]:
    domain, prior = job
    return logged(streams[domain], prior, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, default=Path("quality-vectors"))
    parser.add_argument("--embedders", nargs="*", default=sorted(EMBEDDERS))
    parser.add_argument("--half", type=int, choices=(0, 1), help="half of each stream's classes")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    streams: dict[Domain, Stream] = {}
    for embedder in args.embedders:
        vectors = Vectors(embedder, args.vectors)
        for name in STREAMS:
            streams[embedder, name] = read_stream(args.folder, name, vectors, args.half)
    domains = list(streams)
    priors = dict.fromkeys(STREAMS, flat())
    args.out.mkdir(parents=True, exist_ok=True)
    for turn in range(ROUNDS):
        # Forked here, so that streams are shared and not sent.
        with Pool(args.processes) as pool:
            jobs = [(domain, priors[domain[1]]) for domain in domains]
            found = pool.map(partial(one, streams=streams, seed=100 + turn), jobs, chunksize=1)
            logs = {domain: log for domain, (log, _) in zip(domains, found, strict=True)}
            for domain, (_, said) in zip(domains, found, strict=True):
                print(f"round {turn} {' '.join(domain):22s} {said}", flush=True)
            kept = [[d for d in domains if d[1] != name] for name in STREAMS]
            fits = pool.map(fitted, [[logs[d] for d in ds] for ds in [*kept, domains]], chunksize=1)
        priors = dict(zip(STREAMS, fits, strict=False))
        for name, prior, used in zip(STREAMS, fits, kept, strict=False):
            (args.out / f"without-{name}.json").write_text(as_json(prior, used), "utf-8")
        (args.out / "prior.json").write_text(as_json(fits[-1], domains), "utf-8")


if __name__ == "__main__":
    main()
