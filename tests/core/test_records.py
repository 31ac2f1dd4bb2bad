"""The plain values that travel."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest

from mneme import records
from mneme.records import Explanation, Health, Hit, Miss, Selection, Stats, Verdict
from mneme.testing import entry, unit

HIT = Hit("a", 0.9, 0.9, 1.0, "semantic", "default", {}, "q")
STATS: dict[str, Any] = dict.fromkeys((f.name for f in dataclasses.fields(Stats)), 0)


def test_every_record_is_frozen_and_slotted() -> None:
    """No record can be changed, or given an attribute that it does not have."""
    found = [one for one in vars(records).values() if dataclasses.is_dataclass(one)]
    assert len(found) > 10
    for kind in found:
        assert kind.__dataclass_params__.frozen
        assert "__dict__" not in dir(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        HIT.response = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("chosen", "is_meant"),
    [
        (Selection(), True),
        (Selection("n"), True),
        (Selection("m"), False),
        (Selection(tag="a"), True),
        (Selection(tag="c"), False),
        (Selection(created_before=11.0), True),
        (Selection(created_before=10.0), False),
        (Selection(dead_by=29.9), False),
        (Selection(dead_by=30.0), True),
        (Selection("n", "a", 11.0, 30.0), True),
        (Selection("n", "c", 11.0, 30.0), False),
    ],
)
def test_a_selection_means_what_meets_all_of_it(chosen: Selection, is_meant: bool) -> None:
    """Each condition that is given has to be met; a stale entry is not dead yet."""
    one = entry(namespace="n", tags=("a", "b"), created_at=10.0, expires_at=20.0, dies_at=30.0)
    assert chosen.has(one) is is_meant
    assert not Selection(dead_by=1e12).has(entry())


class TestEntry:
    def test_entries_can_be_compared(self) -> None:
        """Two entries are equal when all but their vectors is, and hash alike."""
        one, two = entry(vector=unit(1.0)), entry(vector=unit(0.0, 1.0))
        assert one == two
        assert hash(one) == hash(two)
        assert one != entry(response="another")

    def test_the_identity_is_partition_and_key(self) -> None:
        """An entry is known by where it belongs and what it answers."""
        kept = entry("q", namespace="n")
        assert kept.identity == (kept.partition, kept.key)
        assert kept.identity == entry("q", "another answer", namespace="n").identity
        assert len({kept.identity, entry("p").identity, entry("q").identity}) == 3

    @pytest.mark.parametrize("value", [entry(), HIT, Miss("absent", "n")])
    def test_records_outlive_a_pickle(self, value: object) -> None:
        """A record can be sent to another process."""
        assert pickle.loads(pickle.dumps(value)) == value


class TestOutcome:
    def test_a_hit_is_true_whatever_it_holds(self) -> None:
        """A cached None is a hit."""
        assert dataclasses.replace(HIT, response=None)

    def test_a_miss_is_false(self) -> None:
        """`if found:` reads as it should."""
        assert not Miss("absent", "default")

    def test_misses_can_be_compared_and_shown(self) -> None:
        """Vector and question travel with a miss, and are neither compared nor shown."""
        one = Miss("absent", "n", 0.5, unit(1.0), ask=object())
        assert one == Miss("absent", "n", 0.5, unit(0.0, 1.0), ask=object())
        assert one != Miss("absent", "n", 0.6)
        assert repr(one) == "Miss(reason='absent', namespace='n', nearest_similarity=0.5)"


class TestExplanation:
    def test_it_reads_as_a_report(self) -> None:
        """The text says what was asked, what came of it, and what was thought of each candidate."""
        explained = Explanation(
            "How old?",
            "default",
            0.85,
            HIT,
            (
                Verdict("how cold", 0.91234, "guarded", "cold is not old"),
                Verdict("what age", 0.9, None),
                Verdict("who", -0.5, "below_threshold"),
            ),
        )
        assert str(explained) == (
            "'How old?' in namespace 'default': hit (semantic)\n"
            "  threshold 0.8500\n"
            "   0.9123  guarded (cold is not old): 'how cold'\n"
            "   0.9000  taken: 'what age'\n"
            "  -0.5000  below threshold: 'who'"
        )

    def test_a_miss_is_told_with_its_reason(self) -> None:
        """Reasons read as words."""
        explained = Explanation("q", "n", 1.0, Miss("embedder_failed", "n"))
        assert str(explained) == "'q' in namespace 'n': miss (embedder failed)\n  threshold 1.0000"


class TestStats:
    def test_the_hit_rate_is_hits_over_lookups(self) -> None:
        """Hits of both layers count, misses are the rest."""
        stats = Stats(**{**STATS, "hits_exact": 2, "hits_semantic": 1, "misses": 1})
        assert (stats.hits, stats.hit_rate) == (3, 0.75)

    def test_before_the_first_lookup_it_is_zero(self) -> None:
        """Nothing asked is nothing answered, and no division by zero."""
        assert Stats(**STATS).hit_rate == 0.0


def test_health_is_whole_unless_told_otherwise() -> None:
    """A store that counts no bad rows has none."""
    named = [f.name for f in dataclasses.fields(Health) if f.default is dataclasses.MISSING]
    health = Health(**dict.fromkeys(named, 1))
    assert (health.bad_rows, health.failed_open) == (0, 0)
