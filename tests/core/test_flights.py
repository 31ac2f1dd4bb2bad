"""One running call for many equal asks, and nobody who waits for himself."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from contextvars import Context, copy_context
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mneme._core.flights import Ending, Flight, Flights, _leading
from mneme.records import Hit, Identity, Key, Miss, Partition

IDENTITIES: list[Identity] = [(Partition(bytes(16)), Key(bytes([at] * 16))) for at in range(3)]
ONE, TWO, THREE = IDENTITIES
ENDINGS: list[Ending] = ["filled", "answered", "failed", "cancelled"]
HIT = Hit("a", 1.0, 1.0, 0.0, "exact", "default", {})


class Caller:
    """A thread or task, as the flights see it: a context, what it leads, what it waits for."""

    def __init__(self, flights: Flights, context: Context | None = None) -> None:
        self.flights = flights
        self.context = context or Context()
        self.led: list[tuple[Flight, AbstractContextManager[None]]] = []
        self.waits_for: Flight | None = None
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1

    def board(self, identity: Identity, **how: bool) -> tuple[Flight | None, bool]:
        return self.context.run(lambda: self.flights.board(identity, **how))

    def lead(self, flight: Flight) -> None:
        block = self.flights.leading(flight)
        self.context.run(block.__enter__)
        self.led.append((flight, block))

    def end(self, exc: BaseException | None = None) -> Flight:
        """Leave the block of the flight that was led last, with `exc` if one is given."""
        flight, block = self.led.pop()
        kind = None if exc is None else type(exc)
        assert not self.context.run(block.__exit__, kind, exc, None)
        return flight

    def join(self, flight: Flight) -> bool:
        joined = self.context.run(self.flights.join, flight, self.wake)
        if joined:
            self.waits_for, self.woken = flight, 0
        return joined

    def leave(self) -> None:
        assert self.waits_for is not None
        self.context.run(self.flights.leave, self.waits_for, self.wake)
        self.waits_for = None

    def lead_new(self, identity: Identity) -> Flight:
        flight, leads = self.board(identity)
        assert flight is not None
        assert leads
        self.lead(flight)
        return flight

    def follow(self, identity: Identity) -> Flight:
        flight, leads = self.board(identity)
        assert flight is not None
        assert not leads
        assert self.join(flight)
        return flight


class FlightsMachine(RuleBasedStateMachine):
    """Each question has one leader, everybody is woken once, and no waiting goes in a circle."""

    @initialize(count=st.integers(1, 4))
    def begin(self, count: int) -> None:
        self.flights = Flights()
        self.callers = [Caller(self.flights) for _ in range(count)]
        self.leader: dict[Identity, Caller] = {}

    def free(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.waits_for is None]

    def waits_for_him(self, caller: Caller, identity: Identity) -> bool:
        """Whether waiting for the leader of `identity` would be waiting for `caller`."""
        ahead: Caller | None = self.leader[identity]
        while ahead is not None and ahead is not caller:
            ahead = self.leader[ahead.waits_for.identity] if ahead.waits_for else None
        return ahead is caller

    @rule(data=st.data(), identity=st.sampled_from(IDENTITIES), may_wait=st.booleans())
    def ask(self, data: st.DataObject, identity: Identity, may_wait: bool) -> None:
        caller = data.draw(st.sampled_from(self.free()), "caller")
        flight, leads = caller.board(identity, may_wait=may_wait)
        if identity not in self.leader:
            assert leads
            assert flight is not None
            assert flight.identity == identity
            self.leader[identity] = caller
            caller.lead(flight)
            return
        assert not leads
        calls_through = not may_wait or self.waits_for_him(caller, identity)
        assert (flight is None) is calls_through
        if flight is not None:
            assert caller.join(flight)

    @precondition(lambda self: self.leader)
    @rule(data=st.data(), ending=st.sampled_from([None, *ENDINGS]))
    def end(self, data: st.DataObject, ending: Ending | None) -> None:
        leading = [caller for caller in self.free() if caller.led]
        caller = data.draw(st.sampled_from(leading), "caller")
        flight = caller.led[-1][0]
        if ending is not None:
            self.flights.land(flight, ending)
        self.land(caller.end(), caller, ending or "failed")

    @precondition(lambda self: self.leader)
    @rule(data=st.data(), exc=st.sampled_from([ValueError(), KeyboardInterrupt(), SystemExit()]))
    def raise_from(self, data: st.DataObject, exc: BaseException) -> None:
        leading = [caller for caller in self.free() if caller.led]
        caller = data.draw(st.sampled_from(leading), "caller")
        expected: Ending = "failed" if isinstance(exc, Exception) else "cancelled"
        self.land(caller.end(exc), caller, expected)

    def land(self, flight: Flight, leader: Caller, ending: Ending) -> None:
        assert flight.ending == ending
        assert self.leader.pop(flight.identity) is leader
        for follower in self.callers:
            if follower.waits_for is flight:
                assert follower.woken == 1
                follower.leave()

    @precondition(lambda self: len(self.free()) < len(self.callers))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        waiting = [caller for caller in self.callers if caller.waits_for is not None]
        caller = data.draw(st.sampled_from(waiting), "caller")
        assert caller.woken == 0
        caller.leave()

    @invariant()
    def every_question_that_is_asked_has_one_leader(self) -> None:
        led = [flight.identity for caller in self.callers for flight, _ in caller.led]
        assert sorted(led) == sorted(self.leader)
        assert len(self.flights) == len(self.leader)

    @invariant()
    def somebody_can_always_go_on(self) -> None:
        assert self.free()
        assert not self.leader or any(caller.led for caller in self.free())

    @invariant()
    def nobody_is_woken_early(self) -> None:
        assert all(caller.woken == 0 for caller in self.callers if caller.waits_for is not None)

    def teardown(self) -> None:
        if hasattr(self, "callers"):
            while any(caller.led for caller in self.callers):
                caller = next(caller for caller in self.free() if caller.led)
                self.land(caller.end(), caller, "failed")


TestFlights = FlightsMachine.TestCase
TestFlights.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


class TestBoarding:
    def test_a_flight_that_has_landed_is_gone(self) -> None:
        """Whoever asks after the landing leads a flight of his own."""
        flights = Flights()
        leader = Caller(flights)
        first = leader.lead_new(ONE)
        flights.land(first, "filled")
        flight, leads = Caller(flights).board(ONE)
        assert leads
        assert flight is not first

    def test_questions_fly_apart(self) -> None:
        """Nobody waits for another question's call."""
        flights = Flights()
        leaders = [Caller(flights) for _ in IDENTITIES]
        assert (
            len({id(caller.lead_new(i)) for caller, i in zip(leaders, IDENTITIES, strict=True)})
            == 3
        )
        assert len(flights) == 3

    def test_a_caller_who_may_not_wait_still_leads(self) -> None:
        """On a loop's own thread a sync caller never follows, and leads where nobody does."""
        flights = Flights()
        flight, leads = Caller(flights).board(ONE, may_wait=False)
        assert leads
        assert flight is not None
        assert Caller(flights).board(ONE, may_wait=False) == (None, False)


