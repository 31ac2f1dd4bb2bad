"""Responses to a storable form and back, exactly."""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
import math
import typing
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme.codecs import AutoCodec, PickleCodec, TypedCodec, check_json, codec_for, dump_json
from mneme.errors import CodecError
from mneme.records import Payload, PayloadKind

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), FLOATS, st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)
KINDS = typing.get_args(PayloadKind)


class Size(enum.IntEnum):
    SMALL = 1


class Text(str):
    pass


class Pair(typing.NamedTuple):
    a: int
    b: int


class Unshown:
    def __str__(self) -> str:
        raise RuntimeError("not to be shown")


@dataclasses.dataclass
class Answer:
    words: tuple[str, ...]


def exactly(one: Any, two: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(one) is not type(two):
        return False
    if isinstance(one, list):
        return len(one) == len(two) and all(map(exactly, one, two))
    if isinstance(one, dict):
        return list(one) == list(two) and all(exactly(one[key], two[key]) for key in one)
    return bool(one == two) and repr(one) == repr(two)


class TestAutoCodec:
    @given(JSON | st.binary())
    def test_what_json_can_carry_comes_back(self, value: Any) -> None:
        """Text, bytes and JSON values come back equal, types, signs and order of keys included."""
        codec = AutoCodec()
        assert exactly(codec.decode(codec.encode(value)), value)

    @pytest.mark.parametrize(
        ("value", "payload"),
        [
            ("é\n", Payload("text", "é\n")),
            ("", Payload("text", "")),
            (b"\xff", Payload("bytes", b"\xff")),
            (None, Payload("json", "null")),
            (0, Payload("json", "0")),
            (-0.0, Payload("json", "-0.0")),
            ({"b": [1, "é"], "a": None}, Payload("json", '{"b":[1,"é"],"a":null}')),
        ],
    )
    def test_the_stored_form_is_plain(self, value: Any, payload: Payload) -> None:
        """Text is stored as it is, everything else as compact JSON that others can read."""
        assert AutoCodec().encode(value) == payload

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ((1, 2), "the response is tuple '(1, 2)'"),
            ([1, (2,)], "the response[1] is tuple"),
            ({"a": {"b": {1}}}, "the response['a']['b'] is set"),
            ([frozenset()], "the response[0] is frozenset"),
            (math.nan, "the response is float 'nan'"),
            ({"x": [math.inf]}, "the response['x'][0] is float 'inf'"),
            ({1: "a"}, "the key 1 of the response is int"),
            ([{None: 1}], "the key None of the response[0] is NoneType"),
            ({Text("a"): 1}, "the key 'a' of the response is Text"),
            (Size.SMALL, "the response is Size '1'"),
            (Text("x"), "the response is Text 'x'"),
            ([True, Size.SMALL], "the response[1] is Size"),
            (Pair(1, 2), "the response is Pair"),
            (collections.OrderedDict(a=1), "the response is OrderedDict"),
            (bytearray(b"x"), "the response is bytearray"),
            ({"raw": b"x"}, "the response['raw'] is bytes"),
            (Answer(()), "the response is Answer"),
            (object, "the response is type"),
            ([Unshown()], "the response[0] is Unshown (which cannot be shown)"),
        ],
    )
    def test_what_would_come_back_another_is_refused(self, value: Any, message: str) -> None:
        """Whatever JSON would change is refused with the path to it and the remedy."""
        with pytest.raises(CodecError) as refused:
            AutoCodec().encode(value)
        assert str(refused.value).startswith(message)
        assert "Nothing was stored." in str(refused.value)
        assert str(refused.value).endswith("or pass `codec=`.")

    @pytest.mark.parametrize(
        ("value", "path"),
        [
            ("\ud800", "the response"),
            (["ok", "a\udfff"], "the response[1]"),
            ({"k": "\ud800"}, "the response['k']"),
            ({"\ud800": 1}, "the key '\\ud800' of the response"),
        ],
    )
    def test_half_a_surrogate_pair_is_refused(self, value: Any, path: str) -> None:
        """What is not text cannot be stored as text, wherever it stands."""
        with pytest.raises(CodecError) as refused:
            AutoCodec().encode(value)
        assert str(refused.value).startswith(f"{path} holds half of a surrogate pair")
        assert str(refused.value).endswith("Decode it with errors='replace' first.")

    def test_a_value_that_holds_itself_is_refused(self) -> None:
        """A circle is a CodecError, not a crash."""
        value: list[Any] = []
        value.append({"again": value})
        with pytest.raises(CodecError, match="nested too deeply") as refused:
            AutoCodec().encode(value)
        assert str(refused.value).endswith("Return something flatter, or pass `codec=`.")

    def test_a_number_too_long_to_print_is_refused(self) -> None:
        """A whole number that Python will not print is a CodecError, not a ValueError."""
        with pytest.raises(CodecError, match="cannot be written as JSON") as refused:
            AutoCodec().encode([10**5_000])
        assert str(refused.value).endswith("Return it as text, or pass `codec=`.")

    def test_a_long_value_is_shown_short(self) -> None:
        """A message shows no more of an answer than is needed to recognize it."""
        with pytest.raises(CodecError) as refused:
            AutoCodec().encode(("x" * 10_000,))
        assert len(str(refused.value)) < 300

    def test_a_pickle_is_not_read(self) -> None:
        """Only the codec that was told to reads what could run code."""
        with pytest.raises(CodecError, match="stored as pickle, which is not read") as refused:
            AutoCodec().decode(Payload("pickle", b"cos\nsystem\n"))
        assert str(refused.value).endswith("Pass the codec it was stored with.")

    def test_it_has_a_short_repr(self) -> None:
        """A codec is recognized in a message."""
        assert repr(AutoCodec()) == "AutoCodec()"


