"""Who does not answer is left alone, ever longer, and is asked by all again once it does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mneme._core.breaker import LONGEST, SHORTEST, Breaker

times = st.floats(-1e9, 1e9)


@given(start=times, failures=st.integers(1, 12))
def test_the_pause_doubles_up_to_its_longest(start: float, failures: int) -> None:
    """0.5 s, 1 s, 2 s … and no more than 10 s, each from the failure on."""
    breaker, now, right = Breaker(), start, SHORTEST
    for _ in range(failures):
        turn = breaker.begin(now)
        assert turn is not None
        breaker.failed(turn, now)
        assert breaker.left(now) == pytest.approx(right, abs=1e-6)
        assert breaker.begin(now + 0.4 * right) is None
        now += right + 1e-3
        right = min(2 * right, LONGEST)
    assert breaker.left(now) == 0.0


@given(start=times, back=st.floats(0.001, 1e6))
def test_a_clock_that_is_set_back_ends_the_pause(start: float, back: float) -> None:
    """It must not stop the asking."""
    breaker = Breaker()
    breaker.failed(breaker.begin(start), start)  # type: ignore[arg-type]
    assert breaker.begin(start) is None
    assert breaker.begin(start - back) is not None


class Asked(RuleBasedStateMachine):
    """Many callers of one server, which may answer or not; the model knows all turns."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0
        self.turns: list[tuple[int, int]] = []
        """Who asks: what the breaker gave, and at which change of state that was."""
        self.change = 0
        self.until: float | None = None
        self.is_tried = False
        self.pause = 0.0

    @rule(seconds=st.sampled_from([0.125, 0.5, 1.0, 5.0, 10.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def ask(self) -> None:
        may = self.until is None or (self.now >= self.until and not self.is_tried)
        turn = self.breaker.begin(self.now)
        assert (turn is not None) is may
        if turn is not None:
            self.is_tried = self.until is not None
            self.turns.append((turn, self.change))

    @precondition(lambda self: self.turns)
    @rule(data=st.data(), ending=st.sampled_from(["failed", "answered", "ended"]))
    def one_ends(self, data: st.DataObject, ending: str) -> None:
        turn, change = self.turns.pop(data.draw(st.integers(0, len(self.turns) - 1)))
        if ending == "failed":
            self.breaker.failed(turn, self.now)
            if change == self.change:
                self._begin_pause()
        elif ending == "answered":
            self.breaker.answered()
            if self.until is not None:
                self.until, self.pause, self.is_tried = None, 0.0, False
                self.change += 1
        elif change == self.change:
            self.is_tried = False
        self.breaker.ended(turn)

    @rule()
    def somebody_gives_up(self) -> None:
        self.breaker.late(self.now)
        if self.until is None or self.is_tried:
            self._begin_pause()

    def _begin_pause(self) -> None:
        self.pause = min(2 * self.pause or SHORTEST, LONGEST)
        self.until, self.is_tried = self.now + self.pause, False
        self.change += 1

    @invariant()
    def nobody_waits_longer_than_the_longest(self) -> None:
        assert 0.0 <= self.breaker.left(self.now) <= LONGEST


TestAsked = Asked.TestCase