class TestWaitingForOneself:
    def test_a_function_that_calls_itself_calls_through(self) -> None:
        """Asking what one is answering oneself is answered by calling."""
        caller = Caller(Flights())
        caller.lead_new(ONE)
        assert caller.board(ONE) == (None, False)

    def test_what_a_leader_starts_does_not_wait_for_it(self) -> None:
        """Threads and tasks that inherit the leader's context call through."""
        leader = Caller(Flights())
        leader.lead_new(ONE)
        child = Caller(leader.flights, leader.context.run(copy_context))
        assert child.board(ONE) == (None, False)

    def test_two_who_lead_do_not_wait_for_each_other(self) -> None:
        """Of two calls that need each other's answer, the second calls through."""
        one, two = (Caller(flights := Flights()), Caller(flights))
        one.lead_new(ONE)
        two.lead_new(TWO)
        one.follow(TWO)
        assert two.board(ONE) == (None, False)

    def test_a_ring_of_three_is_seen(self) -> None:
        """A circle through others is a circle."""
        flights = Flights()
        one, two, three = (Caller(flights) for _ in range(3))
        for caller, identity in zip((one, two, three), IDENTITIES, strict=True):
            caller.lead_new(identity)
        one.follow(TWO)
        two.follow(THREE)
        assert three.board(ONE) == (None, False)
        assert three.board(TWO) == (None, False)

    def test_the_circle_is_seen_again_when_joining(self) -> None:
        """Two callers who both were told to wait do not: the second to join is turned away."""
        flights = Flights()
        one, two = Caller(flights), Caller(flights)
        one.lead_new(ONE)
        two.lead_new(TWO)
        (second, _), (first, _) = one.board(TWO), two.board(ONE)
        assert first is not None
        assert second is not None
        assert one.join(second)
        assert not two.join(first)
        assert first.wakers == []
        assert two.board(ONE) == (None, False)

    def test_who_waits_no_longer_closes_no_circle(self) -> None:
        """After the wait has ended, the other may wait in turn."""
        flights = Flights()
        one, two = Caller(flights), Caller(flights)
        one.lead_new(ONE)
        two.lead_new(TWO)
        one.follow(TWO)
        one.leave()
        two.follow(ONE)

    def test_each_of_several_waits_counts(self) -> None:
        """Of two tasks of one leader that wait for the same, one that leaves leaves the other."""
        flights = Flights()
        leader, other = Caller(flights), Caller(flights)
        leader.lead_new(ONE)
        other.lead_new(TWO)
        tasks = [Caller(flights, leader.context.run(copy_context)) for _ in range(2)]
        for task in tasks:
            task.follow(TWO)
        tasks[0].leave()
        assert other.board(ONE) == (None, False)
        tasks[1].leave()
        other.follow(ONE)

    def test_two_ways_to_the_same_flight_are_no_circle(self) -> None:
        """Whom one waits for may wait for another twice over, and it is no waiting for oneself."""
        flights = Flights()
        leader, other, asking = (Caller(flights) for _ in range(3))
        leader.lead_new(ONE)
        other.lead_new(TWO)
        asking.lead_new(THREE)
        for _ in range(2):
            Caller(flights, leader.context.run(copy_context)).follow(TWO)
        asking.follow(ONE)
        assert other.board(THREE) == (None, False)

    def test_leaving_what_one_does_not_wait_for_changes_nothing(self) -> None:
        """A leader who leaves a flight twice, or one he never joined, takes nobody's wait away."""
        flights = Flights()
        leader, other, follower = (Caller(flights) for _ in range(3))
        leader.lead_new(ONE)
        flight = other.lead_new(TWO)
        follower.follow(TWO)
        leader.context.run(flights.leave, flight, leader.wake)
        flights.land(flight, "filled")
        assert (leader.woken, follower.woken) == (0, 1)

    def test_a_mere_follower_may_wait_for_any(self) -> None:
        """Who leads nothing can be waited for by nobody, and so may always wait."""
        flights = Flights()
        leader, first, second = (Caller(flights) for _ in range(3))
        leader.lead_new(ONE)
        first.follow(ONE)
        second.follow(ONE)

    def test_what_was_led_before_does_not_matter(self) -> None:
        """A context that outlives its flight may wait for the next one of the question."""
        flights = Flights()
        leader = Caller(flights)
        leader.lead_new(ONE)
        child = Caller(flights, leader.context.run(copy_context))
        leader.end()
        next_one = Caller(flights)
        next_one.lead_new(ONE)
        child.follow(ONE)