class TestTypedCodec:
    def test_the_stored_form_is_json(self) -> None:
        """A typed value is stored as plain JSON without the name of any class."""
        payload = TypedCodec(Answer).encode(Answer(("a", "é")))
        assert payload == Payload("json", '{"words":["a","é"]}')

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "json"])
    def test_another_kind_is_refused(self, kind: PayloadKind) -> None:
        """An entry of before the annotation is refused, left as it is, and the remedy named."""
        with pytest.raises(CodecError, match=f"stored as {kind}, not as .*Answer") as refused:
            TypedCodec(Answer).decode(Payload(kind, "[]"))
        assert "The entry was left as it is." in str(refused.value)
        assert str(refused.value).endswith("Give the function another `version=`.")

    def test_a_refusal_names_value_and_annotation(self) -> None:
        """The message shows the beginning of the value, its type, and what it should have been."""
        with pytest.raises(CodecError) as refused:
            TypedCodec(Answer).encode(Pair(1, 2))
        assert str(refused.value).startswith("Pair 'Pair(a=1, b=2)' does not come back equal as <")
        assert str(refused.value).endswith("Correct the annotation, or pass `codec=`.")
        assert isinstance(refused.value.__cause__, TypeError)

    def test_what_cannot_be_shown_is_refused_all_the_same(self) -> None:
        """A value whose text raises is named by its class."""
        with pytest.raises(CodecError, match=r"^Unshown \(which cannot be shown\) does not come"):
            TypedCodec(Answer).encode(Unshown())

    def test_the_part_that_is_no_json_is_named(self) -> None:
        """Where a field holds what it is not annotated as, the field is named."""
        with pytest.raises(CodecError, match=r"the response\['words'\]\[1\] is bytes"):
            TypedCodec(Answer).encode(Answer(("a", b"b")))  # type: ignore[arg-type]

    def test_a_value_that_does_not_equal_itself_is_refused(self) -> None:
        """What is not equal to what it was cannot be read back equal."""

        class Never(tuple[int, ...]):
            def __eq__(self, other: object) -> bool:
                return False

            __hash__ = tuple.__hash__

        with pytest.raises(CodecError, match="does not come back equal"):
            TypedCodec(dict[int, Any]).encode({1: [Never()]})
        with pytest.raises(CodecError, match="does not come back equal"):
            TypedCodec(Grown).encode(Grown(1))

    def test_it_has_a_short_repr(self) -> None:
        """A codec is recognized in a message."""
        assert repr(TypedCodec(tuple[int, ...])) == "TypedCodec(tuple[int, ...])"


@dataclasses.dataclass
class Grown:
    """A value that is another each time it is made."""

    size: int

    def __post_init__(self) -> None:
        self.size += 1


class TestCodecFor:
    @pytest.mark.parametrize("annotation", [str, bytes, Any, None, list[dict[str, int]], float])
    def test_plain_annotations_are_judged_by_value(self, annotation: Any) -> None:
        """What JSON can carry, text and bytes need no annotation."""
        assert isinstance(codec_for(annotation), AutoCodec)

    @pytest.mark.parametrize("annotation", [tuple[int, ...], Answer, Size, bytes | None])
    def test_other_annotations_are_followed(self, annotation: Any) -> None:
        """What JSON cannot carry is read back by its annotation."""
        assert isinstance(codec_for(annotation), TypedCodec)

    def test_what_cannot_come_back_is_refused_at_once(self) -> None:
        """An annotation that cannot work fails when decorating."""
        with pytest.raises(CodecError, match="values of object_hook cannot"):
            codec_for(type("object_hook", (), {}))


class TestPickleCodec:
    def pickler(self) -> PickleCodec:
        with pytest.warns(UserWarning, match="runs code from the store"):
            return PickleCodec()

    def test_making_one_warns(self) -> None:
        """Nobody gets code execution without being told, at the line that asks for it."""
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            PickleCodec()
        assert [warning.filename for warning in seen] == [__file__]
        assert str(seen[0].message).endswith("annotate the function's result to do without.")

    @given(JSON | st.binary() | st.tuples(st.integers(), st.sets(st.text())))
    def test_any_object_comes_back(self, value: Any) -> None:
        """Tuples and sets come back too."""
        codec = self.pickler()
        payload = codec.encode(value)
        assert payload.kind == "pickle"
        back = codec.decode(payload)
        assert (type(back), back) == (type(value), value)

    @pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pickle"])
    def test_another_kind_is_refused(self, kind: PayloadKind) -> None:
        """What was not pickled is not unpickled."""
        with pytest.raises(CodecError, match=f"stored as {kind}, not as a pickle") as refused:
            self.pickler().decode(Payload(kind, b""))
        assert str(refused.value).endswith("Pass the codec it was stored with.")

    def test_text_is_no_pickle(self) -> None:
        """A pickle that came back as text is refused."""
        with pytest.raises(CodecError, match="not as a pickle"):
            self.pickler().decode(Payload("pickle", "text"))

    def test_what_cannot_be_pickled_is_refused(self) -> None:
        """An object that pickle refuses is a CodecError that says why."""
        with pytest.raises(CodecError, match="generator cannot be pickled: ") as refused:
            self.pickler().encode(one for one in ())
        assert str(refused.value).endswith("Return a value that can, or leave it uncached.")


class TestCheckJson:
    def test_the_path_begins_with_the_given_name(self) -> None:
        """The same check names metadata as metadata."""
        with pytest.raises(CodecError, match=r"^metadata\['k'\] is set"):
            check_json({"k": {1}}, "metadata")

    @given(JSON)
    def test_what_passes_is_written_and_read_back(self, value: Any) -> None:
        """What the check passes, JSON carries."""
        check_json(value)
        assert exactly(json.loads(dump_json(value)), value)
