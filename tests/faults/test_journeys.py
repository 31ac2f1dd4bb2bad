"""Ten thousand entries travel through every kind of store, and come back as they left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from support.engines import own_name, postgres_url, redis_url
from support.worlds import LOOPS

from mneme import EmbedderMismatchError, MemoryStore, SemanticCache, SQLiteStore, to_async_embedder
from mneme.checkpoint import restore, save
from mneme.errors import CheckpointError
from mneme.migrate import areembed, reembed
from mneme.records import Changes, Entry, Label, Payload
from mneme.stores import open_store
from mneme.stores._address import owner_of
from mneme.stores._rows import row_of
from mneme.stores.postgres import PostgresStore
from mneme.stores.redis import RedisStore
from mneme.testing import HashEmbedder, entry
from mneme.types import Remembering, Store

NUMBER, DIM = 10_000, 64
OWNER: dict[str, Any] = {"fingerprint": "tests:journey:64:l2", "dim": DIM}


def postgres(place: Path) -> Store:
    return PostgresStore(postgres_url(), schema=own_name(place))


def address(kind: str, place: Path) -> str:
    """Of the same store as `KINDS` makes, on one line."""
    url, setting = (postgres_url(), "schema") if kind == "postgres" else (redis_url(), "prefix")
    return f"{url}{'&' if '?' in url else '?'}{setting}={own_name(place)}"


def redis(place: Path) -> Store:
    return RedisStore(redis_url(), prefix=own_name(place))


KINDS: dict[str, Callable[[Path], Store]] = {
    "memory": lambda place: MemoryStore(),
    "sqlite": lambda place: SQLiteStore(place / "cache.db"),
    "postgres": postgres,
    "redis": redis,
}

SERVERS = ["postgres", "redis"]

ROUTE = ["sqlite", "postgres", "redis", "sqlite", "memory"]
"""From each kind to another, and back to the first."""


def many() -> Iterator[Entry]:
    """Answers of every kind, with and without vectors and ends, in several namespaces."""
    raw = np.random.default_rng(7).standard_normal((NUMBER, DIM))
    units = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    for at, vector in enumerate(units):
        prompt = f"question {at} \0 雨" if at % 100 == 0 else f"question {at}"
        fields = {
            "namespace": f"tenant-{at % 7}",
            "partition": at.to_bytes(8) * 2 if at % 3 else bytes(15) + b"\1",
            "key": at.to_bytes(16),
            "prompt": prompt,
            "payload": Payload("bytes", os.urandom(at % 50)) if at % 5 else Payload("text", "so"),
            "vector": None if at % 11 == 0 else vector,
            "created_at": 1_700_000_000.25 + at,
            "expires_at": 4e9 + at if at % 2 else None,
            "dies_at": float("inf") if at % 4 == 1 else 4.1e9 + at if at % 4 == 3 else None,
            "metadata": json.dumps({"n": at, "text": "ö" * (at % 20)}),
            "tags": tuple(f"tag {number}, " for number in range(at % 4)),
        }
        yield Entry(**(vars_of(entry()) | fields))


def vars_of(one: Entry) -> dict[str, Any]:
    return {name: getattr(one, name) for name in Entry.__slots__}


def held(store: Store) -> tuple[Any, ...]:
    """All that a store holds, vectors bit by bit."""
    assert isinstance(store, Remembering)
    return (
        [row_of(one) for one in store.scan()],
        dict(store.counts()),
        list(store.labels()),
        dict(store.states()),
    )


def test_ten_thousand_entries_come_back_as_they_left(tmp_path: Path) -> None:
    """Through every kind of store: entries, bits of vectors, order, counters, what was learned."""
    first: Store = MemoryStore()
    first.claim(**OWNER)
    first.commit(
        Changes(
            tuple(many()),
            counts={("tenant-1", "misses"): 7, ("雨", "hits_exact"): 1 << 40},
            labels=tuple(
                Label(at / 1_000, at % 3 == 0, "tenant-1", "audit", float(at), at / 1_000)
                for at in range(1_000)
            ),
            states={"policy of a.b": os.urandom(5_000), "calibration": b"{}"},
        )
    )
    before, archives = held(first), []
    for at, kind in enumerate(ROUTE):
        place = tmp_path / str(at)
        place.mkdir()
        assert save(first, place / "a.mneme", **OWNER) == NUMBER
        archives.append((place / "a.mneme").read_bytes())
        first.close()
        first = KINDS[kind](place)
        assert restore(place / "a.mneme", first) == NUMBER
        after = held(first)
        # Not as one: pytest would take minutes to tell the difference.
        for there, here in zip(after, before, strict=True):
            assert len(there) == len(here)
            assert there == here, f"{kind} changed something"
    first.close()
    assert len(set(archives)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_store_says_whose_it_is(kind: str, tmp_path: Path) -> None:
    """Also to who has not claimed it; and an engine that nobody has claimed says None."""
    store = KINDS[kind](tmp_path)
    if kind != "sqlite":
        assert owner_of(store) is None
    store.claim(**OWNER)
    assert owner_of(store) == tuple(OWNER.values())
    if kind != "memory":
        assert owner_of(KINDS[kind](tmp_path)) == tuple(OWNER.values())
    store.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_holds_entries_takes_no_archive(kind: str, tmp_path: Path) -> None:
    """Not even its own; and another embedder's archive is refused by the store as well."""
    store = KINDS[kind](tmp_path)
    store.claim(**OWNER)
    store.commit(Changes((next(many()),)))
    save(store, tmp_path / "a.mneme", **OWNER)
    before = held(store)
    with pytest.raises(CheckpointError, match="holds entries already"):
        restore(tmp_path / "a.mneme", store)
    other = HashEmbedder(DIM, name="other")
    with SemanticCache(store=MemoryStore(), embedder=other, self_check=False) as cache:
        cache.put("q", "a")
        cache.dumps(tmp_path / "b.mneme")
    with pytest.raises(EmbedderMismatchError, match="journey"):
        restore(tmp_path / "b.mneme", store)
    assert held(store) == before
    store.close()


