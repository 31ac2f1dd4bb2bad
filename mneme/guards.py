"""
Refuse a cached answer whose question is near in words and far in meaning.

A guard is ``(asked, cached) -> None``, or a short reason why the answer may not be served.
The guards here are pure and symmetric, call no model, and never refuse texts that differ in
case, spaces and punctuation alone. Numbers and quotations that conflict are refused in any
pair; the other guards speak only where one text is an *edit* of the other. A rewording
("I can't verify" for "how do I verify") changes such words freely and means the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from mneme._core.lexicon import lexicon
from mneme._core.wording import Contrast, Wording, contrast
from mneme.types import Guard

__all__ = [
    "DEFAULT_GUARDS",
    "MinimalSwap",
    "WordLikeness",
    "minimal_swap",
    "names",
    "negation",
    "numbers",
    "opposites",
    "person",
    "question_word",
    "quotations",
    "word_order",
]

WordLikeness = Callable[[str, str], float]
"""``(word, word) -> likeness``, higher is closer: a cosine of the words' embeddings."""

MAX_ELSE = 4
"""Words that may differ beside a negation; with more of them the text was reworded."""

MAX_LOOSE = 1
"""Small words that may come or go on each side where others changed places."""

MAX_MOVED = 100
"""Words among which a moved phrase is looked for; it takes the square of their number."""

# These have one kind of answer, as every "how" with a degree has ("how_much").
_DEFINITE = {"who", "when", "where", "why"}
_HOW_ELSE = ({"how", "when"}, {"how", "who"})


def numbers(asked: str, cached: str) -> str | None:
    """
    A refusal where each text has a number that the other lacks: "5 users", "50 users".

    In a rewording "one" counts for nothing: "one of my cards" is not a number of cards.
    """
    found = contrast(asked, cached)
    if found.is_same:
        return None
    mine, theirs = found.of("n")
    if not mine or not theirs or (not found.is_edit and (mine == ["1"] or theirs == ["1"])):
        return None
    return _reason("numbers", found, mine, theirs)


def quotations(asked: str, cached: str) -> str | None:
    """A refusal where both texts quote, and quote different things."""
    found = contrast(asked, cached)
    mine, theirs = found.left.quotes, found.right.quotes
    if found.is_same or not mine or not theirs or mine == theirs:
        return None
    return _reason("quotations", found, sorted(mine), sorted(theirs))


def negation(asked: str, cached: str) -> str | None:
    """
    A refusal where one text is negated and the other, otherwise alike, is not.

    A content word that changed as well may make up for it ("broken", "not working"), and a
    complaint may stand for a question ("I can't verify it", "How do I verify it?").
    """
    found = contrast(asked, cached)
    if found.is_same or not found.is_edit or not _is_turned(found):
        return None
    if found.left.asks != found.right.asks:
        return None
    mine, theirs = found.of("cfnq")
    if len(mine) + len(theirs) > MAX_ELSE or all(found.of("c")):
        return None
    return _reason("negation", found, *found.of("-"))


def opposites(asked: str, cached: str) -> str | None:
    """A refusal where words exclude each other: "enable", "disable"; "Monday", "Tuesday"."""
    found = contrast(asked, cached)
    if found.is_same or not found.is_edit:
        return None
    mine, theirs = found.of("cfnq")
    # "not open" is "closed": a negation makes up for an opposite.
    pair = None if _is_turned(found) else _opposed(mine, theirs)
    rivals = lexicon().are_rivals
    pair = pair or next((pair for pair in product(mine, theirs) if rivals(*pair)), None)
    return _reason("opposites", found, pair[:1], pair[1:]) if pair else None


def names(asked: str, cached: str) -> str | None:
    """A refusal where each text names what the other does not: "Jira", "Trello"."""
    found = contrast(asked, cached)
    if found.is_same or not found.is_edit:
        return None
    mine, theirs = _unrelated(found)
    mine = [word for word in mine if word in found.left.names]
    theirs = [word for word in theirs if word in found.right.names]
    return _reason("names", found, mine, theirs) if mine and theirs else None


def person(asked: str, cached: str) -> str | None:
    """A refusal where it is about someone else: "my card", "my wife's card", "her card"."""
    found = contrast(asked, cached)
    if found.is_same or not found.is_one_place:
        return None
    mine, theirs = found.of("cfn")
    if _is_other_for_self(mine, theirs, found.right) or _is_other_for_self(
        theirs, mine, found.left
    ):
        return _reason("person", found, mine, theirs)
    return None


def question_word(asked: str, cached: str) -> str | None:
    """
    A refusal where another question is asked about the same: "when", "where".

    "What", "which" and a bare "how" ask for too many things to contradict the others.
    """
    found = contrast(asked, cached)
    one, other = found.left.asks, found.right.asks
    if found.is_same or not found.is_one_place or one == other or found.of("c-n") != ([], []):
        return None
    if {one, other} not in _HOW_ELSE and not (_is_definite(one) and _is_definite(other)):
        return None
    return _reason("question word", found, [one], [other])


