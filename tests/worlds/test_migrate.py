"""A cache gets another embedder, and loses nothing but its old vectors."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from support.worlds import WORLDS, World

from mneme import (
    EmbedderMismatchError,
    MemoryStore,
    SemanticCache,
    SQLiteStore,
    StoreBackendError,
    migrate,
    semantic_cache,
    to_async_embedder,
)
from mneme.errors import EmbedderDimensionError, EmbeddingError
from mneme.migrate import areembed, reembed
from mneme.records import Changes, Entry, Identity, Label, Selection
from mneme.stores._rows import row_of
from mneme.testing import HashEmbedder, entry
from mneme.types import Embedder, SearchableStore, Store

OLD = HashEmbedder(16, name="old")
NEW_OWNER = {"fingerprint": HashEmbedder(24, name="new").fingerprint, "dim": 24}


def new() -> HashEmbedder:
    return HashEmbedder(24, name="new")


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "PAUSES", (0.0, 0.0))


@pytest.fixture(params=WORLDS, ids=str)
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.param
    return found


def filled(store: Store | None = None, number: int = 10) -> Store:
    """A store with `number` questions, a tenth of them of a tenant, that OLD has filled."""
    kept = MemoryStore() if store is None else store
    with SemanticCache(store=kept, embedder=OLD, self_check=False) as cache:
        for at in range(number):
            namespace = "tenant" if at % 10 == 9 else "default"
            cache.put(f"question number {at}", {"at": at}, namespace=namespace, tags=[f"t{at}"],
                      metadata={"m": at}, ttl=3_600.0 if at % 2 else None)  # fmt: skip
        cache.get("question number 1")
    return kept


def plain(store: Store) -> list[tuple[Any, ...]]:
    """All but the vectors, in order."""
    return [row_of(replace(one, vector=None)) for one in store.scan()]


def vectors_are(store: Store, embedder: Embedder) -> bool:
    return all(
        one.vector is not None and np.allclose(one.vector, embedder.embed(one.prompt), atol=1e-6)
        for one in store.scan()
    )


def run(world: World, source: Any, dest: Any, embedder: Any, **options: Any) -> int:
    """`reembed`, or `areembed` with the embedder made async."""
    if not world.is_async:
        return reembed(source, dest, embedder, **options)
    remote = to_async_embedder(embedder)

    async def main() -> int:
        return await areembed(source, dest, remote, **options)

    return world.run(main)


# -- what survives ----------------------------------------------------------------------------


def test_all_but_the_vectors_survives(world: World, tmp_path: Path) -> None:
    """Another dimension, and identity, answer, metadata, tags, dates, order, counters as before."""
    path, dest = tmp_path / "old.db", tmp_path / "new.db"
    with closing(filled(SQLiteStore(path))):
        pass
    before = path.read_bytes()
    assert run(world, path, dest, new(), batch_size=3) == 10
    assert path.read_bytes() == before
    source, made = SQLiteStore(path), SQLiteStore(dest)
    source.claim(OLD.fingerprint, OLD.dim)
    made.claim(**NEW_OWNER)
    assert plain(made) == plain(source)
    assert made.counts() == source.counts() != {}
    assert vectors_are(made, new())
    source.close()
    made.close()
    with SemanticCache(dest, embedder=new(), similarity_threshold=0.6) as cache:
        hit = cache.get("which question number 3")
        assert hit is not None
        assert (hit.response, hit.layer, hit.metadata) == ({"at": 3}, "semantic", {"m": 3})


def test_what_was_learned_stays_behind() -> None:
    """Labels and states are about the old vectors."""
    source, dest = filled(), MemoryStore()
    label = Label(0.9, True, "default", "miss", 5.0)
    source.commit(Changes(labels=(label,), states={"policy": b"x"}))
    assert reembed(source, dest, new()) == 10
    assert (list(dest.labels()), dest.states()) == ([], {})


def test_decorated_functions_find_their_answers() -> None:
    """Partitions survive: what a function answered under the old embedder it does under the new."""
    source, dest, calls = MemoryStore(), MemoryStore(), []

    def asking(cache: SemanticCache) -> Callable[..., str]:
        @semantic_cache(cache=cache, version="1")
        def ask(prompt: str, model: str) -> str:
            calls.append(prompt)
            return f"{model} answers"

        return ask

    with SemanticCache(store=source, embedder=OLD, self_check=False) as cache:
        asking(cache)("who wrote Faust", model="m")
    assert reembed(source, dest, new()) == 1
    with SemanticCache(store=dest, embedder=new(), self_check=False) as cache:
        ask = asking(cache)
        assert ask("who wrote Faust", model="m") == "m answers"
        assert calls == ["who wrote Faust"]
        ask("who wrote Faust", model="another")
        assert len(calls) == 2


class Listening(HashEmbedder):
    """Remembers what it was asked to embed, a batch a list."""

    def __init__(self) -> None:
        super().__init__(24, name="new")
        self.batches: list[list[str]] = []

    def embed_batch(self, texts: Sequence[str]) -> list[Any]:
        self.batches.append(list(texts))
        return [self.embed(text) for text in texts]

    @property
    def heard(self) -> list[str]:
        return [text for batch in self.batches for text in batch]


@pytest.mark.parametrize("normalize", [True, False, str.upper])
def test_the_text_that_a_cache_embeds_is_embedded(normalize: Any) -> None:
    """Spacing is evened out where the cache does so, and nowhere else."""
    prompts = ["  What\n is   IT ? ", "what is it", "a  b", " WHAT "]
    source, dest, embedder = MemoryStore(), MemoryStore(), Listening()
    settings: dict[str, Any] = {"normalize": normalize, "self_check": False}
    with SemanticCache(store=source, embedder=OLD, **settings) as cache:
        cache.put_many([(prompt, "so") for prompt in prompts])
        kept = [one.prompt for one in source.scan()]
    reembed(source, dest, embedder)
    asked = Listening()
    with SemanticCache(store=MemoryStore(), embedder=asked, **settings) as cache:
        cache.put_many([(prompt, "so") for prompt in kept])
    assert embedder.heard == asked.heard


def test_what_has_no_vector_gets_none() -> None:
    """Entries of the exact layer alone stay so; those too long for the new embedder become so."""

    class Short(Listening):
        max_chars = 10

    source, dest, embedder = filled(number=2), MemoryStore(), Short()
    source.commit(Changes((replace(entry("short"), vector=None), entry("also short", vector=None))))
    long = [one.prompt for one in source.scan() if len(one.prompt) > 10]
    assert len(long) == 2
    assert reembed(source, dest, embedder) == 4
    assert embedder.heard == ["also short"]
    assert [one.prompt for one in dest.scan() if one.vector is not None] == ["also short"]
    assert reembed(source, dest, embedder) == 0


def test_only_the_namespaces_that_are_named() -> None:
    """Their entries and their counters, and nobody else's."""
    source, dest = filled(), MemoryStore()
    source.commit(Changes(counts={("tenant", "misses"): 4}))
    assert reembed(source, dest, new(), namespaces=["tenant"]) == 1
    assert {one.namespace for one in dest.scan()} == {"tenant"}
    assert {space for space, _ in dest.counts()} == {"tenant"}
    assert reembed(source, dest, new()) == 9
    assert dest.counts() == source.counts()


