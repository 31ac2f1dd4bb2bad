"""What tells one call from another, and what does not."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import fractions
import itertools
import os
import pathlib
import subprocess
import sys
import types
import uuid
from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Mapping, Set
from typing import Any, NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mneme._core.keys import (
    MAX_DEPTH,
    Ask,
    NoStableForm,
    Unaskable,
    canonical,
    check_namespace,
    check_prompt,
    key_of,
    normalize,
    partition_of,
)
from mneme.codecs import AutoCodec
from mneme.records import Partition


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 0
    HIGH = 1


class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True)
class Place:
    x: Any
    y: Any = 0


class Pair(NamedTuple):
    x: Any
    y: Any


Pear = namedtuple("Pear", "x y")


class Name(str):
    pass


class Count(int):
    pass


class Items(list[Any]):
    pass


ANY_TEXT = st.text(st.characters(), max_size=6)
# Few, so that two values drawn apart are often equal or nearly so; some look like frames.
FEW = (
     None, True, False, 0, 1, -1, 10, 0.0, -0.0, 1.0, 0.5, "", "0", "1", "None", "i1:1", "n0:",
     "s1:a", "a", "A", b"", b"0", b"a", b"s1:a", 1j, Colour.RED, Colour.BLUE, Level.HIGH, Level.LOW,
     Rights(0), Rights(1), Rights(3), Rights(8), Rights(16), Name("a"), Count(1),
     datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
     datetime.timedelta(1), datetime.timedelta(0, 1), decimal.Decimal(1), decimal.Decimal("1.0"),
     fractions.Fraction(1, 2), uuid.UUID(int=1), pathlib.PurePosixPath("a"), range(1), range(2),
     pathlib.PureWindowsPath("a"), int, str, Colour,
)  # fmt: skip
LEAVES = st.sampled_from(FEW)
WIDE_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), ANY_TEXT, st.binary(),
    st.datetimes(), st.timedeltas(), st.decimals(allow_nan=False), st.uuids(),
)  # fmt: skip


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.lists(inner, max_size=3).map(Items),
            st.dictionaries(leaves, inner, max_size=3),
            st.frozensets(leaves, max_size=3),
            st.frozensets(leaves, max_size=3).map(set),
            st.builds(Point, inner, inner),
            st.builds(Place, inner, inner),
            st.builds(Pair, inner, inner),
            st.builds(Pear, inner, inner),
        ),
        max_leaves=6,
    )


VALUES = nested(LEAVES)
WIDE_VALUES = nested(WIDE_LEAVES)


def meaning(value: Any) -> Any:
    """An independent account of a value: equal exactly when value and types are."""
    kind: Any = type(value)
    if isinstance(value, type):
        return "class", value
    if kind is float:
        return kind, repr(value + 0.0)
    if dataclasses.is_dataclass(value):
        return kind, meaning(vars(value))
    if isinstance(value, (list, tuple)):
        return kind, tuple(meaning(item) for item in value)
    if isinstance(value, Set):
        return "set", frozenset(meaning(item) for item in value)
    if isinstance(value, Mapping):
        return "mapping", frozenset((meaning(k), meaning(v)) for k, v in value.items())
    # Text, because Decimal("1") equals Decimal("1.0") and two equal numbers may print apart.
    return kind, repr(value)


class TestCanonical:
    @given(VALUES, VALUES)
    def test_values_share_a_form_exactly_when_they_are_the_same(self, one: Any, two: Any) -> None:
        """Equal bytes mean equal values of equal types, and the other way round."""
        assert (canonical(one) == canonical(two)) is (meaning(one) == meaning(two))

    def test_no_two_of_the_likely_values_share_a_form(self) -> None:
        """Of the values that programs pass most, each pair is told apart."""
        pairs = list(itertools.product(FEW, FEW))
        wrong = [
            (one, two)
            for one, two in pairs
            if (canonical(one) == canonical(two)) is not (meaning(one) == meaning(two))
        ]
        assert wrong == []

    @given(WIDE_VALUES, WIDE_VALUES)
    def test_no_two_wide_values_share_a_form(self, one: Any, two: Any) -> None:
        """The promise holds for values of any size, not for the small ones alone."""
        assert (canonical(one) == canonical(two)) is (meaning(one) == meaning(two))

    @given(st.lists(VALUES, max_size=3), st.lists(VALUES, max_size=3))
    def test_forms_in_a_row_can_be_told_apart(self, one: list[Any], two: list[Any]) -> None:
        """No two sequences of values share the concatenation of their forms."""
        joined = [b"".join(map(canonical, values)) for values in (one, two)]
        assert (joined[0] == joined[1]) is (meaning(one) == meaning(two))

    @given(st.dictionaries(LEAVES, VALUES, max_size=5), st.randoms(use_true_random=False))
    def test_the_order_of_a_mapping_does_not_matter(self, value: dict[Any, Any], chance: Any):
        """A mapping has one form, in whatever order it was filled and of whatever class it is."""
        items = list(value.items())
        chance.shuffle(items)
        forms = {canonical(made) for made in (value, dict(items), OrderedDict(items))}
        forms |= {canonical(UserDict(items)), canonical(types.MappingProxyType(dict(items)))}
        assert len(forms) == 1

    @given(st.sets(LEAVES, max_size=6), st.randoms(use_true_random=False))
    def test_the_order_of_a_set_does_not_matter(self, value: set[Any], chance: Any) -> None:
        """A set has one form, in whatever order it was filled, frozen or not."""
        items = list(value)
        chance.shuffle(items)
        assert canonical(set(items)) == canonical(value) == canonical(frozenset(items))

    @pytest.mark.parametrize(
        ("value", "form"),
        [
            (None, b"n0:"),
            (True, b"b1:1"),
            (False, b"b1:0"),
            (-12, b"i2:-c"),
            (0.5, b"f3:0.5"),
            (-0.0, b"f3:0.0"),
            (float("nan"), b"f3:nan"),
            (float("-inf"), b"f4:-inf"),
            ("é", b"s2:\xc3\xa9"),
            ("\ud800", b"s3:\xed\xa0\x80"),
            (b"\x00", b"y1:\x00"),
            ([1, "1"], b"l8:i1:1s1:1"),
            ((), b"t0:"),
            ({"b": 1, "a": None}, b"d15:s1:an0:s1:bi1:1"),
            ({2, 1}, b"e8:i1:1i1:2"),
            (int, b"c12:builtins:int"),
            (datetime.date(2024, 2, 3), b"x31:c13:datetime:dates10:2024-02-03"),
        ],
    )
    def test_the_form_is_the_documented_one(self, value: object, form: bytes) -> None:
        """The bytes are those of the module's table, which stored entries rely on."""
        assert canonical(value) == form

    def test_numbers_of_any_size_have_a_form(self) -> None:
        """A whole number that is too long to print in decimal is still told from the next."""
        assert canonical(10**5000) != canonical(10**5000 + 1)

    def test_every_nan_is_one_value(self) -> None:
        """A NaN has one form, so that a call with it can be answered from memory at all."""
        assert canonical([float("nan")]) == canonical([-float("nan")])

    def test_a_class_in_a_class_is_not_one_in_a_module(self) -> None:
        """Where the module's name ends and the class's begins is part of the form."""
        one, two = type("c", (), {}), type("b.c", (), {})
        one.__module__, two.__module__ = "a.b", "a"
        assert canonical(one) != canonical(two)

    def test_what_a_subclass_prints_does_not_matter(self) -> None:
        """Keys that hide themselves when printed are told apart by what they are."""

        class Hidden(str):
            def __str__(self) -> str:
                return "***"

        class Rounded(int):
            def __int__(self) -> int:
                return 0

        class Flat(float):
            def __float__(self) -> float:
                return 0.0

        class Blank(bytes):
            def __bytes__(self) -> bytes:
                return b""

        pairs = [(Hidden("a"), Hidden("b")), (Rounded(1), Rounded(2)), (Flat(1), Flat(2)),
                 (Blank(b"a"), Blank(b"b"))]  # fmt: skip
        assert all(canonical(one) != canonical(two) for one, two in pairs)

    def test_a_class_may_say_what_matters_about_it(self) -> None:
        """`__mneme_key__` stands for the whole value, together with its class."""

        class Client:
            def __init__(self, region: str) -> None:
                self.region = region
                self.connection = object()

            def __mneme_key__(self) -> object:
                return self.region

        class Other(Client):
            pass

        assert canonical(Client("eu")) == canonical(Client("eu")) != canonical(Client("us"))
        assert canonical(Client("eu")) != canonical(Other("eu"))

    @pytest.mark.parametrize(
        ("value", "path"),
        [
            (object(), "arg"),
            (len, "arg"),
            ((1, [object()]), "arg[1][0]"),
            ({"a": {"b": object()}}, "arg['a']['b']"),
            ({("k", object): object()}, "arg[('k', <class 'object'>)]"),
            ({len: 1}, f"arg.{len}"),
            ({len}, "arg{}"),
            (Point(Point(object())), "arg['x']['x']"),
            (Pair(0, object()), "arg[1]"),
            (np.zeros(2), "arg"),
            (list[int], "arg"),
            (Mock(), "arg"),
        ],
    )
    def test_what_has_no_stable_form_is_named(self, value: object, path: str) -> None:
        """A value that would differ in the next process is refused with the path to it."""
        with pytest.raises(NoStableForm, match="has no stable form") as refused:
            canonical(value, path="arg")
        assert refused.value.path == path
        assert str(refused.value).startswith(path)

    def test_without_a_path_the_value_itself_is_meant(self) -> None:
        """A value that was given no name is called a value."""
        with pytest.raises(NoStableForm, match=r"^value \(object\) has no stable form$"):
            canonical(object())

    def test_nesting_has_a_limit(self) -> None:
        """What is nested deeper than the limit, itself included, is refused and never hangs."""
        value: list[Any] = []
        for _ in range(MAX_DEPTH):
            value = [value]
        assert canonical(value)
        with pytest.raises(NoStableForm):
            canonical([value])
        value = []
        value.append(value)
        with pytest.raises(NoStableForm):
            canonical(value)

    @given(VALUES, ANY_TEXT)
    @example(Point(1, 2), "x")
    @example({"x": 1}, "x")
    def test_the_prompt_leaves_a_mark_wherever_it_stands(self, value: Any, prompt: str) -> None:
        """Texts equal to the prompt are left out at any depth, and nothing else is."""
        held = [prompt, {"q": (prompt, value)}]
        other = prompt + "?"
        values = repr(list(value.values()) if isinstance(value, dict) else value)
        assume(repr(prompt) not in values and repr(other) not in values)
        swapped = [other, {"q": (other, value)}]
        assert canonical(held, without=prompt) == canonical(swapped, without=other)
        assert canonical(held, without=prompt) != canonical(swapped, without=prompt)
        assert canonical([prompt], without=prompt) not in (canonical([""]), canonical(["P0:"]))

    @pytest.mark.parametrize("place", ["fields", "secret", "set", "subclass", "extra", "nested"])
    @pytest.mark.needs("pydantic")
    def test_pydantic_models_are_told_apart_by_all_they_hold(self, place: str) -> None:
        """Fields that a dump hides or leaves out still tell one model from another."""
        import pydantic

        class Base(pydantic.BaseModel):
            pass

        class Derived(Base):
            x: int

        class Model(pydantic.BaseModel):
            model_config = {"extra": "allow"}
            a: int = 0
            key: pydantic.SecretStr = pydantic.SecretStr("")
            hidden: str = pydantic.Field("", exclude=True)
            base: Base = Base()

        pairs: dict[str, tuple[Any, Any]] = {
            "fields": (Model(a=1), Model(a=2)),
            "secret": (Model(key=pydantic.SecretStr("a")), Model(key=pydantic.SecretStr("b"))),
            "set": (Model(hidden="a"), Model(hidden="b")),
            "subclass": (Model(base=Derived(x=1)), Model(base=Derived(x=2))),
            "extra": (Model(b=1), Model(b=2)),  # type: ignore[call-arg]
            "nested": (Point(Model(a=1)), Point(Model(a=2))),
        }
        one, two = pairs[place]
        assert canonical(one) != canonical(two)
        assert canonical(one) == canonical(one.model_copy() if place != "nested" else one)

    @pytest.mark.needs("pydantic")
    def test_pydantic_values_that_only_print_have_a_form(self) -> None:
        """An address of pydantic's own is known by its text."""
        import pydantic

        class Model(pydantic.BaseModel):
            url: pydantic.HttpUrl

        one, two = (Model.model_validate({"url": f"https://x.test/{n}"}) for n in (1, 2))
        assert canonical(one) == canonical(one.model_copy()) != canonical(two)


