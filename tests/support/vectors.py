"""Unit vectors to search among."""

from __future__ import annotations

from typing import Any

import numpy as np

from mneme.records import Vector

__all__ = ["as_units", "isotropic"]


def as_units(raw: Any) -> Vector:
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    return np.asarray(raw / np.where(lengths, lengths, 1.0), np.float32)


def isotropic(count: int, dim: int, seed: int) -> Vector:
    return as_units(np.random.default_rng(seed).standard_normal((count, dim)))
