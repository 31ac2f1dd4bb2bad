"""The form in which a caller wants an answer: as one value or as a stream, in which format."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Form", "Unconvertible"]


class Unconvertible(ValueError):
    """This answer cannot be said in the other form without loss, so it is not converted."""


@dataclass(frozen=True, slots=True)
class Form:
    """
    How an answer is to be said: `format` names the API, `streams` tells a stream from a value.

    `with_usage` is False for a stream whose caller did not ask for the count of tokens.
    """

    format: str
    streams: bool
    with_usage: bool = True
