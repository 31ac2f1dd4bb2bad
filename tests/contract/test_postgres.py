"""PostgreSQL keeps every promise of a store that searches, and tells its troubles apart."""

from __future__ import annotations

from pathlib import Path

from support.engines import own_name, postgres_url

from mneme.stores.postgres import PostgresStore
from mneme.testing import SearchableStoreContract
from mneme.types import Store


class TestPostgresStore(SearchableStoreContract):
    def make_store(self, place: Path) -> Store:
        return PostgresStore(postgres_url(), schema=own_name(place))

    def reopen(self, store: Store, place: Path) -> Store:
        return self.make_store(place)

    def beside(self, store: Store, place: Path) -> Store:
        return self.make_store(place)


class TestPostgresStoreWithHnsw(TestPostgresStore):
    RECALL = 0.95

    def make_store(self, place: Path) -> Store:
        return PostgresStore(postgres_url(), schema=own_name(place), index="hnsw")
