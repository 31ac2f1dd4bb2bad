"""What is live, and who has to go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mneme._core.keys import key_of, partition_of
from mneme._core.ledger import Ledger, Record
from mneme.records import Entry, Identity, Payload
from mneme.testing import entry

NAMESPACES = ("a", "b", "c")


def made(namespace: str, part: int, prompt: str, response: str = "r") -> Entry:
    """An entry as the core makes it: prompts of equal text but for case share a key."""
    return entry(
        prompt,
        namespace=namespace,
        partition=partition_of(namespace, part),
        key=key_of(prompt.casefold()),
        payload=Payload("text", response),
    )


ENTRIES = st.builds(
    made,
    st.sampled_from(NAMESPACES),
    st.integers(0, 1),
    st.sampled_from(["p", "P", "q", "r", "s"]),
    st.sampled_from(["", "short", "x" * 50]),
)
QUOTAS = st.dictionaries(st.sampled_from(NAMESPACES), st.integers(0, 4), max_size=2)
EVERY = [made(space, part, prompt) for space in NAMESPACES for part in (0, 1) for prompt in "pPqrs"]


def weight(one: Entry) -> int:
    """What an entry is estimated to occupy alone."""
    ledger = Ledger()
    ledger.put(one)
    return ledger.memory_bytes()


def applied(ledger: Ledger, kept: Iterable[Entry], victims: Iterable[Identity]) -> None:
    """What the core does with a plan."""
    for identity in victims:
        ledger.remove(identity)
    for one in kept:
        ledger.put(one)


class LedgerMachine(RuleBasedStateMachine):
    """A ledger does what a plain dict of entries does, and its limits hold after every plan."""

    @initialize(limit=st.one_of(st.none(), st.integers(1, 6)), quotas=QUOTAS)
    def begin(self, limit: int | None, quotas: dict[str, int]) -> None:
        self.ledger = Ledger(limit, quotas)
        self.quotas = dict(quotas)
        self.live: dict[Identity, Entry] = {}

    @rule(one=ENTRIES)
    def put(self, one: Entry) -> None:
        self.ledger.put(one)
        self.live[one.identity] = one

    @rule(one=ENTRIES)
    def remove(self, one: Entry) -> None:
        assert self.ledger.remove(one.identity) is self.live.pop(one.identity, None)

    @rule(namespace=st.sampled_from(NAMESPACES))
    def clear(self, namespace: str) -> None:
        gone = [i for i, one in self.live.items() if one.namespace == namespace]
        assert self.ledger.clear(namespace) == len(gone)
        for identity in gone:
            del self.live[identity]

    @rule(limit=st.integers(0, 5))
    def sweep(self, limit: int) -> None:
        if not self.ledger.sweep(limit):
            left = [record.entry.identity for record in self.ledger._live or ()]
            assert self.ledger._live is None or sorted(left) == sorted(self.live)

    @rule(one=ENTRIES)
    def use(self, one: Entry) -> None:
        record = self.ledger.find(one.partition, one.key)
        assert (record is not None) is (one.identity in self.live)
        if record is not None:
            record.used = True

    @rule(namespace=st.sampled_from(NAMESPACES), quota=st.one_of(st.none(), st.integers(0, 4)))
    def set_quota(self, namespace: str, quota: int | None) -> None:
        self.ledger.set_quota(namespace, quota)
        self.quotas.pop(namespace, None)
        if quota is not None:
            self.quotas[namespace] = quota

    @rule(
        puts=st.lists(ENTRIES, max_size=8),
        named=st.sets(st.sampled_from(NAMESPACES)),
        is_committed=st.booleans(),
    )
    def plan(self, puts: list[Entry], named: set[str], is_committed: bool) -> None:
        ledger, limit = self.ledger, self.ledger.max_entries
        kept, victims = ledger.plan(puts, named)
        coming = {one.identity for one in kept}
        assert len(coming) == len(kept)
        last = {one.identity: one for one in puts}
        assert all(last[one.identity] is one for one in kept)
        assert set(victims) <= self.live.keys() - coming
        assert len(set(victims)) == len(victims) == self.excess(kept, puts, named)
        if not is_committed:
            # The store failed, so nothing comes of the plan.
            return
        applied(ledger, kept, victims)
        for identity in victims:
            del self.live[identity]
        self.live.update((one.identity, one) for one in kept)
        checked = {one.namespace for one in puts} | named
        assert all(self.size(name) <= self.quotas[name] for name in checked & self.quotas.keys())
        assert limit is None or len(self.live) <= limit
        # Nothing is left out unless a limit is reached.
        lost = {one.namespace for one in last.values() if one.identity not in coming}
        full = limit is not None and len(self.live) == limit
        assert full or all(self.size(name) == self.quotas[name] for name in lost)

    def excess(self, kept: list[Entry], puts: list[Entry], named: set[str]) -> int:
        """How many have to go, and not one more."""
        new = [one.namespace for one in kept if one.identity not in self.live]
        checked = {one.namespace for one in puts} | named
        over = sum(
            max(0, self.size(name) + new.count(name) - self.quotas[name])
            for name in checked & self.quotas.keys()
        )
        limit = self.ledger.max_entries
        total = len(self.live) + len(new) - over
        return over if limit is None else over + max(0, total - limit)

    def size(self, namespace: str) -> int:
        return sum(one.namespace == namespace for one in self.live.values())

    @invariant()
    def it_holds_what_the_dict_holds(self) -> None:
        ledger = self.ledger
        assert len(ledger) == ledger.size() == len(self.live)
        held = [record.entry for record in ledger.records()]
        assert {one.identity: one for one in held} == self.live
        assert len(held) == len(self.live)
        assert ledger.quotas == self.quotas

    @invariant()
    def namespaces_are_counted(self) -> None:
        ledger = self.ledger
        assert ledger.namespaces() == sorted({one.namespace for one in self.live.values()})
        for name in NAMESPACES:
            own = [one for one in self.live.values() if one.namespace == name]
            assert ledger.size(name) == len(own)
            assert ledger.partitions(name) == {one.partition for one in own}
            assert ledger.memory_bytes(name) == sum(map(weight, own))
        assert ledger.memory_bytes() == sum(map(ledger.memory_bytes, NAMESPACES))

    @invariant()
    def nothing_is_kept_of_what_is_gone(self) -> None:
        ledger = self.ledger
        names = {one.namespace for one in self.live.values()}
        parts = {one.partition for one in self.live.values()}
        assert ledger._sizes.keys() == ledger._bytes.keys() == ledger._partitions.keys() == names
        assert ledger._by_key.keys() == ledger.by_prompt.keys() == parts
        assert ledger._queues.keys() == self.quotas.keys()

    @invariant()
    def prompt_and_key_find_the_same(self) -> None:
        for one in EVERY:
            found = self.ledger.find(one.partition, one.key)
            kept = self.live.get(one.identity)
            assert (found.entry if found else None) is kept
            recalled = self.ledger.recall(one.partition, one.prompt)
            if kept is not None and kept.prompt == one.prompt:
                assert recalled is found
            else:
                assert recalled is None


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def filled(ledger: Ledger, count: int, used: Iterable[int] = ()) -> list[Entry]:
    """`count` entries of the namespace ``a``, oldest first; those in `used` were hit."""
    entries = [made("a", 0, f"entry {at}") for at in range(count)]
    for one in entries:
        ledger.put(one)
    for at in used:
        record = ledger.find(entries[at].partition, entries[at].key)
        assert record is not None
        record.used = True
    return entries


class TestEviction:
    @given(
        count=st.integers(1, 8),
        used=st.sets(st.integers(0, 7)),
        known=st.sets(st.integers(0, 7)),
        new=st.integers(0, 4),
        by_quota=st.booleans(),
    )
    def test_the_unused_go_first_and_then_the_oldest(
        self, count: int, used: set[int], known: set[int], new: int, by_quota: bool
    ) -> None:
        """Victims are the unused from the oldest on, then the used; never what is being put."""
        used = {at for at in used if at < count}
        ledger = Ledger(*((None, {"a": count}) if by_quota else (count, {})))
        entries = filled(ledger, count, used)
        puts = [entries[at] for at in sorted(known) if at < count]
        puts += [made("a", 0, f"new {at}") for at in range(new)]
        kept, victims = ledger.plan(puts)
        assert kept == puts[max(0, len(puts) - count) :]
        spared = {one.identity for one in kept}
        others = [at for at in range(count) if entries[at].identity not in spared]
        order = [at for at in others if at not in used] + [at for at in others if at in used]
        excess = sum(one not in entries for one in kept)
        assert victims == [entries[at].identity for at in order[:excess]]

    def test_a_second_chance_is_one(self) -> None:
        """What was used once outlives the first eviction, and not the second."""
        ledger = Ledger(2)
        first, second = filled(ledger, 2, used=[0])
        assert first.identity not in self.lost(ledger, made("a", 0, "x"))
        assert self.lost(ledger, made("a", 0, "y")) == [first.identity]
        assert ledger.find(second.partition, second.key) is None

    def test_what_is_used_again_stays(self) -> None:
        """An entry that is hit between evictions is never the victim."""
        ledger = Ledger(3)
        first, *_ = filled(ledger, 3)
        for at in range(10):
            record = ledger.recall(first.partition, first.prompt)
            assert record is not None
            record.used = True
            assert first.identity not in self.lost(ledger, made("a", 0, f"x {at}"))

    def lost(self, ledger: Ledger, one: Entry) -> list[Identity]:
        kept, victims = ledger.plan([one])
        applied(ledger, kept, victims)
        return victims

    def test_a_new_entry_has_to_earn_its_second_chance(self) -> None:
        """Putting an entry again makes it the youngest, and not a used one."""
        ledger = Ledger(2)
        first, second = filled(ledger, 2, used=[0])
        ledger.put(first)
        assert self.lost(ledger, made("a", 0, "x")) == [second.identity]
        assert self.lost(ledger, made("a", 0, "y")) == [first.identity]

    def test_a_quota_spares_other_namespaces(self) -> None:
        """A namespace over its quota loses its own entries only."""
        ledger = Ledger(None, {"a": 1})
        for name in NAMESPACES:
            for part in (0, 1):
                ledger.put(made(name, part, "p"))
        victims = self.lost(ledger, made("a", 0, "q"))
        assert victims == [made("a", part, "p").identity for part in (0, 1)]

    def test_a_quota_is_checked_for_namespaces_that_are_named(self) -> None:
        """A quota that is lowered takes effect without a put."""
        ledger = Ledger()
        entries = filled(ledger, 4)
        ledger.set_quota("a", 1)
        assert ledger.plan([]) == ([], [])
        _, victims = ledger.plan([], ["a", "unheard of"])
        assert victims == [one.identity for one in entries[:3]]

    def test_a_quota_that_is_lifted_is_forgotten(self) -> None:
        """Without its quota a namespace may grow again."""
        ledger = Ledger(None, {"a": 1})
        ledger.set_quota("a", None)
        ledger.set_quota("b", None)
        entries = filled(ledger, 3)
        assert ledger.plan(entries, ["a"]) == (entries, [])

    def test_a_quota_of_zero_keeps_nothing(self) -> None:
        """Nothing of a closed namespace is kept, and what is there goes."""
        ledger = Ledger()
        old = filled(ledger, 2)
        ledger.set_quota("a", 0)
        kept, victims = ledger.plan([made("a", 0, "new"), made("b", 0, "new")], ["a"])
        assert [one.namespace for one in kept] == ["b"]
        assert victims == [one.identity for one in old]

    def test_a_dropped_answer_leaves_no_older_one(self) -> None:
        """Where the new answer to a question may not be kept, the old one is not served on."""
        ledger = Ledger()
        (old,) = filled(ledger, 1)
        ledger.set_quota("a", 0)
        assert ledger.plan([made("a", 0, old.prompt, "new")]) == ([], [old.identity])

    def test_a_quota_that_is_raised_keeps_the_queue(self) -> None:
        """Changing a quota keeps the order of age, and who was used."""
        ledger = Ledger(None, {"a": 3})
        first, second, third = filled(ledger, 3, used=[0])
        assert self.lost(ledger, made("a", 0, "x")) == [second.identity]
        ledger.set_quota("a", 2)
        # The hand has passed the first, which now stands behind the third.
        assert ledger.plan([], ["a"])[1] == [third.identity]
        assert ledger.find(first.partition, first.key) is not None

    @pytest.mark.parametrize("limits", [(2, {}), (None, {"a": 2}), (2, {"a": 3}), (3, {"a": 2})])
    def test_of_a_large_batch_the_last_are_kept(self, limits: Any) -> None:
        """A batch over the limit keeps its last entries, and evicts all others."""
        ledger = Ledger(*limits)
        old = filled(ledger, 2)
        batch = [made("a", 0, f"new {at}") for at in range(4)]
        kept, victims = ledger.plan([batch[3], batch[0], *batch[1:]])
        assert kept == batch[2:]
        assert set(victims) == {one.identity for one in old}

    def test_of_one_question_the_last_answer_is_kept(self) -> None:
        """A batch that answers a question twice keeps the later answer, as late as it came."""
        ledger = Ledger(1)
        first, second = made("a", 0, "p", "old"), made("a", 0, "p", "new")
        assert ledger.plan([first, made("a", 0, "q"), second]) == ([second], [])


class Busy(Record):
    """A record that other threads hit all the time."""

    @property
    def used(self) -> bool:
        return True

    @used.setter
    def used(self, value: bool) -> None:
        return None


def test_a_plan_ends_while_everything_is_in_use() -> None:
    """Entries that are hit faster than the hand passes keep their place, and nothing hangs."""
    ledger = Ledger(1)
    ledger._live = OrderedDict.fromkeys(Busy(one) for one in filled(ledger, 3))
    assert ledger.plan([made("a", 0, "x")]) == ([made("a", 0, "x")], [])


class TestShelves:
    def test_another_wording_of_the_question_replaces_it(self) -> None:
        """There is one entry for a key: the wording of the last is recalled, the older is not."""
        ledger = Ledger()
        ledger.put(made("a", 0, "p", "old"))
        ledger.put(made("a", 0, "P", "new"))
        partition = partition_of("a", 0)
        assert ledger.recall(partition, "p") is None
        record = ledger.recall(partition, "P")
        assert record is not None
        assert record.entry.payload.data == "new"
        assert len(ledger) == 1

    def test_one_wording_may_have_two_keys(self) -> None:
        """After a change of normalizer the last entry is recalled, and each can be removed."""
        ledger = Ledger()
        one = made("a", 0, "p")
        two = entry("p", namespace="a", partition=one.partition, key=key_of("another"))
        ledger.put(one)
        ledger.put(two)
        recalled = ledger.recall(one.partition, "p")
        assert recalled is not None
        assert recalled.entry is two
        assert ledger.remove(one.identity) is one
        assert ledger.recall(one.partition, "p") is recalled
        assert ledger.remove(two.identity) is two
        assert ledger.recall(one.partition, "p") is None

    def test_a_snapshot_stays_what_it_was(self) -> None:
        """What was listed does not change with the ledger."""
        ledger = Ledger()
        filled(ledger, 2)
        before, spaces = ledger.records(), ledger.partitions("a")
        for record in before:
            ledger.remove(record.entry.identity)
        assert (len(before), len(spaces), len(ledger)) == (2, 1, 0)

    def test_removing_what_is_absent_changes_nothing(self) -> None:
        """An unknown identity is no error."""
        assert Ledger().remove(made("a", 0, "p").identity) is None

    @pytest.mark.parametrize(
        "more",
        [
            {"prompt": "what is a cache" + "x" * 1_000},
            {"response": "a memory" + "x" * 1_000},
            {"metadata": "{}" + " " * 1_000},
        ],
    )
    def test_memory_grows_with_the_text(self, more: dict[str, str]) -> None:
        """The estimate counts prompt, response and metadata."""
        small, large = Ledger(), Ledger()
        small.put(entry())
        large.put(entry(**more))
        assert large.memory_bytes() - small.memory_bytes() == 1_000
