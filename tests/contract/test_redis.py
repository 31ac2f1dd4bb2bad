"""Redis keeps every promise of a store that searches, and tells its troubles apart."""

from __future__ import annotations

from pathlib import Path

from support.engines import own_name, redis_cluster_url, redis_url

from mneme.stores.redis import RedisStore
from mneme.testing import SearchableStoreContract
from mneme.types import Store


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
