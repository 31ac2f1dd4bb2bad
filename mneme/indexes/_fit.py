"""
Which sketch makes searches like those that were made cheapest, or that none does.

Costs are in numbers read by one plain matrix-vector product over the same rows: a search
that compares with all of them costs ``dim`` a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mneme.indexes._sketch import Sketch
from mneme.records import Vector

__all__ = ["SAMPLE", "Past", "cost", "fitted"]

SAMPLE = 4_096
"""Rows that a sketch is fitted to and measured on."""

HELD_OUT = 1_024
"""Of these, rows that only measure: in the others their own directions look too good."""

LEAST = 8
"""Rows from which there is anything to tell."""

DEPTHS = (8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 88, 96, 128, 160, 192, 256)
DEEPEST = DEPTHS[-1]

FIRST_STAGE, SECOND_STAGE, EXACT = 0.5, 2.5, 2.2
"""
What one number costs: in the first stage, which often fits into a cache; and gathered from
scattered rows, which costs ``ROW`` on top for each row. Wrong ones make searches slower, never
wrong.
"""

ROW = 150.0

SEARCH = 150_000.0
"""What a search with a sketch costs on top whatever the rows: some twenty microseconds."""

QUESTIONS = 16
"""With fewer past searches than this, some of the rows stand in as questions."""

WORTH_IT = 0.8
"""A sketch that is not at least a fifth cheaper is not worth its memory."""


@dataclass(frozen=True, slots=True)
class Past:
    """A search that was made: its question, and the floor that would have sufficed for it."""

    vector: Vector
    floor: float


def cost(dim: int, first: int, depth: int, kept: float, closer: float) -> float:
    """
    Of a search, a row: `kept` is the share of rows that the first stage leaves, `closer` the
    share that the second one does.
    """
    found = FIRST_STAGE * (first + 1) + closer * (EXACT * dim + ROW)
    if depth > first:
        found += kept * (SECOND_STAGE * (depth - first + 2) + ROW)
    return found


def fitted(
    sample: Vector, past: Sequence[Past], count: int, seed: int, deepest: int = DEEPEST
) -> tuple[Sketch, float] | None:
    """
    The empty sketch that suits `sample`, shape ``(m, dim)`` in any order, of `count` rows, and
    searches like `past`, and its expected cost as a share of comparing with all; None: none is
    worth it. It is no deeper than `deepest`.
    """
    dim = sample.shape[1]
    held_out, rest = sample[: len(sample) // 4], sample[len(sample) // 4 :]
    directions = _main_directions(rest, min(deepest, dim), seed)
    depths = [depth for depth in DEPTHS if depth <= len(directions)]
    kept = _shares(directions, held_out, _enough(past, held_out), depths)
    costs = {
        (first, depth): cost(dim, first, depth, kept[first], kept[depth])
        for first in depths
        for depth in depths
        if first <= depth
    }
    if not costs:
        return None
    first, depth = min(costs, key=lambda pair: costs[pair])
    share = (costs[first, depth] + SEARCH / count) / dim
    if share > WORTH_IT:
        return None
    return Sketch(np.ascontiguousarray(directions[:depth]), first), share


def _enough(past: Sequence[Past], rows: Vector) -> Sequence[Past]:
    """`past`, and rows in place of questions that were not asked yet."""
    floor = sum(one.floor for one in past) / len(past)
    return [*past, *(Past(row, floor) for row in rows[: max(0, QUESTIONS - len(past))])]


def _shares(
    directions: Vector, rows: Vector, past: Sequence[Past], depths: Sequence[int]
) -> dict[int, float]:
    """For each depth the mean share of `rows` that the bound does not rule out."""
    asked = np.stack([one.vector for one in past])
    floors = np.array([one.floor for one in past], np.float32)[:, None]
    mine, theirs = asked @ directions.T, rows @ directions.T
    shares: dict[int, float] = {}
    within = np.zeros((len(asked), len(rows)), np.float32)
    before = 0
    for depth in depths:
        within += mine[:, before:depth] @ theirs[:, before:depth].T
        before = depth
        bounds = within + _left(asked, mine[:, :depth])[:, None] * _left(rows, theirs[:, :depth])
        shares[depth] = float((bounds >= floors).mean())
    return shares


def _left(rows: Vector, coordinates: Vector) -> Vector:
    """The lengths of what the coordinates leave over."""
    square = np.einsum("ij,ij->i", rows, rows) - np.einsum("ij,ij->i", coordinates, coordinates)
    return np.asarray(np.sqrt(np.maximum(square, 0.0)), np.float32)


def _main_directions(rows: Vector, count: int, seed: int) -> Vector:
    """
    The `count` orthonormal directions in which `rows` are longest, the longest first.

    By subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4): exact eigenvectors
    of 1,536 dimensions take seconds, and close ones serve as well.
    """
    draws = np.random.default_rng(seed).standard_normal((rows.shape[1], count))
    basis = np.linalg.qr(draws)[0].astype(np.float32)
    for _ in range(3):
        basis = np.linalg.qr(rows.T @ (rows @ basis))[0]
    # Once more in double precision: the bounds rest on directions that are orthonormal.
    exact = np.linalg.qr(basis.astype(np.float64))[0]
    inside = rows @ exact
    _, turn = np.linalg.eigh(inside.T @ inside)
    return np.ascontiguousarray((exact @ turn[:, ::-1]).T, dtype=np.float32)
