"""
THE order of steps: what happens first, next, and when something fails.

Every function here is one straight line over a port. `drive` runs it to its end without a
loop where the port blocks; asyncio and trio await it where the port suspends.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from mneme import context
from mneme._core.admission import Unkeepable
from mneme._core.aliases import Alias
from mneme._core.choose import Trial
from mneme._core.comparing import compared, verified
from mneme._core.core import Core
from mneme._core.entries import give_vector
from mneme._core.flights import Flight
from mneme._core.keys import Ask
from mneme._core.vectors import as_unit, as_units
from mneme.errors import (
    CacheClosedError,
    CorruptCacheError,
    EmbedderDimensionError,
    EmbedderMismatchError,
    EmbeddingError,
    MultiProcessLockError,
    NamespaceQuotaExceededError,
    SchemaMigrationError,
    StoreBackendError,
)
from mneme.records import Candidate, Entry, Explanation, Hit, Identity, Miss, Partition, Terms
from mneme.records import Vector as UnitVector
from mneme.types import FlightLock

__all__ = [
    "Port",
    "answer",
    "begun",
    "compare",
    "explain",
    "fill",
    "known",
    "learn",
    "look",
    "look_many",
    "put",
    "put_many",
    "self_check",
]

T = TypeVar("T")

EMBEDDER_WEATHER = (EmbeddingError, EmbedderDimensionError)
STORE_WEATHER = (StoreBackendError, MultiProcessLockError)
STORE_BROKEN = (*STORE_WEATHER, CorruptCacheError, EmbedderMismatchError, SchemaMigrationError)
"""What happens to a store that was open: damaged, or replaced by another's. No caller's mistake."""

NOT_KEPT = (
    *EMBEDDER_WEATHER,
    *STORE_BROKEN,
    # Closed while the call ran: its answer is paid for all the same.
    CacheClosedError,
    NamespaceQuotaExceededError,
    Unkeepable,
)


UNRELATED = (
    "What time does the pharmacy in the station close on Sundays?",
    "Photosynthesis turns light, water and carbon dioxide into sugar.",
)


class Port(Protocol):
    """How things are done: blocking the thread, or suspending the task."""

    @property
    def core(self) -> Core: ...

    async def ready(self, *, asking: bool = False) -> None: ...

    async def catch_up(self) -> None: ...

    async def fetch(self, ask: Ask) -> Hit | None: ...

    async def embed(self, text: str) -> Any: ...

    async def embed_many(self, texts: Sequence[str]) -> Any: ...

    async def near(
        self, partition: Partition, vector: UnitVector, at_least: float = -1.0
    ) -> Sequence[Candidate]: ...

    async def commit(self, puts: Sequence[Entry], removed: Sequence[Identity] = ()) -> int: ...

    async def run(self, work: Callable[..., T], *args: Any) -> T: ...

    async def consult(
        self, function: Callable[..., Any], args: tuple[Any, ...], seconds: float | None
    ) -> Any: ...

    async def follow(self, flight: Flight) -> None: ...

    async def take(self, lock: FlightLock, seconds: float) -> bool: ...

    async def settle(self, lock: FlightLock) -> None: ...

    @property
    def may_wait(self) -> bool: ...

    @property
    def has_crew(self) -> bool: ...

    def start(self, job: Callable[[], Coroutine[Any, Any, object]]) -> None: ...


async def look(port: Port, ask: Ask, vector: Any = None, *, also: Ask | None = None) -> Hit | Miss:
    """
    The exact layer, then the semantic one; what is down is a miss.

    `also` is the same question in another partition, where each layer looks as well.
    """
    ask, outcome = await begun(port, ask)
    if outcome is None and also is not None:
        outcome = await known(port, also)
    if outcome is None:
        outcome = await compare(port, ask, vector, also)
    return port.core.told(outcome, ask)


async def look_many(
    port: Port, asks: Sequence[Ask], vectors: Sequence[Any] | None = None
) -> list[Hit | Miss]:
    """`look` for each, with one embedder batch for all that the exact layer does not know."""
    core = port.core
    found = [await _settled(port, ask) for ask in asks]
    lacking = [at for at, ask in enumerate(asks) if found[at] is None and ask.semantic]
    units: dict[int, Any] = {}
    if vectors is not None:
        units = {at: vectors[at] for at in lacking}
    else:
        try:
            batch = await _embed_many(port, [asks[at].spoken for at in lacking])
            units = dict(zip(lacking, batch, strict=True))
        except EMBEDDER_WEATHER as exc:
            for at in lacking:
                found[at] = _without_embedder(core, asks[at], exc)
    outcomes = []
    for at, outcome in enumerate(found):
        if outcome is None:
            outcome = await compare(port, asks[at], units.get(at))
        outcomes.append(core.told(outcome, asks[at]))
    return outcomes


async def self_check(port: Port) -> None:
    """Warn, once a cache, where two sentences of nothing in common would be one question."""
    core = port.core
    core.is_checked = True
    try:
        one, other = await _embed_many(port, UNRELATED)
    except EMBEDDER_WEATHER:
        # The first lookup will say so, and to somebody who can do something about it.
        return
    similarity, threshold = float(one @ other), core.rules.threshold
    if similarity >= threshold and core.settings.manner.policy == "threshold":
        warnings.warn(
            f"two unrelated sentences have a cosine of {similarity:.2f} with the embedder "
            f"{core.embedder.fingerprint!r}, and the threshold is {threshold:.2f}: nearly every "
            "question would get another one's answer. Find a threshold for this embedder with "
            "mneme.calibrate, or give one above that cosine.",
            UserWarning,
            stacklevel=2,
        )


async def explain(port: Port, ask: Ask, vector: Any = None) -> Explanation:
    """What `look` would answer now and why; counts nothing."""
    core = port.core
    ask, outcome = await begun(port, ask)
    candidates: Sequence[Candidate] = ()
    if ask.semantic:
        try:
            unit = await _unit(port, ask, vector)
        except EMBEDDER_WEATHER:
            outcome = outcome if outcome is not None else core.miss(ask, "embedder_failed")
        else:
            try:
                candidates = await port.near(ask.partition, unit)
            except STORE_BROKEN:
                outcome = outcome if outcome is not None else core.miss(ask, "store_failed")
            if outcome is None:
                outcome = core.weighed(ask, unit, candidates)
    elif outcome is None:
        outcome = core.miss(ask, "exact_only")
    return core.explanation(ask, outcome, candidates)


async def put(port: Port, ask: Ask, response: Any, *, vector: Any = None, terms: Terms) -> bool:
    """Store an answer; False if it is not to be kept. What fails raises."""
    core = port.core
    if not core.is_open:
        await port.ready()
    if context.current_mode.get() == "bypass":
        return False
    entry = core.draft(ask, response, terms)
    if entry is None:
        return False
    if ask.semantic:
        give_vector(entry, await _unit(port, ask, vector))
    await port.commit((entry,))
    return True


async def put_many(
    port: Port, pairs: Sequence[tuple[Ask, Any]], vectors: Sequence[Any], terms: Terms
) -> int:
    """Store answers in one embedder batch and one transaction; how many were kept."""
    core = port.core
    if not core.is_open:
        await port.ready()
    if context.current_mode.get() == "bypass":
        return 0
    entries: list[Entry] = []
    lacking: list[tuple[Entry, str]] = []
    for (ask, response), vector in zip(pairs, vectors, strict=True):
        entry = core.draft(ask, response, terms)
        if entry is None:
            continue
        entries.append(entry)
        if not ask.semantic:
            continue
        if vector is None:
            lacking.append((entry, ask.spoken))
        else:
            give_vector(entry, as_unit(vector, core.dim))
    units = await _embed_many(port, [spoken for _, spoken in lacking])
    for (entry, _), unit in zip(lacking, units, strict=True):
        give_vector(entry, unit)
    await port.commit(entries)
    return len(entries)


async def answer(port: Port, miss: Miss, response: Any, terms: Terms) -> bool:
    """Store the answer to a miss, and learn from it; what fails in storing raises."""
    kept = await put(port, miss.ask, response, vector=miss.vector, terms=terms)
    if miss.trial is not None:
        await learn(port, miss.trial, miss.ask, response, kept=kept)
    return kept


async def fill(port: Port, miss: Miss, response: Any, terms: Terms) -> bool:
    """Store the answer to a miss if that is possible now; the caller has it either way."""
    core, ask = port.core, miss.ask
    if miss.reason in ("bypass", "embedder_failed", "store_failed"):
        # What was down a moment ago would cost the caller another deadline.
        return False
    try:
        kept = await put(port, ask, response, vector=miss.vector, terms=terms)
    except NOT_KEPT as exc:
        part = "embedder" if isinstance(exc, EMBEDDER_WEATHER) else "store"
        core.tally.failed_open(part, ask.namespace, exc, core.clock())
        kept = False
    if miss.trial is not None:
        await learn(port, miss.trial, ask, response, kept=kept)
    return kept


async def learn(port: Port, trial: Trial, ask: Ask, response: Any, *, kept: bool) -> None:
    """Compare a new answer with those that were near; what fails here fails nothing else."""
    core = port.core
    same: dict[Identity, bool] = {}
    try:
        same = await compared(port, trial.candidates, ask, response)
    except Exception as exc:
        core.tally.failed_open("comparison", ask.namespace, exc, core.clock())
    judge = core.learn(ask, trial, same, kept=kept)
    if judge.is_due:
        await port.run(core.refit, judge)


async def begun(port: Port, ask: Ask) -> tuple[Ask, Hit | Miss | None]:
    """
    What the exact layer says of `ask`; a follow-up that it does not know is asked again as a
    question that stands alone, if somebody words it so.
    """
    outcome = await _settled(port, ask)
    if outcome is not None or ask.rewriting is None:
        return ask, outcome
    rewriting, core = ask.rewriting, port.core
    seconds = core.judges.of(ask).manner.verify_timeout
    try:
        text = await port.consult(rewriting.rewrite, (rewriting.messages,), seconds)
        if not isinstance(text, str) or not text.strip():
            return ask, None
        alone = rewriting.ask(text)
        if alone is None:
            return ask, None
    except Exception as exc:
        core.tally.failed_open("rewrite", ask.namespace, exc, core.clock())
        return ask, None
    core.aliases.add(ask.identity, Alias(alone.identity, 1.0))
    return alone, await _settled(port, alone)


async def _settled(port: Port, ask: Ask) -> Hit | Miss | None:
    """What needs no vector: the exact layer's hit, or why there is nothing to look in."""
    core = port.core
    mode = context.current_mode.get()
    if mode != "serve":
        return Miss(mode, ask.namespace, ask=ask)
    try:
        if not core.is_open:
            await port.ready(asking=True)
    except STORE_WEATHER as exc:
        return _without_store(core, ask, exc)
    try:
        if core.is_behind():
            await port.catch_up()
    except STORE_BROKEN as exc:
        return _without_store(core, ask, exc)
    found = await known(port, ask)
    if isinstance(found, Hit) and core.judges.of(ask).shadows:
        return core.shadowed(ask, found)
    return found


