"""Chat messages to what is asked and what it depends on (api.md, section 5)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mneme._core.keys import canonical
from mneme._core.messages import are_messages, split


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def image(url: str = "https://x.test/cat.png") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"role": "tool", "tool_call_id": "1", "content": "sunny"}
MESSAGES = st.one_of(
    st.builds(user, st.sampled_from(["yes", "no", "yes?"])),
    st.builds(assistant, st.sampled_from(["yes", "no", None])),
    st.sampled_from([SYSTEM, TOOL, user([text("yes"), image()]), user([image("b"), text("yes")])]),
)


def rest(messages: Any) -> bytes:
    """What goes into the partition."""
    return canonical(split(messages).rest)


class TestSplit:
    def test_the_final_user_turn_is_the_prompt(self) -> None:
        """The last user message is what is compared; it is not part of the rest."""
        asked = split([SYSTEM, user("hi"), assistant("hello"), user("How are you?")])
        assert asked.prompt == "How are you?"
        assert asked.semantic
        assert "How are you?" not in repr(asked.rest)

    @given(st.lists(MESSAGES, max_size=3), st.lists(MESSAGES, max_size=3))
    def test_only_the_same_conversation_is_met(self, one: list[Any], two: list[Any]) -> None:
        """A follow-up meets another exactly when all that came before them is equal."""
        follow_up = user("yes, cancel it")
        assert (rest([*one, follow_up]) == rest([*two, follow_up])) is (one == two)

    def test_rewordings_of_one_follow_up_meet(self) -> None:
        """In one conversation another wording of the last turn is in the same partition."""
        before = [SYSTEM, user("Book a table"), assistant("Done. Keep it?")]
        one, two = split([*before, user("yes, cancel it")]), split([*before, user("cancel please")])
        assert canonical(one.rest) == canonical(two.rest)
        assert one.prompt != two.prompt

    def test_yes_in_two_conversations_is_two_questions(self) -> None:
        """The same short answer never crosses from one conversation to another."""
        one = [assistant("Cancel it?"), user("yes")]
        two = [assistant("Pay for it?"), user("yes")]
        assert split(one).prompt == split(two).prompt
        assert rest(one) != rest(two)

    @pytest.mark.parametrize(
        ("one", "two"),
        [
            ([SYSTEM, user("hi")], [user("hi")]),
            ([SYSTEM, user("hi")], [{**SYSTEM, "content": "Be long."}, user("hi")]),
            ([{**SYSTEM, "role": "developer"}, user("hi")], [SYSTEM, user("hi")]),
            ([user("hi", name="Ann")], [user("hi", name="Bob")]),
            ([user("hi", cache=True)], [user("hi")]),
            ([user("a"), user("hi")], [assistant("a"), user("hi")]),
            ([user([text("hi"), image("a")])], [user([text("hi"), image("b")])]),
            ([user([text("hi"), image()])], [user("hi")]),
            ([user([text("hi"), image()])], [user([image(), text("hi")])]),
            ([user([text("hi", citations=[1])])], [user("hi")]),
            ([user([{"type": "file", "text": "hi"}, "hi"])], [user("hi")]),
            (
                [assistant(None, tool_calls=[{"id": "1"}]), TOOL, user("hi")],
                [assistant(None, tool_calls=[{"id": "2"}]), TOOL, user("hi")],
            ),
            ([TOOL, user("hi")], [{**TOOL, "content": "rain"}, user("hi")]),
            (
                [user([text("a"), image(), text("b")])],
                [user([text("a\nb"), image()])],
            ),
        ],
    )
    def test_all_but_the_words_is_in_the_rest(self, one: list[Any], two: list[Any]) -> None:
        """Two requests with equal words and anything else unequal are in two partitions."""
        assert rest(one) != rest(two)

    @pytest.mark.parametrize(
        "content",
        [
            "hi there",
            [text("hi there")],
            ["hi there"],
            text("hi there"),
            ("hi there",),
            [text("hi there"), None],
            [{"type": "input_text", "text": "hi there"}],
            [text("hi there", cache_control={"type": "ephemeral"})],
            [SimpleNamespace(type="text", text="hi there")],
            [SimpleNamespace(type="text", text="hi there", citations=None)],
        ],
    )
    def test_the_same_words_are_one_question(self, content: Any) -> None:
        """How the words are wrapped, as text or in parts, does not matter."""
        asked = split([user(content)])
        assert (asked.prompt, asked.semantic) == ("hi there", True)
        assert canonical(asked.rest) == rest([user("hi there")])

    def test_several_texts_are_joined(self) -> None:
        """The texts of all parts are the prompt, a line each, around whatever stands between."""
        asked = split([user([text("Compare"), image("a"), text("with"), image("b")])])
        assert asked.prompt == "Compare\nwith"
        assert rest([user([text("Look at"), image()])]) == rest([user([text("See"), image()])])

    @pytest.mark.parametrize("role", ["user", "human"])
    def test_a_user_is_called_user_or_human(self, role: str) -> None:
        """Both words for a user's turn open the semantic layer, and keep apart."""
        assert split([{"role": role, "content": "hi"}]).semantic

    @pytest.mark.parametrize(
        ("last", "prompt"),
        [
            (TOOL, "sunny"),
            (assistant("The answer is"), "The answer is"),
            (SYSTEM, "Be brief."),
            (user([image()]), "(user)"),
            (user([{"type": "tool_result", "content": "sunny"}]), "(user)"),
            (user("  \n"), "(user)"),
            (user(None), "(user)"),
            (user([]), "(user)"),
            ({"role": "user"}, "(user)"),
            (assistant(None, tool_calls=[{"id": "1"}]), "(assistant)"),
        ],
    )
    def test_what_is_no_question_is_exact_only(self, last: dict[str, Any], prompt: str) -> None:
        """A tail that is no user's turn with words in it is answered by its equal alone."""
        asked = split([SYSTEM, last])
        assert (asked.prompt, asked.semantic) == (prompt, False)
        assert canonical(asked.rest) == canonical([SYSTEM, last])
        assert rest([SYSTEM, last]) != rest([last])

    def test_the_messages_are_not_changed(self) -> None:
        """Splitting reads what it is given and leaves it as it is."""
        messages = [SYSTEM, user([text("hi"), image()])]
        before = repr(messages)
        split(messages)
        assert repr(messages) == before


