"""Counters, events and observers are told of every outcome, once."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mneme import observe
from mneme._core.keys import Counts
from mneme._core.tally import LOG_EVERY, Tally
from mneme.records import Hit, Layer, Miss, MissReason

NAMESPACES = st.sampled_from(["a", "b"])
NAMES = ["hits_exact", "hits_semantic", "misses", "evictions", "expirations", "failed_open"]


def hit(layer: Layer = "exact", namespace: str = "default") -> Hit:
    return Hit("a", 0.9, 0.9, 60.0, layer, namespace, {}, "q")


class Heard(list[tuple[str, dict[str, Any]]]):
    """A metrics hook that writes down what it hears."""

    def __call__(self, event: str, attrs: dict[str, Any]) -> None:
        self.append((event, attrs))


class TallyMachine(RuleBasedStateMachine):
    """However often counters are taken to be saved, and given back, no count is lost or doubled."""

    @initialize(
        kept=st.dictionaries(st.tuples(NAMESPACES, st.sampled_from(NAMES)), st.integers(0, 9))
    )
    def begin(self, kept: dict[tuple[str, str], int]) -> None:
        self.tally = Tally(None)
        self.tally.restore(kept)
        self.stored = Counter(kept)
        self.total = Counter(kept)
        self.taken: list[dict[tuple[str, str], int]] = []

    @rule(namespace=NAMESPACES, name=st.sampled_from(NAMES), count=st.integers(1, 3))
    def add(self, namespace: str, name: str, count: int) -> None:
        self.tally.add(namespace, name, count)
        self.total[namespace, name] += count

    @rule(namespace=NAMESPACES, layer=st.sampled_from(["exact", "semantic"]))
    def hit(self, namespace: str, layer: Layer) -> None:
        self.tally.hit(hit(layer, namespace))
        self.total[namespace, f"hits_{layer}"] += 1

    @rule(namespace=NAMESPACES)
    def tick(self, namespace: str) -> None:
        self.tally.tick(namespace)
        self.total[namespace, "hits_exact"] += 1

    @rule(namespace=NAMESPACES)
    def miss(self, namespace: str) -> None:
        self.tally.miss(Miss("absent", namespace))
        self.total[namespace, "misses"] += 1

    @rule(fails=st.booleans())
    def save(self, fails: bool) -> None:
        taken = self.tally.take_unsaved()
        if fails:
            self.tally.give_back(taken)
        else:
            self.stored.update(taken)

    @invariant()
    def totals_are_right(self) -> None:
        for name in NAMES:
            each = {space: self.tally.total(name, space) for space in ("a", "b")}
            assert each == {space: self.total[space, name] for space in ("a", "b")}
            assert self.tally.total(name) == sum(each.values())

    def teardown(self) -> None:
        if hasattr(self, "tally"):
            self.stored.update(self.tally.take_unsaved())
            assert self.stored == self.total
            assert self.tally.take_unsaved() == {}


TestTally = TallyMachine.TestCase
TestTally.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)


class TestOutcomes:
    def test_a_hit_is_told_everywhere(self) -> None:
        """Counters, the function's own counts, the hook and observers hear of a hit once each."""
        heard, counts = Heard(), Counts()
        tally = Tally(heard)
        with observe() as seen:
            tally.hit(hit("semantic", "n"), counts)
        assert tally.take_unsaved() == {("n", "hits_semantic"): 1}
        assert (counts.hits, counts.misses) == (1, 0)
        told = {"namespace": "n", "layer": "semantic", "similarity": 0.9, "age_seconds": 60.0}
        assert heard == [("hit", told)]
        assert seen == [hit("semantic", "n")]

    def test_a_miss_is_told_everywhere(self) -> None:
        """Counters, the function's own counts, the hook and observers hear of a miss once each."""
        heard, counts = Heard(), Counts()
        tally = Tally(heard)
        miss = Miss("below_threshold", "n", 0.5)
        with observe() as seen:
            tally.miss(miss, counts)
        assert tally.take_unsaved() == {("n", "misses"): 1}
        assert (counts.hits, counts.misses) == (0, 1)
        told = {"namespace": "n", "reason": "below_threshold", "similarity": 0.5}
        assert heard == [("miss", told)]
        assert seen == [miss]

    def test_a_refusal_by_a_guard_is_an_event_of_its_own(self) -> None:
        """Beside the miss, the hook hears that a guard stepped in."""
        heard = Heard()
        Tally(heard).miss(Miss("guarded", "n", 0.95))
        assert [event for event, _ in heard] == ["guarded", "miss"]
        assert heard[0][1] == {"namespace": "n"}

    @pytest.mark.parametrize("reason", ["bypass", "refresh"])
    def test_what_was_not_looked_for_is_not_missed(self, reason: MissReason) -> None:
        """Bypass and refresh count as no miss, but hook and observers hear of them."""
        heard, counts = Heard(), Counts()
        tally = Tally(heard)
        with observe() as seen:
            tally.miss(Miss(reason, "n"), counts)
        assert (tally.take_unsaved(), counts.misses) == ({}, 0)
        assert [attrs["reason"] for _, attrs in heard] == [reason]
        assert len(seen) == 1

    @pytest.mark.parametrize(
        ("event", "name"), [("eviction", "evictions"), ("expired", "expirations")]
    )
    def test_a_loss_is_counted_and_told(self, event: str, name: str) -> None:
        """An entry that had to go is counted by the reason, and the hook hears of it."""
        heard = Heard()
        tally = Tally(heard)
        tally.gone("n", event)
        assert tally.take_unsaved() == {("n", name): 1}
        assert heard == [(event, {"namespace": "n"})]

    def test_without_hook_and_observer_counting_is_all(self) -> None:
        """Nothing else is needed for the counters to count."""
        tally = Tally(None)
        tally.hit(hit())
        tally.miss(Miss("absent", "default"))
        tally.tell("put", namespace="default")
        assert (tally.total("hits_exact"), tally.total("misses")) == (1, 1)

    def test_counting_is_safe_from_any_thread(self) -> None:
        """No count is lost between threads."""
        tally, counts = Tally(None), Counts()

        def ask() -> None:
            for _ in range(500):
                tally.hit(hit(), counts)
                tally.miss(Miss("absent", "default"), counts)
                tally.tick("default", counts)
                tally.total("hits_exact")

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (counts.hits, counts.misses) == (4_000, 2_000)
        assert tally.total("hits_exact") == 4_000
        assert tally.total("misses", "default") == 2_000

    def test_a_child_saves_nothing_of_its_parent(self) -> None:
        """What was counted before a fork is in the totals of the child, and not saved twice."""
        tally = Tally(None)
        tally.hit(hit("semantic"))
        tally.tick("default")
        tally.in_child()
        assert tally.take_unsaved() == {}
        assert (tally.total("hits_semantic"), tally.total("hits_exact")) == (1, 1)


