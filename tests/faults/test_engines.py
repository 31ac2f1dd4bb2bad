"""Servers that are killed, that hang and that refuse: callers get their answers all the same."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import redis
from faults.test_many_processes import report
from psycopg.conninfo import make_conninfo
from support.asgi import ASKED, Counting, mounted
from support.engines import Postgres, Redis, own_name, running, until
from support.forks import forked
from support.scenes import Opens, Scene
from support.worlds import PATIENCE, WORLDS, World, pause, settled, without_blocking

from mneme import EmbedderMismatchError, SemanticCache, StoreBackendError, semantic_cache
from mneme._core.breaker import LONGEST
from mneme._core.core import core_of
from mneme.records import Miss
from mneme.stores.postgres import PostgresStore
from mneme.stores.redis import RedisStore
from mneme.testing import HashEmbedder, ManualClock

IN_EACH_WORLD = pytest.mark.parametrize("world", WORLDS, ids=str)


class Kind:
    """An engine of which this module has a server of its own; Redis keeps nothing on disk."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.server: Any = {"postgres": Postgres, "redis": Redis}[name]()

    def opens(self, **options: Any) -> Opens:
        if self.name == "postgres":
            return lambda name: PostgresStore(self.server.url, schema=name, **options)
        return lambda name: RedisStore(self.server.url, prefix=name, **options)

    def at(self, url: str, place: Any) -> Any:
        if self.name == "postgres":
            return PostgresStore(url, schema=own_name(place))
        return RedisStore(url, prefix=own_name(place))

    def url(self, user: str = "", word: str = "", place: str = "") -> str:
        if self.name == "postgres":
            given = {"user": user, "password": word, "dbname": place}
            return make_conninfo(self.server.url, **{k: v for k, v in given.items() if v})
        login = f"{user}:{word}@" if user else ""
        return f"redis://{login}127.0.0.1:{self.server.port}/{'99' if place else '0'}"

    def let_in(self, user: str, word: str) -> None:
        """Have the server ask `user` for a password."""
        if self.name == "redis":
            with redis.Redis.from_url(self.server.url) as client:
                client.execute_command("ACL", "SETUSER", user, "on", f">{word}", "~*", "+@all")
            return
        rules = self.server.folder / "pg_hba.conf"
        text = f"local all {user} scram-sha-256\n"
        if not rules.read_text().startswith(text):
            rules.write_text(text + rules.read_text())
            self.server.psql(f"CREATE ROLE {user} LOGIN PASSWORD '{word}'")
            self.server.psql(f"GRANT CREATE ON DATABASE postgres TO {user}")
            # Told to read its rules again, it would do so at some later moment.
            self.server.crash()
            self.server.start_again()

    def session(self, store: Any) -> int:
        """What the server calls the connection that `store` asks over."""
        if self.name == "postgres":
            return int(store._pool.run(lambda connection: connection.info.backend_pid))
        return int(store._client.run(lambda client: client.client_id()))


@pytest.fixture(scope="module", params=["postgres", "redis"])
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    made = Kind(request.param)
    with running(made.server):
        yield made


@contextmanager
def away(server: Any) -> Iterator[Callable[[], None]]:
    """`server` is down in the block, until what it gets is called."""
    with ExitStack() as stack:
        server.crash()
        stack.callback(server.start_again)
        yield stack.close


def failures(cache: Any) -> int:
    return core_of(cache).tally.total("failed_open")


def hits(cache: Any) -> int:
    return core_of(cache).tally.total("hits_exact") + core_of(cache).tally.total("hits_semantic")


async def until_so(is_so: Callable[[], bool]) -> None:
    await without_blocking(until, is_so)


@IN_EACH_WORLD
def test_a_server_is_killed_and_started_again(world: World, kind: Kind, tmp_path: Any) -> None:
    """Each call gets its function's answer throughout; what failed is counted; hits return."""

    async def ask(prompt: str) -> str:
        return f"answer to {prompt}"

    async def scenario(s: Scene) -> None:
        is_over = threading.Event()
        async with s.cache() as cache:
            function = semantic_cache(cache=cache.cache)(world.written(ask))

            async def traffic() -> None:
                at = 0
                while not is_over.is_set():
                    at += 1
                    prompt = f"question {at % 7}"
                    assert await settled(function(prompt)) == f"answer to {prompt}"
                    # While it does not answer it is left alone for a while of this clock.
                    s.clock.advance(0.1)
                    await pause()

            async def fault() -> None:
                try:
                    await until_so(lambda: hits(cache.cache) > 20)
                    assert failures(cache.cache) == 0
                    await without_blocking(kind.server.crash)
                    await until_so(lambda: failures(cache.cache) > 20)
                    await without_blocking(kind.server.start_again)
                    before = hits(cache.cache)
                    await until_so(lambda: hits(cache.cache) > before + 20)
                finally:
                    is_over.set()

            await world.together(traffic, traffic, traffic, fault)
            health = await cache.health()
            assert health.healthy
            assert health.failed_open == failures(cache.cache)
            assert await cache.put("afterwards", "r")
            assert (await cache.get("afterwards")).response == "r"

    world.run(scenario, Scene(world, "engine", tmp_path, kind.opens()))