SCRIPT = """
import dataclasses, enum, sys
from mneme._core.keys import canonical, key_of, partition_of
class Colour(enum.Enum):
    RED = object()
class Rights(enum.Flag):
    A = 1
    B = 2
@dataclasses.dataclass
class Point:
    x: object
words = [f"word {n}" for n in range(50)]
values = [set(words), {w: {w} for w in words}, Colour.RED, Rights.A | Rights.B, Point({*words}),
          frozenset([frozenset(words), 1, None]), dict.fromkeys(words).keys()]
if "pydantic" in sys.argv:
    import pydantic
    class Model(pydantic.BaseModel):
        words: set[str]
    values.append(Model(words=set(words)))
print([canonical(v).hex() for v in values], key_of("é").hex(), partition_of("a", *values).hex())
"""


def printed(seed: str, *args: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *args],
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


@pytest.mark.parametrize(
    "args", [(), pytest.param(("pydantic",), marks=pytest.mark.needs("pydantic"))]
)
def test_forms_are_the_same_in_every_process(args: tuple[str, ...]) -> None:
    """Another process, with another order of its sets, knows a stored entry again."""
    assert printed("1", *args) == printed("2", *args)


class TestPartition:
    @given(
        st.tuples(st.sampled_from(["a", "b", "s1:a"]), st.lists(LEAVES, max_size=2)),
        st.tuples(st.sampled_from(["a", "b", "s1:a"]), st.lists(LEAVES, max_size=2)),
    )
    def test_equal_only_for_equal_calls(self, one: Any, two: Any) -> None:
        """Two calls share a partition exactly when namespace and every part are the same."""
        (space, parts), (other_space, other_parts) = one, two
        shared = partition_of(space, *parts) == partition_of(other_space, *other_parts)
        assert shared is (space == other_space and meaning(parts) == meaning(other_parts))

    def test_it_is_a_digest(self) -> None:
        """A partition is 16 bytes, whatever went into it."""
        assert len(partition_of("a", "x" * 10_000)) == len(partition_of("a")) == 16

    def test_names_are_those_of_the_last_parts(self) -> None:
        """The message names the part; parts before the named ones have no name."""
        with pytest.raises(NoStableForm, match=r"^client\['x'\] \(object\)"):
            partition_of("a", "identity", 1, {"x": object()}, names=("n", "client"))
        with pytest.raises(NoStableForm, match=r"^value \(object\)"):
            partition_of("a", object(), 1, names=("n",))

    def test_the_prompt_is_left_out_of_the_parts_and_not_of_the_namespace(self) -> None:
        """Calls with another prompt share a partition, and never a namespace."""
        one = partition_of("hi", {"q": "hi"}, prompt="hi")
        assert one == partition_of("hi", {"q": "yo"}, prompt="yo")
        assert one != partition_of("yo", {"q": "hi"}, prompt="hi")