class Role(enum.StrEnum):
    USER = "user"


@dataclass(slots=True)
class Slotted:
    role: str
    content: Any
    audio: str | None = None


class Named(NamedTuple):
    role: str
    content: Any


@dataclass
class Message:
    role: str
    content: Any = None
    name: str | None = None
    tool_calls: list[Any] = field(default_factory=list)
    reasoning: str | None = None


class TestObjects:
    @pytest.mark.parametrize(
        "made",
        [
            SimpleNamespace(role="user", content="hi"),
            Slotted("user", "hi"),
            Named("user", "hi"),
            MappingProxyType(user("hi")),
        ],
        ids=lambda made: type(made).__name__,
    )
    def test_an_object_is_its_fields(self, made: Any) -> None:
        """Objects with role and content are messages like any mapping, equal to the same one."""
        assert are_messages([made])
        assert split([made]).prompt == "hi"
        assert rest([made, user("and?")]) == rest([user("hi"), user("and?")])

    @pytest.mark.parametrize(
        ("one", "two"),
        [
            (Message("assistant", "a"), Message("assistant", "b")),
            (Message("assistant", name="a"), Message("assistant", name="b")),
            (Message("assistant", tool_calls=[1]), Message("assistant", tool_calls=[2])),
            (Message("assistant", reasoning="a"), Message("assistant", reasoning="b")),
            (Slotted("assistant", None, "a"), Slotted("assistant", None, "b")),
            (
                SimpleNamespace(role="assistant", content=None, function_call={"name": "a"}),
                SimpleNamespace(role="assistant", content=None, function_call={"name": "b"}),
            ),
        ],
    )
    def test_every_field_tells_conversations_apart(self, one: Any, two: Any) -> None:
        """Fields that mneme has never heard of are part of the conversation too."""
        assert rest([one, user("yes")]) != rest([two, user("yes")])

    def test_a_part_that_says_more_than_its_text_is_kept(self) -> None:
        """What a text part says beside its text is in the rest, for objects as for mappings."""
        cited = SimpleNamespace(type="text", text="hi", citations=["a"])
        other = SimpleNamespace(type="text", text="hi", citations=["b"])
        assert split([user([cited, "x"])]).prompt == "x"
        assert rest([user([cited, "x"])]) != rest([user([other, "x"])])
        assert rest([user([cited, "x"])]) == rest([user([text("hi", citations=["a"]), "x"])])

    def test_private_attributes_do_not_matter(self) -> None:
        """What an object keeps for itself says nothing about the conversation."""
        one = SimpleNamespace(role="user", content="a", _client=object())
        assert rest([one, user("b")]) == rest([user("a"), user("b")])

    def test_a_role_may_be_an_enum_of_text(self) -> None:
        """Libraries that name roles by an enum of str are understood."""
        assert split([Message(Role.USER, "hi")]).semantic

    @pytest.mark.needs("pydantic")
    def test_pydantic_messages_are_their_fields(self) -> None:
        """A client library's own message objects are understood, extra fields and all."""
        import pydantic

        class Turn(pydantic.BaseModel):
            model_config = {"extra": "allow"}
            role: str
            content: str | None = None
            audio: str | None = None

        asked = [Turn(role="assistant", content="hi"), user("yes")]
        assert rest(asked) == rest([assistant("hi"), user("yes")])
        kinds = [{"audio": "a"}, {"audio": "b"}, {"thinking": "a"}, {"thinking": "b"}]
        assert len({rest([Turn(role="assistant", **more), user("yes")]) for more in kinds}) == 4


