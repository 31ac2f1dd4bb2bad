"""Whether a new answer is the same as cached ones, and whether a cached one fits a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from mneme._core.aliases import Alias
from mneme._core.core import Core
from mneme._core.judge import Judge
from mneme._core.keys import Ask
from mneme._core.manner import is_async
from mneme._core.sameness import said, same_text
from mneme._core.vectors import as_units
from mneme.records import Candidate, Hit, Identity, Miss, Vector
from mneme.types import SameAnswer

__all__ = ["compared", "verified"]

SAME_MEANING = 0.9
"""The cosine from which two answers of some length are one answer."""


class _Port(Protocol):
    @property
    def core(self) -> Core: ...

    async def embed_many(self, texts: Sequence[str]) -> Any: ...

    async def consult(
        self, function: Callable[..., Any], args: tuple[Any, ...], seconds: float | None
    ) -> Any: ...


async def compared(
    port: _Port, candidates: Sequence[Candidate], ask: Ask, response: Any
) -> dict[Identity, bool]:
    """
    For each of `candidates` whether its answer is the same as `response`; those for which
    that could not be found out are left out.
    """
    judge = port.core.judges.of(ask)
    same_answer = judge.manner.same_answer
    if not candidates:
        return {}
    if same_answer is not None:
        return await _by_user(port, same_answer, judge, candidates, ask, response)
    mine = said(ask.codec, ask.codec.encode(response))
    same: dict[Identity, bool] = {}
    unclear: dict[Identity, str] = {}
    for candidate in candidates:
        try:
            theirs = said(ask.codec, candidate.entry.payload)
        except Exception:
            continue
        verdict = same_text(mine, theirs)
        if verdict is not None:
            same[candidate.entry.identity] = verdict
        elif isinstance(theirs, str):
            unclear[candidate.entry.identity] = theirs
    if unclear and isinstance(mine, str):
        same |= await _by_meaning(port, judge, mine, unclear)
    return same


async def _by_user(
    port: _Port,
    same_answer: SameAnswer,
    judge: Judge,
    candidates: Sequence[Candidate],
    ask: Ask,
    response: Any,
) -> dict[Identity, bool]:
    same: dict[Identity, bool] = {}
    for candidate in candidates:
        try:
            theirs = ask.codec.decode(candidate.entry.payload)
            verdict = await port.consult(
                same_answer, (response, theirs), judge.manner.verify_timeout
            )
        except Exception as exc:
            port.core.tally.failed_open("same_answer", ask.namespace, exc, port.core.clock())
            continue
        same[candidate.entry.identity] = bool(verdict)
    return same


async def _by_meaning(
    port: _Port, judge: Judge, mine: str, others: dict[Identity, str]
) -> dict[Identity, bool]:
    """By the cosine of the answers' embeddings, and by the guards."""
    guards = port.core.rules.guards
    vectors = await _vectors(port, judge, [mine, *others.values()])
    own = vectors[mine]
    return {
        identity: bool(own @ vectors[theirs] >= SAME_MEANING)
        and not any(guard(mine, theirs) for guard in guards)
        for identity, theirs in others.items()
    }


async def _vectors(port: _Port, judge: Judge, texts: Sequence[str]) -> dict[str, Vector]:
    """The unit vector of each text; what an embedder would cut off is not compared."""
    known = {text: judge.answers.get(text) for text in texts}
    lacking = [text for text, vector in known.items() if vector is None]
    if lacking:
        heads = [text[: port.core.max_chars] for text in lacking]
        found = as_units(await port.embed_many(heads), len(heads), port.core.dim)
        for text, vector in zip(lacking, found, strict=True):
            known[text] = vector
            judge.remember_answer(text, vector)
    return {text: vector for text, vector in known.items() if vector is not None}


async def verified(
    port: _Port, ask: Ask, outcome: Hit | Miss, candidates: Sequence[Candidate]
) -> Hit | Miss:
    """
    `outcome`, or the verifier's word where the best candidate is near the threshold.

    What it approves is an alias from then on, also when it is too late for this caller.
    """
    core = port.core
    manner = core.judges.of(ask).manner
    verify, doubtful = manner.verify, core.doubtful(ask, outcome, candidates)
    if verify is None or doubtful is None:
        return outcome
    candidate, hit = doubtful
    alias = Alias(candidate.entry.identity, candidate.similarity)
    approve = partial(core.aliases.add, ask.identity, alias)
    try:
        fits = await port.consult(
            _approving(verify, approve), (ask.prompt, hit.prompt), manner.verify_timeout
        )
    except Exception as exc:
        core.tally.failed_open("verifier", ask.namespace, exc, core.clock())
        fits = False
    if fits:
        return hit
    if isinstance(outcome, Miss):
        return replace(outcome, reason="unverified")
    return Miss("unverified", ask.namespace, hit.similarity, None, ask)


def _approving(verify: Callable[..., Any], approve: Callable[[], object]) -> Callable[..., Any]:
    """`verify` that makes the alias itself: whoever asked may have stopped waiting."""
    if is_async(verify):

        async def ask_and_approve(*args: Any) -> bool:
            fits = bool(await verify(*args))
            if fits:
                approve()
            return fits

        return ask_and_approve

    def approve_at_once(*args: Any) -> bool:
        fits = bool(verify(*args))
        if fits:
            approve()
        return fits

    return approve_at_once