# -- again ------------------------------------------------------------------------------------


def test_a_second_run_does_nothing(world: World) -> None:
    """Nothing is embedded, nothing is committed, and counters are not doubled."""
    source, dest, embedder = filled(), MemoryStore(), Listening()
    assert run(world, source, dest, new()) == 10
    mark, counts = dest.mark(), dest.counts()
    assert run(world, source, dest, embedder) == 0
    assert embedder.batches == []
    assert (dest.mark(), dest.counts()) == (mark, counts)


def test_what_changed_since_is_done_and_what_is_newer_stays() -> None:
    """A second run brings new answers of `source`, and leaves newer ones of `dest` alone."""
    source, dest = filled(number=3), MemoryStore()
    reembed(source, dest, new())
    one, other, _ = list(source.scan())
    source.commit(Changes((replace(one, created_at=one.created_at + 5, tags=("again",)),)))
    moved = replace(list(dest.scan())[1], created_at=other.created_at + 5, tags=("mine",))
    dest.commit(Changes((moved,)))
    embedder = Listening()
    assert reembed(source, dest, embedder) == 1
    assert embedder.heard == [one.prompt]
    assert {entry.identity: entry.tags for entry in dest.scan()}[one.identity] == ("again",)
    assert {entry.identity: entry.tags for entry in dest.scan()}[other.identity] == ("mine",)


class Failing(Listening):
    """Fails for the texts that `at` says, however often it is asked."""

    def __init__(self, at: Callable[[str], bool]) -> None:
        super().__init__()
        self.at = at

    def embed_batch(self, texts: Sequence[str]) -> list[Any]:
        if any(map(self.at, texts)):
            raise ConnectionError("the model is on fire.")
        return super().embed_batch(texts)


