"""Which process opened which files: a process may fork, and a path lead elsewhere."""

from __future__ import annotations

import os
from typing import NamedTuple

__all__ = ["Standing"]


class Standing(NamedTuple):
    """The process, and device and number of each file; None for a file that is not there."""

    pid: int
    files: tuple[tuple[int, int] | None, ...]

    @classmethod
    def of(cls, *paths: str | os.PathLike[str]) -> Standing:
        """How it stands now with `paths`."""
        return cls(os.getpid(), tuple(map(_file_at, paths)))


def _file_at(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