@IN_EACH_WORLD
def test_a_server_that_hangs(world: World, kind: Kind, tmp_path: Any) -> None:
    """One lookup waits for `store_timeout`; others are misses at once, and threads are few."""

    async def scenario(s: Scene) -> None:
        # The question goes on in its thread for as long as the store itself is patient.
        async with s.cache() as cache:
            core = core_of(cache.cache)
            await cache.put("q", "r")
            assert (await cache.get("q")).response == "r"
            asked = count(core.store, "fetch")
            threads = threading.active_count()
            patient = core.settings
            with kind.server.hanging():
                core.settings = replace(patient, store_timeout=0.3)
                start = time.monotonic()
                assert (await cache.lookup("q")).reason == "store_failed"
                assert time.monotonic() - start < PATIENCE / 4
                assert len(asked) == 1
                core.questions.monotonic = lambda: time.monotonic() + 10.0
                for _ in range(50):
                    assert (await cache.lookup("q")).reason == "store_failed"
                assert len(asked) == 1
                assert threading.active_count() < threads + 10
            core.settings = patient
            await until_so(lambda: not core.questions.waiting)
            assert (await cache.get("q")).response == "r"
            assert failures(cache.cache) == 51
            assert await cache.put("afterwards", "r")

    opens = kind.opens(timeout=PATIENCE)
    world.run(scenario, Scene(world, "engine", tmp_path, opens))
    assert not [one for one in threading.enumerate() if one.name == "mneme-deadline"]


def test_a_single_caller_waits_for_a_hung_server_once(kind: Kind, tmp_path: Any) -> None:
    """Who asks again and again waits once in a pause, and not each time; then all is well."""
    store, clock = kind.opens(timeout=1.0)(own_name(tmp_path)), ManualClock()
    with SemanticCache(store=store, embedder=HashEmbedder(), clock=clock) as cache:
        asked = count(store, "fetch")
        cache.put("q", "r")
        with kind.server.hanging():
            for tries in (1, 2):
                for _ in range(20):
                    miss = cache.lookup("q")
                    assert isinstance(miss, Miss)
                    assert miss.reason == "store_failed"
                assert len(asked) == tries
                clock.advance(0.5)
        clock.advance(LONGEST)
        assert cache.get("q").response == "r"  # type: ignore[union-attr]
        assert failures(cache) == 40


def test_an_error_that_the_server_tells_of_is_an_answer(kind: Kind, tmp_path: Any) -> None:
    """It did not fail to answer; a server that is down, or that stops in the midst, did."""
    store = kind.at(kind.server.url, tmp_path)

    def nonsense() -> Any:
        if kind.name == "postgres":
            return store._pool.run(lambda connection: connection.execute("SELECT 1 / 0"))
        return store._client.run(lambda client: client.execute_command("NONSENSE"))

    with pytest.raises(StoreBackendError, match=r"division|unknown command") as told:
        nonsense()
    assert not told.value.is_away
    with away(kind.server), pytest.raises(StoreBackendError) as refused:
        nonsense()
    assert refused.value.is_away
    store.close()


