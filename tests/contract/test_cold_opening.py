"""A cache that answers before its entries are in memory says what one that has them all says."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.cold import DIM, MANY, Gate, filled, is_cold, opened, side_file, vectors
from support.cold import warm as warmed
from support.worlds import PATIENCE

from mneme import Hit, Miss, SemanticCache
from mneme._core import flow
from mneme._core.ports import drive
from mneme.records import Selection, Terms
from mneme.stores._sidefile import SideFile
from mneme.stores._sidekeeping import SideKeeper
from mneme.testing import ManualClock

pytestmark = pytest.mark.usefixtures("few_are_many")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.db"


NAMESPACES = ("one", "two", "three")
QUESTIONS = 60


class Traffic:
    """Random puts, replacements, removals and clears; questions have vectors of their own."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.vectors = vectors(3 * QUESTIONS, seed)

    def write(self, cache: SemanticCache, times: int) -> None:
        for _ in range(times):
            kind, at = self.random.random(), self.random.randrange(QUESTIONS)
            namespace = self.random.choice(NAMESPACES)
            if kind < 0.7:
                # Often another vector than before, sometimes a lifetime.
                vector = self.vectors[at + QUESTIONS * self.random.randrange(3)]
                ttl = self.random.choice([None, None, 10.0, 1_000.0])
                answer = f"answer {at} {self.random.random()}"
                cache.put(f"question {at}", answer, embedding=vector, ttl=ttl, namespace=namespace)
            elif kind < 0.97:
                cache.delete(f"question {at}", namespace=namespace)
            else:
                cache.clear_namespace(namespace)


