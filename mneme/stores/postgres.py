"""
Entries in PostgreSQL with pgvector, for any number of machines.

The engine searches; no process holds the entries. Extra: ``mneme-toolkit[postgres]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from mneme.errors import EmbedderMismatchError, SchemaMigrationError, StoreBackendError
from mneme.records import (
    Candidate,
    Changes,
    Entry,
    Identity,
    Key,
    Label,
    Partition,
    Selection,
    Vector,
)
from mneme.stores._rows import as_text

try:
    from psycopg import sql

    from mneme.stores import _postgres_sql as statements
    from mneme.stores import _postgres_work as work
    from mneme.stores._postgres_pool import Connection, Pool, address_of
    from mneme.stores._postgres_rows import entry_from, teach
except ImportError as _exc:
    raise ImportError(
        "mneme.stores.postgres needs psycopg. "
        "Install it with: pip install 'mneme-toolkit[postgres]'"
    ) from _exc

__all__ = ["PostgresStore"]

T = TypeVar("T")

SCHEMA_VERSION = 1

TOLD_CHANGES = 2_000
"""Entries; who has missed more is told to forget all."""

PAGE = 500

ROUNDING = 1e-5
"""More than two ways of adding up the products of a cosine can differ by."""

INLINE_DIM = 1_900
"""Up to here a vector fits in a page (8 KB) beside its identity: compared without a detour."""

LONG = 60.0
"""How many timeouts removing all of a namespace, or making an index, may take."""


class PostgresStore:
    """
    A searchable store in one schema of a PostgreSQL database with the extension ``vector``.

    Nothing outside of that schema is made or changed. Every commit takes the schema's one
    lock, so that commits of many processes stand in one order and never wait in a circle.

    Args:
        url: ``postgresql://user:password@host:5432/database``, or what else libpq takes.
        schema: which tables; caches with different ones share a server and nothing else.
        index: ``"exact"`` compares with all of a partition; ``"hnsw"`` keeps an approximate
            index, which is faster from some ten thousand entries in one partition on, and
            slower to put into.
        effort: how many neighbours ``"hnsw"`` looks at (``hnsw.ef_search``): more miss less.
        timeout: seconds for connecting, for a statement and for a free connection.
        connections: how many at most.

    Raises:
        StoreBackendError: it cannot be reached, or lacks ``vector``; at `claim`.
        SchemaMigrationError: another version of mneme made the tables; at `claim`.
    """

    blocking = True
    schema_version = SCHEMA_VERSION

    def __init__(
        self,
        url: str,
        *,
        schema: str = "mneme",
        index: Literal["exact", "hnsw"] = "exact",
        effort: int = 100,
        timeout: float = 2.0,
        connections: int = 8,
    ) -> None:
        if index not in ("exact", "hnsw"):
            raise ValueError(f"index must be 'exact' or 'hnsw', got {index!r}.")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", schema):
            raise ValueError(f"schema must be letters, digits and _ (63 at most), got {schema!r}.")
        if not 0 < timeout < 3600:
            raise ValueError(f"timeout must be seconds between 0 and 3600, got {timeout!r}.")
        if connections < 1 or not 1 <= effort <= 1_000:
            raise ValueError(
                "connections must be at least 1 and effort 1 to 1000, got "
                f"{connections!r} and {effort!r}."
            )
        address, password = address_of(url)
        self.description: str = f"{address} (schema {schema})"
        self.bad_rows: int = 0
        self._schema = schema
        self._index = index
        self._effort = effort
        self._timeout = timeout
        self._fingerprint, self._dim = "", 0
        self._pool = Pool(
            url,
            size=connections,
            timeout=timeout,
            prepare=self._prepare,
            name=self.description,
            password=password,
        )

    # -- claiming -------------------------------------------------------------------------------

    def owner(self) -> tuple[str, int] | None:
        def run(connection: Connection) -> tuple[str, int] | None:
            if not self._has_tables(connection):
                return None
            row = connection.execute("SELECT fingerprint, dim FROM cache").fetchone()
            return None if row is None or row[0] is None else (row[0], row[1])

        return self._pool.run(run)

    def _has_tables(self, connection: Connection) -> bool:
        there = connection.execute("SELECT to_regclass(%s)", (f"{self._schema}.cache",)).fetchone()
        return there is not None and there[0] is not None

    def claim(self, fingerprint: str, dim: int) -> None:
        def run(connection: Connection) -> None:
            connection.execute("BEGIN")
            lock = f"mneme:{self._schema}"
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (lock,))
            self._make_tables(connection)
            self._bind(connection, fingerprint, dim)
            connection.execute("COMMIT")

        self._pool.run(run, patience=LONG * self._timeout)
        self._fingerprint, self._dim = fingerprint, dim

    def _prepare(self, connection: Connection) -> None:
        """What each connection is told once."""
        found = connection.execute(statements.EXTENSION).fetchone()
        if found is None:
            raise StoreBackendError(
                f"{self.description} lacks the extension 'vector' (pgvector). Nothing was "
                "changed. Run CREATE EXTENSION vector in that database once."
            )
        oid, array_oid, extension_schema = found
        teach(connection, oid, array_oid)
        connection.execute(
            sql.SQL("SET search_path = {}, {}").format(
                sql.Identifier(self._schema), sql.Identifier(extension_schema)
            )
        )
        # A plan for one partition is wrong for a much larger one.
        connection.execute("SET plan_cache_mode = force_custom_plan")
        connection.execute("SET jit = off")
        if self._index == "hnsw":
            connection.execute(f"SET hnsw.ef_search = {int(self._effort)}".encode())
            connection.execute("SET hnsw.iterative_scan = strict_order")
            connection.execute("SET hnsw.max_scan_tuples = 1000000")

    def _make_tables(self, connection: Connection) -> None:
        if not self._has_tables(connection):
            connection.execute(
                sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self._schema))
            )
            for statement in statements.TABLES.split(";"):
                if statement.strip():
                    connection.execute(statement.encode())
            connection.execute(
                "INSERT INTO cache (version, seq, removals_from) VALUES (%s, 0, 0)",
                (SCHEMA_VERSION,),
            )
        row = connection.execute("SELECT version FROM cache").fetchone()
        version = row[0] if row else None
        if version != SCHEMA_VERSION:
            raise SchemaMigrationError(
                f"{self.description} has layout {version}, this version of mneme reads "
                f"{SCHEMA_VERSION}. Nothing was changed. Upgrade mneme-toolkit, or use another "
                "schema."
            )

    def _bind(self, connection: Connection, fingerprint: str, dim: int) -> None:
        row = connection.execute("SELECT fingerprint, dim FROM cache FOR UPDATE").fetchone()
        owner, its_dim = row or (None, None)
        if (owner, its_dim) != (fingerprint, dim):
            filled = connection.execute("SELECT 1 FROM entries LIMIT 1").fetchone()
            if owner is not None and filled:
                raise self._mismatch((owner, its_dim), fingerprint, dim)
            connection.execute("UPDATE cache SET fingerprint = %s, dim = %s", (fingerprint, dim))
            connection.execute("DROP INDEX IF EXISTS vectors_by_nearness")
            storage = "PLAIN" if dim <= INLINE_DIM else "EXTERNAL"
            connection.execute(
                f"ALTER TABLE vectors ALTER COLUMN vector TYPE vector({int(dim)}), "
                f"ALTER COLUMN vector SET STORAGE {storage}".encode()
            )
        if self._index == "hnsw":
            self._take_long(connection)
            connection.execute(statements.HNSW)

    def _mismatch(self, owner: Sequence[Any], fingerprint: str, dim: int) -> EmbedderMismatchError:
        return EmbedderMismatchError(
            f"{self.description} was filled by {owner[0]!r} ({owner[1]}), this cache uses "
            f"{fingerprint!r} ({dim}). Nothing was changed. "
            "Use another schema, or run python -m mneme migrate (reembed)."
        )

    # -- writing --------------------------------------------------------------------------------

    def commit(self, changes: Changes) -> int:
        def run(connection: Connection, seq: int) -> int:
            is_changed = work.apply(connection, changes, seq + 1)
            return seq + 1 if is_changed and changes.mark == seq else changes.mark

        return self._transaction(run, is_long=bool(changes.cleared))

    def remove(self, chosen: Selection, limit: int) -> int:
        if limit < 1:
            return 0
        condition, values = work.where(chosen)
        return self._transaction(
            lambda connection, seq: work.remove(
                connection, f"{condition} LIMIT {int(limit)}", values, seq + 1
            )
        )

    def trim(self, limit: int, namespace: str | None = None) -> int:
        if self.count(Selection(namespace)) <= limit:
            return 0
        condition, values = work.where(Selection(namespace))

        def run(connection: Connection, seq: int) -> int:
            # Counted again: others may have trimmed while this waited for the lock.
            surplus = work.count(connection, namespace) - limit
            which = f"{condition} ORDER BY used_at LIMIT {max(0, surplus)}"
            return work.remove(connection, which, values, seq + 1)

        return self._transaction(run, is_long=True)

    def _transaction(self, run: Callable[[Connection, int], T], *, is_long: bool = False) -> T:
        """`run` with the number of the last commit, under the lock of all commits."""

        def transact(connection: Connection) -> T:
            connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            if is_long:
                self._take_long(connection)
            seq, *owner = work.rows(connection, statements.LOCK)[0]
            if owner != [self._fingerprint, self._dim]:
                raise self._mismatch(owner, self._fingerprint, self._dim)
            result = run(connection, seq)
            connection.committing = True
            connection.execute("COMMIT")
            connection.committing = False
            return result

        return self._run(transact, patience=LONG * self._timeout if is_long else None)

    def _take_long(self, connection: Connection) -> None:
        milliseconds = round(LONG * self._timeout * 1000)
        connection.execute(f"SET LOCAL statement_timeout = {milliseconds}".encode())

    # -- reading --------------------------------------------------------------------------------

    def fetch(self, identities: Sequence[Identity]) -> Sequence[Entry | None]:
        if not identities:
            return []
        rows = self._rows(statements.FETCH, work.columns(identities))
        found = {entry.identity: entry for entry in self._entries(rows)}
        return [found.get(identity) for identity in identities]

    def search(
        self, partition: Partition, vector: Vector, *, k: int, at_least: float, now: float
    ) -> Sequence[Candidate]:
        if k < 1:
            return []
        values = {
            "partition": partition,
            "vector": np.asarray(vector, np.float32),
            "now": now,
            "k": k,
            # The operator gives the negative inner product.
            "at_most": ROUNDING - at_least,
        }
        is_exact = self._index == "exact"
        rows = self._rows(statements.NEAR if is_exact else statements.NEAREST, values)
        near = [
            Candidate(entry, float(entry.vector @ vector))
            for entry in self._entries(rows)
            if entry.vector is not None
        ]
        near.sort(key=lambda candidate: -candidate.similarity)
        return [candidate for candidate in near if candidate.similarity >= at_least]

    def scan(self) -> Iterator[Entry]:
        """Every entry, oldest commit first; what is replaced meanwhile may come twice."""
        after = (-1, 0)
        while rows := self._rows(statements.SCAN, (*after, PAGE)):
            after = tuple(rows[-1][-2:])
            yield from self._entries(row[:-2] for row in rows)

    def mark(self) -> int:
        return int(self._rows("SELECT seq FROM cache")[0][0])

    def changes_since(self, mark: int) -> Changes | None:
        def run(connection: Connection) -> tuple[Any, list[Any], list[Any]]:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            state = connection.execute("SELECT seq, removals_from FROM cache").fetchone()
            rows = work.rows(connection, statements.CHANGED, (mark, TOLD_CHANGES + 1))
            gone = work.rows(connection, statements.REMOVED, (mark, TOLD_CHANGES + 1))
            connection.execute("COMMIT")
            return state, rows, gone

        (seq, oldest), rows, gone = self._run(run)
        if not oldest <= mark <= seq or max(len(rows), len(gone)) > TOLD_CHANGES:
            return None
        return Changes(
            tuple(self._entries(rows)),
            tuple((Partition(p), Key(k)) for p, k, cleared in gone if cleared is None),
            mark=seq,
            cleared=tuple(as_text(cleared) for _, _, cleared in gone if cleared is not None),
        )

    def count(self, chosen: Selection) -> int:
        if chosen == Selection(chosen.namespace):
            return self._run(lambda connection: work.count(connection, chosen.namespace))
        condition, values = work.where(chosen)
        return int(self._rows(f"SELECT count(*) FROM entries WHERE {condition}", values)[0][0])

    def sizes(self) -> Mapping[str, int]:
        rows = self._rows("SELECT namespace, n FROM sizes WHERE n > 0")
        return {as_text(namespace): n for namespace, n in rows}

    def counts(self) -> Mapping[tuple[str, str], int]:
        rows = self._rows("SELECT namespace, name, n FROM counts")
        return {(as_text(namespace), name): n for namespace, name, n in rows}

    def labels(self) -> Iterator[Label]:
        rows = self._rows(f"SELECT {statements.LABEL} FROM labels ORDER BY id")
        for similarity, right, namespace, source, created_at, chance in rows:
            yield Label(similarity, right, as_text(namespace), source, created_at, chance)

    def states(self) -> Mapping[str, bytes]:
        return dict(self._rows("SELECT name, data FROM states"))

    def close(self) -> None:
        self._pool.close()

    def __repr__(self) -> str:
        return f"PostgresStore({self.description!r})"

    # -- the driver -----------------------------------------------------------------------------

    def _run(self, run: Callable[[Connection], T], *, patience: float | None = None) -> T:
        if not self._dim:
            raise StoreBackendError(
                f"{self.description}: this store is not open. Open a cache on it."
            )
        return self._pool.run(run, patience=patience)

    def _rows(self, statement: str, values: Any = None) -> list[Any]:
        return self._run(lambda connection: work.rows(connection, statement, values))

    def _entries(self, rows: Iterable[Sequence[Any]]) -> Iterator[Entry]:
        for row in rows:
            entry = entry_from(row, self._dim)
            if entry is None:
                self.bad_rows += 1
            else:
                yield entry