def count(store: Any, name: str) -> list[None]:
    """What grows by one with each call of that method of `store`."""
    calls: list[None] = []
    method = getattr(store, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return method(*args, **kwargs)

    setattr(store, name, counted)
    return calls


@IN_EACH_WORLD
def test_a_server_that_is_down_at_first(world: World, kind: Kind, tmp_path: Any) -> None:
    """Opening raises; with `open_later` calls go on without it, until it is there."""
    calls: list[str] = []

    async def ask(prompt: str) -> str:
        calls.append(prompt)
        return "r"

    async def scenario(s: Scene) -> None:
        with away(kind.server) as come_back:
            with pytest.raises(StoreBackendError, match="Check that the server runs"):
                async with s.cache():
                    pass
            async with s.cache(open_later=True) as cache:
                function = semantic_cache(cache=cache.cache)(world.written(ask))
                assert [await s.call(function, "q") for _ in range(2)] == ["r", "r"]
                assert (await cache.lookup("q")).reason == "store_failed"
                with pytest.raises(StoreBackendError, match="Check that the server runs"):
                    await cache.put("q", "r")
                assert failures(cache.cache) == calls.count("q") + 1 == 3
                assert not (await cache.health()).healthy
                await without_blocking(come_back)
                s.clock.advance(LONGEST)
                assert [await s.call(function, "q") for _ in range(2)] == ["r", "r"]
                assert (calls.count("q"), hits(cache.cache)) == (3, 1)
                assert failures(cache.cache) == 3
                assert (await cache.health()).healthy

    world.run(scenario, Scene(world, "engine", tmp_path, kind.opens()))


def test_callers_who_wait_for_an_opening_fail_with_it(kind: Kind, tmp_path: Any) -> None:
    """Many who find a server that hangs wait once, not one after the other."""
    store = kind.opens(timeout=1.0)(own_name(tmp_path))
    claims = count(store, "claim")
    callers = 6
    with SemanticCache(store=store, embedder=HashEmbedder(), open_later=True) as cache:
        with kind.server.hanging():
            found: list[Any] = []
            threads = [
                threading.Thread(target=lambda: found.append(cache.lookup("q")))
                for _ in range(callers)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            assert [miss.reason for miss in found] == ["store_failed"] * callers
            assert len(claims) < callers
        assert cache.put("q", "r")
        assert cache.get("q") is not None


@pytest.mark.anyio
async def test_an_application_behind_the_middleware(
    kind: Kind, tmp_path: Any, anyio_backend: str
) -> None:
    """Requests are answered by the application while the server is away, and from it again."""
    store, clock = kind.opens()(own_name(tmp_path)), ManualClock()
    settings = {"similarity_threshold": 0.8, "clock": clock}
    cache = await without_blocking(
        partial(SemanticCache, store=store, embedder=HashEmbedder(), **settings)
    )
    app = Counting()
    client = mounted(app, cache)
    layers = [(await client.post("/ask", ASKED)).layer for _ in range(2)]
    assert (layers, len(app.asked)) == ([None, "exact"], 1)
    with away(kind.server) as come_back:
        answers = [await client.post("/ask", ASKED) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 200]
        assert len(app.asked) == 3
        assert cache.stats().failed_open == 2
        await without_blocking(come_back)
    clock.advance(LONGEST)
    # Redis has lost it, PostgreSQL has not.
    layers = [(await client.post("/ask", ASKED)).layer for _ in range(2)]
    assert layers[1] == "exact"
    await without_blocking(cache.close)


def test_a_fork_shares_no_connection(kind: Kind, tmp_path: Any) -> None:
    """A child has a session of its own on the server, and its end leaves the parent's alone."""
    store = kind.opens()(own_name(tmp_path))
    with SemanticCache(store=store, embedder=HashEmbedder()) as cache:
        cache.put("q", "r")
        session = kind.session(store)

        def child() -> Any:
            hit = cache.get("q")
            its_session = kind.session(store)
            cache.close()
            return hit is not None and hit.response, its_session, failures(cache)

        core_of(cache).questions.waiting["somebody in the parent"] = 0.0  # type: ignore[attr-defined]
        response, its_session, failed = forked(child)
        core_of(cache).questions.waiting.clear()  # type: ignore[attr-defined]
        assert (response, failed) == ("r", 0)
        assert its_session != session == kind.session(store)
        assert cache.get("q") is not None
        assert failures(cache) == 0


@pytest.mark.parametrize("what", ["password", "database"])
def test_who_is_not_let_in_is_told_why(kind: Kind, what: str, tmp_path: Any) -> None:
    """A wrong password or database is an error with a remedy that says nothing secret."""
    kind.let_in("locked", "right-word")
    good = kind.url("locked", "right-word")
    bad = kind.url("locked", "wrong-word") if what == "password" else kind.url(place="nowhere")
    with SemanticCache(store=kind.at(good, tmp_path), embedder=HashEmbedder()) as cache:
        assert cache.put("q", "r")
    with pytest.raises(StoreBackendError, match=r"Check that the server runs.*password") as caught:
        SemanticCache(store=kind.at(bad, tmp_path), embedder=HashEmbedder())
    store = kind.at(bad, tmp_path)
    with SemanticCache(store=store, embedder=HashEmbedder(), open_later=True) as cache:
        assert cache.get("q") is None
        assert "wrong-word" not in f"{cache!r} {cache.explain('q')} {cache.health()}"
    said: BaseException | None = caught.value
    while said is not None:
        assert "wrong-word" not in f"{said} {said!r}"
        said = said.__cause__ or said.__context__


def test_what_another_embedder_filled_is_refused(kind: Kind, tmp_path: Any) -> None:
    """Also when it is opened later: the first call says whose it is and what to do."""
    opens = partial(kind.opens(), own_name(tmp_path))
    with SemanticCache(store=opens(), embedder=HashEmbedder()) as cache:
        cache.put("q", "r")
    refused = pytest.raises(EmbedderMismatchError, match=r"Nothing was changed.*Use another")
    with refused:
        SemanticCache(store=opens(), embedder=HashEmbedder(64))
    with SemanticCache(store=opens(), embedder=HashEmbedder(64), open_later=True) as cache:
        with refused:
            cache.get("q")
        with refused:
            cache.put("q", "r")
    with SemanticCache(store=opens(), embedder=HashEmbedder()) as cache:
        assert cache.get("q") is not None


@pytest.mark.parametrize("interval", ["0", "1"])
def test_many_processes_see_what_others_did(kind: Kind, interval: str, tmp_path: Any) -> None:
    """Readers and writers in processes of their own find what the model of their run allows."""
    space = "schema" if kind.name == "postgres" else "prefix"
    found = report(
        *("--store", kind.name, "--at", kind.server.url, "--interval", interval),
        *("--settings", json.dumps({space: own_name(tmp_path), "timeout": PATIENCE})),
        *("--seconds", "2", "--writers", "2", "--readers", "2"),
    )
    assert found["wrong"] == []
    assert found["writes"] > 0
    assert found["hits"] > 0