class TestLanding:
    @pytest.mark.parametrize("ending", ENDINGS)
    def test_the_followers_learn_how_it_ended(self, ending: Ending) -> None:
        """Every follower is woken once, and finds the ending and what the leader found."""
        flights = Flights()
        leader, followers = Caller(flights), [Caller(flights) for _ in range(3)]
        flight = leader.lead_new(ONE)
        for follower in followers:
            follower.follow(ONE)
        flights.land(flight, ending, HIT)
        assert [follower.woken for follower in followers] == [1, 1, 1]
        assert (flight.ending, flight.found) == (ending, HIT)

    def test_only_the_first_landing_counts(self) -> None:
        """Neither a second landing nor the end of the block changes what followers were told."""
        flights = Flights()
        leader, follower = Caller(flights), Caller(flights)
        flight = leader.lead_new(ONE)
        follower.follow(ONE)
        flights.land(flight, "answered", HIT)
        flights.land(flight, "failed")
        leader.end(ValueError())
        assert (flight.ending, flight.found, follower.woken) == ("answered", HIT, 1)

    def test_a_second_landing_does_not_end_the_next_flight(self) -> None:
        """A leader who ends late does not touch who leads the question now."""
        flights = Flights()
        late = Caller(flights)
        flights.land(late.lead_new(ONE), "filled")
        next_one = Caller(flights)
        now = next_one.lead_new(ONE)
        late.end()
        assert now.ending is None
        assert Caller(flights).board(ONE) == (now, False)

    def test_who_joins_after_the_landing_does_not_wait(self) -> None:
        """Between boarding and joining the flight may land: then there is nothing to wait for."""
        flights = Flights()
        leader, follower = Caller(flights), Caller(flights)
        flight = leader.lead_new(ONE)
        leader.end()
        assert not follower.join(flight)
        assert follower.woken == 0

    def test_who_has_left_is_not_woken(self) -> None:
        """A cancelled follower hears nothing of the landing, the others do."""
        flights = Flights()
        leader, one, two = (Caller(flights) for _ in range(3))
        flight = leader.lead_new(ONE)
        one.follow(ONE)
        two.follow(ONE)
        one.leave()
        flights.land(flight, "filled")
        assert (one.woken, two.woken) == (0, 1)

    def test_leaving_after_the_landing_is_no_error(self) -> None:
        """A follower that was woken leaves all the same."""
        flights = Flights()
        leader, follower = Caller(flights), Caller(flights)
        leader.lead_new(ONE)
        follower.follow(ONE)
        leader.end()
        follower.leave()

    def test_a_waker_may_ask_again_at_once(self) -> None:
        """Wakers are called outside the lock: one that boards, joins or lands does not hang."""
        flights = Flights()
        leader = Caller(flights)
        flight = leader.lead_new(ONE)
        boarded: list[Any] = []
        flights.join(flight, lambda: boarded.append(flights.board(ONE)))
        flights.land(flight, "filled")
        assert boarded[0][1] is True

    def test_a_waker_that_raises_keeps_nobody_asleep(self) -> None:
        """Every follower is woken, whatever happens while another is, and the error is seen."""
        flights = Flights()
        leader, last = Caller(flights), Caller(flights)
        flight = leader.lead_new(ONE)

        def broken() -> None:
            raise KeyboardInterrupt

        flights.join(flight, broken)
        last.follow(ONE)
        with pytest.raises(KeyboardInterrupt):
            flights.land(flight, "filled")
        assert last.woken == 1


