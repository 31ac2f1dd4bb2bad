"""From a call's arguments to prompt, rest and namespace."""

from __future__ import annotations

import functools
import inspect
import keyword
import operator
import re
from collections.abc import Callable
from inspect import Parameter
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mneme._core.binder import make_binder

NAMES = ["prompt", "self", "a", "b", "c", "args", "kwargs", "bind", "größe", "_mneme"]
DEFAULT = object()


@st.composite
def signatures(draw: st.DrawFn) -> str:
    """The parameters of a function as one writes them, with at least one that holds one value."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    kinds = sorted(draw(st.lists(st.integers(0, 4), min_size=len(names), max_size=len(names))))
    parts: list[str] = []
    starred = optional = False
    for at, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        if kind == Parameter.VAR_POSITIONAL:
            # One of each star at most.
            assume(not starred)
            starred = True
            parts.append(f"*{name}")
            continue
        if kind == Parameter.VAR_KEYWORD:
            assume(at == len(names) - 1)
            parts.append(f"**{name}")
            continue
        if kind == Parameter.KEYWORD_ONLY and not starred:
            starred = True
            parts.append("*")
        has_default = draw(st.booleans()) or (optional and kind != Parameter.KEYWORD_ONLY)
        optional = optional or has_default
        parts.append(f"{name}=DEFAULT" if has_default else name)
        if kind == Parameter.POSITIONAL_ONLY and kinds[at + 1 : at + 2] != [kind]:
            parts.append("/")
    assume(any(kind in (0, 1, 3) for kind in kinds))
    return ", ".join(parts)


def defined(source: str) -> Callable[..., Any]:
    """A function with these parameters that gives what they are bound to, by name."""
    scope: dict[str, Any] = {"DEFAULT": DEFAULT}
    body = f"def asked({source}): return locals()"
    exec(f"def outer():\n    {body}\n    return asked\nasked = outer()", scope)
    return scope["asked"]  # type: ignore[no-any-return]


def single(function: Callable[..., Any]) -> list[str]:
    kinds = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters
    return [name for name, one in parameters.items() if one.kind not in kinds]


CALLS = st.tuples(
    st.lists(st.integers(), max_size=5),
    st.dictionaries(st.sampled_from([*NAMES, "other"]), st.integers(), max_size=4),
)


class TestBinding:
    @settings(max_examples=300)
    @given(signatures(), CALLS, st.data())
    def test_it_agrees_with_python(
        self, source: str, call: tuple[list[int], dict[str, int]], data: st.DataObject
    ) -> None:
        """For any signature and call, Python itself would bind the same, or raise the same."""
        function = defined(source)
        args, kwargs = call
        signature = inspect.signature(function)
        prompt = data.draw(st.sampled_from(single(function)))
        ignore = data.draw(st.sets(st.sampled_from(list(signature.parameters))))
        ignore -= {prompt}
        takes_any = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())
        if takes_any and data.draw(st.booleans()):
            ignore.add("other")
        binder = make_binder(function, prompt=prompt, ignore=ignore)
        assert binder.rest == tuple(
            name for name in signature.parameters if name not in {prompt} | ignore
        )
        assert not binder.picks
        # Not inspect's `bind`, which refuses some calls with positional-only names in ``**``.
        try:
            bound = function(*args, **kwargs)
        except TypeError as exc:
            with pytest.raises(TypeError, match=re.escape(str(exc))):
                binder.bind(*args, **kwargs)
            return
        wanted = {
            name: {key: one for key, one in value.items() if key not in ignore}
            if signature.parameters[name].kind is Parameter.VAR_KEYWORD
            else value
            for name, value in bound.items()
        }
        found, rest, namespace = binder.bind(*args, **kwargs)
        assert found is wanted[prompt]
        assert rest == tuple(wanted[name] for name in binder.rest)
        assert all(one is wanted[name] for one, name in zip(rest, binder.rest, strict=True)
                   if wanted[name] is DEFAULT)  # fmt: skip
        assert namespace is None

    def test_defaults_are_the_functions_own(self) -> None:
        """A default is handed on as it is, whatever its repr."""

        def ask(prompt: str, client: object = DEFAULT) -> None: ...

        assert make_binder(ask).bind("hi") == ("hi", (DEFAULT,), None)

    def test_private_parameters_of_methods_are_bound(self) -> None:
        """A name that Python mangles is bound by its mangled name, as Python itself does."""

        class Model:
            def ask(self, prompt: str, *, __seed: int = 1) -> None: ...

        binder = make_binder(Model.ask)
        assert binder.rest == ("self", "_Model__seed")
        model = Model()
        assert binder.bind(model, "hi", _Model__seed=2) == ("hi", (model, 2), None)

    def test_a_wrapped_function_is_bound_by_what_it_shows(self) -> None:
        """A decorator that keeps the signature is seen through."""

        def ask(prompt: str, *, n: int = 1) -> None: ...

        @functools.wraps(ask)
        def wrapper(*args: Any, **kwargs: Any) -> None: ...

        assert make_binder(wrapper).bind("hi", n=2) == ("hi", (2,), None)

    def test_a_partial_is_bound_without_what_it_has(self) -> None:
        """What was filled in beforehand is a default like any other."""

        def ask(model: str, prompt: str, *, n: int) -> None: ...

        binder = make_binder(functools.partial(ask, "m", n=3))
        assert binder.bind("hi") == ("hi", (3,), None)
        assert binder.bind("hi", n=4) == ("hi", (4,), None)

    def test_a_callable_object_is_bound(self) -> None:
        """An instance with ``__call__`` is a function without its ``self``."""

        class Model:
            def __call__(self, prompt: str, n: int = 1) -> None: ...

        binder = make_binder(Model())
        assert binder.bind("hi") == ("hi", (1,), None)
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'prompt'"):
            binder.bind()


class TestPrompt:
    @pytest.mark.parametrize(
        ("source", "ignore", "prompt"),
        [
            ("prompt", (), "prompt"),
            ("prompt, other", (), "prompt"),
            ("self, prompt", (), "prompt"),
            ("*, prompt, n=1", (), "prompt"),
            ("n, /, prompt", (), "prompt"),
            ("prompt, *args, **kwargs", (), "prompt"),
            ("question", (), "question"),
            ("self, question", (), "question"),
            ("cls, question", (), "question"),
            ("client, question", ("client",), "question"),
            ("self, client, question", ("client",), "question"),
            ("question, prompt", ("prompt",), "question"),
            ("question, **options", ("options",), "question"),
            ("question, *args", ("args",), "question"),
        ],
    )
    def test_it_is_the_one_called_prompt_or_the_only_one(
        self, source: str, ignore: tuple[str, ...], prompt: str
    ) -> None:
        """`prompt`, else the only parameter that is neither `self` nor ignored."""
        binder = make_binder(defined(source), ignore=ignore)
        names = inspect.signature(defined(source)).parameters
        assert binder.rest == tuple(n for n in names if n != prompt and n not in ignore)

    @pytest.mark.parametrize(
        ("source", "ignore"),
        [
            ("", ()),
            ("self", ()),
            ("a, b", ()),
            ("self, a, b", ()),
            ("a, self", ()),
            ("*args", ()),
            ("**kwargs", ()),
            ("*prompt", ()),
            ("a, **prompt", ()),
            ("a, *args", ()),
            ("a, **kwargs", ()),
            ("prompt", ("prompt",)),
            ("a, b, prompt", ("prompt",)),
        ],
    )
    def test_what_is_ambiguous_is_refused(self, source: str, ignore: tuple[str, ...]) -> None:
        """Where the prompt is not clear, the message lists the parameters and says what to do."""
        with pytest.raises(TypeError, match="it is not clear which parameter is the prompt") as exc:
            make_binder(defined(source), ignore=ignore)
        listed = ", ".join(inspect.signature(defined(source)).parameters) or "none"
        assert str(exc.value).startswith("outer.<locals>.asked: ")
        assert str(exc.value).endswith(f"are: {listed}. Name it with prompt='...'.")

    @pytest.mark.parametrize("name", ["nothing", "args", "kwargs", ""])
    def test_a_name_that_holds_no_single_value_is_refused(self, name: str) -> None:
        """`prompt=` names one parameter that holds one value; the message lists them all."""
        with pytest.raises(TypeError, match="is no parameter that holds one value") as refused:
            make_binder(defined("a, *args, b=1, **kwargs"), prompt=name)
        assert str(refused.value).endswith("Its parameters are: a, args, b, kwargs.")

    def test_the_prompt_is_not_ignored(self) -> None:
        """One parameter cannot be both what is asked and what does not matter."""
        with pytest.raises(TypeError, match="'a' cannot be both the prompt and ignored"):
            make_binder(defined("a, b"), prompt="a", ignore=["a"])

    def test_any_parameter_may_be_named(self) -> None:
        """A named parameter is the prompt even beside one called `prompt`, which is then rest."""
        binder = make_binder(defined("prompt, other"), prompt="other")
        assert binder.bind("a", "b") == ("b", ("a",), None)


class TestIgnore:
    def test_names_are_a_list(self) -> None:
        """One text is not taken for a list of letters."""
        with pytest.raises(TypeError, match="takes a list of names, got the text 'ab'"):
            make_binder(defined("prompt, a, b"), ignore="ab")

    def test_unknown_names_are_refused(self) -> None:
        """A misspelt name is refused, and the message lists the parameters."""
        with pytest.raises(TypeError, match="names clent, x, which is no parameter") as refused:
            make_binder(defined("prompt, client"), ignore=["x", "clent", "client"])
        assert str(refused.value).endswith("Its parameters are: prompt, client.")

    def test_what_comes_by_any_name_may_be_ignored(self) -> None:
        """A function that takes any keyword may be told which of them do not matter."""
        binder = make_binder(defined("prompt, **options"), ignore=["trace", "client"])
        given = {"trace": 1, "n": 2}
        assert binder.bind("hi", **given) == ("hi", ({"n": 2},), None)
        assert given == {"trace": 1, "n": 2}


class TestSelf:
    @pytest.mark.parametrize(
        ("source", "ignore", "has_self"),
        [
            ("self, prompt", (), True),
            ("self, prompt", ("self",), False),
            ("cls, prompt", (), False),
            ("prompt, self", (), False),
            ("this, prompt", (), False),
        ],
    )
    def test_the_instance_is_the_first_called_self(
        self, source: str, ignore: tuple[str, ...], has_self: bool
    ) -> None:
        """A method's instance is known by its name and place, and is gone when ignored."""
        assert make_binder(defined(source), ignore=ignore).has_self is has_self


