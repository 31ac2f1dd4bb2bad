"""What one transaction does to the tables; the caller holds the lock of all commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mneme.records import Changes, Entry, Identity, Selection
from mneme.stores import _postgres_sql as statements
from mneme.stores._postgres_pool import Connection
from mneme.stores._postgres_rows import TYPES, VECTOR_TYPES, columns_of, vector_row
from mneme.stores._rows import as_bytes

__all__ = ["advance", "apply", "columns", "count", "remove", "rows", "where"]

REMEMBERED_REMOVALS = 10_000
"""Commits; who asks for changes before them is told to forget all."""

KEPT_LABELS = 100_000


def rows(connection: Connection, statement: str, values: Any = None) -> list[Any]:
    """All rows of `statement`, in the binary form that gives numbers and bytes as they are."""
    cursor = connection.cursor(binary=True)
    cursor.execute(statement.encode(), values)
    return cursor.fetchall()


def columns(identities: Sequence[Identity]) -> dict[str, Any]:
    return {
        "partitions": [bytes(partition) for partition, _ in identities],
        "keys": [bytes(key) for _, key in identities],
    }


def where(chosen: Selection) -> tuple[str, dict[str, Any]]:
    """The condition on ``entries`` that says what `chosen` does, and its values."""
    values: dict[str, Any] = {}
    parts = ["true"]
    if chosen.namespace is not None:
        parts.append("namespace = %(namespace)s")
        values["namespace"] = as_bytes(chosen.namespace)
    if chosen.tag is not None:
        parts.append("%(tag)s = ANY(tags)")
        values["tag"] = as_bytes(chosen.tag)
    if chosen.created_before is not None:
        parts.append("created_at < %(created_before)s")
        values["created_before"] = chosen.created_before
    if chosen.dead_by is not None:
        parts.append("dead_at <= %(dead_by)s")
        values["dead_by"] = chosen.dead_by
    return " AND ".join(parts), values


def apply(connection: Connection, changes: Changes, seq: int) -> bool:
    """Do all of `changes` as commit `seq`; whether that changed any entry."""
    _remember(connection, changes)
    is_changed = bool(changes.puts or changes.removed or changes.cleared)
    if is_changed:
        sizes = _clear(connection, changes.cleared, seq)
        if changes.removed:
            sizes.update(_gone(connection, changes.removed, seq, is_noted=True))
        sizes.update(_put(connection, changes.puts, seq))
        _resize(connection, sizes)
        advance(connection, seq)
    if changes.used:
        connection.execute(statements.USE.encode(), columns(changes.used))
    return is_changed


def remove(connection: Connection, which: str, values: Mapping[str, Any], seq: int) -> int:
    """Remove the rows of ``entries`` that `which` selects, as commit `seq`; how many."""
    inner = f"(e.partition, e.key) IN (SELECT partition, key FROM entries WHERE {which})"
    sizes = _forget(connection, inner, {**values, "seq": seq, "is_noted": True})
    if sizes:
        _resize(connection, sizes)
        advance(connection, seq)
    return -sum(sizes.values())


def count(connection: Connection, namespace: str | None) -> int:
    space = None if namespace is None else as_bytes(namespace)
    return int(rows(connection, statements.SIZE, {"namespace": space})[0][0])


def advance(connection: Connection, seq: int) -> None:
    """Say that commit `seq` was made, and forget what was removed long ago."""
    connection.execute("UPDATE cache SET seq = %s", (seq,))
    horizon = seq - REMEMBERED_REMOVALS
    if horizon > 0 and seq % 100 == 0:
        connection.execute("DELETE FROM removals WHERE seq <= %s", (horizon,))
        connection.execute("UPDATE cache SET removals_from = %s", (horizon,))


def _clear(connection: Connection, namespaces: Sequence[str], seq: int) -> Counter[bytes]:
    if not namespaces:
        return Counter()
    values = {"spaces": [as_bytes(name) for name in namespaces], "seq": seq, "is_noted": False}
    connection.execute(statements.NOTE_CLEARED.encode(), values)
    return _forget(connection, "e.namespace = ANY(%(spaces)s)", values)


def _gone(
    connection: Connection, identities: Sequence[Identity], seq: int, *, is_noted: bool
) -> Counter[bytes]:
    values = {**columns(identities), "seq": seq, "is_noted": is_noted}
    return _forget(connection, statements.WITHIN, values)


def _forget(connection: Connection, which: str, values: Mapping[str, Any]) -> Counter[bytes]:
    gone = rows(connection, statements.FORGET.format(which=which), values)
    return Counter({space: -n for space, n in gone})


def _put(connection: Connection, puts: Sequence[Entry], seq: int) -> Counter[bytes]:
    entries = {entry.identity: entry for entry in puts}
    if not entries:
        return Counter()
    # A row that is replaced goes and comes again: its place is that of the last commit.
    sizes = _gone(connection, list(entries), seq, is_noted=False)
    _copy(
        connection,
        statements.COPY_ENTRIES,
        TYPES,
        [(*columns_of(entry), seq) for entry in entries.values()],
    )
    with_vector = [vector_row(entry) for entry in entries.values() if entry.vector is not None]
    if with_vector:
        _copy(connection, statements.COPY_VECTORS, VECTOR_TYPES, with_vector)
    sizes.update(as_bytes(entry.namespace) for entry in entries.values())
    return sizes


def _copy(
    connection: Connection,
    statement: str,
    types: Sequence[str | int],
    values: Sequence[Sequence[Any]],
) -> None:
    with connection.cursor().copy(statement.encode()) as copy:
        copy.set_types(types)
        for row in values:
            copy.write_row(row)


def _resize(connection: Connection, sizes: Counter[bytes]) -> None:
    for space, change in sorted(sizes.items()):
        if change:
            connection.execute(statements.RESIZE.encode(), (space, change))


def _remember(connection: Connection, changes: Changes) -> None:
    """Keep counts, labels (the newest so many) and states."""
    cursor = connection.cursor()
    if changes.counts:
        increments = [(as_bytes(space), name, n) for (space, name), n in changes.counts.items()]
        cursor.executemany(statements.COUNT.encode(), increments)
    if changes.labels:
        labels = [
            (one.similarity, one.right, as_bytes(one.namespace), one.source, one.created_at,
             one.chance_right)
            for one in changes.labels
        ]  # fmt: skip
        cursor.executemany(statements.ADD_LABEL.encode(), labels)
        cursor.execute(
            "DELETE FROM labels WHERE id <= (SELECT max(id) FROM labels) - %s", (KEPT_LABELS,)
        )
    if changes.states:
        cursor.executemany(statements.SET_STATE.encode(), list(changes.states.items()))