class TestNormalize:
    @given(ANY_TEXT)
    @example("\u0390")
    @example("\u0345!")
    @example("n! !")
    def test_it_is_idempotent(self, text: str) -> None:
        """Normalizing what is normalized changes nothing."""
        assert normalize(normalize(text)) == normalize(text)

    @given(st.text("abcÄöüßéДжΣ?!. 5\t", max_size=12))
    def test_case_does_not_matter(self, text: str) -> None:
        """A prompt in capitals is the same question."""
        assert normalize(text.upper()) == normalize(text) == normalize(text.lower())

    @given(st.lists(st.text("abc5é", min_size=1, max_size=4), min_size=1, max_size=4), st.data())
    def test_spacing_does_not_matter(self, words: list[str], data: st.DataObject) -> None:
        """Any white space, of any length, at any place, is one space between words."""
        space = st.text(" \t\n\r\u00a0\u3000", min_size=1, max_size=3)
        spaced = "".join(word + data.draw(space) for word in words)
        assert normalize(data.draw(space) + spaced) == normalize(" ".join(words))

    @given(st.text("abcé 5", min_size=1, max_size=8), st.text(".?…。？ ", max_size=4))
    def test_final_punctuation_does_not_matter(self, text: str, end: str) -> None:
        """Full stops and question marks at the end say nothing that the words do not."""
        assume(text.strip())
        assert normalize(text + end) == normalize(text)

    @given(st.text("abcé", min_size=2, max_size=8), st.text("!！?. ", max_size=4))
    def test_a_final_exclamation_of_a_word_does_not_matter(self, word: str, end: str) -> None:
        """After a word an exclamation mark is a tone of voice."""
        assert normalize(word + end) == normalize(word)

    @given(ANY_TEXT)
    def test_it_never_empties_a_text(self, text: str) -> None:
        """Only a blank prompt becomes the empty text."""
        assert (normalize(text) == "") is (text.split() == [])

    @pytest.mark.parametrize(
        ("one", "two"),
        [
            ("what is 5!", "what is 5"),
            ("n!", "n"),
            ("what is n!", "what is n"),
            ("5!?", "5"),
            ("!", "?"),
            ("c#", "c"),
            ("a.b", "ab"),
            (".5", "5"),
            ("?x", "x"),
            ("50%", "50"),
            ("café", "cafe"),
            ("x²", "x2"),
        ],
    )
    def test_marks_that_mean_something_are_kept(self, one: str, two: str) -> None:
        """Two different questions stay two."""
        assert normalize(one) != normalize(two)

    def test_composed_and_decomposed_are_one(self) -> None:
        """How an accent is encoded does not matter."""
        assert normalize("cafe\u0301") == normalize("CAF\u00c9") == "café"