class TestHook:
    def test_what_it_raises_is_logged_and_goes_no_further(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A broken hook breaks no lookup: the counters count, and the log says which event."""

        def hook(event: str, attrs: dict[str, Any]) -> None:
            raise RuntimeError("no exporter")

        tally = Tally(hook)
        with observe() as seen:
            tally.hit(hit())
            tally.miss(Miss("guarded", "default"))
        assert (tally.total("hits_exact"), tally.total("misses"), len(seen)) == (1, 1, 2)
        events = ["hit", "guarded", "miss"]
        assert caplog.messages == [f"the metrics hook raised on {event!r}" for event in events]
        assert all(record.exc_info for record in caplog.records)

    def test_an_interrupt_passes(self) -> None:
        """What is no error of the hook is not stopped."""

        def hook(event: str, attrs: dict[str, Any]) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Tally(hook).tell("put")

    def test_it_may_ask_the_tally(self) -> None:
        """The hook is called outside the lock, so one that reads the counters does not hang."""
        seen: list[int] = []
        tally = Tally(lambda event, attrs: seen.append(tally.total("hits_exact")))
        tally.hit(hit())
        assert seen == [1]


class TestFailedOpen:
    def test_it_is_counted_told_and_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """Going on without a part leaves a count, an event with the error's name, a warning."""
        heard = Heard()
        tally = Tally(heard)
        tally.failed_open("embedder", "n", OSError("down"), 0.0)
        assert tally.take_unsaved() == {("n", "failed_open"): 1}
        told = {"namespace": "n", "part": "embedder", "error": "OSError"}
        assert heard == [("failed_open", told)]
        assert caplog.messages == ["the embedder failed, going on without it: down"]
        assert caplog.records[0].levelno == logging.WARNING
        assert caplog.records[0].name == "mneme"

    def test_the_log_hears_of_each_part_once_a_minute(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An outage fills no log, and hides no other outage; every failure is counted."""
        tally = Tally(None)
        moments = [
            ("store", 0.0),
            ("store", 0.0),
            ("store", 1.0),
            ("embedder", 2.0),
            ("store", LOG_EVERY - 0.1),
            ("store", LOG_EVERY),
            ("store", 2 * LOG_EVERY - 0.1),
            ("store", 2 * LOG_EVERY),
        ]
        for part, now in moments:
            tally.failed_open(part, "n", f"at {now}", now)
        logged = [message.partition(": at ")[2] for message in caplog.messages]
        assert logged == ["0.0", "2.0", str(LOG_EVERY), str(2 * LOG_EVERY)]
        assert tally.total("failed_open", "n") == len(moments)

    def test_a_clock_that_is_set_back_silences_nothing(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """After the clock was set back the next failure is logged, not the one in an hour."""
        tally = Tally(None)
        tally.failed_open("store", "n", "late", 3_600.0)
        tally.failed_open("store", "n", "early", 0.0)
        tally.failed_open("store", "n", "soon", 1.0)
        assert [message[-5:] for message in caplog.messages] == [" late", "early"]