class Close(float):
    """A cosine, equal to one that differs in the last digits."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(float(self) - float(other)) < 1e-5


def _said(cache: SemanticCache, traffic: Traffic) -> list[Any]:
    """What `cache` answers to every question, by its text and by its vector."""
    said: list[Any] = []
    noise = vectors(1, 99)[0] * 0.02
    for namespace in NAMESPACES:
        for at in range(QUESTIONS):
            hit = cache.get(f"question {at}", embedding=-np.ones(DIM), namespace=namespace)
            said.append(None if hit is None else (hit.response, hit.layer, hit.ttl_seconds))
        for at, vector in enumerate(traffic.vectors):
            found = cache.lookup(f"asked {at}", embedding=vector + noise, namespace=namespace)
            if isinstance(found, Hit):
                # Cosines that were added up in another order may differ in the last digits.
                said.append((found.response, found.prompt, Close(found.similarity)))
            else:
                said.append(None)
    return said


@pytest.mark.parametrize("seed", range(6))
def test_it_answers_as_a_warm_one(path: Path, gate: Gate, seed: int) -> None:
    """Whatever was written between the side file and now, and while it is open."""
    traffic, clock = Traffic(seed), ManualClock()
    with opened(path, clock=clock) as cache:
        traffic.write(cache, 400)
        cache.put_many([(f"more {at}", "x") for at in range(MANY)], embeddings=vectors(MANY, 7))
    assert side_file(path).exists()
    with opened(path, clock=clock, scanning=True) as model:
        traffic.write(model, 60)
        clock.advance(11)
        with opened(path, clock=clock) as cold:
            assert is_cold(cold)
            for _ in range(3):
                assert _said(cold, traffic) == _said(model, traffic)
                traffic.write(model, 20)
            assert is_cold(cold)
            gate.open()
            warmed(cold)
            assert _said(cold, traffic) == _said(model, traffic)
            assert cold.stats().entries == model.stats().entries
            traffic.write(model, 20)
            assert _said(cold, traffic) == _said(model, traffic)


@pytest.mark.parametrize(
    "settings",
    [
        {"vector_dtype": "int8"},
        pytest.param({"index_backend": "hnsw"}, marks=pytest.mark.needs("usearch")),
    ],
)
def test_other_indexes_are_filled_from_it(path: Path, gate: Gate, settings: dict[str, Any]) -> None:
    """Where vectors are kept otherwise in memory, they are read from the side file."""
    filled(path)
    with opened(path, **settings) as cache:
        for _ in range(2):
            for at, vector in enumerate(vectors(2 * MANY)):
                found = cache.lookup(f"asked {at}", embedding=vector)
                assert isinstance(found, Hit)
                assert found.response == f"answer {at}"
            gate.open()
            warmed(cache)
            cache._core.aliases.clear()


@pytest.mark.parametrize("durability", ["group", "commit"])
def test_what_is_put_meanwhile_is_found(path: Path, gate: Gate, durability: Any) -> None:
    """By its text and by its vector, in place of what it replaces; once memory is filled too."""
    filled(path)
    new = vectors(1, 5)[0]
    with opened(path, durability=durability, max_entries=2 * MANY) as cache:
        cache.put("new", "answer", embedding=new)
        cache.put("question 3", "another", embedding=-vectors(4)[3])
        for is_filled in (False, True):
            assert is_cold(cache) is not is_filled
            for asked, vector, answer in (
                ("new", None, "answer"),
                ("in other words", new, "answer"),
                ("question 3", None, "another"),
                ("opposite", -vectors(4)[3], "another"),
            ):
                assert cache.get(asked, embedding=vector).response == answer  # type: ignore[union-attr]
            assert cache.get("third", embedding=vectors(4)[3]) is None
            cache._core.aliases.clear()
            assert cache.stats().entries == 2 * MANY + (not is_filled)
            gate.open()
            warmed(cache)
    with opened(path) as cache:
        assert cache.stats().entries == 2 * MANY


def test_what_is_put_after_all_was_forgotten_stays(path: Path, gate: Gate) -> None:
    """It waits until what was there before is forgotten."""
    filled(path)
    with opened(path) as cache:
        cache._core.forget_where(Selection("default"))
        gate.open()
        cache.put("question 1", "another")
        assert not is_cold(cache)
        assert cache.stats().entries == 1


def test_what_is_forgotten_meanwhile_is_not_found(path: Path, gate: Gate) -> None:
    """Neither by its text nor by its vector, nor once memory is filled, nor in the file."""
    filled(path)
    with opened(path) as cache:
        cache._core.forget_where(Selection("default"))
        assert cache.get("question 1", embedding=vectors(2)[1]) is None
        gate.open()
        warmed(cache)
        assert cache.get("question 1", embedding=vectors(2)[1]) is None
        assert cache.stats().entries == 0
    with opened(path) as cache:
        assert cache.stats().entries == 0


def test_sizes_do_not_wait(path: Path, gate: Gate) -> None:
    """They are counted in the file first of all."""
    filled(path)
    with opened(path) as cache:
        assert cache.stats().entries == 2 * MANY
        assert is_cold(cache)
        assert cache.list_namespaces() == ["default"]
        assert cache.health().healthy


def test_counters_and_closing_do_not_wait(path: Path, gate: Gate) -> None:
    """Hits while it is cold are counted, and closing it fills nothing first."""
    filled(path)
    with opened(path) as cache:
        assert cache.get("question 1") is not None
        assert cache.get("q", embedding=vectors(2)[1]) is not None
        assert is_cold(cache)
    gate.open()
    with opened(path) as cache:
        warmed(cache)
        assert cache.stats().hits_exact == 1
        assert cache.stats().hits_semantic == 1


def test_it_is_written_when_it_pays(path: Path) -> None:
    """From so many entries on, and again once a quarter has changed."""
    filled(path, MANY - 1)
    assert not side_file(path).exists()
    filled(path, 4 * MANY)
    first = side_file(path).stat().st_ino, side_file(path).read_bytes()
    assert oct(side_file(path).stat().st_mode)[-3:] == "600"
    with opened(path) as cache:
        cache.put("one more", "answer", embedding=vectors(1)[0])
        warmed(cache)
    assert (side_file(path).stat().st_ino, side_file(path).read_bytes()) == first
    with opened(path) as cache:
        some = [(f"more {at}", "answer") for at in range(MANY + 1)]
        cache.put_many(some, embeddings=vectors(MANY + 1, 3))
        warmed(cache)
    assert side_file(path).read_bytes() != first[1]


def test_it_is_written_in_the_background(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By who had to scan the file for want of one; closing the cache is not waited for."""
    filled(path)
    side_file(path).unlink()
    is_kept, keep = threading.Event(), SideKeeper.keep

    def kept(*args: Any) -> bool:
        try:
            return keep(*args)
        finally:
            is_kept.set()

    monkeypatch.setattr(SideKeeper, "keep", kept)
    with opened(path) as cache:
        assert not is_cold(cache)
        assert is_kept.wait(PATIENCE)
        assert side_file(path).exists()
        with opened(path) as other:
            assert other.get("question 1") is not None
            warmed(other)


