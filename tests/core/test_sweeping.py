"""What is dead is let go of in the background, to the end, and only where somebody is there."""

from __future__ import annotations

import gc
import logging
import threading
import weakref

import pytest

from mneme._core.sweeping import Sweeping
from mneme.errors import StoreBackendError

PATIENCE = 30.0


class Owner:
    """Has so many steps to do; may be held up in each, and fail in the first ones."""

    def __init__(self, steps: int, failures: int = 0) -> None:
        self.steps, self.failures = steps, failures
        self.stepped, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def sweep_some(self) -> bool:
        self.stepped.set()
        assert self.may_go_on.wait(PATIENCE)
        if self.failures:
            self.failures -= 1
            raise StoreBackendError("it is down")
        self.steps -= 1
        return self.steps > 0


def test_it_goes_on_until_nothing_is_left_and_begins_again() -> None:
    """One thread at a time, and none when there is nothing to do."""
    owner = Owner(3)
    sweeping = Sweeping(owner)
    sweeping.begin()
    sweeping.wait()
    assert owner.steps == 0
    assert sweeping._thread is None
    owner.steps = 2
    sweeping.begin()
    sweeping.wait()
    assert owner.steps == 0


def test_what_comes_up_during_the_last_step_is_seen_to() -> None:
    """`begin` while the thread is about to end has it go on."""
    owner = Owner(1)
    owner.may_go_on.clear()
    sweeping = Sweeping(owner)
    sweeping.begin()
    assert owner.stepped.wait(PATIENCE)
    sweeping.begin()
    owner.steps = 2
    owner.may_go_on.set()
    sweeping.wait()
    assert owner.steps <= 0


def test_a_failure_is_told_and_tried_again_another_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is not tried again and again where nobody has asked."""
    owner = Owner(2, failures=1)
    sweeping = Sweeping(owner)
    with caplog.at_level(logging.WARNING, "mneme"):
        sweeping.begin()
        sweeping.wait()
    assert "it is down" in caplog.text
    assert owner.steps == 2
    sweeping.begin()
    sweeping.wait()
    assert owner.steps == 0


def test_it_ends_for_good() -> None:
    """`end` waits for the step at hand, leaves the rest, and nothing begins again."""
    owner = Owner(1_000_000)
    sweeping = Sweeping(owner)
    sweeping.begin()
    assert owner.stepped.wait(PATIENCE)
    sweeping.end()
    left = owner.steps
    assert left > 0
    sweeping.begin()
    sweeping.wait()
    assert owner.steps == left


def test_it_keeps_nobody_alive() -> None:
    """An owner that is collected has nothing to be swept."""
    owner = Owner(1)
    sweeping = Sweeping(owner)
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is None
    sweeping.begin()
    sweeping.wait()
    assert sweeping._thread is None