async def known(port: Port, ask: Ask) -> Hit | Miss | None:
    """
    The exact layer's hit, from memory or from an engine that holds what memory does not; a
    miss where that one is down.
    """
    core = port.core
    # Asked first: memory may be filled, and the engine let go of, just between the two.
    engine = core.engine
    found = core.recall(ask)
    if found is not None or engine is None or not core.may_be_fetched(ask):
        return found
    try:
        return await port.fetch(ask)
    except STORE_BROKEN as exc:
        return _without_store(core, ask, exc)


async def compare(port: Port, ask: Ask, vector: Any = None, also: Ask | None = None) -> Hit | Miss:
    """The semantic layer's word."""
    core = port.core
    if not ask.semantic:
        return core.miss(ask, "exact_only")
    try:
        unit = await _unit(port, ask, vector)
    except EMBEDDER_WEATHER as exc:
        return _without_embedder(core, ask, exc)
    floor = core.floor(ask)
    try:
        candidates = await port.near(ask.partition, unit, floor)
        if also is not None:
            beside = await port.near(also.partition, unit, floor)
            candidates = sorted((*candidates, *beside), key=lambda one: -one.similarity)
    except STORE_BROKEN as exc:
        return _without_store(core, ask, exc)
    outcome = core.judge(ask, unit, candidates, also)
    if core.judges.of(ask).manner.verify is not None and candidates:
        outcome = await verified(port, ask, outcome, candidates)
    if isinstance(outcome, Hit) and not core.is_checked:
        await self_check(port)
    return outcome


async def _unit(port: Port, ask: Ask, vector: Any) -> UnitVector:
    if vector is not None:
        return as_unit(vector, port.core.dim)
    return as_unit(await port.embed(ask.spoken), port.core.dim)


async def _embed_many(port: Port, texts: Sequence[str]) -> list[UnitVector]:
    if not texts:
        return []
    if len(texts) == 1:
        return [as_unit(await port.embed(texts[0]), port.core.dim)]
    return as_units(await port.embed_many(texts), len(texts), port.core.dim)


def _without_store(core: Core, ask: Ask, exc: Exception) -> Miss:
    core.tally.failed_open("store", ask.namespace, exc, core.clock())
    return core.miss(ask, "store_failed")


def _without_embedder(core: Core, ask: Ask, exc: Exception) -> Miss:
    core.tally.failed_open("embedder", ask.namespace, exc, core.clock())
    return core.miss(ask, "embedder_failed")
