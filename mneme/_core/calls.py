"""One decorated function: from a call to its `Ask`, and through the flow in its own world."""

from __future__ import annotations

import copy
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import uuid4

from mneme import context
from mneme._core import flow
from mneme._core.binder import Binder
from mneme._core.core import Core
from mneme._core.judge import Judge
from mneme._core.keys import (
    Ask,
    Counts,
    NoStableForm,
    Rewriting,
    Unaskable,
    canonical,
    check_namespace,
    partition_of,
)
from mneme._core.messages import are_messages, split, without_turns
from mneme._core.ports import BlockingPort, LoopPort, drive
from mneme._core.through import through
from mneme.codecs import AutoCodec
from mneme.records import Entry, Explanation, Hit, Miss, Partition, Selection, Terms
from mneme.types import Codec, Rewrite

__all__ = ["AsyncCalls", "Calls"]

SIMPLE = frozenset((str, int, float, bool, bytes, type(None)))
"""Types whose values are equal exactly when their canonical forms are, type for type."""

MAX_REMEMBERED_PARTITIONS = 4_096

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Function = Callable[..., Any]


class _Stopped(Exception):
    """Carries a `StopIteration` of the user's through a coroutine, which may not raise one."""

    def __init__(self, original: StopIteration) -> None:
        super().__init__(original)
        self.original = original


@dataclass(frozen=True, kw_only=True)
class _Calls:
    """
    What calls of every kind share.

    ``args`` are those of the plain function, with ``self`` or ``cls`` where there is one;
    the `Function` that is handed in is already bound and takes ``args[bound:]``.
    """

    core: Core
    name: str
    identity: tuple[object, ...]
    binder: Binder
    codec: Codec
    namespace: str | Function | None
    threshold: float | None
    judge: Judge | None
    rewrite: Rewrite | None
    terms: Terms
    cache_if: Callable[[Any], bool] | None
    single_flight: bool
    patience: float | None
    tag: str
    counts: Counts = field(default_factory=Counts)
    partitions: dict[tuple[object, ...], Partition] = field(default_factory=dict)

    def ask(self, args: Args, kwargs: Kwargs) -> Ask:
        """
        The question that this call asks.

        Raises:
            TypeError: the call does not fit the signature, or an argument has no stable form.
            Unaskable: (a `ValueError`) the prompt is blank or too long.
        """
        prompt, values, named = self.binder.bind(*args, **kwargs)
        if self.namespace is None:
            namespace = self.core.namespace()
        elif isinstance(self.namespace, str):
            namespace = self.namespace
        else:
            namespace = check_namespace(named)
        semantic = True
        messages = None
        if type(prompt) is not str and are_messages(prompt):
            messages, asked = prompt, split(prompt)
            prompt, semantic = asked.prompt, asked.semantic
            partition = self._told_partition(namespace, values, asked.rest, prompt)
        elif self.binder.picks or not SIMPLE.issuperset(map(type, values)):
            picked = prompt if self.binder.picks else None
            partition = self._partition(namespace, values, self.binder.rest, picked)
        else:
            partition = self._known_partition(namespace, values)
        ask = self._asked(prompt, namespace, partition, semantic=semantic)
        if messages is not None and semantic and self.rewrite is not None:
            ask.rewriting = self._rewriting(self.rewrite, messages, namespace, values)
        return ask

    def _asked(
        self, prompt: object, namespace: str, partition: Partition, *, semantic: bool = True
    ) -> Ask:
        try:
            return self.core.ask(
                prompt,
                namespace,
                partition=partition,
                codec=self.codec,
                threshold=self.threshold,
                semantic=semantic,
                counts=self.counts,
                judge=self.judge,
            )
        except Unaskable as exc:
            exc.namespace = namespace
            raise

    def _told_partition(
        self, namespace: str, values: Args, conversation: object, prompt: object
    ) -> Partition:
        names = (*self.binder.rest, "messages")
        picked = str(prompt) if self.binder.picks else None
        return self._partition(namespace, (*values, conversation), names, picked)

    def _rewriting(
        self, rewrite: Rewrite, messages: Any, namespace: str, values: Args
    ) -> Rewriting | None:
        """How this conversation's last turn may be asked outside it; None if it has no earlier."""
        conversation = without_turns(messages)
        if conversation is None:
            return None

        def ask(text: str) -> Ask:
            partition = self._told_partition(namespace, values, conversation, text)
            return self._asked(text, namespace, partition)

        return Rewriting(rewrite, messages, ask)

    def ask_or_pass(self, args: Args, kwargs: Kwargs) -> Ask | None:
        """The question, or None where the function is to be called without the cache."""
        self.core.check_open()
        try:
            return self.ask(args, kwargs)
        except Unaskable as exc:
            self.core.told_uncacheable(exc.namespace)
            return None

    @property
    def mine(self) -> Selection:
        """The entries of this function, in all namespaces."""
        return Selection(tag=self.tag)

    def size(self) -> int:
        return self.core.count_where(self.mine)

    @cached_property
    def _is_plain(self) -> bool:
        """Whether a call can be told by its prompt and simple arguments, and text is its answer."""
        return (
            not callable(self.namespace)
            and not self.binder.picks
            and type(self.codec) is AutoCodec
            and (self.judge is None or not self.judge.shadows)
        )

    def quick(self, args: Args, kwargs: Kwargs) -> Entry | None:
        """The entry that answers the call as it stands; None: it takes a question to tell."""
        if not self._is_plain:
            return None
        prompt, values, _ = self.binder.bind(*args, **kwargs)
        core = self.core
        namespace: Any = self.namespace or context.current_namespace.get() or core.usual_namespace
        try:
            partition = self.partitions.get((namespace, values, *map(type, values)))
        except TypeError:
            # An argument without a hash.
            return None
        if partition is None:
            return None
        return core.plain_entry(namespace, partition, prompt, self.counts)

    def _known_partition(self, namespace: str, values: Args) -> Partition:
        # With their types: 1, 1.0 and True are one key to a dict and three calls to a model.
        call = (namespace, values, *map(type, values))
        partition = self.partitions.get(call)
        if partition is None:
            partition = self._partition(namespace, values, self.binder.rest)
            if len(self.partitions) >= MAX_REMEMBERED_PARTITIONS:
                self.partitions.clear()
            self.partitions[call] = partition
        return partition

    def _partition(
        self, namespace: str, values: Args, names: tuple[str, ...], prompt: str | None = None
    ) -> Partition:
        if self.binder.has_self:
            values = (_form_of_self(values[0]), *values[1:])
        try:
            return partition_of(namespace, self.identity, *values, names=names, prompt=prompt)
        except NoStableForm as exc:
            argument = exc.path.partition(".")[0].partition("[")[0]
            raise TypeError(
                f"{self.name}: the argument {exc}, so it cannot tell one call from another. "
                f"The function was not called. Leave it out with ignore=({argument!r},), or "
                "give its class a __mneme_key__ method that says what matters about it."
            ) from None