@pytest.mark.parametrize("kind", SERVERS)
def test_a_cache_moves_to_a_server_and_another_embedder(kind: str, tmp_path: Path) -> None:
    """A file is embedded anew into a server, in two runs; what is done is not done again."""
    old, new = HashEmbedder(16, name="old"), HashEmbedder(24, name="new")
    path, there = tmp_path / "cache.db", KINDS[kind](tmp_path)
    with SemanticCache(path, embedder=old, self_check=False) as cache:
        cache.put_many([(f"question number {at}", f"answer {at}") for at in range(30)])
        cache.put("of a tenant", "theirs", namespace="tenant")
    assert reembed(path, there, new, batch_size=8, namespaces=["default"]) == 30
    assert reembed(path, there, new, batch_size=8) == 1
    assert reembed(path, there, new) == 0
    assert new.calls == 31
    with SemanticCache(store=there, embedder=new, similarity_threshold=0.7) as cache:
        hit = cache.get("the question number 7")
        assert hit is not None
        assert (hit.response, hit.layer) == ("answer 7", "semantic")
    assert reembed(address(kind, tmp_path), tmp_path / "back.db", old) == 31


KILLED = """
import sys
from mneme.migrate import reembed
from mneme.testing import HashEmbedder

class Slow(HashEmbedder):
    def embed_batch(self, texts):
        print("asked", flush=True)
        sys.stdin.readline()
        return [self.embed(text) for text in texts]

reembed(sys.argv[1], sys.argv[2], Slow(24, name="new"), batch_size=4)
"""


@pytest.mark.parametrize("kind", SERVERS)
def test_a_migration_to_a_server_that_was_killed_goes_on(kind: str, tmp_path: Path) -> None:
    """After kill -9 the server has whole batches, and an async run does what is left."""
    old, new = HashEmbedder(16, name="old"), HashEmbedder(24, name="new")
    path, url = tmp_path / "cache.db", address(kind, tmp_path)
    with SemanticCache(path, embedder=old, self_check=False) as cache:
        cache.put_many([(f"question number {at}", f"answer {at}") for at in range(20)])
    command = [sys.executable, "-c", KILLED, str(path), url]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as victim:
        assert victim.stdin is not None
        assert victim.stdout is not None
        for _ in range(2):
            assert victim.stdout.readline() == b"asked\n"
            victim.stdin.write(b"\n")
            victim.stdin.flush()
        assert victim.stdout.readline() == b"asked\n"
        victim.kill()
    for backend in LOOPS:
        done = anyio.run(areembed, path, url, to_async_embedder(new), backend=backend)
        assert done == (12 if backend == LOOPS[0] else 0)
    assert new.calls == 12
    with closing(KINDS[kind](tmp_path)) as store:
        store.claim(new.fingerprint, new.dim)
        assert [one.prompt for one in store.scan()] == [f"question number {at}" for at in range(20)]


@pytest.mark.parametrize("kind", SERVERS)
def test_a_cache_of_an_engine_dumps_and_loads(kind: str, tmp_path: Path) -> None:
    """`dumps` of a cache on a server, `loads` into a file, and into the server again."""
    embedder = HashEmbedder()
    with SemanticCache(store=KINDS[kind](tmp_path), embedder=embedder) as cache:
        cache.put("a question", "an answer")
        assert cache.get("a question") is not None
        assert cache.dumps(tmp_path / "a.mneme") == 1
    with SemanticCache.loads(tmp_path / "a.mneme", tmp_path / "a.db", embedder) as copy:
        assert copy.get("a question") is not None
        assert copy.stats().hits_exact == 2
    again = KINDS[kind](tmp_path / "again")
    with SemanticCache.loads(tmp_path / "a.mneme", store=again, embedder=embedder) as copy:
        assert copy.get("a question") is not None


@pytest.mark.parametrize("kind", SERVERS)
def test_the_command_line_knows_servers(kind: str, tmp_path: Path) -> None:
    """`import` and `export` with the URL of a server, in which a password is not printed."""
    embedder = HashEmbedder()
    with SemanticCache(tmp_path / "a.db", embedder=embedder) as cache:
        cache.put("a question", "an answer")
    url = address(kind, tmp_path)
    for words in (
        ("export", "a.db", "a.mneme"),
        ("import", "a.mneme", url),
        ("export", url, "b.mneme"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "mneme", *words], cwd=tmp_path, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert ": 1 entries, filled by mneme-testing:hash:256:l2 (256)" in done.stdout
    assert (tmp_path / "a.mneme").read_bytes() == (tmp_path / "b.mneme").read_bytes()
    with closing(open_store(url)) as store:
        assert isinstance(store, PostgresStore | RedisStore)
