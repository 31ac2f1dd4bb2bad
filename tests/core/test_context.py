"""What holds inside a ``with`` block, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme import bypass, namespace, observe, refresh
from mneme.context import _blocks, current_mode, current_namespace, mode, observers
from mneme.records import Hit, Miss

MISS = Miss("absent", "default")
HIT = Hit("a", 1.0, 1.0, 0.0, "exact", "default", {})

BLOCKS: list[Callable[[], AbstractContextManager[Any]]] = [
    lambda: namespace("a"),
    lambda: namespace("b"),
    bypass,
    refresh,
    lambda: mode("serve"),
    observe,
]


def state() -> tuple[Any, ...]:
    return current_namespace.get(), current_mode.get(), observers.get(), _blocks.get()


def told(outcome: Hit | Miss) -> None:
    """What the tally does with an outcome."""
    for seen in observers.get():
        seen.append(outcome)


class TestNesting:
    @given(st.lists(st.sampled_from(BLOCKS), max_size=6), st.booleans())
    def test_every_block_restores_what_it_found(self, blocks: Any, fails: bool) -> None:
        """Nested in any order, left by an error or not, each block leaves things as they were."""

        def enter(rest: list[Any]) -> None:
            if not rest:
                if fails:
                    raise LookupError
                return
            before = state()
            try:
                with rest[0]():
                    enter(rest[1:])
            finally:
                assert state() == before

        before = state()
        try:
            enter(blocks)
        except LookupError:
            assert fails
        assert state() == before == (None, "serve", (), ())

    def test_the_innermost_counts(self) -> None:
        """A block inside another takes its place until it ends."""
        with namespace("a"), bypass():
            with namespace("b"), refresh():
                assert (current_namespace.get(), current_mode.get()) == ("b", "refresh")
            assert (current_namespace.get(), current_mode.get()) == ("a", "bypass")

    def test_namespace_and_mode_do_not_touch_each_other(self) -> None:
        """Bypassing keeps the namespace, and a namespace keeps the bypass."""
        with bypass(), namespace("a"):
            assert (current_namespace.get(), current_mode.get()) == ("a", "bypass")
        with namespace("a"), mode("serve"):
            assert current_namespace.get() == "a"

    def test_a_namespace_gives_its_name(self) -> None:
        """The block knows which namespace it is in."""
        with namespace("tenant-7") as name:
            assert name == "tenant-7"

    @pytest.mark.parametrize(
        ("name", "error"), [("", ValueError), ("\0", ValueError), (7, TypeError)]
    )
    def test_a_wrong_name_opens_nothing(self, name: Any, error: type[Exception]) -> None:
        """A name that no namespace can have is refused before the block begins."""
        with pytest.raises(error, match="namespace"), namespace(name):
            pytest.fail("the block began")
        assert state() == (None, "serve", (), ())

    def test_threads_do_not_see_each_other(self) -> None:
        """A block holds for its own thread, and for what was started with a copy of its context."""
        seen: list[Any] = []

        def look() -> None:
            seen.append(current_namespace.get())

        with namespace("a"):
            inherited = copy_context()
            for target in (look, lambda: inherited.run(look)):
                thread = threading.Thread(target=target)
                thread.start()
                thread.join()
        assert seen == [None, "a"]


class TestObserve:
    def test_outcomes_are_collected_in_order(self) -> None:
        """Whatever is told inside the block is in the list, and nothing after it."""
        with observe() as seen:
            told(MISS)
            told(HIT)
        told(MISS)
        assert seen == [MISS, HIT]

    def test_outer_blocks_hear_of_inner_ones(self) -> None:
        """A nested block has what happens in it; the outer one has everything."""
        with observe() as outer:
            told(MISS)
            with observe() as inner:
                told(HIT)
            told(MISS)
        assert (outer, inner) == ([MISS, HIT, MISS], [HIT])

    def test_what_is_started_inside_is_heard(self) -> None:
        """Threads and tasks that inherit the context tell the same observer."""
        with observe() as seen:
            thread = threading.Thread(target=copy_context().run, args=(told, HIT))
            thread.start()
            thread.join()
        assert seen == [HIT]


class TestOtherContexts:
    """Blocks that are entered in one context and left in another, as fixtures and streams are."""

    def test_a_block_left_in_a_copy_is_left_there(self) -> None:
        """In a copy of the context the value is put back by hand."""
        with namespace("outer"):
            block = namespace("a")
            first = copy_context()
            first.run(block.__enter__)
        second = first.run(copy_context)
        assert second.run(current_namespace.get) == "a"
        second.run(block.__exit__, None, None, None)
        assert second.run(current_namespace.get) == "outer"

    def test_nested_blocks_left_in_a_copy_are_left_one_by_one(self) -> None:
        """Each block that is left in a copy puts back what it found, down to the outermost."""
        first = Context()
        blocks = [namespace("a"), bypass(), namespace("b")]
        for block in blocks:
            first.run(block.__enter__)
        second = first.run(copy_context)
        seen = []
        for block in reversed(blocks):
            second.run(block.__exit__, None, None, None)
            seen.append(second.run(state)[:2])
        assert seen == [("a", "bypass"), ("a", "serve"), (None, "serve")]

    def test_an_inner_block_of_a_copy_is_left_alone(self) -> None:
        """Where a copy has opened a block of its own since, that one goes on."""
        first = Context()
        block, inner = namespace("a"), namespace("b")
        first.run(block.__enter__)
        second = first.run(copy_context)
        second.run(inner.__enter__)
        second.run(block.__exit__, None, None, None)
        assert second.run(current_namespace.get) == "b"

    @pytest.mark.parametrize(
        ("block", "other", "variable"),
        [
            (namespace("a"), namespace("b"), current_namespace),
            (namespace("a"), namespace("a"), current_namespace),
            (bypass(), bypass(), current_mode),
            (bypass(), refresh(), current_mode),
            (observe(), observe(), observers),
        ],
    )
    def test_a_block_left_elsewhere_leaves_the_other_block_alone(
        self, block: Any, other: Any, variable: Any
    ) -> None:
        """Closing a stream inside another tenant's block does not open that tenant's block."""
        Context().run(block.__enter__)
        elsewhere = Context()
        elsewhere.run(other.__enter__)
        inside = elsewhere.run(variable.get)
        elsewhere.run(block.__exit__, None, None, None)
        assert elsewhere.run(variable.get) == inside
        elsewhere.run(other.__exit__, None, None, None)
        assert elsewhere.run(variable.get) == Context().run(variable.get)
