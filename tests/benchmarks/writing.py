"""The rows of the table of goals that fill, open, empty and weigh a cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from contenders import OURS, Found
from lines import Line
from plan import Plan, line, row, turned

__all__ = ["STORES"]

STORES = (
    ("memory", "memory", "commit"),
    ('SQLite, `durability="group"`', "file", "group"),
    ('SQLite, `durability="commit"`', "file", "commit"),
)

LIKE_ORDINARY = 1.5
"""How many times the mean of others still is that of an ordinary put."""


@row
def put(plan: Plan) -> Iterator[Line]:
    count = 200 if plan.is_quick else 20_000
    for name, store, durability in STORES:
        found = plan.bench.run(
            "Puts",
            rounds=plan.few,
            data=plan.data,
            entries=count,
            store=store,
            durability=durability,
        )
        has_bar = durability == "group"
        for told, figure, most, unit in (
            ("us", f"p50 of {count:,}", 20.0, "µs"),
            ("p99", f"p99 of {count:,}", 100.0, "µs"),
            ("worst_ms", f"the longest of 3 × {count:,}", 5.0, "ms"),
        ):
            bar: dict[str, Any] = {"side": "≤", "bar": most} if has_bar else {}
            what = f"put, {name}, {figure}"
            at = {"store": store, "durability": durability}
            yield line(found, what, found.of(OURS, told), unit, told=told, at=at, **bar)


@row
def put_at_limit(plan: Plan) -> Iterator[Line]:
    count, puts = (200, 20) if plan.is_quick else (20_000, 300)
    found = plan.bench.run(
        "PutsAtTheLimit", rounds=plan.few, data=plan.data, entries=count, puts=puts
    )
    what = f"put at max_entries={count:,}, mean of {puts}"
    ratio = turned(found.ratio("mean"))
    unit = "× an ordinary put"
    yield line(found, what, ratio, unit, told="mean", side="≤", bar=LIKE_ORDINARY)


@row
def fill(plan: Plan) -> Iterator[Line]:
    for how, bar in (("put", 5.0), ("put_many", 3.0)):
        found = plan.bench.run(
            "Fill",
            rounds=plan.few,
            other_rounds=1,
            data=plan.data,
            entries=plan.large,
            how=how,
        )
        what = f"fill SQLite with {plan.large:,} by `{how}`"
        at = {"how": how, "n": plan.large}
        yield line(found, what, found.of(OURS, "s"), "s", told="s", side="≤", bar=bar, at=at)


@row
def open_file(plan: Plan) -> Iterator[Line]:
    found = plan.bench.run(
        "OpenFile", rounds=plan.few, other_rounds=3, data=plan.data, entries=plan.large
    )
    for told, what, bar in (
        ("ms", f"open a file of {plan.large:,}", 10.0),
        ("first_hit_ms", "its first semantic hit", 15.0),
    ):
        yield line(found, what, found.of(OURS, told), "ms", told=told, side="≤", bar=bar)


@row
def clear_namespace(plan: Plan) -> Iterator[Line]:
    found = plan.bench.run(
        "ClearNamespace",
        rounds=plan.few,
        other_rounds=1,
        data=plan.data,
        entries=plan.large,
    )
    what = f"clear_namespace of {plan.large:,}"
    yield line(found, what, found.of(OURS, "ms"), "ms", told="ms", side="≤", bar=50.0)


@row
def vacuum(plan: Plan) -> Iterator[Line]:
    found = plan.bench.run(
        "Vacuum", rounds=plan.few, other_rounds=1, data=plan.data, entries=plan.large
    )
    for told, what, bar in (
        ("ms", f"vacuum of {plan.large:,}, half expired", 500.0),
        ("all_ms", "until its rows have left the file and their space is back", None),
        ("longest_wait_ms", "the longest that a get or put waits in that time", 5.0),
    ):
        own: dict[str, Any] = {"side": "≤", "bar": bar} if bar else {}
        yield line(found, what, found.of(OURS, told), "ms", told=told, **own)


@row
def memory(plan: Plan) -> Iterator[Line]:
    int8, in_store = {"vector_dtype": "int8"}, {"answers": "store"}
    ways: tuple[tuple[str, dict[str, str], float | None], ...] = (
        ("float32", {}, 2_750.0),
        ("float16", {"vector_dtype": "float16"}, None),
        ("int8", int8, None),
        ("float32, answers in the store", in_store, None),
        ("int8, answers in the store", int8 | in_store, 1_000.0),
    )

    def measured(settings: dict[str, str]) -> Found:
        own = {"data": plan.data, "entries": plan.large, "settings": settings}
        return plan.bench.run("MemoryOfEntries", rounds=1, **own)

    # Who fills the file has memory left over, which would not be counted: not the one measured.
    measured({})
    for name, settings, bar in ways:
        found = measured(settings)
        what = f"memory an entry, {name}, 430-character answers, {plan.named(plan.large)}"
        at = {"dtype": name, "dim": plan.bench.vectors(plan.data).shape[1]}
        own: dict[str, Any] = {"side": "≤", "bar": bar} if bar else {}
        yield line(found, what, found.of(OURS, "bytes"), "B", told="bytes", at=at, **own)
