"""
The tables of a cache in PostgreSQL, and the statements on them.

Texts are kept as UTF-8 in ``bytea``: ``text`` cannot hold a NUL, which a prompt may. Vectors
stand in a table of their own, so that comparing all of a partition reads little else, and so
that marking an entry as used does not write its vector again.
"""

from __future__ import annotations

__all__ = [
    "ADD_LABEL", "CHANGED", "COPY_ENTRIES", "COPY_VECTORS", "COUNT", "EXTENSION", "FETCH", "FORGET",
    "HNSW", "LABEL", "LOCK", "NEAR", "NEAREST", "NOTE_CLEARED", "REMOVED", "RESIZE", "SCAN",
    "SET_STATE", "SIZE", "TABLES", "USE", "WITHIN",
]  # fmt: skip

TABLES = """
CREATE TABLE cache (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), version int NOT NULL,
    fingerprint text, dim int, seq bigint NOT NULL, removals_from bigint NOT NULL);
CREATE SEQUENCE ticks;
CREATE TABLE entries (
    partition bytea NOT NULL, key bytea NOT NULL, namespace bytea NOT NULL,
    prompt bytea NOT NULL, kind text NOT NULL, payload bytea NOT NULL, metadata bytea NOT NULL,
    tags bytea[] NOT NULL, created_at float8 NOT NULL, expires_at float8, dies_at float8,
    dead_at float8, seq bigint NOT NULL, put_at bigint NOT NULL DEFAULT nextval('ticks'),
    used_at bigint NOT NULL DEFAULT nextval('ticks'), PRIMARY KEY (partition, key));
CREATE INDEX entries_by_commit ON entries (seq, put_at);
CREATE INDEX entries_by_use ON entries (used_at);
CREATE INDEX entries_by_namespace ON entries (namespace, used_at);
CREATE INDEX entries_by_death ON entries (dead_at) WHERE dead_at IS NOT NULL;
CREATE TABLE vectors (
    partition bytea NOT NULL, key bytea NOT NULL, dead_at float8, vector vector NOT NULL,
    PRIMARY KEY (partition, key));
CREATE TABLE sizes (namespace bytea PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE removals (seq bigint NOT NULL, partition bytea, key bytea, cleared bytea);
CREATE INDEX removals_by_commit ON removals (seq);
CREATE TABLE counts (namespace bytea, name text, n bigint NOT NULL, PRIMARY KEY (namespace, name));
CREATE TABLE labels (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, similarity float8 NOT NULL,
    is_right bool NOT NULL, namespace bytea NOT NULL, source text NOT NULL,
    created_at float8 NOT NULL, chance_right float8);
CREATE TABLE states (name text PRIMARY KEY, data bytea NOT NULL);
"""

COLUMNS = """e.partition, e.key, e.namespace, e.prompt, e.kind, e.payload, e.metadata, e.tags,
    e.created_at, e.expires_at, e.dies_at"""

LABEL = "similarity, is_right, namespace, source, created_at, chance_right"

WITHIN = "(partition, key) IN (SELECT * FROM unnest(%(partitions)s::bytea[], %(keys)s::bytea[]))"

SCAN = f"""
SELECT {COLUMNS}, v.vector, e.seq, e.put_at
FROM entries e LEFT JOIN vectors v USING (partition, key)
WHERE (e.seq, e.put_at) > (%s, %s) ORDER BY e.seq, e.put_at LIMIT %s
"""

CHANGED = f"""
SELECT {COLUMNS}, v.vector FROM entries e LEFT JOIN vectors v USING (partition, key)
WHERE e.seq > %s ORDER BY e.seq, e.put_at LIMIT %s
"""

_FOUND = f"""
SELECT {COLUMNS}, v.vector FROM ({{}}) v JOIN entries e USING (partition, key)
"""

NEAR = _FOUND.format("""
    SELECT partition, key, vector FROM vectors
    WHERE partition = %(partition)s AND (dead_at IS NULL OR dead_at > %(now)s)
        AND (vector <#> %(vector)s) <= %(at_most)s
    ORDER BY vector <#> %(vector)s LIMIT %(k)s
""")
"""Those within a distance, whatever way leads there."""

NEAREST = _FOUND.format("""
    SELECT partition, key, vector FROM vectors
    WHERE partition = %(partition)s AND (dead_at IS NULL OR dead_at > %(now)s)
    ORDER BY vector <#> %(vector)s LIMIT %(k)s
""")
"""The nearest, by an HNSW index where the planner likes: with a distance to meet, it would
go through the whole index when fewer than k meet it."""

HNSW = "CREATE INDEX IF NOT EXISTS vectors_by_nearness ON vectors USING hnsw (vector vector_ip_ops)"

FETCH = f"SELECT {COLUMNS}, NULL FROM entries e WHERE {WITHIN}"

REMOVED = "SELECT partition, key, cleared FROM removals WHERE seq > %s LIMIT %s"

COPY_ENTRIES = """
COPY entries (partition, key, namespace, prompt, kind, payload, metadata, tags, created_at,
    expires_at, dies_at, dead_at, seq) FROM STDIN (FORMAT BINARY)
"""

COPY_VECTORS = "COPY vectors (partition, key, dead_at, vector) FROM STDIN (FORMAT BINARY)"

FORGET = """
WITH gone AS (DELETE FROM entries e WHERE {which} RETURNING e.partition, e.key, e.namespace),
    vectors_gone AS (DELETE FROM vectors v USING gone
        WHERE v.partition = gone.partition AND v.key = gone.key),
    noted AS (INSERT INTO removals (seq, partition, key)
        SELECT %(seq)s, gone.partition, gone.key FROM gone WHERE %(is_noted)s)
SELECT namespace, count(*) FROM gone GROUP BY namespace
"""
"""Removes entries and their vectors; how many went from each namespace."""

NOTE_CLEARED = "INSERT INTO removals (seq, cleared) SELECT %(seq)s, unnest(%(spaces)s::bytea[])"

LOCK = "SELECT seq, fingerprint, dim FROM cache FOR UPDATE"

USE = f"UPDATE entries SET used_at = nextval('ticks') WHERE {WITHIN}"

RESIZE = """
INSERT INTO sizes AS s VALUES (%s, %s)
ON CONFLICT (namespace) DO UPDATE SET n = s.n + EXCLUDED.n
"""

SIZE = """
SELECT coalesce(sum(n), 0)::bigint FROM sizes
WHERE %(namespace)s::bytea IS NULL OR namespace = %(namespace)s
"""

COUNT = """
INSERT INTO counts AS c VALUES (%s, %s, %s)
ON CONFLICT (namespace, name) DO UPDATE SET n = c.n + EXCLUDED.n
"""

ADD_LABEL = f"INSERT INTO labels ({LABEL}) VALUES (%s, %s, %s, %s, %s, %s)"

SET_STATE = """
INSERT INTO states VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET data = EXCLUDED.data
"""

EXTENSION = """
SELECT t.oid, t.typarray, n.nspname FROM pg_type t
JOIN pg_namespace n ON n.oid = t.typnamespace
JOIN pg_extension x ON x.extnamespace = n.oid AND x.extname = 'vector'
WHERE t.typname = 'vector'
"""