class TestLeading:
    def test_a_block_that_just_ends_has_failed(self) -> None:
        """A leader who has not said how it ended leaves nothing to share."""
        flights = Flights()
        leader = Caller(flights)
        leader.lead_new(ONE)
        assert leader.end().ending == "failed"

    @pytest.mark.parametrize(
        ("exc", "ending"),
        [
            (ValueError(), "failed"),
            (KeyboardInterrupt(), "cancelled"),
            (GeneratorExit(), "cancelled"),
        ],
    )
    def test_an_exception_passes_and_lands(self, exc: BaseException, ending: Ending) -> None:
        """An error is a failure, anything else a cancellation, and both leave as they came."""
        flights = Flights()
        flight, _ = flights.board(ONE)
        assert flight is not None
        with pytest.raises(type(exc)) as raised, flights.leading(flight):
            raise exc
        assert raised.value is exc
        assert flight.ending == ending
        assert len(flights) == 0

    @pytest.mark.parametrize("exc", [None, ValueError()])
    def test_what_the_leader_found_is_kept(self, exc: Exception | None) -> None:
        """The followers of a failure get the leader's miss, and need not compare again."""
        flights = Flights()
        leader = Caller(flights)
        flight = leader.lead_new(ONE)
        flight.found = Miss("absent", "default")
        assert leader.end(exc).found is flight.found
        assert flight.found == Miss("absent", "default")

    def test_a_cancelled_leader_found_nothing(self) -> None:
        """After a cancellation a follower starts anew."""
        flights = Flights()
        leader = Caller(flights)
        flight = leader.lead_new(ONE)
        flight.found = Miss("absent", "default")
        leader.end(KeyboardInterrupt())
        assert flight.found is None

    def test_blocks_nest(self) -> None:
        """A caller may lead one question inside another, and stops leading each at its end."""
        flights = Flights()
        caller = Caller(flights)
        caller.lead_new(ONE)
        caller.lead_new(TWO)
        assert [caller.board(identity) for identity in (ONE, TWO)] == [(None, False)] * 2
        caller.end()
        other = Caller(flights)
        other.lead_new(TWO)
        flight, leads = caller.board(TWO)
        assert flight is not None
        assert not leads
        assert caller.board(ONE) == (None, False)

    @pytest.mark.parametrize("exc", [None, ValueError(), KeyboardInterrupt()])
    def test_nothing_is_left_behind(self, exc: BaseException | None) -> None:
        """A thread that leads a million flights one after another remembers none of them."""
        caller = Caller(Flights())
        caller.lead_new(ONE)
        caller.lead_new(TWO)
        caller.end(exc)
        assert len(caller.context.run(_leading.get)) == 1
        caller.end(exc)
        assert caller.context.run(_leading.get) == ()

    def test_a_block_may_end_in_another_context(self) -> None:
        """A coroutine that is thrown away is closed wherever it is collected, and lands."""
        flights = Flights()
        flight = Flight(ONE)
        flights._open[ONE] = flight
        with ExitStack() as stack:
            Context().run(stack.enter_context, flights.leading(flight))
        assert flight.ending == "failed"


def test_of_many_threads_one_leads() -> None:
    """Threads that ask at the same moment share one flight, and all are woken by its landing."""
    flights = Flights()
    count, rounds = 8, 20
    start = threading.Barrier(count)
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def noted(what: str) -> None:
        with lock:
            seen[what] += 1

    def ask() -> None:
        for _ in range(rounds):
            start.wait()
            flight, leads = flights.board(ONE)
            assert flight is not None
            woken = threading.Event()
            if leads:
                noted("led")
                # Nobody lands before all have boarded, so that there is one flight a round.
                start.wait()
                with flights.leading(flight):
                    flights.land(flight, "filled")
            else:
                start.wait()
                if flights.join(flight, woken.set):
                    assert woken.wait(20.0)
                assert flight.ending == "filled"
                noted("followed")

    run(count, ask)
    assert seen == {"led": rounds, "followed": rounds * (count - 1)}
    assert len(flights) == 0


def run(count: int, work: Callable[[], object]) -> None:
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=guarded, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert failures == []
    assert not any(thread.is_alive() for thread in threads)