def word_order(asked: str, cached: str) -> str | None:
    """
    A refusal where two things changed places: "from Rome to Oslo", "from Oslo to Rome".

    A phrase that only moved ("At the hotel, is there …") is another way to say the same, and
    so are the sides of "and" and "or".
    """
    found = contrast(asked, cached)
    if found.is_same or len(found.asked) > MAX_LOOSE or len(found.cached) > MAX_LOOSE:
        return None
    if found.of("cn-") != ([], []):
        return None
    here = _kept(found.spans[0], [word for word, _ in found.asked])
    there = _kept(found.spans[1], [word for word, _ in found.cached])
    here, there = _trimmed(here, there)
    if not here or _is_moved(here, there):
        return None
    return _reason("word order", found, here, there)


@dataclass(frozen=True, slots=True)
class MinimalSwap:
    """
    A refusal where one thing is replaced in the same frame: "fly to Oslo", "fly to Lima".

    Synonyms of the English list, spellings of one word and, with `likeness`, words that it
    finds alike by `at_least` may replace each other.
    """

    likeness: WordLikeness | None = None
    at_least: float = 0.7
    max_words: int = 2

    def __call__(self, asked: str, cached: str) -> str | None:
        found = contrast(asked, cached)
        if found.is_same or not found.is_one_place:
            return None
        mine, theirs = _unrelated(found)
        if not mine or not theirs or max(len(mine), len(theirs)) > self.max_words:
            return None
        if _is_turned(found) and _opposed(mine, theirs):
            return None
        if self.likeness is not None:
            # Sorted, so that a likeness that is not symmetric makes no guard that is not.
            pair = sorted((_spelt(mine, found.left), _spelt(theirs, found.right)))
            if self.likeness(*pair) >= self.at_least:
                return None
        return _reason("swapped", found, mine, theirs)


def minimal_swap(likeness: WordLikeness | None = None, *, at_least: float = 0.7) -> Guard:
    """The guard `MinimalSwap`; `likeness` says which words may replace each other."""
    return MinimalSwap(likeness, at_least)


DEFAULT_GUARDS: tuple[Guard, ...] = (
    numbers,
    quotations,
    negation,
    opposites,
    names,
    person,
    question_word,
    word_order,
    MinimalSwap(),
)
"""Those that a cache uses unless told otherwise."""


def _is_definite(question: str) -> bool:
    return question in _DEFINITE or question.startswith("how_")


def _is_turned(found: Contrast) -> bool:
    return (found.left.negations - found.right.negations) % 2 == 1


def _opposed(mine: list[str], theirs: list[str]) -> tuple[str, str] | None:
    """A word of each that are antonyms."""
    opposed = lexicon().are_opposed
    return next((pair for pair in product(mine, theirs) if opposed(*pair)), None)


def _is_other_for_self(mine: list[str], theirs: list[str], side: Wording) -> bool:
    """Whether the person who asks stands in `mine`, and someone else in `theirs` of `side`."""
    known = lexicon()
    nouns = [word for word in theirs if word not in known.functions]
    if not known.functions.issuperset(mine) or not known.anyone.isdisjoint([*mine, *theirs]):
        return False
    if nouns:
        # "my" before both an owner and a thing: "my wife's card" beside "my card".
        is_owned = side.owners.issuperset(nouns) and "my" in side.words
        return is_owned or (len(nouns) == 1 and not {"i", "me"}.isdisjoint(mine))
    who = {known.persons[word] for word in mine if word in known.persons}
    whose = {known.persons[word] for word in theirs if word in known.persons}
    return who == {"self"} and whose == {"other"}


def _reason(what: str, found: Contrast, mine: Iterable[str], theirs: Iterable[str]) -> str:
    return f"{what}: {_spelt(mine, found.left) or '-'} / {_spelt(theirs, found.right) or '-'}"


def _spelt(words: Iterable[str], side: Wording) -> str:
    """The words as the text has them; it was their stems that were compared."""
    return " ".join([side.spelling.get(word, word) for word in words])


def _unrelated(found: Contrast) -> tuple[list[str], list[str]]:
    """The unmatched content words of both sides that no word of the other side can stand for."""
    related = lexicon().are_related
    mine, theirs = found.of("c")
    return (
        [word for word in mine if not any(related(word, other) for other in theirs)],
        [word for word in theirs if not any(related(word, other) for other in mine)],
    )


def _kept(words: Sequence[str], dropped: list[str]) -> list[str]:
    kept = []
    for word in words:
        if word in dropped:
            dropped.remove(word)
        else:
            kept.append(word)
    return kept


def _trimmed(here: list[str], there: list[str]) -> tuple[list[str], list[str]]:
    """Both without the words that they begin and end alike with."""
    start, end = 0, len(here)
    while start < end and here[start] == there[start]:
        start += 1
    while end > start and here[end - 1] == there[end - 1]:
        end -= 1
    return here[start:end], there[start:end]


def _is_moved(here: list[str], there: list[str]) -> bool:
    """Whether a phrase moved past the others, or "and" and "or" had their sides exchanged."""
    if len(here) > MAX_MOVED:
        return False
    for at in range(1, len(here)):
        if here[at:] + here[:at] == there:
            return True
        joint = here[at]
        if joint in ("and", "or") and [*here[at + 1 :], joint, *here[:at]] == there:
            return True
    return False
