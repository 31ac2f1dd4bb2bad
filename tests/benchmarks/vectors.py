"""The vectors and texts of a run, written where all of its processes read them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import corpus
import index
import numpy as np

__all__ = ["prepare"]

DRAWN = "like text"
ASKED = "questions"
EXAMPLES = Path(__file__).parents[2] / "examples"


def prepare(folder: Path, count: int, chosen: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """
    Write `count` entries of each kind, and questions; their names.

    The first is what bars are about: the vectors that were given, else those that are drawn.
    """
    count += corpus.QUESTIONS
    texts = corpus.generated(count)
    corpus.write(folder, DRAWN, texts, index.like_text(count, 384))
    names = [DRAWN]
    if chosen.vectors is not None:
        name = chosen.vectors.stem
        corpus.write(folder, name, texts, given(chosen.vectors, count))
        names.insert(0, name)
    if chosen.questions is not None:
        texts = corpus.public_questions(chosen.questions)[:count]
    corpus.write(folder, ASKED, *embedded(texts))
    return names[0], (*names[1:], ASKED)


def given(file: Path, count: int) -> index.Vector:
    """The vectors of a file; where it has too few, others between two of them with noise."""
    found = np.load(file)
    vectors = found if isinstance(found, np.ndarray) else found[found.files[0]]
    return index.real_like(vectors)(count, vectors.shape[1])


def embedded(texts: list[str]) -> tuple[list[str], index.Vector]:
    """The texts that have a direction, and their vectors by the offline embedder."""
    sys.path.insert(0, str(EXAMPLES))
    from reference_embedders.offline_embedder import WordLlamaEmbedder

    vectors = WordLlamaEmbedder().embed_batch(texts)
    has_direction = np.linalg.norm(vectors, axis=1) > 0.5
    return [text for text, has in zip(texts, has_direction, strict=True) if has], vectors[
        has_direction
    ]