def test_small_caches_have_no_thread_and_no_side_file(path: Path) -> None:
    """They are read as fast without."""
    with opened(path) as cache:
        cache.put("q", "r", embedding=vectors(1)[0])
    with opened(path) as cache:
        store: Any = cache._core.store
        assert store._file.chores._thread is None
        assert not is_cold(cache)
    assert not side_file(path).exists()


def test_vectors_are_not_copied(path: Path) -> None:
    """Memory that is filled searches the map of the side file."""
    filled(path)
    with opened(path) as cache:
        warmed(cache)
        (index,) = cache._core.live._indexes.values()
        block = index._body.table.blocks[0]  # type: ignore[attr-defined]
        assert not block.flags.owndata
        assert len(block) == 2 * MANY
        assert index._body.names._packed is None or isinstance(
            index._body.names._packed, np.ndarray
        )  # type: ignore[attr-defined]


def test_an_entry_of_the_exact_layer_alone(path: Path, gate: Gate) -> None:
    """It has no vector, and is found all the same."""
    filled(path)
    with opened(path) as cache:
        gate.open()
        core = cache._core
        ask = core.ask("plain", "default", semantic=False)
        draft = core.draft(ask, "answer", Terms())
        assert draft is not None
        core.commit([draft])
    with opened(path) as cache:
        hit = cache.get("plain", embedding=vectors(1)[0])
        assert hit is not None
        assert hit.response == "answer"
        warmed(cache)
        hit = cache.get("plain", embedding=vectors(1)[0])
        assert hit is not None
        assert hit.response == "answer"


@pytest.mark.parametrize("is_held", [True, False])
def test_an_answer_that_may_be_served_stale(path: Path, gate: Gate, is_held: bool) -> None:
    """A miss of the exact layer alone has it, whether or not memory is filled."""
    filled(path)
    clock = ManualClock()
    with opened(path, clock=clock, scanning=True) as cache:
        core = cache._core
        draft = core.draft(core.ask("q", "default"), "answer", Terms(ttl=10.0, stale_for=100.0))
        assert draft is not None
        core.commit([draft])
    clock.advance(11)
    with opened(path, clock=clock) as cache:
        if not is_held:
            gate.open()
            warmed(cache)
        found = drive(flow.look(cache._port, cache._core.ask("q", "default", semantic=False)))
        assert isinstance(found, Miss)
        assert found.stale is not None
        assert found.stale.response == "answer"


def test_the_side_file_stands_at_the_last_change(path: Path) -> None:
    """And holds a row for every vector."""
    filled(path)
    with opened(path) as cache:
        store: Any = cache._core.store
        stamp, seq, _ = store._side._stamp(cache._core.embedder.fingerprint, DIM)
        side = SideFile(side_file(path), stamp)
        assert (side.seq, side.rows) == (seq, 2 * MANY)
