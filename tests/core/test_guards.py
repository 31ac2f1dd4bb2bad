"""What each guard refuses and what it lets pass, and what holds for all of them on any text."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme import guards
from mneme.guards import DEFAULT_GUARDS, MinimalSwap, minimal_swap
from mneme.types import Guard

SWAP = MinimalSwap()

REFUSED: list[tuple[Guard, str, str]] = [
    (guards.numbers, "What is the fee for 5 users?", "What is the fee for 50 users?"),
    (guards.numbers, "What does a 2-year deal cost?", "Price of a deal over five years"),
    (guards.numbers, "transfer £1,000 to Ann", "transfer £10,000 to Ann"),
    (guards.numbers, "how tall is a tower of ten bricks", "how tall is a tower of twelve bricks"),
    (guards.numbers, "ما هي مهلة ٣ أيام", "ما هي مهلة ٢ أيام"),
    (guards.quotations, 'What does "affect" mean?', 'What does "effect" mean?'),
    (guards.quotations, "Wie sagt man «Haus»?", "Wie sagt man «Maus»?"),
    (guards.negation, "Which plans include roaming?", "Which plans don't include roaming?"),
    (guards.negation, "Can I travel with a visa?", "Can I travel without a visa?"),
    (guards.negation, "should i water ferns in winter", "should i stop watering ferns in winter"),
    (guards.opposites, "How do I enable dark mode?", "How do I disable dark mode?"),
    (guards.opposites, "turn on the lamp", "turn off the lamp"),
    (guards.opposites, "Do I eat before the test?", "Do I eat after the test?"),
    (guards.opposites, "Are you open on Saturday?", "Are you open on Sunday?"),
    (guards.opposites, "the forecast for today", "the forecast for tomorrow"),
    (guards.opposites, "How long is a mile in feet?", "How long is a mile in meters?"),
    (guards.opposites, "Is this claim verified by you?", "Is this claim unverified by you?"),
    (guards.names, "How do I set up the Jira plugin?", "How do I set up the Trello plugin?"),
    (guards.person, "What papers do I need to fly?", "What papers does my son need to fly?"),
    (guards.person, "How do I block my card?", "How do I block my wife's card?"),
    (guards.person, "Can I see my file?", "Can I see her file?"),
    (guards.question_word, "When will my parcel arrive?", "Where will my parcel arrive?"),
    (guards.question_word, "How much will I be paid?", "How often will I be paid?"),
    (guards.word_order, "trains from Rome to Oslo", "trains from Oslo to Rome"),
    (guards.word_order, "Why do dogs fear cats so much?", "Why do cats fear dogs so much?"),
    (guards.word_order, "我能从北京飞到上海吗", "我能从上海飞到北京吗"),
    (SWAP, "Do I need a visa for Chile?", "Do I need a visa for Kenya?"),
    (SWAP, "What is the fee on the free plan?", "What is the fee on the enterprise plan?"),
    (SWAP, "¿Cómo llego a la estación?", "¿Cómo llego a la catedral?"),
    (SWAP, "東京の天気はどうですか", "大阪の天気はどうですか"),
    (SWAP, "मुझे दिल्ली का मौसम बताओ", "मुझे मुंबई का मौसम बताओ"),
    (SWAP, "How do I learn C++ quickly?", "How do I learn C# quickly?"),
]  # fmt: skip

SERVED: list[tuple[str, str]] = [
    ("How do I cancel my contract?", "Hi, how can I cancel my contract please?"),
    ("What's the price?", "What is the price"),
    ("Where can I park near the hall?", "Near the hall, where can I park?"),
    ("Are cats and dogs allowed in here?", "Are dogs and cats allowed in here?"),
    ("Do I need to book for 2?", "Do I need to book for two?"),
    ("send $1,000.00 to Ann", "send 1000 dollars to Ann"),
    ("meet me at 7:00 pm", "meet me at 7 pm"),
    ("What colour is the organiser?", "What color is the organizer?"),
    ("What is the baggage allowance?", "What is the bagage allowance?"),
    ("How do I fix a broken screen?", "How do I repair a broken screen?"),
    ("My card is broken", "My card is not working"),
    ("I can't verify my account", "How do I verify my account?"),
    ("What's the deadline for claims?", "When is the deadline for claims?"),
    ("How does one fall in love?", "How do I fall in love?"),
    ("I want one of your cards", "Is it possible to have 2 cards?"),
    ("How do I reset my password if I lost access to my email?",
     "I've lost access to the email of my account, how can I get a password reset?"),
    ("\uff21\uff22\uff23\u3000\uff11\uff12", "abc 12"),
]  # fmt: skip

either_order = pytest.mark.parametrize("turn", [lambda a, b: (a, b), lambda a, b: (b, a)], ids="ab")

# Words that the guards have opinions about, so that chance meets their rules.
WORDS = (
    "i me my his you one two 3 30 1,000 not never don't can without open close on off what when "
    'how much many Rome Oslo monday may card cards wife\'s from to and or the "a" «b» C++ 東京 の '
    "नमस्ते straße ŉ İ $ 5% ٣ hi please"
)
phrases = st.lists(st.sampled_from(WORDS.split()), max_size=12).map(" ".join)
texts = st.text(max_size=60) | phrases


@either_order
@pytest.mark.parametrize(("guard", "asked", "cached"), REFUSED)
def test_a_guard_refuses_what_asks_something_else(
    guard: Guard, asked: str, cached: str, turn: Callable[[str, str], tuple[str, str]]
) -> None:
    """Each guard refuses the pairs it is there for, whichever text was first, and says why."""
    reason = guard(*turn(asked, cached))
    assert reason
    assert len(reason) < 200


@either_order
@pytest.mark.parametrize(("asked", "cached"), SERVED)
def test_no_guard_refuses_another_way_to_ask_the_same(
    asked: str, cached: str, turn: Callable[[str, str], tuple[str, str]]
) -> None:
    """Courtesy, spelling, synonyms, moved phrases and rewordings pass every guard."""
    assert [reason for guard in DEFAULT_GUARDS if (reason := guard(*turn(asked, cached)))] == []


@given(asked=texts, cached=texts)
def test_guards_answer_any_texts_alike_in_both_orders(asked: str, cached: str) -> None:
    """No text makes a guard raise, and which of two texts was cached does not matter."""
    for guard in DEFAULT_GUARDS:
        assert (guard(asked, cached) is None) == (guard(cached, asked) is None)


@given(text=texts, marks=st.text("?!.,;: \t\n", max_size=4))
def test_case_spaces_and_punctuation_are_no_difference(text: str, marks: str) -> None:
    """A text is never refused beside itself in other case, spacing and final punctuation."""
    spaced = "  ".join(text.split(" "))
    for other in (text, spaced, f" {text} {marks}", text.upper(), text.casefold()):
        assert [guard(text, other) for guard in DEFAULT_GUARDS] == [None] * len(DEFAULT_GUARDS)


@given(asked=phrases, cached=phrases)
def test_a_guard_gives_the_same_answer_again(asked: str, cached: str) -> None:
    """What was remembered of a text changes no answer."""
    for guard in DEFAULT_GUARDS:
        assert guard(asked, cached) == guard(asked, cached)


@pytest.mark.parametrize(
    ("asked", "cached"),
    [
        ("open " * 6_000, "close " * 6_000),
        ("a b " * 8_000, "b a " * 8_000),
        ("“" * 32_000, "«" * 32_000),
        ("million " * 4_000, "7 million " * 3_000),
        ("9" * 32_000, "9," * 16_000),
        (" ".join(map(str, range(6_000))), " ".join(map(str, range(6_000, 0, -1)))),
        ("東" * 32_000, "京" * 32_000),
        ("n't'" * 8_000, "+#" * 16_000),
    ],
    ids=range(8),
)
@pytest.mark.timing
def test_long_texts_take_bounded_time(asked: str, cached: str) -> None:
    """The longest prompt that a cache takes (32 KiB) keeps nobody waiting, whatever it holds."""
    started = time.perf_counter()
    for guard in DEFAULT_GUARDS:
        guard(asked, cached)
    assert time.perf_counter() - started < 2.0


def test_minimal_swap_asks_how_alike_words_are() -> None:
    """With a likeness, words that it finds alike may replace each other; it sees them sorted."""
    asked: list[tuple[str, str]] = []

    def likeness(one: str, other: str) -> float:
        asked.append((one, other))
        return 0.9

    guard = minimal_swap(likeness, at_least=0.8)
    pair = ("How do I mend a flat tube?", "How do I mend a flat hose?")
    assert guard(*pair) is None
    assert guard(*reversed(pair)) is None
    assert len(set(asked)) == 1
    assert minimal_swap(likeness, at_least=0.95)(*pair)


def test_equal_settings_make_equal_guards() -> None:
    """A guard is a value: it can be found in the defaults and taken out."""
    assert minimal_swap() == MinimalSwap()
    assert minimal_swap() in DEFAULT_GUARDS


def test_importing_the_guards_reads_no_word_list() -> None:
    """The lists are read by the first question, not by `import mneme`."""
    script = (
        "import mneme.guards, mneme._core.lexicon as known;"
        "assert known.lexicon.cache_info().currsize == 0;"
        "mneme.guards.numbers('a 1', 'a 2');"
        "assert known.lexicon.cache_info().currsize == 1"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