def test_a_run_that_stopped_is_taken_up(world: World) -> None:
    """What was done is kept, the message says what to do, and nothing is embedded twice."""
    source, dest = filled(), MemoryStore()
    down = Failing(lambda text: int(text.split()[-1]) >= 6)
    with pytest.raises(EmbeddingError) as stopped:
        run(world, source, dest, down, batch_size=3)
    message = str(stopped.value)
    assert "ConnectionError: the model is on fire). Stopped after three failures" in message
    assert message.endswith("Check the embedder and run it again: it goes on from there.")
    assert plain(dest) == plain(source)[:6]
    embedder = Listening()
    assert run(world, source, dest, embedder, batch_size=3) == 4
    assert embedder.heard == [one.prompt for one in list(source.scan())[6:]]
    assert plain(dest) == plain(source)
    assert dest.counts() == source.counts()


def test_one_text_that_fails_holds_up_no_other(world: World) -> None:
    """All others are done, and the error says how many were left out."""
    source, dest = filled(), MemoryStore()
    picky = Failing(lambda text: text == "question number 4")
    with pytest.raises(EmbeddingError, match=r"at 'question number 4'.* Left out: 1; what was"):
        run(world, source, dest, picky, batch_size=3)
    assert len(plain(dest)) == 9
    assert dest.counts() == source.counts()
    assert run(world, source, dest, new()) == 1


def test_a_hiccup_is_waited_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that fails twice is tried a third time, after longer and longer pauses."""
    pauses: list[float] = []
    monkeypatch.setattr(migrate, "PAUSES", (0.25, 0.5))
    monkeypatch.setattr(migrate.time, "sleep", pauses.append)  # type: ignore[attr-defined]
    calls: list[int] = []

    def twice(text: str) -> bool:
        calls.append(1)
        return len(calls) <= 2

    assert run(world, filled(), MemoryStore(), Failing(twice)) == 10
    assert pauses == [0.25, 0.5]


def test_an_embedder_of_another_shape_is_told_at_once() -> None:
    """That is a mistake, not weather: it is not tried again, and nothing is stored."""

    class Wrong(Listening):
        dim = 7  # type: ignore[assignment]

        def embed_batch(self, texts: Sequence[str]) -> list[Any]:
            self.batches.append(list(texts))
            return [np.ones(8)] * len(texts)

        def __init__(self) -> None:
            self.fingerprint, self.batches = "wrong:7", []

    embedder, dest = Wrong(), MemoryStore()
    with pytest.raises(EmbedderDimensionError):
        reembed(filled(), dest, embedder)
    assert (len(embedder.batches), list(dest.scan())) == (1, [])


SCRIPT = """
import sys
from mneme.migrate import reembed
from mneme.testing import HashEmbedder

class Slow(HashEmbedder):
    def embed_batch(self, texts):
        print(len(texts), flush=True)
        sys.stdin.readline()
        return [self.embed(text) for text in texts]

