"""
Fit the weights that the learned policy ships with, and those that never saw one domain.

    python tests/benchmarks/fit_prior.py FOLDER --out FOLDER      (about 15 minutes on two cores)

Every stream is replayed with every embedder, and each replay is one domain with weights of its
own. The prior is the normal that the domains' weights seem to be drawn from (empirical Bayes
by expectation maximization; one variance a feature): where domains agree it is narrow, and
where they do not the policy is left to find out. What is near a query depends on what was
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
from quality import EMBEDDERS, STREAMS, Stream, Vectors, read_stream, replay_learned

from mneme._core.learned.features import FEATURES
from mneme._core.learned.fit import Rows, curvature, newton
from mneme._core.learned.policy import INDEPENDENT, LearnedPolicy
from mneme._core.learned.prior import Prior

EM_STEPS = 25
FIRST_SPREAD, LEAST_SPREAD = 0.5, 0.02
ROUNDS = 3
DIMENSION = len(FEATURES)

Log = tuple[np.ndarray, np.ndarray]
"""Rows of features and whether the option was right, of all options of one replay."""

Domain = tuple[str, str]
"""Embedder and stream."""


def flat() -> Prior:
    """A prior that knows nothing, and is sure of it: nothing is ever served."""
    zeros = np.zeros(DIMENSION)
    return Prior(zeros, zeros + 1.0, np.zeros(DIMENSION + 1), np.full(DIMENSION + 1, 1e-3))


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
    scaler = Prior(mean, scale, np.zeros(DIMENSION + 1), np.ones(DIMENSION + 1))
    domains = [
        Rows(scaler.scaled(rows.tolist()), right, np.full(len(right), INDEPENDENT))
        for rows, right in logs
    ]
    weights = np.zeros(DIMENSION + 1)
    variance = np.full(DIMENSION + 1, FIRST_SPREAD**2)
    variance[0] = 4.0
    starts = [weights for _ in domains]
    for _ in range(EM_STEPS):
        precision = np.diag(1.0 / variance)
        starts = [
            newton(rows, start, weights, precision, 10)
            for rows, start in zip(domains, starts, strict=True)
        ]
        unsure = [
            np.diag(np.linalg.inv(curvature(rows, found, precision)))
            for rows, found in zip(domains, starts, strict=True)
        ]
        found = np.array(starts)
        weights = found.sum(0) / (len(found) + 0.3)
        variance = (((found - weights) ** 2).sum(0) + sum(unsure)) / len(found)
        variance = np.maximum(variance, LEAST_SPREAD**2)
    return Prior(mean, scale, weights, np.sqrt(variance))


def as_json(prior: Prior, domains: Sequence[Domain]) -> str:
    out = {"features": FEATURES, "domains": [" ".join(domain) for domain in domains]}
    for name in ("mean", "scale", "weights", "spread"):
        out[name] = [float(f"{value:.5g}") for value in getattr(prior, name)]
    return json.dumps(out, indent=0) + "\n"


def one(job: tuple[Domain, Prior], streams: dict[Domain, Stream], seed: int) -> tuple[Log, str]:
    domain, prior = job
    return logged(streams[domain], prior, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vectors", type=Path, default=Path("quality-vectors"))
    parser.add_argument("--embedders", nargs="*", default=sorted(EMBEDDERS))
    args = parser.parse_args()
    streams: dict[Domain, Stream] = {}
    for embedder in args.embedders:
        vectors = Vectors(embedder, args.vectors)
        for name in STREAMS:
            streams[embedder, name] = read_stream(args.folder, name, vectors)
    domains = list(streams)
    priors = dict.fromkeys(STREAMS, flat())
    args.out.mkdir(parents=True, exist_ok=True)
    for turn in range(ROUNDS):
        # Forked here, so that streams are shared and not sent.
        with Pool(2) as pool:
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
