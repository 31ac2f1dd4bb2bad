"""Values of an annotation become JSON and come back as what they were."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import typing
import uuid
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    Sequence,
)
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Optional, TypeVar, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mneme._core.shapes import shape_of
from mneme.codecs import TypedCodec, codec_for
from mneme.errors import CodecError
from mneme.records import Payload

if TYPE_CHECKING:
    from elsewhere import Unknown  # type: ignore[import-not-found]

T = TypeVar("T")
B = TypeVar("B", bound=bytes)
UserId = typing.NewType("UserId", uuid.UUID)


class Colour(enum.Enum):
    RED = "r"
    BLUE = object()
    CRIMSON = RED


class Size(enum.IntEnum):
    SMALL = 1
    LARGE = 2


class Mood(enum.StrEnum):
    GOOD = "good"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Money:
    amount: decimal.Decimal
    currency: str = "EUR"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    id: uuid.UUID
    prices: list[Money]
    colour: Colour
    size: Size | None = None
    note: bytes | str | None = None
    total: int = dataclasses.field(init=False, default=0)
    seen: int = dataclasses.field(default=0, compare=False)
    ticket: typing.ClassVar[int] = 1


@dataclasses.dataclass
class Tree:
    value: bytes
    children: list[Tree] = dataclasses.field(default_factory=list)
    parent_name: str | None = None


@dataclasses.dataclass(order=True)
class Twin:
    amount: decimal.Decimal
    currency: str = "EUR"


class Point(NamedTuple):
    x: int
    when: datetime.date | None = None


class Spot(NamedTuple):
    x: int
    when: datetime.date | None = None


class Chain(NamedTuple):
    data: bytes
    next: Chain | None = None


Loose = collections.namedtuple("Loose", "a b")


class Plain(typing.TypedDict):
    a: int
    b: list[str]


class Row(typing.TypedDict, total=False):
    id: typing.Required[uuid.UUID]
    tags: typing.NotRequired[set[str]]
    note: str


class Nest(typing.TypedDict):
    raw: bytes
    inner: list[Nest]


TEXT = st.text(max_size=5)
INTS = st.integers()
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), INTS, st.floats(allow_nan=False, allow_infinity=False), TEXT
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)
DECIMALS = st.decimals(allow_nan=False)
DATES = st.dates()
ZONES = st.builds(
    datetime.timezone, st.timedeltas(datetime.timedelta(-1) / 2, datetime.timedelta(1) / 2)
)
MOMENTS = st.datetimes(timezones=st.one_of(st.none(), ZONES))
MONEY = st.builds(Money, DECIMALS, TEXT)
TWINS = st.builds(Twin, DECIMALS, TEXT)
TREES = st.recursive(
    st.builds(Tree, st.binary(max_size=3)),
    lambda inner: st.builds(
        Tree, st.binary(max_size=3), st.lists(inner, max_size=2), st.none() | TEXT
    ),
    max_leaves=5,
)
CHAINS = st.recursive(
    st.builds(Chain, st.binary(max_size=3)),
    lambda inner: st.builds(Chain, st.binary(max_size=3), inner),
    max_leaves=5,
)
NESTS = st.recursive(
    st.fixed_dictionaries({"raw": st.binary(max_size=2), "inner": st.just([])}),
    lambda inner: st.fixed_dictionaries(
        {"raw": st.binary(max_size=2), "inner": st.lists(inner, max_size=2)}
    ),
    max_leaves=4,
)
ROWS = st.fixed_dictionaries(
    {"id": st.uuids()}, optional={"tags": st.sets(TEXT, max_size=2), "note": TEXT}
)


@st.composite
def orders(draw: st.DrawFn) -> Order:
    order = Order(
        id=draw(st.uuids()),
        prices=draw(st.lists(MONEY, max_size=2)),
        colour=draw(st.sampled_from(Colour)),
        size=draw(st.sampled_from([None, *Size])),
        note=draw(st.one_of(st.none(), TEXT, st.binary(max_size=3))),
        seen=draw(INTS),
    )
    object.__setattr__(order, "total", draw(INTS))
    return order


def several(item: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(item, max_size=3)


SUPPORTED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Any, JSON),
    (None, st.none()),
    (str, TEXT),
    (bytes, st.binary()),
    (typing.Annotated[bytes, "raw"], st.binary()),
    (B, st.binary()),
    (T, JSON),
    (UserId, st.uuids()),
    (datetime.datetime, MOMENTS),
    (datetime.date, DATES),
    (datetime.time, st.times()),
    (datetime.timedelta, st.timedeltas()),
    (decimal.Decimal, DECIMALS),
    (uuid.UUID, st.uuids()),
    (complex, st.complex_numbers(allow_nan=False)),
    (pathlib.Path, st.sampled_from([pathlib.Path("a/b"), pathlib.Path()])),
    (pathlib.PurePath, st.just(pathlib.PurePath("a"))),
    (pathlib.PurePosixPath, st.just(pathlib.PurePosixPath("a"))),
    (pathlib.PureWindowsPath, st.just(pathlib.PureWindowsPath("c:/a"))),
    (Colour, st.sampled_from(Colour)),
    (Size, st.sampled_from(Size)),
    (Mood, st.sampled_from(Mood)),
    (Rights, st.sampled_from([Rights(0), Rights.READ, Rights.READ | Rights.WRITE])),
    (Literal["a", 1, None, True], st.sampled_from(["a", 1, None, True])),
    (Literal[b"a", "a"], st.sampled_from([b"a", "a"])),
    (Literal[Colour.RED, "red"], st.sampled_from([Colour.RED, "red"])),
    (list, several(JSON)),
    (list[bytes], several(st.binary())),
    (Sequence[decimal.Decimal], several(DECIMALS)),
    (MutableSequence[bytes], several(st.binary())),
    (Iterable[uuid.UUID], several(st.uuids())),
    (Collection[datetime.date], several(DATES)),
    (list[list[bytes]], several(several(st.binary()))),
    (tuple, several(JSON).map(tuple)),
    (tuple[()], st.just(())),
    (tuple[int, ...], several(INTS).map(tuple)),
    (tuple[bytes, ...], several(st.binary()).map(tuple)),
    (tuple[int, str], st.tuples(INTS, TEXT)),
    (
        tuple[bytes, tuple[Colour, Size]],
        st.tuples(st.binary(), st.tuples(st.sampled_from(Colour), st.sampled_from(Size))),
    ),
    (set, st.sets(TEXT)),
    (set[int], st.sets(INTS)),
    (set[tuple[int, bytes]], st.sets(st.tuples(INTS, st.binary()))),
    (frozenset[Colour], st.frozensets(st.sampled_from(Colour))),
    (AbstractSet[int], st.frozensets(INTS)),
    (dict, st.dictionaries(TEXT, JSON)),
    (dict[str, Any], st.dictionaries(TEXT, JSON)),
    (dict[str, bytes], st.dictionaries(TEXT, st.binary())),
    (dict[int, str], st.dictionaries(INTS, TEXT)),
    (dict[int | str, int], st.dictionaries(INTS | TEXT, INTS)),
    (
        dict[bool, float],
        st.dictionaries(st.booleans(), st.floats(allow_nan=False, allow_infinity=False)),
    ),
    (
        dict[tuple[int, str], list[bytes]],
        st.dictionaries(st.tuples(INTS, TEXT), several(st.binary())),
    ),
    (dict[Colour, Money], st.dictionaries(st.sampled_from(Colour), MONEY)),
    (Mapping[datetime.date, int], st.dictionaries(DATES, INTS)),
    (MutableMapping[str, decimal.Decimal], st.dictionaries(TEXT, DECIMALS)),
    (
        list[dict[int, dict[str, set[int]]]],
        several(
            st.dictionaries(INTS, st.dictionaries(TEXT, st.sets(INTS), max_size=2), max_size=2)
        ),
    ),
    (int | str, INTS | TEXT),
    (
        Optional[bytes],  # noqa: UP045
        st.none() | st.binary(),
    ),
    (
        Union[str, bytes, None],  # noqa: UP007
        st.one_of(TEXT, st.binary(), st.none()),
    ),
    (str | Money, TEXT | MONEY),
    (Money | Twin, MONEY | TWINS),
    (
        Point | Spot | tuple[int, None],
        st.builds(Point, INTS) | st.builds(Spot, INTS) | st.tuples(INTS, st.none()),
    ),
    (list[Point] | list[Spot], several(st.builds(Point, INTS)) | several(st.builds(Spot, INTS))),
    (list[decimal.Decimal] | list[int], several(DECIMALS) | several(INTS)),
    (list[int] | list[decimal.Decimal], several(DECIMALS) | several(INTS)),
    (
        set[decimal.Decimal] | set[int] | frozenset[int],
        st.sets(DECIMALS) | st.sets(INTS) | st.frozensets(INTS),
    ),
    (
        tuple[str, ...] | tuple[bytes, ...],
        several(TEXT).map(tuple) | several(st.binary()).map(tuple),
    ),
    (
        dict[str, int] | dict[int, int] | dict[str, bytes],
        st.dictionaries(TEXT, INTS)
        | st.dictionaries(INTS, INTS)
        | st.dictionaries(TEXT, st.binary()),
    ),
    (
        int | Size | Colour | Mood | str,
        st.one_of(INTS, TEXT, st.sampled_from(Size), st.sampled_from(Mood)),
    ),
    (
        float | decimal.Decimal | complex,
        st.floats(allow_nan=False, allow_infinity=False) | DECIMALS,
    ),
    (datetime.datetime | datetime.date, MOMENTS | DATES),
    (Money, MONEY),
    (Order, orders()),
    (Tree, TREES),
    (list[Tree] | None, st.none() | several(TREES)),
    (Point, st.builds(Point, INTS, st.none() | DATES)),
    (Chain, CHAINS),
    (Loose, st.builds(Loose, INTS, JSON)),
    (Plain, st.fixed_dictionaries({"a": INTS, "b": several(TEXT)})),
    (Row, ROWS),
    (Nest, NESTS),
    (dict[str, Row | Nest], st.dictionaries(TEXT, ROWS | NESTS)),
]


def exactly(one: Any, two: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(one) is not type(two):
        return False
    if dataclasses.is_dataclass(one):
        fields = [field.name for field in dataclasses.fields(one)]
        return all(exactly(getattr(one, name), getattr(two, name)) for name in fields)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(exactly, one, two))
    if isinstance(one, (set, frozenset)):
        return one == two and {(type(o), o) for o in one} == {(type(t), t) for t in two}
    if isinstance(one, dict):
        keys = {(type(key), key) for key in one} == {(type(key), key) for key in two}
        return keys and all(exactly(one[key], two[key]) for key in one)
    return bool(one == two)


def stored(payload: Payload) -> Payload:
    """The payload as a store gives it back: text through UTF-8."""
    data = payload.data
    return Payload(payload.kind, data.encode().decode() if isinstance(data, str) else bytes(data))


@settings(max_examples=25)
@pytest.mark.parametrize(
    ("annotation", "values"), SUPPORTED, ids=[str(annotation)[:60] for annotation, _ in SUPPORTED]
)
@given(data=st.data())
def test_values_come_back_as_what_they_were(
    annotation: Any, values: st.SearchStrategy[Any], data: st.DataObject
) -> None:
    """Every value of the annotation comes back equal, with equal types all the way down."""
    value = data.draw(values)
    codec = codec_for(annotation)
    back = codec.decode(stored(codec.encode(value)))
    assert exactly(back, value), (back, value)


def test_init_false_fields_and_defaults_come_back() -> None:
    """What a constructor does not take is put back all the same."""
    order = Order(id=uuid.UUID(int=1), prices=[], colour=Colour.CRIMSON, seen=5)
    object.__setattr__(order, "total", 7)
    codec = codec_for(Order)
    back = codec.decode(codec.encode(order))
    assert (back.total, back.seen, back.colour) == (7, 5, Colour.RED)


@dataclasses.dataclass
class Derived(Money):
    extra: int = 0


class Moment(datetime.datetime):
    pass


@dataclasses.dataclass
class Holder:
    day: datetime.date
    moment: datetime.datetime = dataclasses.field(
        default_factory=lambda: datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    )
    anything: Any = None
    numbers: list[float] = dataclasses.field(default_factory=list)


DAY = datetime.date(2024, 1, 1)


class TestRefusedValues:
    @pytest.mark.parametrize(
        ("annotation", "value"),
        [
            (Money, Derived(decimal.Decimal(1))),
            (Money, Twin(decimal.Decimal(1))),
            (Money, None),
            (Money, Money("1")),  # type: ignore[arg-type]
            (Money, Money(decimal.Decimal("nan"))),
            (decimal.Decimal, decimal.Decimal("sNaN")),
            (decimal.Decimal, 1),
            (bytes | None, bytearray(b"x")),
            (list[bytes], (b"x",)),
            (list[bytes], [bytearray(b"x")]),
            (list[bytes], "text"),
            (tuple[int, str], (1,)),
            (tuple[int, str], (1, "a", "b")),
            (tuple[int, str], [1, "a"]),
            (tuple[int, ...], Point(1)),
            (set[int], frozenset([1])),
            (AbstractSet[int], {1}),
            (frozenset[float], frozenset([float("nan")])),
            (dict[int, str], collections.OrderedDict({1: "a"})),
            (dict[int, str], {(1,): "a"}),
            (Colour, "RED"),
            (Size, 1),
            (Mood, "good"),
            (Rights, 1),
            (Point, (1, None)),
            (Point, Spot(1)),
            (list[Point], [(1, None)]),
            (Holder, Holder(datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC))),
            (Holder, Holder(DAY, Moment(2024, 1, 1, tzinfo=datetime.UTC))),
            (Holder, Holder(DAY, anything=(1,))),
            (Holder, Holder(DAY, anything=b"x")),
            (Holder, Holder(DAY, numbers=[float("inf")])),
            (Holder, Holder(DAY, numbers={1.0: 1})),  # type: ignore[arg-type]
            (Holder, Holder("2024-01-01")),  # type: ignore[arg-type]
            (pathlib.PurePath, pathlib.PureWindowsPath("a")),
            (Row, {"id": 1}),
            (Row, {"note": b"x"}),
            (Nest, [("raw", b"")]),
            (Money | bytes, "text"),
            (Money | bytes, Derived(decimal.Decimal(1))),
            (str | bytes, 1j),
            (uuid.UUID, "12345678123456781234567812345678"),
        ],
    )
    def test_a_value_that_would_come_back_another_is_refused(
        self, annotation: Any, value: Any
    ) -> None:
        """What is not of the annotation, however near to it, is refused and nothing is stored."""
        with pytest.raises(CodecError, match="Nothing was stored") as refused:
            TypedCodec(annotation).encode(value)
        assert str(refused.value).endswith("pass `codec=`.")

    def test_a_value_that_holds_itself_is_refused(self) -> None:
        """A circle has no end, and no JSON."""
        tree = Tree(b"")
        tree.children.append(tree)
        with pytest.raises(CodecError):
            codec_for(Tree).encode(tree)

    def test_a_value_too_deep_is_refused(self) -> None:
        """What is nested too deep to be read again, or even shown, is a CodecError all the same."""
        chain = Chain(b"")
        for _ in range(3_000):
            chain = Chain(b"", chain)
        with pytest.raises(CodecError):
            codec_for(Chain).encode(chain)

    def test_a_comparison_that_raises_is_a_refusal(self) -> None:
        """A value whose equality cannot be asked did not come back equal."""

        class Sly(decimal.Decimal):
            def __eq__(self, other: object) -> bool:
                raise RuntimeError("do not ask")

            __hash__ = decimal.Decimal.__hash__

        with pytest.raises(CodecError):
            codec_for(decimal.Decimal).encode(Sly(1))


class Custom:
    pass


@dataclasses.dataclass(eq=False)
class Incomparable:
    x: int


@dataclasses.dataclass
class Unresolved:
    x: Unknown


@dataclasses.dataclass
class Misspelt:
    x: datetime.Moment  # type: ignore[name-defined]


@dataclasses.dataclass
class Box(Generic[T]):
    x: T


class TestRefusedAnnotations:
    @pytest.mark.parametrize(
        "annotation",
        [
            Custom,
            list[Custom],
            dict[str, Custom],
            dict[Custom, str],
            tuple[int, Custom],
            tuple[Custom, ...],
            set[Custom],
            Custom | None,
            Callable[[], int],
            Iterator[int],
            type[int],
            collections.deque,
            collections.OrderedDict[str, int],
            bytearray,
            memoryview,
            "Money",
            typing.NoReturn,
            Incomparable,
            list[Incomparable],
            Box[int],
            object(),
        ],
        ids=lambda one: str(one)[:40],
    )
    def test_what_cannot_come_back_is_refused_when_decorating(self, annotation: Any) -> None:
        """An annotation whose values cannot be stored is refused before the first call."""
        with pytest.raises(CodecError, match="cannot be stored and read back equal") as refused:
            shape_of(annotation)
        assert str(refused.value).endswith("or pass `codec=`.")

    def test_the_message_names_the_part(self) -> None:
        """Inside a larger annotation the class at fault is named."""
        with pytest.raises(CodecError, match=r"^values of Custom cannot"):
            shape_of(dict[str, list[Custom | None]])

    @pytest.mark.parametrize(
        ("kind", "why"), [(Unresolved, "'Unknown' is not defined"), (Misspelt, "'Moment'")]
    )
    def test_a_field_that_only_a_type_checker_knows_is_refused(self, kind: type, why: str) -> None:
        """A class whose fields cannot be resolved at run time is refused by name."""
        with pytest.raises(CodecError, match=rf"^the fields of {kind.__name__} .*{why}") as refused:
            shape_of(list[kind])  # type: ignore[valid-type]
        assert str(refused.value).endswith("or pass `codec=`.")


class TestReading:
    """What is in the store says nothing about which classes are made."""

    @pytest.mark.parametrize(
        ("annotation", "data"),
        [
            (Money, '{"amount": "1"}'),
            (Money, '{"amount": "x", "currency": "EUR"}'),
            (Money, '["mneme.Custom"]'),
            (Colour, '"GREEN"'),
            (Colour, '"__class__"'),
            (Rights, "64"),
            (bytes | None, "[7, null]"),
            (bytes | Money, '["x", null]'),
            (datetime.date, '"yesterday"'),
            (tuple[int, str], "[1]"),
            (Point, "[1]"),
            (dict[int, str], '{"1": "a"}'),
            (list[bytes], "5"),
            (Money, "{"),
        ],
    )
    def test_what_does_not_fit_is_an_error(self, annotation: Any, data: str) -> None:
        """A payload that was changed, or is of another version, raises and makes nothing else."""
        with pytest.raises(Exception):  # noqa: B017, PT011  the core takes any for undecodable
            TypedCodec(annotation).decode(Payload("json", data))

    @settings(max_examples=200)
    @given(JSON, st.sampled_from([one for one, _ in SUPPORTED if isinstance(one, type)]))
    def test_nothing_else_is_ever_made(self, plain: Any, annotation: type) -> None:
        """Whatever JSON the store holds, reading it gives the annotated class or raises."""
        codec = TypedCodec(annotation)
        if codec._shape.is_plain:
            return
        try:
            made = codec.decode(Payload("json", json.dumps(plain)))
        except Exception:
            return
        expected = dict if typing.is_typeddict(annotation) else annotation
        assert isinstance(made, expected)

    def test_fields_that_were_added_since_are_ignored(self) -> None:
        """An entry with more fields than the class has now is read by those it has."""
        made = TypedCodec(Money).decode(Payload("json", '{"amount":"1","currency":"EUR","tax":2}'))
        assert made == Money(decimal.Decimal(1))


class TestPlain:
    @pytest.mark.parametrize(
        "annotation",
        [
            Any,
            object,
            None,
            str,
            int | None,
            list,
            list[str],
            Sequence[int],
            dict,
            dict[str, list[int]],
            dict[Any, Any],
            Mapping[str, str | None],
            Literal["a", 1],
            dict[Literal["a", "b"], int],
            typing.Annotated[str, "x"],
            typing.NewType("Name", str),
            Plain,
            T,
            list[Plain],
        ],
        ids=lambda one: str(one)[:40],
    )
    def test_what_json_can_carry_needs_no_annotation(self, annotation: Any) -> None:
        """Values that are JSON already are stored as they are."""
        assert shape_of(annotation).is_plain

    @pytest.mark.parametrize(
        "annotation",
        [bytes, tuple, set[str], dict[int, str], dict[int | str, str], Money, Row, str | bytes],
        ids=lambda one: str(one)[:40],
    )
    def test_what_json_cannot_carry_does(self, annotation: Any) -> None:
        """Values that JSON would change are not taken for plain."""
        assert not shape_of(annotation).is_plain


def test_type_aliases_are_seen_through() -> None:
    """What a ``type`` statement names (Python 3.12) is what it stands for."""
    alias = type("TypeAliasType", (), {"__value__": list[bytes]})
    codec = codec_for(alias())
    assert codec.decode(codec.encode([b"x"])) == [b"x"]


@pytest.mark.needs("pydantic")
class TestPydantic:
    def round_trip(self, annotation: Any, value: Any) -> None:
        codec = codec_for(annotation)
        assert exactly(codec.decode(stored(codec.encode(value))), value)

    def test_models_come_back(self) -> None:
        """Models, nested ones, aliases, extra fields and strict ones come back equal."""
        import pydantic

        class Inner(pydantic.BaseModel):
            model_config = {"frozen": True}
            when: datetime.datetime
            price: decimal.Decimal = pydantic.Field(alias="the-price")

        class Outer(pydantic.BaseModel):
            model_config = {"extra": "allow", "strict": True}
            inner: list[Inner]
            pairs: dict[int, tuple[str, int]] = {}
            kinds: set[Colour] = set()
            raw: bytes = b""
            id: uuid.UUID | None = None
            name: str = pydantic.Field("", alias="Name")

            @pydantic.computed_field  # type: ignore[prop-decorator]
            @property
            def count(self) -> int:
                return len(self.inner)

        inner = Inner.model_validate(
            {"when": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), "the-price": "1.50"}
        )
        outer = Outer(
            inner=[inner],
            pairs={1: ("a", 2)},
            kinds={Colour.RED},
            raw=b"x",
            id=uuid.UUID(int=1),
            Name="n",
            more=[1, "x"],
        )
        self.round_trip(Outer, outer)
        self.round_trip(Inner | None, inner)
        self.round_trip(list[Outer], [outer])
        self.round_trip(dict[str, Inner | Outer], {"a": inner, "b": outer})

    def test_root_and_generic_models_come_back(self) -> None:
        """Models of one value and models of a type come back equal."""
        import pydantic

        class Names(pydantic.RootModel[list[str]]):
            pass

        class Page(pydantic.BaseModel, Generic[T]):
            items: list[T]

        self.round_trip(Names, Names(["a"]))
        self.round_trip(Page[bytes], Page[bytes](items=[b"x"]))

    def test_the_annotated_model_is_chosen_by_type(self) -> None:
        """Of two models with the same fields each comes back as itself."""
        import pydantic

        class One(pydantic.BaseModel):
            x: int

        class Two(pydantic.BaseModel):
            x: int

        self.round_trip(One | Two, Two(x=1))
        self.round_trip(list[One | Two], [Two(x=1), One(x=1)])

    def test_what_a_dump_loses_is_refused(self) -> None:
        """Secrets, left-out fields, private state and subclasses are no CodecError to swallow."""
        import pydantic

        class Base(pydantic.BaseModel):
            key: pydantic.SecretStr = pydantic.SecretStr("")
            hidden: int = pydantic.Field(0, exclude=True)
            anything: Any = None
            _private: int = pydantic.PrivateAttr(0)

        class Sub(Base):
            pass

        private = Base()
        private._private = 1
        lost = [Base(key=pydantic.SecretStr("a")), Base(hidden=1), Base(anything=(1,)), Sub(),
                Base(anything=float("nan")), private]  # fmt: skip
        for value in lost:
            with pytest.raises(CodecError, match="Nothing was stored"):
                codec_for(Base).encode(value)
        self.round_trip(Base, Base(anything={"a": [1, None]}))
