"""PostgreSQL keeps every promise of a store that searches, and tells its troubles apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from support.engines import own_name, postgres_url

from mneme.errors import StoreBackendError
from mneme.records import Changes
from mneme.stores._postgres_pool import Connection
from mneme.stores._postgres_sql import NEAR
from mneme.stores.postgres import PostgresStore
from mneme.testing import SearchableStoreContract, entry
from mneme.types import Store

CLAIM = SearchableStoreContract.FINGERPRINT, SearchableStoreContract.DIM


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
        # Tables this small the planner would sort: so it asks the index.
        url = make_conninfo(postgres_url(), options="-c enable_sort=off")
        return PostgresStore(url, schema=own_name(place), index="hnsw")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PostgresStore]:
    store = PostgresStore(postgres_url(), schema=own_name(tmp_path), connections=2)
    store.claim(*CLAIM)
    yield store
    store.close()


def test_a_database_without_the_extension_is_told() -> None:
    """Without pgvector the error says which command to run, and nothing was made."""
    name = own_name("bare")
    with psycopg.connect(postgres_url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            store = PostgresStore(make_conninfo(postgres_url(), dbname=name))
            with pytest.raises(StoreBackendError, match="Run CREATE EXTENSION vector"):
                store.claim(*CLAIM)
            store.close()
            with psycopg.connect(postgres_url(), dbname=name) as bare:
                made = bare.execute("SELECT to_regnamespace('mneme')").fetchone()
            assert made == (None,)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_a_user_without_rights_is_told(tmp_path: Path) -> None:
    """Who may not make the schema hears the server's word and what to check."""
    name = own_name(tmp_path)
    with psycopg.connect(postgres_url(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 's3cr3t-word'".encode())
        try:
            url = make_conninfo(postgres_url(), user=name, password="s3cr3t-word")
            store = PostgresStore(url, schema=name)
            with pytest.raises(StoreBackendError, match=r"permission denied.*rights") as caught:
                store.claim(*CLAIM)
            assert "s3cr3t-word" not in str(caught.value)
            store.close()
        finally:
            connection.execute(f"DROP ROLE {name}".encode())


def test_nothing_is_made_outside_of_the_schema(store: PostgresStore, tmp_path: Path) -> None:
    """All tables are in the store's schema, and dropping that leaves nothing behind."""
    name = own_name(tmp_path)
    store.commit(Changes(puts=(entry(),)))
    with psycopg.connect(postgres_url(), autocommit=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relname IN ('entries', 'vectors', 'cache') AND n.nspname = 'public'"
        ).fetchone()
        assert found == (0,)
        connection.execute(f"DROP SCHEMA {name} CASCADE".encode())
    with pytest.raises(StoreBackendError):
        store.fetch([entry().identity])


def test_a_call_is_made_again_where_nothing_was_done(store: PostgresStore) -> None:
    """A connection that was found dead is replaced; one that broke at COMMIT is not asked twice."""
    tries = []

    def broken(connection: Connection) -> None:
        tries.append(connection)
        connection.committing = len(tries) > 2
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    store.mark()
    with pytest.raises(StoreBackendError):
        store._pool.run(broken)
    assert len(tries) == 2
    store.mark()
    with pytest.raises(StoreBackendError):
        store._pool.run(broken)
    assert len(tries) == 3
    assert store.mark() == 0


def test_who_stops_in_the_midst_of_a_commit_lets_others_on(
    store: PostgresStore, tmp_path: Path
) -> None:
    """The lock of all commits is held no longer than a timeout by one who does nothing."""
    brief = PostgresStore(postgres_url(), schema=own_name(tmp_path), timeout=1.0)
    brief.claim(*CLAIM)

    def stalls(connection: Connection) -> None:
        connection.execute("BEGIN")
        connection.execute("SELECT seq FROM cache FOR UPDATE")
        store.commit(Changes(puts=(entry(),)))
        connection.execute("COMMIT")

    with pytest.raises(StoreBackendError):
        brief._pool.run(stalls)
    assert list(store.fetch([entry().identity])) == [entry()]
    brief.close()


def test_a_small_partition_is_compared_without_an_index(
    store: PostgresStore, tmp_path: Path
) -> None:
    """The planner reads one partition, not the table."""
    others = [
        replace(entry(str(at), namespace=str(at % 50)), created_at=float(at)) for at in range(3_000)
    ]
    store.commit(Changes(puts=tuple(others)))
    with psycopg.connect(postgres_url(), autocommit=True) as connection:
        connection.execute(f"SET search_path = {own_name(tmp_path)}, public".encode())
        connection.execute("ANALYZE vectors")
        rows = connection.execute(
            "EXPLAIN " + NEAR % {
                "partition": f"'\\x{others[0].partition.hex()}'", "now": "0", "at_most": "0",
                "vector": "'[1,0,0,0,0,0,0,0]'", "k": "8",
            }
        ).fetchall()  # fmt: skip
    plan = "\n".join(row[0] for row in rows)
    assert "vectors_pkey" in plan
    assert "Seq Scan on vectors" not in plan
