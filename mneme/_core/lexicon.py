"""
What the guards know of English, read from the text files beside this module on first use.

Other languages need none of it: without an entry here a word is a content word like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from itertools import combinations

__all__ = ["Lexicon", "lexicon", "stem"]

MIN_MISSPELT = 5
"""Letters that a word has at least to be taken for a slip of another: "form" is not "from"."""


@dataclass(frozen=True, slots=True)
class Lexicon:
    """
    The word lists, in lower case; the last three and what they lead to are stems (`stem`).

    ``opposites`` and ``synonyms`` lead from a word to those it is set against or may stand for;
    ``kinds`` from a word to the groups it is a member of, and the member's first name there.
    """

    functions: frozenset[str]
    fillers: frozenset[str]
    negators: frozenset[str]
    questions: frozenset[str]
    degrees: frozenset[str]
    anyone: frozenset[str]
    persons: Mapping[str, str]
    numbers: Mapping[str, int]
    contractions: Mapping[str, tuple[str, ...]]
    opposites: Mapping[str, frozenset[str]]
    synonyms: Mapping[str, frozenset[str]]
    kinds: Mapping[str, Mapping[int, str]]

    def are_opposed(self, one: str, other: str) -> bool:
        """Whether the stems are antonyms: listed, or made by a prefix ("un", "dis", "non")."""
        if other in self.opposites.get(one, ()):
            return True
        short, long = (one, other) if len(one) < len(other) else (other, one)
        return len(short) > 2 and long.endswith(short) and long[: -len(short)] in _TURNING

    def are_rivals(self, one: str, other: str) -> bool:
        """Whether the stems are two members of one kind: two months, two colours."""
        here, there = self.kinds.get(one), self.kinds.get(other)
        if not here or not there:
            return False
        return any(group in there and there[group] != name for group, name in here.items())

    def are_related(self, one: str, other: str) -> bool:
        """Whether a question stays the same when one stem replaces the other."""
        if other in self.synonyms.get(one, ()) or _is_misspelt(one, other):
            return True
        here, there = self.kinds.get(one), self.kinds.get(other)
        if not here or not there:
            return False
        return any(there.get(group) == name for group, name in here.items())


@cache
def lexicon() -> Lexicon:
    """The lists, read once a process (about 10 ms)."""
    return Lexicon(
        functions=frozenset(_words("function_words")),
        fillers=frozenset(_words("fillers")),
        negators=frozenset(_words("negators")),
        questions=frozenset(_words("questions")),
        degrees=frozenset(_words("degrees")),
        anyone=frozenset(_words("anyone")),
        persons={word: who for who, *words in map(str.split, _lines("persons")) for word in words},
        numbers={word: int(value) for word, value in map(str.split, _lines("numbers"))},
        contractions={
            short.strip(): tuple(whole.split())
            for short, whole in (line.split("|") for line in _lines("contractions"))
        },
        opposites=_links(_opposed()),
        synonyms=_links(
            pair for line in _lines("synonyms") for pair in combinations(map(stem, line.split()), 2)
        ),
        kinds=_kinds(),
    )


@lru_cache(maxsize=16_384)
def stem(word: str) -> str:
    """
    The word without its English ending, so that "cards" meets "card" and "colour" "color".

    Crude on purpose: words with one stem count as one word.
    """
    if len(word) < 4 or not word.isascii():
        return word
    for ending, put, least in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= least:
            word = word[: -len(ending)] + put
            if ending in ("ing", "ed") and word[-1] == word[-2] and word[-1] not in "ls":
                word = word[:-1]
            break
    if word.endswith("our") and len(word) > 4:
        word = word[:-2] + "r"
    if word.endswith("ie") and len(word) > 4:
        word = word[:-2]
    elif word[-1] in "eiy" and word[-2] not in "aeiou" and len(word) > 3:
        word = word[:-1]
    return word[:-1] + "s" if word.endswith("iz") else word


_TURNING = frozenset(("un", "in", "im", "il", "ir", "dis", "non", "de"))

# Ending, what replaces it, and how many letters must be left. "ly" wants five, or "supply" and
# "family" would lose it in the singular alone.
_ENDINGS = (
    ("ies", "y", 3),
    ("sses", "ss", 2),
    ("ches", "ch", 2),
    ("shes", "sh", 2),
    ("xes", "x", 2),
    ("ss", "ss", 2),
    ("us", "us", 2),
    ("is", "is", 2),
    ("ing", "", 3),
    ("ied", "y", 3),
    ("ed", "", 3),
    ("ly", "", 5),
    ("s", "", 3),
)


def _is_misspelt(one: str, other: str) -> bool:
    """Whether one slip of the hand (a letter more, less, other, or two swapped) joins them."""
    if min(len(one), len(other)) < MIN_MISSPELT or one[0] != other[0]:
        return False
    at = 1
    while one[at : at + 1] == other[at : at + 1] != "":
        at += 1
    a, b = one[at:], other[at:]
    is_swapped = a[:2] == b[1::-1] and a[2:] == b[2:]
    return is_swapped or a[1:] == b[1:] or a[1:] == b or a == b[1:]


def _lines(name: str) -> Iterator[str]:
    text = (files("mneme._core") / "lexicon" / f"{name}.txt").read_text("utf-8")
    return (line for line in text.splitlines() if line and not line.startswith("#"))


def _words(name: str) -> Iterator[str]:
    return (word for line in _lines(name) for word in line.split())


def _opposed() -> Iterator[tuple[str, str]]:
    for line in _lines("antonyms"):
        left, right = line.split("|")
        yield from ((stem(one), stem(other)) for one in left.split() for other in right.split())


def _links(pairs: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Each word of the pairs, with all that it stands beside."""
    found: dict[str, set[str]] = {}
    for one, other in pairs:
        found.setdefault(one, set()).add(other)
        found.setdefault(other, set()).add(one)
    return {one: frozenset(others) for one, others in found.items()}


def _kinds() -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for group, line in enumerate(_lines("alternatives")):
        for member in line.split():
            names = [stem(name) for name in member.split("=")]
            for name in names:
                found.setdefault(name, {})[group] = names[0]
    return found
