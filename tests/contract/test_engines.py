"""What goes wrong between a store and its engine, and what is left of it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import psycopg
import pytest
import redis
from support.engines import (
    Postgres,
    Redis,
    free_port,
    own_name,
    postgres_url,
    redis_url,
    running,
    until,
)
from support.worlds import PATIENCE

from mneme.errors import SchemaMigrationError, StoreBackendError
from mneme.records import Changes, Selection
from mneme.stores.postgres import PostgresStore
from mneme.stores.redis import RedisStore
from mneme.testing import StoreContract, entry
from mneme.types import Remembering, SearchableStore

CLAIM = StoreContract.FINGERPRINT, StoreContract.DIM
NOW = 1_700_000_000.0


@dataclass(frozen=True)
class Engine:
    """One kind of store: how to make one, and a server that can be ill-treated."""

    make: Callable[..., Any]
    url: Callable[[], str]
    server: Callable[[], Any]
    space: str
    scheme: str

    def store(self, url: str, place: object = "x", **options: Any) -> Any:
        return self.make(url, **{self.space: own_name(place), **options})

    def nobody(self) -> str:
        """The address of a port where nothing listens, with a password."""
        return f"{self.scheme}://mneme:s3cr3t-word@127.0.0.1:{free_port()}/0"


ENGINES = {
    "postgres": Engine(PostgresStore, postgres_url, Postgres, "schema", "postgresql"),
    "redis": Engine(RedisStore, redis_url, lambda: Redis("--appendonly", "yes"), "prefix", "redis"),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


@pytest.fixture
def store(engine: Engine, tmp_path: Path) -> Iterator[Any]:
    """A claimed store on the server that tests share."""
    store = engine.store(engine.url(), tmp_path)
    store.claim(*CLAIM)
    yield store
    store.close()


@pytest.fixture
def server(engine: Engine) -> Iterator[Any]:
    """A server of its own."""
    with running(engine.server()) as server:
        yield server


def test_it_is_what_it_says(store: Any) -> None:
    """It searches, remembers labels, and says that calls wait for the network."""
    assert isinstance(store, SearchableStore)
    assert isinstance(store, Remembering)
    assert store.blocking is True
    assert store.description in repr(store)


def test_an_engine_that_is_not_there_is_told(engine: Engine) -> None:
    """Nobody listens: an error of ours with a remedy, and nowhere the password."""
    store = engine.store(engine.nobody())
    with pytest.raises(StoreBackendError, match=r"Check that the server runs") as caught:
        store.claim(*CLAIM)
    assert "127.0.0.1" in str(caught.value)
    said: BaseException | None = caught.value
    while said is not None:
        assert "s3cr3t-word" not in f"{said} {said!r}"
        said = said.__cause__ or said.__context__
    assert "s3cr3t-word" not in f"{store.description} {store!r}"
    store.close()


@pytest.mark.parametrize("url", ["http://u:s3cr3t-word@h/", "s3cr3t-word", "//h:s3cr3t-word"])
def test_an_address_that_is_none_is_refused(engine: Engine, url: str) -> None:
    """A wrong URL is a `ValueError` that does not repeat what may hold a password."""
    with pytest.raises(ValueError, match=r"Use \w+://user:password@host") as caught:
        engine.store(url)
    assert "s3cr3t-word" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"connections": 0},
        {"effort": 0},
        {"index": "ivf"},
    ],
)
def test_wrong_options_are_refused(engine: Engine, wrong: dict[str, Any]) -> None:
    """What cannot be meant is a `ValueError` from the constructor that says the value."""
    with pytest.raises(ValueError, match=str(*wrong.values())):
        engine.store(engine.nobody(), **wrong)


@pytest.mark.parametrize("name", ["", "a b", "{a}", 'x"; DROP TABLE', "n" * 101])
def test_a_wrong_place_is_refused(engine: Engine, name: str) -> None:
    """A schema or prefix that would need quoting is refused, with what may stand in it."""
    with pytest.raises(ValueError, match="must be letters, digits"):
        engine.make(engine.nobody(), **{engine.space: name})


def test_it_must_be_opened_first_and_not_be_closed(engine: Engine, tmp_path: Path) -> None:
    """Before `claim` and after `close` calls are refused in words."""
    store = engine.store(engine.url(), tmp_path)
    with pytest.raises(StoreBackendError, match="Open a cache on it"):
        store.commit(Changes(puts=(entry(),)))
    store.claim(*CLAIM)
    store.close()
    with pytest.raises(StoreBackendError, match=r"closed\. Make a new one"):
        store.fetch([entry().identity])


def test_caches_share_a_server_and_nothing_else(engine: Engine, tmp_path: Path) -> None:
    """Two schemas, or prefixes, are two stores: of other embedders, if need be."""
    first, second = (engine.store(engine.url(), (tmp_path, at)) for at in range(2))
    first.claim(*CLAIM)
    second.claim("other:embedder", 8)
    first.commit(Changes(puts=(entry("first"),)))
    second.commit(Changes(puts=(entry("second"),)))
    assert [one.prompt for one in first.scan()] == ["first"]
    assert second.fetch([entry("first").identity]) == [None]
    assert second.trim(0) == 1
    assert first.count(Selection()) == 1
    first.close()
    second.close()


def test_a_hung_engine_costs_one_timeout(engine: Engine, server: Any) -> None:
    """A server that answers nothing ends each call soon, and is used again once it answers."""
    store = engine.store(server.url, timeout=1.0)
    store.claim(*CLAIM)
    store.commit(Changes(puts=(entry("a"),)))
    with server.hanging():
        for call in (
            lambda: store.fetch([entry("a").identity]),
            lambda: store.commit(Changes(puts=(entry("b"),))),
            lambda: engine.store(server.url, timeout=1.0).claim(*CLAIM),
        ):
            start = time.monotonic()
            with pytest.raises(StoreBackendError, match="cannot be used"):
                call()
            # libpq takes no less than two seconds to connect.
            assert time.monotonic() - start < PATIENCE / 2
    assert [one and one.prompt for one in store.fetch([entry("a").identity])] == ["a"]
    store.close()


def test_it_connects_again_by_itself(engine: Engine, server: Any) -> None:
    """After the server was killed and started again the first call of each kind succeeds."""
    store = engine.store(server.url)
    store.claim(*CLAIM)
    in_turn = threading.Barrier(4)

    def busy() -> None:
        in_turn.wait(PATIENCE)
        store.fetch([entry("a").identity])

    # Several connections in the pool, all of which die.
    threads = [threading.Thread(target=busy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    store.commit(Changes(puts=(entry("a"),), counts={("n", "puts"): 1}))
    server.crash()
    with pytest.raises(StoreBackendError):
        store.fetch([entry("a").identity])
    server.start_again()
    assert [one and one.prompt for one in store.fetch([entry("a").identity])] == ["a"]
    server.crash()
    server.start_again()
    store.commit(Changes(puts=(entry("b"),), counts={("n", "puts"): 1}))
    assert sorted(one.prompt for one in store.scan()) == ["a", "b"]
    assert dict(store.counts()) == {("n", "puts"): 2}
    store.close()


def test_threads_wait_for_a_connection(engine: Engine, tmp_path: Path) -> None:
    """More threads than connections take turns; none fails."""
    store = engine.store(engine.url(), tmp_path, connections=2, timeout=PATIENCE)
    store.claim(*CLAIM)
    failures = []

    def work(at: int) -> None:
        try:
            for turn in range(5):
                store.commit(Changes(puts=(entry(f"{at} {turn}"),)))
        except StoreBackendError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not failures
    assert store.count(Selection()) == 60
    store.close()


@pytest.mark.anyio
async def test_loops_reach_it_from_their_threads(store: Any) -> None:
    """Both loops use it from worker threads: no client of their own is needed."""
    await anyio.to_thread.run_sync(lambda: store.commit(Changes(puts=(entry(),))))
    (found,) = await anyio.to_thread.run_sync(lambda: store.fetch([entry().identity]))
    assert found == entry()


def test_processes_see_each_other(engine: Engine, store: Any, tmp_path: Path) -> None:
    """What another process has committed is there for this one."""
    script = (
        f"from {engine.make.__module__} import *\n"
        "from mneme.records import Changes\nfrom mneme.testing import entry\n"
        f"store = {engine.make.__name__}({engine.url()!r}, "
        f"{engine.space}={own_name(tmp_path)!r})\n"
        f"store.claim{CLAIM!r}\n"
        "store.commit(Changes(puts=(entry('theirs'),), counts={('n', 'puts'): 1}))\n"
        "store.close()\n"
    )
    store.commit(Changes(puts=(entry("mine"),), counts={("n", "puts"): 1}))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE)
    assert [one.prompt for one in store.scan()] == ["mine", "theirs"]
    assert dict(store.counts()) == {("n", "puts"): 2}


def test_a_newer_layout_is_refused(engine: Engine, store: Any, tmp_path: Path) -> None:
    """What a later version of mneme made is left alone."""
    store.commit(Changes(puts=(entry(),)))
    name = own_name(tmp_path)
    if engine.scheme == "redis":
        with redis.Redis.from_url(engine.url()) as client:
            client.hset(f"{{{name}}}:cache", "version", 9)
    else:
        with psycopg.connect(engine.url(), autocommit=True) as connection:
            connection.execute(f"UPDATE {name}.cache SET version = 9".encode())
    with pytest.raises(SchemaMigrationError, match=r"layout 9.*Upgrade mneme-toolkit"):
        engine.store(engine.url(), tmp_path).claim(*CLAIM)
    assert len(list(store.scan())) == 1


def test_the_missing_extra_is_named(engine: Engine, tmp_path: Path) -> None:
    """Without its driver the module says what to install."""
    driver = "redis" if engine.scheme == "redis" else "psycopg"
    script = f"import sys; sys.modules[{driver!r}] = None; import {engine.make.__module__}"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    extra = engine.make.__module__.rpartition(".")[2]
    assert f"needs {driver}. Install it with: pip install 'mneme-toolkit[{extra}]'" in done.stderr


def test_counts_are_never_sent_twice(engine: Engine, server: Any) -> None:
    """A commit that got no answer was done once and whole, or not at all."""
    store = engine.store(server.url, timeout=1.0)
    store.claim(*CLAIM)
    with ExitStack() as stack:
        stack.enter_context(server.hanging())
        with pytest.raises(StoreBackendError):
            store.commit(Changes(puts=(entry(),), counts={("n", "puts"): 1}))
    store.commit(Changes(counts={("n", "puts"): 1}))
    # What the server had got before it hung it may still be doing.
    until(lambda: store.counts()["n", "puts"] == 1 + len(list(store.scan())))
    store.close()
