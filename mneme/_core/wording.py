"""A text as the guards see it, and what differs between two of them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from mneme._core.lexicon import Lexicon, lexicon, stem

__all__ = ["Contrast", "Wording", "contrast", "wording"]

USUAL_WORD = 32
"""Characters; longer ones are read anew each time, and take no memory."""

MAX_REMEMBERED_CHARS = 300
"""A longer text is read anew for each pair: 2,048 shorter ones are at most some 50 MB."""

NEAR = 0.7
"""Dice of the character trigrams from which one text is an edit of the other, not a rewording."""

MAX_CHANGED = 12
"""Words without a partner on one side from which a text is no edit, however long it is."""

MAX_SPAN = 3
MIN_FRAME = 3
"""Words replaced in one place, and words around them, that also make an edit of short texts."""

# Scripts that put no spaces between words: Thai and Lao, Burmese, Khmer, kana, Han.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
# Letters are all that is no space, digit or mark: \w would cut words at the vowel signs of
# Devanagari and drop emoji.
_MARKS = (
    r"_!-/:-@\[-`{-~\u00a0-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u055a-\u055f\u0589"
    r"\u05be\u05c0\u05c3\u060c\u061b\u061f\u06d4\u0964\u0965\u2000-\u20cf\u2e00-\u2e7f\u3000-\u303f"
)
_LETTERS = rf"[^\s\d{_MARKS}{_UNSPACED}]+"
_TOKEN = re.compile(
    r"(\d+(?:[.,:]\d+)*)(?:(?:[sS][tT]|[nN][dD]|[rR][dD]|[tT][hH])\b)?"
    rf"|[{_UNSPACED}%$€£¥₹°+*=<>^]"
    rf"|{_LETTERS}(?:'{_LETTERS}|[+#]+(?!\w))?"
)
# Bounded, or marks that are opened and never closed would take the square of their number.
_QUOTED = re.compile(
    r'"([^"]{1,300})"|“([^”]{1,300})”|«([^»]{1,300})»|「([^」]{1,300})」|`([^`]{1,300})`'
)
_SIGNS = {"%": "percent", "$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"}
_BEFORE_IS = {"what", "who", "where", "when", "how", "why", "that", "it", "there", "he", "she"}
_TIMES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "k": 1_000}

Token = tuple[str, str]
"""A word and its class."""


class Wording:
    """
    One text, read once.

    ``words`` are its words in order without courtesies, content words as stems, numbers as
    digits; ``classes`` has a letter for each: c(ontent), f(unction), q(uestion), n(umber),
    - (negator). ``key`` is equal for texts that differ in case, spaces and punctuation alone.
    ``names``: content words with a capital inside the text. ``owners``: words with 's.
    ``asks``: the first question ("when", "how_much"). ``spelling``: from stems to words.
    """

    __slots__ = ("asks", "classes", "key", "names", "negations", "owners", "quotes", "spelling",
                 "trigrams", "words")  # fmt: skip

    def __init__(self, text: str) -> None:
        known = lexicon()
        if not text.isascii():
            text = _plain(text)
        tokens = list(_numbered(_opened(text), known))
        self.key = "".join([f" {word} " if word[0].isdecimal() else word for word, _ in tokens])
        words: list[str] = []
        classes: list[str] = []
        names: list[str] = []
        owners: list[str] = []
        spelling: dict[str, str] = {}
        capitals = 0
        is_shouting = text.isupper()
        for word, mark in tokens:
            if word in known.fillers:
                continue
            kind = _class_of(word, known)
            if mark == "US" and kind == "f" and not is_shouting:
                kind = "c"
            if kind == "c":
                whole, word = word, stem(word)
                spelling[word] = whole
                if mark[:1].isupper():
                    capitals += 1
                    if words:
                        names.append(word)
                if mark.endswith("'s"):
                    owners.append(word)
            words.append(word)
            classes.append(kind)
        self.words = tuple(words)
        self.classes = "".join(classes)
        self.negations = self.classes.count("-")
        # Where nearly every word has a capital, capitals name nothing.
        is_title = 3 * capitals > 2 * self.classes.count("c") and capitals > 3
        self.names = frozenset(() if is_title else names)
        self.owners = frozenset(owners)
        self.spelling = spelling
        self.asks = _asks(words, self.classes, known)
        self.quotes = _quotes(text)
        line = f" {' '.join(words)} "
        self.trigrams = frozenset([line[at : at + 3] for at in range(len(line) - 2)])


class Contrast:
    """
    What differs between two texts.

    ``is_same``: nothing but case, spaces, punctuation and courtesies. ``asked`` and ``cached``
    are the words without a partner on the other side, each with its class; ``spans`` are the
    stretches between the words that the texts begin and end alike with. ``is_one_place``: the
    spans are short, and the frame around them is not. ``is_edit``: that, or the surfaces are
    near-identical.
    """

    __slots__ = ("asked", "cached", "is_edit", "is_one_place", "is_same", "left", "right",
                 "spans")  # fmt: skip

    def __init__(self, left: Wording, right: Wording) -> None:
        self.left, self.right = left, right
        a, b = left.words, right.words
        self.is_same = left.key == right.key or a == b
        start, least = 0, min(len(a), len(b))
        while start < least and a[start] == b[start]:
            start += 1
        end = 0
        while end < least - start and a[-1 - end] == b[-1 - end]:
            end += 1
        here, there = slice(start, len(a) - end), slice(start, len(b) - end)
        self.spans = a[here], b[there]
        self.asked = _without(zip(a[here], left.classes[here], strict=True), b[there])
        self.cached = _without(zip(b[there], right.classes[there], strict=True), a[here])
        longest = len(max(self.spans, key=len))
        self.is_one_place = longest <= MAX_SPAN and start + end >= MIN_FRAME
        self.is_edit = self.is_one_place or (
            max(len(self.asked), len(self.cached)) <= MAX_CHANGED
            and _dice(left.trigrams, right.trigrams) >= NEAR
        )

    def of(self, classes: str) -> tuple[list[str], list[str]]:
        """The unmatched words of these classes, as asked and as cached."""
        return (
            [word for word, kind in self.asked if kind in classes],
            [word for word, kind in self.cached if kind in classes],
        )


def wording(text: str) -> Wording:
    """`text`, read; the last 2,048 texts of usual length are remembered."""
    return _remembered(text) if len(text) <= MAX_REMEMBERED_CHARS else Wording(text)


@lru_cache(maxsize=2_048)
def _remembered(text: str) -> Wording:
    return Wording(text)


@lru_cache(maxsize=16)
def contrast(asked: str, cached: str) -> Contrast:
    """What differs; kept for a while, as the guards ask one after the other about one pair."""
    return Contrast(wording(asked), wording(cached))


def _plain(text: str) -> str:
    """The text with one form for each character."""
    return unicodedata.normalize("NFKC", text).replace("’", "'")


def _folded(word: str) -> str:
    """The word without regard to case; some letters come apart and must be joined again."""
    folded = word.casefold()
    return folded if folded.isascii() else unicodedata.normalize("NFKC", folded)


def _opened(text: str) -> Iterator[Token]:
    """Each word, casefolded, and how it was written; shortened forms are opened."""
    for found in _TOKEN.finditer(text):
        if found.group(1):
            yield _digits(found.group(1)), ""
        else:
            raw = found.group()
            yield from _known_parts(raw) if len(raw) <= USUAL_WORD else _parts(raw)


def _parts(raw: str) -> tuple[Token, ...]:
    """One word as it was written, opened."""
    word = _folded(raw)
    if (whole := lexicon().contractions.get(word.replace("'", ""))) is not None:
        return tuple([(part, "") for part in whole])
    head, apostrophe, tail = word.partition("'")
    if not apostrophe:
        return ((_SIGNS.get(word, word), raw),)
    if tail == "t" and head.endswith("n") and len(head) > 1:
        return (head[:-1], ""), ("not", "")
    if tail == "s":
        return ((head, raw), ("is", "")) if head in _BEFORE_IS else ((head, raw),)
    if tail in ("re", "ve", "ll", "m", "d"):
        return ((head, raw),)
    return (head, raw), (tail, "")


# Texts are made of the same words.
_known_parts = lru_cache(maxsize=16_384)(_parts)


def _numbered(tokens: Iterable[Token], known: Lexicon) -> Iterator[Token]:
    """The tokens with number words as digits: "twenty five" is 25, "2 million" 2000000."""
    value = -1
    for word, raw in tokens:
        number = known.numbers.get(word)
        if value >= 0:
            if word in _TIMES and value < 10**12:
                value *= _TIMES[word]
                continue
            if number is not None and 20 <= value < 100 and value % 10 == 0 and 0 < number < 10:
                value += number
                continue
            yield str(value), ""
            value = -1
        if number is not None:
            value = number
        elif word.isdecimal() and len(word) < 16:
            value = int(word)
        else:
            yield word, raw
    if value >= 0:
        yield str(value), ""


def _digits(number: str) -> str:
    """One way to write a number: ASCII, no thousands separators, no idle zeros, full hours bare."""
    if not number.isascii():
        number = "".join([str(unicodedata.digit(c, c)) for c in number])
    if "," in number and re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", number):
        number = number.replace(",", "")
    if number.count(".") == 1:
        number = number.rstrip("0").rstrip(".")
    return re.sub(r"^0+(?=\d)", "", number).removesuffix(":00")


def _class_of(word: str, known: Lexicon) -> str:
    if word[0].isdecimal():
        return "n"
    if word in known.negators:
        return "-"
    if word in known.questions:
        return "q"
    return "f" if word in known.functions else "c"


def _asks(words: Sequence[str], classes: str, known: Lexicon) -> str:
    """The kind of the first question in the text: "when", "how_much"; empty for none."""
    at = classes.find("q")
    if at < 0:
        return ""
    follower = words[at + 1] if at + 1 < len(words) else ""
    return f"how_{follower}" if words[at] == "how" and follower in known.degrees else words[at]


def _quotes(text: str) -> frozenset[str]:
    """What stands in quotation marks, compared as `Wording.key` is."""
    found = (next(filter(None, groups)) for groups in _QUOTED.findall(text))
    keys = ("".join([token.group() for token in _TOKEN.finditer(part)]) for part in found)
    return frozenset(_folded(key) for key in keys if key)


def _dice(left: frozenset[str], right: frozenset[str]) -> float:
    return 2 * len(left & right) / (len(left) + len(right) or 1)


def _without(tokens: Iterable[Token], others: Sequence[str]) -> list[Token]:
    """The tokens that no word of `others` pairs off, in order."""
    # Not a Counter: for a handful of words making one costs more than the work.
    spare: dict[str, int] = {}
    for word in others:
        spare[word] = spare.get(word, 0) + 1
    left = []
    for token in tokens:
        if spare.get(token[0]):
            spare[token[0]] -= 1
        else:
            left.append(token)
    return left
