"""Redis keeps every promise of a store that searches, and tells its troubles apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from typing import Any

import pytest
import redis
from redis.crc import key_slot
from support.engines import Redis, own_name, redis_cluster_url, redis_url, running

from mneme.errors import EmbedderMismatchError, StoreBackendError
from mneme.records import Changes, Entry, Label, Selection
from mneme.stores.redis import FEW, RedisStore
from mneme.testing import SearchableStoreContract, entry, unit
from mneme.types import Store

CLAIM = SearchableStoreContract.FINGERPRINT, SearchableStoreContract.DIM
NOW = 1_700_000_000.0


class TestRedisStore(SearchableStoreContract):
    RECALL = 0.95

    def make_store(self, place: Path) -> Store:
        return RedisStore(redis_url(), prefix=own_name(place))

    def reopen(self, store: Store, place: Path) -> Store:
        return self.make_store(place)

    def beside(self, store: Store, place: Path) -> Store:
        return self.make_store(place)


class TestRedisStoreExactly(TestRedisStore):
    RECALL = 1.0

    def make_store(self, place: Path) -> Store:
        return RedisStore(redis_url(), prefix=own_name(place), index="exact")


class TestRedisCluster(TestRedisStore):
    def make_store(self, place: Path) -> Store:
        return RedisStore(redis_cluster_url(), prefix=own_name(place))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RedisStore]:
    store = RedisStore(redis_url(), prefix=own_name(tmp_path))
    store.claim(*CLAIM)
    yield store
    store.close()


@pytest.fixture
def client() -> Iterator[Any]:
    with redis.Redis.from_url(redis_url()) as client:
        yield client


def key_of(one: Entry, tmp_path: Path) -> bytes:
    return f"{{{own_name(tmp_path)}}}:e:".encode() + one.partition + one.key


def vectors_of(one: Entry, tmp_path: Path) -> bytes:
    return f"{{{own_name(tmp_path)}}}:v8:".encode() + one.partition


def test_what_redis_expired_is_gone(store: RedisStore, client: Any, tmp_path: Path) -> None:
    """An entry whose key has expired is found nowhere, can be swept, and can be put again."""
    one, other = entry("one", expires_at=NOW + 5), entry("other")
    store.commit(Changes(puts=(one, other)))
    client.delete(key_of(one, tmp_path))
    assert list(store.fetch([one.identity])) == [None]
    found = store.search(one.partition, unit(1.0), k=2, at_least=0.9, now=NOW)
    assert [candidate.entry.prompt for candidate in found] == ["other"]
    assert [left.prompt for left in store.scan()] == ["other"]
    store.commit(Changes(puts=(one,)))
    assert dict(store.sizes()) == {"default": 2}
    client.delete(key_of(one, tmp_path))
    assert store.remove(Selection(dead_by=NOW + 5), 10) == 1
    assert dict(store.sizes()) == {"default": 1}
    assert client.execute_command("VCARD", vectors_of(one, tmp_path)) == 1
    assert store.bad_rows == 0


def test_what_was_put_again_meanwhile_stays(store: RedisStore) -> None:
    """An entry that is replaced between being chosen and being removed is another entry."""
    store.commit(Changes(puts=(entry("a", tags=("t",)), entry("b", tags=("t",)))))
    chosen = list(store._chosen(Selection(tag="t")))
    store.commit(Changes(puts=(entry("a", "fresh"),)))
    assert store._removed(chosen) == 1
    assert [(one.prompt, one.payload.data) for one in store.scan()] == [("a", "fresh")]


def test_redis_forgets_the_dead_by_itself(store: RedisStore, client: Any, tmp_path: Path) -> None:
    """Where nobody sweeps, Redis drops what has been dead for an hour; the rest stays."""
    brief = entry("brief", created_at=NOW, expires_at=NOW + 60, dies_at=NOW + 100)
    forever = entry("for ever")
    store.commit(Changes(puts=(brief, forever)))
    assert 3_600 < client.ttl(key_of(brief, tmp_path)) <= 3_700
    assert client.ttl(key_of(forever, tmp_path)) == -1
    store.commit(Changes(puts=(entry("brief"),)))
    assert client.ttl(key_of(brief, tmp_path)) == -1


def test_vectors_ahead_of_their_commit_are_not_seen(
    store: RedisStore, client: Any, tmp_path: Path
) -> None:
    """A commit that ends between its vectors and its entries has changed nothing that is seen."""
    puts = tuple(entry(str(at), vector=unit(1.0, at / 100)) for at in range(2 * FEW))
    store.commit(Changes(puts=(entry("there", vector=unit(0.0, 1.0)),)))
    store._add_vectors(puts)
    assert client.execute_command("VCARD", vectors_of(puts[0], tmp_path)) == len(puts) + 1
    assert [one.prompt for one in store.scan()] == ["there"]
    assert dict(store.sizes()) == {"default": 1}
    found = store.search(puts[0].partition, unit(1.0), k=1, at_least=-1.0, now=NOW)
    assert [candidate.entry.prompt for candidate in found] == ["there"]
    # The same identities, elsewhere: what was left behind does not stand in the way.
    moved = tuple(replace(one, vector=unit(-1.0, at / 100)) for at, one in enumerate(puts))
    store.commit(Changes(puts=moved))
    found = store.search(puts[0].partition, unit(-1.0), k=1, at_least=0.99, now=NOW)
    assert [candidate.entry.prompt for candidate in found] == ["0"]
    store.commit(Changes(cleared=("default",)))
    assert client.keys(f"{{{own_name(tmp_path)}}}:[ev]*") == []


def test_a_full_server_is_told_and_nothing_was_done(tmp_path: Path) -> None:
    """Out of memory: the commit fails whole, with a remedy, and reading goes on."""
    with running(Redis("--maxmemory", "100mb")) as server:
        store = RedisStore(server.url, prefix=own_name(tmp_path))
        store.claim(*CLAIM)
        store.commit(Changes(puts=(entry("before"),)))
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", 1)
        with pytest.raises(StoreBackendError, match=r"maxmemory.*its memory"):
            store.commit(Changes(puts=(entry("after"),), removed=(entry("before").identity,)))
        assert [one.prompt for one in store.scan()] == ["before"]
        store.commit(Changes(removed=(entry("before").identity,)))
        assert dict(store.sizes()) == {}
        store.close()


def test_a_server_that_lost_everything_is_filled_again(tmp_path: Path) -> None:
    """After FLUSHALL, or a restart without persistence, an open store goes on with an empty one."""
    with running(Redis()) as server:
        store = RedisStore(server.url, prefix=own_name(tmp_path))
        store.claim(*CLAIM)
        store.commit(Changes(puts=(entry("a"), entry("b"))))
        mark = store.mark()
        server.crash()
        server.start_again()
        assert store.mark() != mark
        assert store.changes_since(mark) is None
        assert list(store.fetch([entry("a").identity])) == [None]
        store.commit(Changes(puts=(entry("c"),)))
        again = RedisStore(server.url, prefix=own_name(tmp_path))
        with pytest.raises(EmbedderMismatchError):
            again.claim("other:embedder", 8)
        assert [one.prompt for one in store.scan()] == ["c"]
        store.close()
        again.close()


class KnowsLittle(StreamRequestHandler):
    """Speaks as a Redis that knows but a few commands."""

    def handle(self) -> None:
        while head := self.rfile.readline():
            words = []
            for _ in range(int(head[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2])
            if words[0] in (b"CLIENT", b"INFO"):
                self.wfile.write(b"+OK\r\n")
            else:
                self.wfile.write(b"-ERR unknown command '%s'\r\n" % words[0])


def test_a_server_without_vector_sets_is_told(tmp_path: Path) -> None:
    """A Redis that is too old is named with the version that is needed."""
    with ThreadingTCPServer(("127.0.0.1", 0), KnowsLittle) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever).start()
        store = RedisStore(f"redis://127.0.0.1:{server.server_address[1]}?protocol=2")
        with pytest.raises(StoreBackendError, match=r"Redis 8\.2 or later"):
            store.claim(*CLAIM)
        store.close()
        server.shutdown()


def test_a_wrong_password_is_told(tmp_path: Path) -> None:
    """The server's word, what to check, and no password."""
    with running(Redis("--requirepass", "right")) as server:
        url = server.url.replace("redis://", "redis://:s3cr3t-word@")
        store = RedisStore(url, prefix=own_name(tmp_path))
        with pytest.raises(StoreBackendError, match=r"password") as caught:
            store.claim(*CLAIM)
        assert "s3cr3t-word" not in str(caught.value)
        store.close()
        store = RedisStore(url.replace("s3cr3t-word", "right"), prefix=own_name(tmp_path))
        store.claim(*CLAIM)
        store.close()


def test_all_keys_are_in_one_slot(store: RedisStore, client: Any, tmp_path: Path) -> None:
    """Every key of a cache begins with its prefix as a hash tag, whatever is put."""
    store.commit(
        Changes(
            puts=(entry("a", expires_at=NOW), entry("b", namespace="{other}")),
            counts={("n", "puts"): 1},
            labels=(Label(0.5, True, "n", "miss", NOW),),
            states={"s": b"1"},
            cleared=("never",),
            removed=(entry("never").identity,),
        )
    )
    store.commit(Changes(removed=(entry("a").identity,)))
    keys = [key for key in client.keys("*") if own_name(tmp_path).encode() in key]
    assert len(set(map(key_slot, keys))) == 1
    assert len(keys) >= 10