class Box:
    """Callables of kinds that a lambda is not."""

    def method(self, request: Any) -> Any:
        return request

    def __call__(self, request: Any) -> Any:
        return request


def by_position(request: Any, /) -> Any:
    return request


def with_default(request: Any, missing: int = 7) -> Any:
    return request, missing


def all_optional(request: Any = None, missing: int = 7) -> Any:
    return request, missing


def with_star(request: Any, *others: Any) -> Any:
    return request, others


def by_name(*, request: Any, n: Any) -> Any:
    return request, n


EVERYTHING = {"request": "r", "n": 1, "more": (), "options": {"k": 2}}


class TestCallables:
    @pytest.mark.parametrize(
        ("chosen", "expected"),
        [
            (lambda request: request, "r"),
            (lambda n, request: (request, n), ("r", 1)),
            (lambda options: options, {"k": 2}),
            (lambda arguments: arguments, EVERYTHING),
            (lambda arguments, /: arguments, EVERYTHING),
            (lambda *arguments: arguments, (EVERYTHING,)),
            (lambda **arguments: arguments, EVERYTHING),
            (lambda request, **arguments: (request, arguments["n"]), ("r", 1)),
            (lambda *more: more, (EVERYTHING,)),
            (lambda arguments, missing=3: (arguments, missing), (EVERYTHING, 3)),
            (Box().method, "r"),
            (Box(), "r"),
            (by_position, "r"),
            (with_default, ("r", 7)),
            (all_optional, ("r", 7)),
            (with_star, ("r", ())),
            (by_name, ("r", 1)),
            (functools.partial(by_name, n=5), ("r", 1)),
        ],
    )
    def test_it_gets_what_it_names(self, chosen: Callable[..., Any], expected: Any) -> None:
        """The arguments it names; one of another name gets them all; ``**`` gets all by name."""
        function = defined("request, n=1, *more, **options")
        asked = make_binder(function, prompt=chosen)
        assert asked.bind("r", k=2) == (expected, ("r", 1, (), {"k": 2}), None)
        spaced = make_binder(function, prompt="request", namespace=chosen)
        assert spaced.bind("r", k=2) == ("r", (1, (), {"k": 2}), expected)

    @pytest.mark.parametrize("place", ["prompt", "namespace"])
    @pytest.mark.parametrize(
        "chosen", [lambda: 1, lambda a, b: a, lambda request, b: b, lambda *, a: a, lambda a=1: a]
    )
    def test_what_names_no_parameters_is_refused(
        self, chosen: Callable[..., Any], place: str
    ) -> None:
        """A callable that cannot be called is refused when decorating, with the parameters."""
        given: dict[str, Any] = {"prompt": "request", place: chosen}
        with pytest.raises(TypeError, match=f"the callable for {place} takes") as refused:
            make_binder(defined("request, n"), **given)
        assert "Name some of: request, n; or take one mapping of all." in str(refused.value)

    def test_what_shows_no_parameters_gets_the_mapping(self) -> None:
        """A builtin that does not say what it takes gets all arguments as one mapping."""
        binder = make_binder(defined("request, n"), prompt=operator.itemgetter("n", "request"))
        assert binder.bind(1, 2)[0] == (2, 1)

    def test_the_prompt_may_be_picked_by_one_and_the_namespace_by_another(self) -> None:
        """Both callables see all arguments, ignored ones and `self` included."""
        binder = make_binder(
            defined("self, request, client"),
            prompt=lambda request: request["q"],
            namespace=lambda client, self: f"{self}-{client}",
            ignore=["client"],
        )
        assert binder.picks
        assert binder.has_self
        assert binder.bind("me", {"q": "hi"}, "c") == ("hi", ("me", {"q": "hi"}), "me-c")

    def test_what_it_raises_passes(self) -> None:
        """An error of the callable is the caller's to see."""
        binder = make_binder(defined("request"), prompt=lambda request: request["q"])
        with pytest.raises(KeyError):
            binder.bind({})


def test_no_value_is_ever_part_of_the_source() -> None:
    """Names that look like code cannot be parameters, and nothing else is compiled."""
    assert all(name.isidentifier() and not keyword.iskeyword(name) for name in NAMES)
    tricky = "'); raise SystemExit('"
    function = defined("prompt, a=DEFAULT")
    function.__name__ = function.__qualname__ = tricky
    assert make_binder(function).bind(tricky, a=tricky) == (tricky, (tricky,), None)
    with pytest.raises(TypeError, match="raise SystemExit") as refused:
        make_binder(function).bind()
    assert str(refused.value).startswith(tricky)