reembed(sys.argv[1], sys.argv[2], Slow(24, name="new"), batch_size=4)
"""


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_killed_run_is_taken_up(tmp_path: Path, batches: int) -> None:
    """After kill -9 in the midst of a batch, what had been committed is not embedded again."""
    path, dest = tmp_path / "old.db", tmp_path / "new.db"
    filled(SQLiteStore(path), 20).close()
    command = [sys.executable, "-c", SCRIPT, str(path), str(dest)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as victim:
        assert victim.stdin is not None
        assert victim.stdout is not None
        for _ in range(batches):
            assert victim.stdout.readline() == b"4\n"
            victim.stdin.write(b"\n")
            victim.stdin.flush()
        assert victim.stdout.readline() == b"4\n"
        victim.kill()
    embedder = Listening()
    assert reembed(path, dest, embedder) == 20 - 4 * batches
    assert len(embedder.heard) == 20 - 4 * batches
    source, made = SQLiteStore(path), SQLiteStore(dest)
    source.claim(OLD.fingerprint, OLD.dim)
    made.claim(**NEW_OWNER)
    assert plain(made) == plain(source)
    assert made.counts() == source.counts()
    source.close()
    made.close()


def test_a_cancelled_run_is_taken_up(anyio_backend_name: str) -> None:
    """What was committed before the cancellation stays, and the rest is done by the next run."""
    source, dest = filled(), MemoryStore()

    class Hanging(HashEmbedder):
        async def embed_batch(self, texts: Sequence[str]) -> list[Any]:
            if self.calls >= 4:
                scopes[0].cancel()
                await anyio.sleep_forever()
            return [HashEmbedder.embed(self, text) for text in texts]

        async def embed(self, text: str, /) -> Any:  # type: ignore[override]
            return HashEmbedder.embed(self, text)

    async def main() -> bool:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            await areembed(source, dest, Hanging(24, name="new"), batch_size=4)
        return scope.cancelled_caught

    scopes: list[anyio.CancelScope] = []
    assert anyio.run(main, backend=anyio_backend_name)
    assert len(plain(dest)) == 4
    assert reembed(source, dest, new()) == 6


# -- engines ----------------------------------------------------------------------------------


class Engine(MemoryStore):
    """As much of a `SearchableStore` as a migration meets; fetches are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched = 0

    def fetch(self, identities: Sequence[Identity]) -> list[Entry | None]:
        self.fetched += len(identities)
        dead = Selection(dead_by=time.time())
        known = {one.identity: one for one in self.scan() if not dead.has(one)}
        return [
            None if (found := known.get(identity)) is None else replace(found, vector=None)
            for identity in identities
        ]

    def search(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError

    remove = count = sizes = trim = search


def test_an_engine_is_asked_for_each_batch() -> None:
    """No process holds what an engine has; what would be dead there is left out, not repeated."""
    source, dest, embedder = filled(), Engine(), Listening()
    assert isinstance(dest, SearchableStore)
    source.commit(Changes((entry("dead", expires_at=5.0, dies_at=5.0),)))
    assert reembed(source, dest, embedder, batch_size=4) == 10
    assert dest.fetched == 10
    assert "dead" not in embedder.heard
    assert reembed(source, dest, embedder) == 0


# -- refusals ---------------------------------------------------------------------------------


def test_another_embedders_dest_is_refused(tmp_path: Path) -> None:
    """It is named, and `dest` is not changed."""
    dest = tmp_path / "new.db"
    with SemanticCache(dest, embedder=HashEmbedder(name="third"), self_check=False) as cache:
        cache.put("mine", "yes")
    before = dest.read_bytes()
    with pytest.raises(EmbedderMismatchError, match="third"):
        reembed(filled(), dest, new())
    assert dest.read_bytes() == before


def test_a_source_that_is_not_there_makes_no_dest(tmp_path: Path) -> None:
    """A misspelt path leaves nothing behind, and a file that nobody has filled neither."""
    with pytest.raises(StoreBackendError, match="no file"):
        reembed(tmp_path / "absent.db", tmp_path / "new.db", new())
    assert os.listdir(tmp_path) == []


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    """Each is refused before anything is opened."""
    source = filled()
    path = tmp_path / "a.db"
    remote: Any = to_async_embedder(new())
    wrong: list[tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = [
        (ValueError, "one store", (path, str(path), new()), {}),
        (ValueError, "one store", (source, source, new()), {}),
        (ValueError, "batch_size", (source, path, new()), {"batch_size": 0}),
        (ValueError, "list of names", (source, path, new()), {"namespaces": "tenant"}),
        (ValueError, "no name", (source, path, new()), {"namespaces": [""]}),
        (ValueError, "no store for mysql://", (source, "mysql://u:p@h/d", new()), {}),
        (TypeError, "Use areembed", (source, path, remote), {}),
        (TypeError, "no embedder", (source, path, object()), {}),
    ]
    for error, message, arguments, options in wrong:
        with pytest.raises(error, match=message):
            reembed(*arguments, **options)
    assert os.listdir(tmp_path) == []


# -- progress ---------------------------------------------------------------------------------


def test_progress_is_told(world: World) -> None:
    """How many are done of how many, first of all and after each batch."""
    told: list[tuple[int, int]] = []
    tell: Any = lambda done, total: told.append((done, total))  # noqa: E731
    source, dest = filled(), MemoryStore()
    run(world, source, dest, new(), batch_size=4, progress=tell)
    assert told == [(0, 10), (4, 10), (8, 10), (10, 10)]


def test_progress_is_shown_without_rich_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines on stderr take the place of a bar."""
    imports = builtins.__import__

    def without_rich(name: str, *args: Any) -> Any:
        if name.startswith("rich"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="rich")
        return imports(name, *args)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    reembed(filled(), MemoryStore(), new(), progress=True)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "embedded 0 of 10\nembedded 10 of 10\n")


@pytest.mark.needs("rich")
def test_progress_is_shown_with_rich(capsys: pytest.CaptureFixture[str]) -> None:
    """A bar on stderr; stdout is the caller's."""
    assert reembed(filled(), MemoryStore(), new(), progress=True) == 10
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "100%" in shown.err