class TestCheckPrompt:
    @pytest.mark.parametrize("prompt", ["x", " x ", "é" * 16, "x" * 32, "\u200b", "\0"])
    def test_text_passes_as_it_is(self, prompt: str) -> None:
        """A prompt within its limit is not touched."""
        assert check_prompt(prompt, 32) is prompt

    @pytest.mark.parametrize("prompt", [None, 1, b"x", ["x"], {"role": "user"}, object()])
    def test_what_is_no_text_is_a_type_error(self, prompt: object) -> None:
        """A prompt of another type is refused with its type and the remedy."""
        with pytest.raises(TypeError, match="must be text, got") as refused:
            check_prompt(prompt, 32)
        assert type(prompt).__name__ in str(refused.value)
        assert str(refused.value).endswith("or pick the text out with `prompt=`.")

    @pytest.mark.parametrize(
        ("prompt", "remedy"),
        [
            ("", "Ask something."),
            (" \t\n\u3000", "Ask something."),
            ("x" * 33, "Shorten it or raise max_query_bytes."),
            ("é" * 17, "Shorten it or raise max_query_bytes."),
            ("a\ud800", "Decode it with errors='replace' first."),
            ("x" * 99 + "\udfff", "Decode it with errors='replace' first."),
        ],
    )
    def test_what_cannot_be_asked_is_a_value_error(self, prompt: str, remedy: str) -> None:
        """Blank, oversized and broken prompts are refused with the remedy."""
        with pytest.raises(Unaskable, match=r"Nothing was (looked up or )?stored") as refused:
            check_prompt(prompt, 32)
        assert isinstance(refused.value, ValueError)
        assert str(refused.value).endswith(remedy)

    @given(ANY_TEXT, st.integers(1, 24))
    def test_the_limit_is_in_bytes(self, prompt: str, limit: int) -> None:
        """Exactly the prompts that are text, not blank, and within the limit in UTF-8 pass."""
        try:
            fits = len(prompt.encode()) <= limit and bool(prompt.strip())
        except UnicodeEncodeError:
            fits = False
        try:
            assert check_prompt(prompt, limit) is prompt
        except Unaskable:
            assert not fits
        else:
            assert fits