@dataclass(frozen=True, kw_only=True)
class Calls(_Calls):
    """Calls of a ``def``, generator or not, in the calling thread."""

    port: BlockingPort

    def run(self, function: Function, bound: int, args: Args, kwargs: Kwargs) -> Any:
        entry = self.quick(args, kwargs)
        if entry is not None:
            return entry.payload.data
        ask = self.ask_or_pass(args, kwargs)
        own = args[bound:] if bound else args
        if ask is None:
            return function(*own, **kwargs)
        if (hit := self.core.at_hand(ask)) is not None:
            return hit.response

        async def call() -> Any:
            try:
                return function(*own, **kwargs)
            except StopIteration as exc:
                raise _Stopped(exc) from exc

        try:
            return drive(
                through(
                    self.port,
                    ask,
                    call,
                    self.terms,
                    admit=self.cache_if,
                    single_flight=self.single_flight,
                    patience=self.patience,
                )
            )
        except _Stopped as stopped:
            original = stopped.original
        try:
            # Outside the handler, which would change its cause and context.
            raise original
        finally:
            del original

    def stream(self, function: Function, bound: int, args: Args, kwargs: Kwargs) -> Iterator[Any]:
        ask = self.ask_or_pass(args, kwargs)
        made = function(*args[bound:], **kwargs)
        if ask is None:
            return made  # type: ignore[no-any-return]
        return self._streamed(ask, made, context.current_mode.get())

    def _streamed(
        self, ask: Ask, made: Generator[Any, Any, Any], mode: context.Mode
    ) -> Generator[Any, Any, Any]:
        port = self.port
        # The mode is that of the call: the first item may be asked for outside its block.
        with context.mode(mode):
            found = drive(flow.look(port, ask))
        if isinstance(found, Hit):
            made.close()
            yield from found.response
            return None
        recording = _Recording(self.core.settings.max_response_bytes)
        with closing(made):
            while True:
                try:
                    item = next(made)
                except StopIteration as end:
                    returned = end.value
                    break
                recording.add(item)
                yield item
        if returned is None and _keeps(self.cache_if, found, recording):
            drive(flow.fill(port, found, recording.items, self.terms))
        return returned

    def lookup(self, args: Args, kwargs: Kwargs) -> Hit | Miss:
        return drive(flow.look(self.port, self.ask(args, kwargs)))

    def explain(self, args: Args, kwargs: Kwargs) -> Explanation:
        return drive(flow.explain(self.port, self.ask(args, kwargs)))

    def invalidate(self, args: Args, kwargs: Kwargs) -> int:
        return self.core.commit((), [self.core.answering(self.ask(args, kwargs).identity)])

    def clear(self) -> None:
        self.core.remove_where(self.mine)
        self.counts.hits = self.counts.misses = 0


