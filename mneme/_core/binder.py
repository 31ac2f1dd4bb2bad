"""
From a call's arguments to prompt, rest and namespace, by code made once for the signature.

``Signature.bind`` costs several microseconds a call; a function with the same parameters
whose body is one ``return`` lets the interpreter do the binding, defaults and error messages
included. The source is made of parameter names alone, never of values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

__all__ = ["Binder", "make_binder"]

Bound = tuple[Any, tuple[Any, ...], Any]
"""Prompt, the values of the rest, and what the namespace callable said (else ``None``)."""


@dataclass(frozen=True, slots=True)
class Binder:
    """``bind(*args, **kwargs)`` gives `Bound`; ``rest`` names the values of the rest."""

    bind: Callable[..., Bound]
    rest: tuple[str, ...]
    picks: bool
    """Whether the prompt is picked by a callable, so that it may stand inside the rest."""
    has_self: bool
    """Whether the first of the rest is the instance that a method is called on."""


def make_binder(
    function: Callable[..., Any],
    *,
    prompt: str | Callable[..., Any] | None = None,
    ignore: Collection[str] = (),
    namespace: Callable[..., Any] | None = None,
) -> Binder:
    """
    The binder of `function`'s signature.

    Raises:
        TypeError: it is not clear which parameter is the prompt, or a name is unknown; the
            message lists the parameters.
    """
    parameters = inspect.signature(function).parameters
    name = getattr(function, "__qualname__", repr(function))
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    if isinstance(ignore, str):
        raise TypeError(f"ignore= takes a list of names, got the text {ignore!r}.")
    if not takes_any and (unknown := sorted(set(ignore) - parameters.keys())):
        raise TypeError(
            f"{name}: ignore= names {', '.join(unknown)}, which is no parameter. "
            f"Its parameters are: {_listed(parameters)}."
        )
    scope: dict[str, Any] = {"_mneme_without": _without}
    if prompt is None or isinstance(prompt, str):
        asked = _prompt_parameter(name, parameters, prompt, ignore)
        wanted = asked
    else:
        asked = None
        scope["_mneme_prompt"] = prompt
        wanted = _call_of("_mneme_prompt", prompt, name, parameters)
    rest = tuple(p for p in parameters if p != asked and p not in ignore)
    values = [_value_of(parameters[p], ignore, scope) for p in rest]
    space = "None"
    if namespace is not None:
        scope["_mneme_namespace"] = namespace
        space = _call_of("_mneme_namespace", namespace, name, parameters)
    body = f"return {wanted}, ({''.join(value + ', ' for value in values)}), {space}"
    source = f"def bind({_parameters_of(parameters, scope)}):\n    {body}\n"
    exec(source, scope)
    bind = scope["bind"]
    # So that a wrong call reads as it would without the decorator.
    bind.__name__ = getattr(function, "__name__", "function")
    bind.__qualname__ = name
    has_self = bool(rest) and rest[0] == "self" == next(iter(parameters))
    return Binder(bind, rest, picks=asked is None, has_self=has_self)


def _prompt_parameter(
    name: str, parameters: Mapping[str, Parameter], wanted: str | None, ignore: Collection[str]
) -> str:
    variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    single = {p: q for p, q in parameters.items() if q.kind not in variadic}
    if wanted is not None:
        if wanted not in single:
            raise TypeError(
                f"{name}: prompt={wanted!r} is no parameter that holds one value. "
                f"Its parameters are: {_listed(parameters)}."
            )
        if wanted in ignore:
            raise TypeError(f"{name}: {wanted!r} cannot be both the prompt and ignored.")
        return wanted
    if "prompt" in single and "prompt" not in ignore:
        return "prompt"
    own = {p for at, p in enumerate(parameters) if at == 0 and p in ("self", "cls")}
    eligible = [p for p in parameters if p not in own and p not in ignore]
    if len(eligible) == 1 and eligible[0] in single:
        return eligible[0]
    raise TypeError(
        f"{name}: it is not clear which parameter is the prompt. "
        f"Its parameters are: {_listed(parameters)}. Name it with prompt='...'."
    )


def _call_of(
    alias: str, chosen: Callable[..., Any], name: str, parameters: Mapping[str, Parameter]
) -> str:
    """
    Source that calls `chosen` with the arguments it names; one parameter of another name
    gets all of them as a mapping, ``**`` all of them by name.
    """
    everything = ", ".join(f"{p!r}: {p}" for p in parameters)
    try:
        own = inspect.signature(chosen).parameters
    except ValueError:  # a builtin that does not say what it takes
        return f"{alias}({{{everything}}})"
    if any(q.kind is Parameter.VAR_KEYWORD for q in own.values()):
        return f"{alias}(**{{{everything}}})"
    named = [p for p, q in own.items() if q.kind is not Parameter.VAR_POSITIONAL]
    required = [p for p in named if own[p].default is Parameter.empty]
    known = [p for p in named if p in parameters]
    if known and all(p in parameters for p in required):
        given = [p if own[p].kind is Parameter.POSITIONAL_ONLY else f"{p}={p}" for p in known]
        return f"{alias}({', '.join(given)})"
    # One value by position: a parameter of its own, or ``*`` alone.
    wanted = required if named else list(own)
    if len(wanted) == 1 and own[wanted[0]].kind is not Parameter.KEYWORD_ONLY:
        return f"{alias}({{{everything}}})"
    raise TypeError(
        f"{name}: the callable for {alias.removeprefix('_mneme_')} takes ({', '.join(own)}), which "
        f"are not parameters. Name some of: {_listed(parameters)}; or take one mapping of all."
    )


def _value_of(parameter: Parameter, ignore: Collection[str], scope: dict[str, Any]) -> str:
    if parameter.kind is Parameter.VAR_KEYWORD and ignore:
        scope["_mneme_ignored"] = frozenset(ignore)
        return f"_mneme_without({parameter.name}, _mneme_ignored)"
    return parameter.name


def _without(given: dict[str, Any], ignored: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in ignored}


def _parameters_of(parameters: Mapping[str, Parameter], scope: dict[str, Any]) -> str:
    parts: list[str] = []
    kinds = [p.kind for p in parameters.values()]
    starred = False
    for at, (name, parameter) in enumerate(parameters.items()):
        kind = parameter.kind
        if kind is Parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        text = name
        if kind is Parameter.VAR_POSITIONAL:
            text, starred = f"*{name}", True
        elif kind is Parameter.VAR_KEYWORD:
            text = f"**{name}"
        elif parameter.default is not Parameter.empty:
            scope[f"_mneme_default_{at}"] = parameter.default
            text = f"{name}=_mneme_default_{at}"
        parts.append(text)
        is_last = at + 1 == len(kinds)
        if kind is Parameter.POSITIONAL_ONLY and (
            is_last or kinds[at + 1] is not Parameter.POSITIONAL_ONLY
        ):
            parts.append("/")
    return ", ".join(parts)


def _listed(parameters: Mapping[str, Parameter]) -> str:
    return ", ".join(parameters) or "none"