class TestCheckNamespace:
    @pytest.mark.parametrize("name", ["a", " ", "tenant-7", "é" * 512, "x" * 1_024, "雨"])
    def test_text_passes_as_it_is(self, name: str) -> None:
        """Any text up to 1,024 bytes is a name."""
        assert check_namespace(name) is name

    @pytest.mark.parametrize("name", [None, 7, b"a", ("a",)])
    def test_what_is_no_text_is_a_type_error(self, name: object) -> None:
        """A name of another type is refused: a tenant's number is not its name."""
        with pytest.raises(TypeError, match=r"a namespace is text, got \w+. Pass a str."):
            check_namespace(name)

    @pytest.mark.parametrize("name", ["", "\0", "a\0b", "x" * 1_025, "é" * 513, "\ud800"])
    def test_what_is_no_name_is_a_value_error(self, name: str) -> None:
        """Empty, oversized and unstorable names are refused with the remedy."""
        with pytest.raises(ValueError, match=r"Use 1 to 1,024 bytes of text without NUL\.$"):
            check_namespace(name)


class TestAsk:
    def ask(self, prompt: str, **changes: Any) -> Ask:
        return Ask("a", Partition(bytes(16)), prompt, AutoCodec(), normalize, **changes)

    def test_the_key_is_that_of_the_normalized_prompt(self) -> None:
        """Prompts that normalize alike are one question; the key is made once."""
        one, two = self.ask("What is it?"), self.ask("what  IS it")
        assert one.key == two.key == key_of("what is it")
        assert one.key is one.key
        assert one.identity == (one.partition, one.key)

    def test_what_is_embedded_has_the_words_as_they_are(self) -> None:
        """Where spacing does not matter it does not move the vector; case and marks still do."""
        assert self.ask("  What\n is  IT? ").spoken == "What is IT?"

    def test_an_own_normalizer_leaves_the_words_alone(self) -> None:
        """Where it is not known that spacing does not matter, the prompt is embedded as it is."""
        ask = Ask("a", Partition(bytes(16)), "a  b", AutoCodec(), str.casefold)
        assert ask.spoken == "a  b"

    def test_lone_surrogates_have_keys_of_their_own(self) -> None:
        """A normalizer may give text that cannot be encoded, and gets two keys for two texts."""
        assert key_of("\ud800") != key_of("\udfff")

    def test_it_shows_question_and_namespace(self) -> None:
        """Its repr is short enough for a log line."""
        assert repr(self.ask("hi")) == "Ask('hi', namespace='a')"