class TestAreMessages:
    @pytest.mark.parametrize(
        "value",
        [
            [user("hi")],
            (SYSTEM, user("hi")),
            [{"role": "user"}],
            [MappingProxyType(user("hi"))],
            [Message("user", "hi"), user("hi")],
        ],
    )
    def test_a_list_of_roles_is_a_conversation(self, value: Any) -> None:
        """Lists and tuples whose every item has a role are messages."""
        assert are_messages(value)

    @pytest.mark.parametrize(
        "value",
        [
            "user",
            ["user"],
            [],
            (),
            None,
            user("hi"),
            [user("hi"), "and"],
            [{"content": "hi"}],
            [{"role": None}],
            [1],
            {1: user("hi")},
        ],
    )
    def test_anything_else_is_none(self, value: Any) -> None:
        """Text, empty lists and lists of other things are no messages."""
        assert not are_messages(value)

    @pytest.mark.parametrize(
        ("bad", "kind"), [("hi", "str"), ({"content": "x"}, "dict"), ({"role": 1}, "dict")]
    )
    def test_an_item_without_a_role_is_named(self, bad: Any, kind: str) -> None:
        """The message says which item is no chat message, and what one is."""
        with pytest.raises(
            TypeError, match=rf"^messages\[1\] is {kind}, not a chat message"
        ) as exc:
            split([user("hi"), bad])
        assert str(exc.value).endswith("or an object with these attributes.")


def test_a_mapping_of_any_kind_is_read() -> None:
    """A message need not be a dict."""

    class Lazy(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            return user("hi")[key]

        def __iter__(self) -> Any:
            return iter(user("hi"))

        def __len__(self) -> int:
            return 2

    assert split([Lazy()]).prompt == "hi"
