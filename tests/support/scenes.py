"""A place for a scenario: world, clock, embedder and store, and a transcript of what happened."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from support.embedders import spy_for
from support.engines import own_name
from support.engines_in_memory import MemoryEngine
from support.worlds import WORLDS, World, settled

from mneme import AsyncSemanticCache, MemoryStore, SemanticCache
from mneme.testing import ManualClock
from mneme.types import Store

StoreKind = Literal["memory", "sqlite", "lean", "engine"]
IN_PROCESS: tuple[StoreKind, ...] = ("memory", "sqlite", "lean")
"""
Stores whose entries are all in memory, which therefore knows at once what has become of them:
``"lean"`` is a file in which the answers stay.
"""
STORES: tuple[StoreKind, ...] = (*IN_PROCESS, "engine")


Opens = Callable[[str], Store]


class Face:
    """A cache whose every method is awaited, whichever face it has; outcomes are noted."""

    def __init__(self, cache: SemanticCache | AsyncSemanticCache, note: Callable[..., None]):
        self.cache = cache
        self._note = note

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        method = getattr(self.cache, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            try:
                outcome = await settled(method(*args, **kwargs))
            except Exception as exc:
                self._note(name, exc)
                raise
            self._note(name, outcome)
            return outcome

        return call


class Scene:
    """
    What one scenario has in one world.

    Caches opened in it share a clock, an embedder, a metrics hook and one store, which
    outlives them. On a server each has a client of its own: what `opens` makes, given a name
    that only this scene has.
    """

    def __init__(
        self, world: World, kind: StoreKind, place: Path, opens: Opens | None = None
    ) -> None:
        self.world = world
        self.kind = kind
        self._opens = opens
        self.clock = ManualClock()
        self.embedder = spy_for(world)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.transcript: list[tuple[str, Any]] = []
        self._folder = place / f"{world}-{kind}"
        self._folder.mkdir(parents=True)
        self.path = self._folder / "cache.db" if kind in ("sqlite", "lean") else None
        self._name = own_name(self._folder)
        makes = {"memory": MemoryStore, "engine": MemoryEngine}.get(kind)
        self.store = None if makes is None else makes()
        self.durability = "group"
        """Of a file; with ``"commit"`` the other cache of a scenario sees at once what was put."""

    def note(self, name: str, outcome: Any) -> None:
        """Write down what must be equal in all worlds."""
        if isinstance(outcome, BaseException):
            said = str(outcome).replace(str(self._folder), "").replace(self._name, "")
            outcome = type(outcome).__name__, re.sub("0x[0-9a-f]+", "0x", said)
        elif isinstance(outcome, SemanticCache | AsyncSemanticCache):
            outcome = "a cache"
        self.transcript.append((name, outcome))

    def make(self, **settings: Any) -> SemanticCache | AsyncSemanticCache:
        """A cache of this world on the scene's store, without an owner."""
        settings.setdefault("similarity_threshold", 0.8)
        # Scenarios reword by moving words around, which guards may find suspicious.
        settings.setdefault("guards", ())
        if self.path is not None:
            settings.setdefault("durability", self.durability)
        if self.kind == "lean":
            settings.setdefault("answers", "store")
        # Scenarios count what is embedded.
        settings.setdefault("self_check", False)
        return self.world.open(
            self.path,
            **{
                "store": self.store if self._opens is None else self._opens(self._name),
                "embedder": self.embedder,
                "clock": self.clock,
                "metrics_hook": lambda event, attrs: self.events.append((event, dict(attrs))),
                **settings,
            },
        )

    @asynccontextmanager
    async def cache(self, **settings: Any) -> AsyncIterator[Face]:
        """A cache that is open in the block."""
        cache = self.make(**settings)
        if isinstance(cache, AsyncSemanticCache):
            async with cache:
                yield Face(cache, self.note)
        else:
            with cache:
                yield Face(cache, self.note)

    async def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """What a decorated function of this world, or a method of one, gives; noted."""
        try:
            outcome = await settled(function(*args, **kwargs))
        except Exception as exc:
            self.note("call", exc)
            raise
        self.note("call", outcome)
        return outcome

    def heard(self, event: str) -> list[dict[str, Any]]:
        """The attributes of every `event` that the metrics hook got."""
        return [attrs for name, attrs in self.events if name == event]


Scenario = Callable[[Scene], Coroutine[Any, Any, None]]


def everywhere(*stores: StoreKind) -> Callable[[Scenario], Callable[[StoreKind, Path], None]]:
    """
    Make a test of a scenario: it runs in every world over each of `stores` (default: all),
    and must come to the same transcript of outcomes and events in all worlds.
    """

    def make(scenario: Scenario) -> Callable[[StoreKind, Path], None]:
        @pytest.mark.parametrize("kind", stores or STORES)
        def test(kind: StoreKind, tmp_path: Path) -> None:
            play(scenario, kind, tmp_path)

        test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
        if "engine" in (stores or STORES):
            # What `on_engines` finds.
            test.scenario = scenario  # type: ignore[attr-defined]
        return test

    return make


def on_engines(*modules: ModuleType) -> list[Scenario]:
    """The scenarios of `modules` that are told over an engine in memory."""
    found = (getattr(test, "scenario", None) for one in modules for test in vars(one).values())
    return [scenario for scenario in found if scenario is not None]


def play(scenario: Scenario, kind: StoreKind, place: Path, opens: Opens | None = None) -> None:
    """Run `scenario` in every world, each of which must come to the same transcript."""
    transcripts: list[list[tuple[str, Any]]] = []
    for world in WORLDS:
        scene = Scene(world, kind, place, opens)
        world.run(scenario, scene)
        transcripts.append([*scene.transcript, ("events", scene.events)])
    model, *others = transcripts
    for world, transcript in zip(WORLDS[1:], others, strict=True):
        for expected, found in zip(model, transcript, strict=True):
            assert found == expected, f"{world} differs from {WORLDS[0]}"
