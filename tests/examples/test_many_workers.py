"""The simulation of many workers counts what it says it counts."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[2] / "examples" / "many_workers.py"


@pytest.fixture(scope="module")
def simulation() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("many_workers", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up.
    sys.modules["many_workers"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["many_workers"]


SMALL = {"seconds": 60.0, "rate": 100.0, "questions": 500, "changes": 1.0}


def test_who_asks_the_engine_each_time_serves_nothing_stale(simulation: ModuleType) -> None:
    """Without trust in near copies each request is a read, and no answer is an older one."""
    found = simulation.replay(simulation.Fleet(**SMALL), 0.0)
    assert found.reads == found.requests > 5_000
    assert found.near == found.stale_rate == 0


def test_trust_trades_reads_for_staleness(simulation: ModuleType) -> None:
    """The longer the interval, the fewer reads, and no answer is stale for longer than it."""
    fleet = simulation.Fleet(**SMALL)
    intervals = (0.0, 1.0, 5.0, 20.0)
    found = [simulation.replay(fleet, interval) for interval in intervals]
    assert len({one.requests for one in found}) == 1
    reads, stale = [one.reads for one in found], [one.stale_rate for one in found]
    assert reads == sorted(reads, reverse=True)
    assert stale == sorted(stale)
    assert len(set(reads)) == len(set(stale)) == len(intervals)
    for one, interval in zip(found[1:], intervals[1:], strict=True):
        assert 0.0 < max(one.stale_seconds) <= interval


def test_every_request_is_answered_once(simulation: ModuleType) -> None:
    """Near, shared and model add up, and the model answers each question of the trace once."""
    fleet = simulation.Fleet(**SMALL)
    for interval in (0.0, 5.0):
        found = simulation.replay(fleet, interval)
        assert found.near + found.shared + found.model == found.requests
        assert found.model <= fleet.questions
        assert found.hit_rate == 1.0 - found.model / found.requests


def test_one_worker_for_each_question_reads_less(simulation: ModuleType) -> None:
    """Sharded, a near copy is used by all who ask, and not by one worker in so many."""
    fleet = simulation.Fleet(**SMALL)
    spread = simulation.replay(fleet, 5.0)
    sharded = simulation.replay(replace(fleet, sharded=True), 5.0)
    assert sharded.requests == spread.requests
    assert sharded.reads < 0.8 * spread.reads


def test_a_near_cache_keeps_no_more_than_it_may(simulation: ModuleType) -> None:
    """What was not asked for longest goes first."""
    near = simulation.Near(2)
    for question in (1, 2):
        near.keep(question, 0.0, 0.0)
    assert near.trusted(1, 1.0, 5.0) == 0.0
    near.keep(3, 0.0, 1.0)
    assert near.trusted(2, 1.0, 5.0) is None
    assert near.trusted(1, 1.0, 5.0) == 0.0


def test_a_seed_says_what_happens(simulation: ModuleType) -> None:
    """The same seed gives the same run, another one another."""
    fleet = simulation.Fleet(**SMALL)
    once, again = simulation.replay(fleet, 5.0), simulation.replay(fleet, 5.0)
    other = simulation.replay(replace(fleet, seed=1), 5.0)
    assert once == again != other
