"""
What many workers ask of one shared engine: a simulation, to try sizes before buying them.

Run ``python examples/many_workers.py --workers 16 --rate 500``. Needs numpy alone.

Workers get requests in turn by chance, about questions whose popularity falls as
``rank ** -zipf``. Each keeps what it saw lately and trusts it for ``stale_check_interval``
seconds; after that it asks the engine, which is one read. What the engine does not have is
asked of the model and written. Now and then an answer changes at the engine, and workers that
still trust the older one serve it: that is what is counted as stale.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Fleet:
    """Rates are a second, all workers together; ``near_entries`` is what one worker keeps."""

    workers: int = 8
    rate: float = 200.0
    changes: float = 0.05
    seconds: float = 600.0
    questions: int = 20_000
    zipf: float = 0.9
    near_entries: int = 5_000
    sharded: bool = False
    """Whether a question always goes to the same worker, as with a namespace for each."""
    seed: int = 0


@dataclass
class Outcome:
    """How the requests of one run were answered, and how long stale answers had been so."""

    requests: int = 0
    near: int = 0
    shared: int = 0
    model: int = 0
    reads: int = 0
    writes: int = 0
    stale_seconds: list[float] = field(default_factory=list)

    @property
    def hit_rate(self) -> float:
        return (self.near + self.shared) / max(self.requests, 1)

    @property
    def stale_rate(self) -> float:
        return len(self.stale_seconds) / max(self.requests, 1)


@dataclass
class Engine:
    """The answers that there are: when each last changed."""

    changed: dict[int, float] = field(default_factory=dict)


class Near:
    """What one worker keeps: for each question when its answer was made and last checked."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[int, tuple[float, float]] = OrderedDict()

    def trusted(self, question: int, now: float, interval: float) -> float | None:
        """When the answer that may still be served was made; None: ask the engine."""
        kept = self._kept.get(question)
        if kept is None or now - kept[1] >= interval:
            return None
        self._kept.move_to_end(question)
        return kept[0]

    def keep(self, question: int, made: float, now: float) -> None:
        self._kept[question] = made, now
        self._kept.move_to_end(question)
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)


def replay(fleet: Fleet, interval: float) -> Outcome:
    """The same requests and changes for each `interval`, which is `stale_check_interval`."""
    random = np.random.default_rng(fleet.seed)
    total = fleet.rate + fleet.changes
    count = int(random.poisson(total * fleet.seconds))
    times = np.sort(random.uniform(0.0, fleet.seconds, count))
    is_change = random.random(count) < fleet.changes / total
    popularity = np.arange(1, fleet.questions + 1) ** -fleet.zipf
    asked = random.choice(fleet.questions, size=count, p=popularity / popularity.sum())
    drawn = random.integers(fleet.workers, size=count)
    workers = asked % fleet.workers if fleet.sharded else drawn
    engine, outcome = Engine(), Outcome()
    nears = [Near(fleet.near_entries) for _ in range(fleet.workers)]
    for now, change, question, worker in zip(
        times.tolist(), is_change.tolist(), asked.tolist(), workers.tolist(), strict=True
    ):
        if not change:
            _ask(engine, nears[worker], outcome, question, now, interval)
        elif question in engine.changed:
            engine.changed[question] = now
            outcome.writes += 1
    return outcome


def _ask(
    engine: Engine, near: Near, outcome: Outcome, question: int, now: float, interval: float
) -> None:
    outcome.requests += 1
    made = near.trusted(question, now, interval)
    if made is not None:
        outcome.near += 1
        if engine.changed[question] > made:
            outcome.stale_seconds.append(now - engine.changed[question])
        return
    outcome.reads += 1
    if question in engine.changed:
        outcome.shared += 1
    else:
        outcome.model += 1
        outcome.writes += 1
        engine.changed[question] = now
    near.keep(question, engine.changed[question], now)


def line(fleet: Fleet, interval: float, found: Outcome) -> str:
    stale = np.array(found.stale_seconds or [0.0])
    return (
        f"{interval:>8g} s  hits {found.hit_rate:6.1%}  near {found.near / found.requests:6.1%}  "
        f"stale {found.stale_rate:7.3%} (for {np.median(stale):.1f} s, at most {stale.max():.1f})  "
        f"engine {found.reads / fleet.seconds:7.1f} reads/s {found.writes / fleet.seconds:5.1f} "
        f"writes/s  model {found.model / fleet.seconds:5.1f}/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    add, default = parser.add_argument, Fleet()
    add("--workers", type=int, default=default.workers)
    add("--rate", type=float, default=default.rate, help="requests a second, of all workers")
    add("--changes", type=float, default=default.changes, help="answers that change a second")
    add("--seconds", type=float, default=default.seconds)
    add("--questions", type=int, default=default.questions, help="different ones")
    add("--zipf", type=float, default=default.zipf, help="popularity falls as rank ** -zipf")
    add("--near-entries", type=int, default=default.near_entries, help="that one worker keeps")
    add("--sharded", action="store_true", help="a question always goes to the same worker")
    add("--seed", type=int, default=default.seed)
    add("--intervals", type=float, nargs="+", default=[0.0, 1.0, 5.0, 30.0, 300.0])
    chosen = vars(parser.parse_args())
    intervals = chosen.pop("intervals")
    fleet = Fleet(**chosen)
    print(fleet)
    for interval in intervals:
        print(line(fleet, interval, replay(fleet, interval)))


if __name__ == "__main__":
    main()
