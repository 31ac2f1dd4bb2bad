"""The rows of the table of goals that ask a cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import decorator
import index
import middleware
from contenders import GPTCACHE, OURS, PEER
from lines import Line
from plan import Plan, line, row, turned

__all__ = ["THRESHOLDS"]

THRESHOLDS = ((0.85, 8.0), (0.90, 12.0), (0.95, 20.0))
"""Each with how many times faster than one sgemv a search has to be."""

FASTER = "× faster than sgemv"
SPARE = index.ROUNDS * index.SEARCHES + index.WARM_UP
"""Questions that `index.measured` takes from the end of its vectors."""


@row
def exact_hit(plan: Plan) -> Iterator[Line]:
    sizes = (1_000,) if plan.is_quick else (1_000, 10_000, 100_000)
    for store, name in (("memory", "memory"), ("file", "SQLite")):
        for count in sizes:
            others = (PEER, GPTCACHE) if (store, count) == ("memory", 1_000) else (PEER,)
            found = plan.bench.run(
                "ExactHit", rounds=plan.rounds, others=others, store=store, entries=count
            )
            what = f"exact hit, {name}, {count:,} entries"
            at = {"store": name, "n": count}
            yield line(found, what, turned(found.ratio()), "× a dict get", side="≤", bar=6.0, at=at)


@row
def decorated(plan: Plan) -> Iterator[Line]:
    return decorator.measure(3) if plan.is_quick else decorator.measure()


@row
def async_exact_hit(plan: Plan) -> Iterator[Line]:
    for backend, others in (("asyncio", (PEER,)), ("trio", ())):
        found = plan.bench.run(
            "AsyncExactHit", rounds=plan.rounds, others=others, backend=backend, entries=1_000
        )
        what = f"`await cache.get`, exact hit, {backend}"
        yield line(found, what, found.of(OURS), "µs", side="≤", bar=5.0)


@row
def semantic_get(plan: Plan) -> Iterator[Line]:
    for data in (plan.data, *plan.others):
        is_alone = plan.is_quick or data != plan.data
        for threshold, bar in THRESHOLDS[1:2] if is_alone else THRESHOLDS:
            found = plan.bench.run(
                "SemanticGet",
                rounds=plan.rounds,
                others=(PEER,) if data == plan.data else (),
                data=data,
                entries=plan.entries,
                threshold=threshold,
            )
            what = f"semantic get at {threshold:.2f}, {plan.named(plan.entries, data)}"
            at = {"data": data, "n": plan.entries, "threshold": threshold}
            own: dict[str, Any] = {"side": "≥", "bar": bar} if data == plan.data else {}
            yield line(found, what, found.ratio(), FASTER, at=at, **own)


@row
def semantic_get_by_size(plan: Plan) -> Iterator[Line]:
    for count in (1_000, 4_000, 10_000, 30_000):
        if count < plan.entries:
            found = plan.bench.run(
                "SemanticGet", rounds=plan.rounds, data=plan.data, entries=count, threshold=0.90
            )
            at = {"data": plan.data, "n": count, "threshold": 0.90}
            what = f"semantic get at 0.90, {plan.named(count)}"
            yield line(found, what, found.ratio(), FASTER, at=at)


@row
def guarded_get(plan: Plan) -> Iterator[Line]:
    found = plan.bench.run(
        "SemanticGet",
        rounds=plan.rounds,
        others=(),
        data="questions",
        entries=plan.entries,
        threshold=0.90,
        guarded=True,
    )
    what = f"semantic get at 0.90 with the default guards, {plan.named(plan.entries, 'questions')}"
    yield line(found, what, found.ratio(), FASTER)


@row
def gptcache(plan: Plan) -> Iterator[Line]:
    """At a size that it can be filled with in reasonable time."""
    count = min(10_000, plan.entries)
    found = plan.bench.run(
        "SemanticGet",
        rounds=plan.few,
        others=(PEER, GPTCACHE),
        data=plan.data,
        entries=count,
        threshold=0.90,
        store="file",
    )
    what = f"semantic get at 0.90 from SQLite, {plan.named(count)}"
    yield line(found, what, found.faster(GPTCACHE), "× faster than GPTCache")


@row
def index_alone(plan: Plan) -> Iterator[Line]:
    vectors = plan.bench.vectors(plan.data)[: plan.entries + SPARE]
    for threshold, bar in THRESHOLDS:
        made = index.measured(plan.data, vectors, 8, threshold)
        yield of_index(made, f"index search from {threshold:.2f}, {plan.named(made.rows)}", bar)


@row
def worst_data(plan: Plan) -> Iterator[Line]:
    """No direction says more than another: the case in which nothing can be ruled out early."""
    found: list[Line] = []
    sizes = [(10_000, 256), (10_000, 384), (plan.large, 384), (10_000, 768), (10_000, 1_536)]
    for count, dim in [(500, 256)] if plan.is_quick else sizes:
        made = index.measured("isotropic", index.isotropic(count + SPARE, dim), 8, 0.90)
        what = f"index search from 0.90, isotropic, {count:,} × {dim}"
        bar = 5.0 if (count, dim) == (plan.large, 384) else None
        found.append(of_index(made, what, bar))
        yield found[-1]
    slowest = min(found, key=lambda one: one.figure or 0.0)
    what = f"the slowest of these, {slowest.what.rpartition(', ')[2]}"
    yield Line(what, turned(slowest.figure), "× the time of sgemv", "≤", 1.1)


@row
def million(plan: Plan) -> Iterator[Line]:
    if plan.largest is None:
        what = "index search from 0.90, 1,000,000 real-like"
        yield Line(what, None, FASTER, "≥", 10.0, note="measured with `--full`")
        return
    real = plan.bench.vectors(plan.data)
    vectors = index.real_like(real)(plan.largest + SPARE, real.shape[1])
    made = index.measured(plan.data, vectors, 8, 0.90)
    yield of_index(made, f"index search from 0.90, {plan.largest:,} real-like", 10.0)


def of_index(made: index.Figure, what: str, bar: float | None) -> Line:
    return Line(
        what,
        made.ratio,
        FASTER,
        "≥" if bar else "",
        bar,
        {"ours": made.ours_us, "against": made.plain_us},
        at={"data": made.data, "n": made.rows, "dim": made.dim},
        note=f"{made.wrong} wrong answers" if made.wrong else "",
    )


@row
def after_deletes(plan: Plan) -> Iterator[Line]:
    found = plan.bench.run("AfterDeletes", rounds=plan.rounds, data=plan.data, entries=plan.entries)
    what = f"semantic get after a third of {plan.named(plan.entries)} was deleted"
    ratio = turned(found.ratio())
    yield line(found, what, ratio, "× of never having had it", side="≤", bar=1.1)


@row
def many_namespaces(plan: Plan) -> Iterator[Line]:
    own, rest = plan.entries // 3, plan.entries - plan.entries // 3
    for count in (100,) if plan.is_quick else (1, 10, 100, 1_000, 10_000):
        found = plan.bench.run(
            "ManyNamespaces",
            rounds=plan.rounds,
            data=plan.data,
            own=own,
            rest=rest,
            namespaces=count,
        )
        what = f"semantic get among {own:,} beside {rest:,} in {count:,} other namespaces"
        ratio, at = turned(found.ratio()), {"namespaces": count}
        yield line(found, what, ratio, "× of being alone", side="≤", bar=1.1, at=at)


@row
def fan_out(plan: Plan) -> Iterator[Line]:
    for backend, others in (("asyncio", (PEER,)), ("trio", ())):
        found = plan.bench.run(
            "FanOut",
            rounds=plan.few,
            others=others,
            data=plan.data,
            entries=plan.entries,
            tasks=100,
            backend=backend,
        )
        what = f"100 new questions at once, {backend}, {plan.named(plan.entries)}"
        yield line(found, what, found.of(OURS, "ms"), "ms", told="ms", side="≤", bar=50.0)


@row
def mixed_trace(plan: Plan) -> Iterator[Line]:
    found = plan.bench.run("MixedTrace", rounds=plan.rounds, data=plan.data, entries=plan.entries)
    us = found.of(OURS)
    what = f"60 % exact, 40 % new questions, misses stored in SQLite, {plan.named(plan.entries)}"
    figure = None if us is None else 1e6 / us
    yield line(found, what, figure, "lookups/s", side="≥", bar=2_500.0)


@row
def processes(plan: Plan) -> Iterator[Line]:
    """How far one file carries on this machine."""
    for workers in (2,) if plan.is_quick else (1, 2, 4):
        total = plan.bench.together(
            "SharedFile",
            workers,
            figure="per_second",
            rounds=plan.rounds,
            data=plan.data,
            entries=plan.entries,
        )
        what = f"60 % exact, 40 % new questions by {workers} processes on one file"
        yield Line(what, total, "lookups/s", at={"processes": workers})


@row
def http(plan: Plan) -> Iterator[Line]:
    if not plan.is_quick:
        yield from middleware.run()