@dataclass(frozen=True, kw_only=True)
class AsyncCalls(_Calls):
    """Calls of an ``async def``, generator or not, on the loop that awaits them."""

    port: LoopPort

    async def run(self, function: Function, bound: int, args: Args, kwargs: Kwargs) -> Any:
        entry = self.quick(args, kwargs)
        if entry is not None:
            return entry.payload.data
        ask = self.ask_or_pass(args, kwargs)
        own = args[bound:] if bound else args
        if ask is None:
            return await function(*own, **kwargs)
        if (hit := self.core.at_hand(ask)) is not None:
            return hit.response
        return await through(
            self.port,
            ask,
            lambda: function(*own, **kwargs),
            self.terms,
            admit=self.cache_if,
            single_flight=self.single_flight,
            patience=self.patience,
        )

    def stream(
        self, function: Function, bound: int, args: Args, kwargs: Kwargs
    ) -> AsyncIterator[Any]:
        ask = self.ask_or_pass(args, kwargs)
        made = function(*args[bound:], **kwargs)
        if ask is None:
            return made  # type: ignore[no-any-return]
        return self._streamed(ask, made, context.current_mode.get())

    async def _streamed(
        self, ask: Ask, made: AsyncGenerator[Any, Any], mode: context.Mode
    ) -> AsyncGenerator[Any, None]:
        port = self.port
        with context.mode(mode):
            found = await flow.look(port, ask)
        async with aclosing(made):
            if isinstance(found, Hit):
                for item in found.response:
                    yield item
                return
            recording = _Recording(self.core.settings.max_response_bytes)
            async for item in made:
                recording.add(item)
                yield item
        if _keeps(self.cache_if, found, recording):
            await flow.fill(port, found, recording.items, self.terms)

    async def lookup(self, args: Args, kwargs: Kwargs) -> Hit | Miss:
        return await flow.look(self.port, self.ask(args, kwargs))

    async def explain(self, args: Args, kwargs: Kwargs) -> Explanation:
        return await flow.explain(self.port, self.ask(args, kwargs))

    async def invalidate(self, args: Args, kwargs: Kwargs) -> int:
        identity = self.core.answering(self.ask(args, kwargs).identity)
        return await self.port.commit((), [identity])

    def size(self) -> int:
        return self.core.count_near(self.mine)

    def clear(self) -> None:
        # No waiting on a loop: memory forgets now, the store with the next commit.
        self.core.forget_where(self.mine)
        self.counts.hits = self.counts.misses = 0


class _Recording:
    """The items of a stream, as they were when they passed, up to a limit."""

    def __init__(self, max_bytes: int) -> None:
        self.items: list[Any] = []
        self.is_whole = True
        self._left = max_bytes

    def add(self, item: Any) -> None:
        if not self.is_whole:
            return
        self._left -= len(item) if isinstance(item, (str, bytes)) else 1
        if self._left < 0:
            self.is_whole, self.items = False, []
            return
        # The consumer may change an item after it has it; what was said is what is kept.
        self.items.append(item if type(item) in SIMPLE else copy.deepcopy(item))


def _keeps(cache_if: Callable[[Any], bool] | None, miss: Miss, recording: _Recording) -> bool:
    if miss.reason == "bypass" or not recording.is_whole:
        return False
    return cache_if is None or cache_if(recording.items)


_names: dict[int, tuple[weakref.ref[Any], str]] = {}
"""By id, not by equality: two instances that compare equal are still two."""


def _form_of_self(instance: Any) -> object:
    """
    What tells the instance of a method from others: its value where that is stable, else
    a name of its own for as long as it lives, as `functools.lru_cache` would have it.
    """
    try:
        canonical(instance)
    except NoStableForm:
        return (type(instance), _name_of(instance))
    return instance


def _name_of(instance: Any) -> str:
    number = id(instance)
    known = _names.get(number)
    if known is not None and known[0]() is instance:
        return known[1]
    name = uuid4().hex
    try:
        reference = weakref.ref(instance, lambda _: _names.pop(number, None))
    except TypeError:
        raise TypeError(
            f"{type(instance).__qualname__} instances cannot be told apart: they have neither a "
            "stable form nor weak references. Leave them out with ignore=('self',), or give "
            "the class a __mneme_key__ method that says what matters about it."
        ) from None
    _names[number] = (reference, name)
    return name
