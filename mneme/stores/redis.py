"""
Entries in Redis with its vector sets, for any number of machines.

The engine searches; no process holds the entries. Extra: ``mneme-toolkit[redis]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

import numpy as np

from mneme.errors import EmbedderMismatchError, SchemaMigrationError, StoreBackendError
from mneme.records import (
    Candidate,
    Changes,
    Entry,
    Identity,
    Label,
    Partition,
    Selection,
    Vector,
)
from mneme.stores import _redis_scripts as scripts
from mneme.stores._redis_rows import (
    arguments_of,
    entry_from,
    identity_of,
    is_chosen,
    label_from,
    name_of,
    vector_of,
)
from mneme.stores._redis_scripts import FIELDS
from mneme.stores._rows import as_bytes, as_text

try:
    from mneme.stores._redis_client import Client, address_of
except ImportError as _exc:
    raise ImportError(
        "mneme.stores.redis needs redis. Install it with: pip install 'mneme-toolkit[redis]'"
    ) from _exc

__all__ = ["RedisStore"]

SCHEMA_VERSION = 1

TOLD_CHANGES = 2_000
"""Entries; who has missed more is told to forget all."""

PAGE = 500

FEW = 16
"""More vectors than these are added one by one before the commit that makes them seen: adding
one to a large set takes about a millisecond, in which a script keeps all others waiting."""

ROUNDING = 1e-5
"""More than two ways of adding up the products of a cosine can differ by."""

LONG = 60.0
"""How many timeouts emptying a namespace may take."""


class RedisStore:
    """
    A searchable store in a Redis server or cluster, version 8.2 or later, without modules.

    All keys begin with ``{prefix}:`` and so lie in one slot of a cluster: a commit is seen
    whole there too, and one cache is as large as one of the nodes allows.

    Args:
        url: ``redis://user:password@host:6379/0``, ``rediss://`` or ``unix://``; of a cluster,
            any node.
        prefix: of all keys; caches with different ones share a server and nothing else.
        index: ``"hnsw"`` asks the vector set's graph, which may miss some; ``"exact"``
            compares with all of a partition.
        effort: how many neighbours ``"hnsw"`` looks at (VSIM's ``EF``): more miss less.
        timeout: seconds for connecting, for an answer and for a free connection.
        connections: how many at most.

    Raises:
        StoreBackendError: it cannot be reached, or has no vector sets; at `claim`.
        SchemaMigrationError: another version of mneme wrote the keys; at `claim`.
    """

    blocking = True
    schema_version = SCHEMA_VERSION

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "mneme",
        index: Literal["hnsw", "exact"] = "hnsw",
        effort: int = 200,
        timeout: float = 2.0,
        connections: int = 8,
    ) -> None:
        if index not in ("hnsw", "exact"):
            raise ValueError(f"index must be 'hnsw' or 'exact', got {index!r}.")
        if not re.fullmatch(r"[\w.:-]{1,100}", prefix):
            raise ValueError(
                f"prefix must be letters, digits and _ . : - (100 at most), got {prefix!r}."
            )
        if not 0 < timeout < 3600:
            raise ValueError(f"timeout must be seconds between 0 and 3600, got {timeout!r}.")
        if connections < 1 or effort < 1:
            raise ValueError(
                f"connections and effort must be at least 1, got {connections!r} and {effort!r}."
            )
        address, password = address_of(url)
        self.description: str = f"{address} (prefix {prefix})"
        self.bad_rows: int = 0
        self._names = f"{{{prefix}}}:".encode()
        self._home = self._names + b"cache"
        self._how = ["TRUTH"] if index == "exact" else ["EF", effort]
        self._fingerprint, self._dim = "", 0
        self._client = Client(
            url, timeout=timeout, size=connections, name=self.description, password=password
        )

    def claim(self, fingerprint: str, dim: int) -> None:
        self._check_engine()
        claim: list[bytes | int] = [SCHEMA_VERSION, as_bytes(fingerprint), dim]
        kind, *found = self._client.script(scripts.CLAIM, self._home, claim)
        if kind == b"version":
            raise SchemaMigrationError(
                f"{self.description} has layout {as_text(found[0])}, this version of mneme reads "
                f"{SCHEMA_VERSION}. Nothing was changed. Upgrade mneme-toolkit, or use another "
                "prefix."
            )
        if kind == b"embedder":
            raise self._mismatch(found, fingerprint, dim)
        self._fingerprint, self._dim = fingerprint, dim

    def _mismatch(
        self, found: Sequence[bytes], fingerprint: str, dim: int
    ) -> EmbedderMismatchError:
        return EmbedderMismatchError(
            f"{self.description} was filled by {as_text(found[0])!r} ({as_text(found[1])}), "
            f"this cache uses {fingerprint!r} ({dim}). Nothing was changed. "
            "Use another prefix, or run python -m mneme migrate (reembed)."
        )

    def owner(self) -> tuple[str, int] | None:
        name, dim = self._client.run(lambda known: known.hmget(self._home, ["fingerprint", "dim"]))
        return None if name is None else (as_text(name), int(dim))

    def _check_engine(self) -> None:
        if not self._client.knows("VISMEMBER", self._vectors(Partition(bytes(16))), b""):
            raise StoreBackendError(
                f"{self.description} has no vector sets. Nothing was changed. "
                "Use Redis 8.2 or later."
            )

    # -- writing --------------------------------------------------------------------------------

    def commit(self, changes: Changes) -> int:
        self._add_vectors(changes.puts)
        claim: list[bytes | int] = [self._dim, SCHEMA_VERSION, as_bytes(self._fingerprint)]
        before, *after = self._script(
            scripts.COMMIT if changes.puts else scripts.RELIEVE,
            [*claim, *arguments_of(changes)],
            is_repeatable=not (changes.counts or changes.labels),
            patience=LONG if changes.cleared else 1.0,
        )
        if before == b"embedder":
            raise self._mismatch(after, self._fingerprint, self._dim)
        is_changed = bool(changes.puts or changes.removed or changes.cleared)
        return int(after[0]) if is_changed and changes.mark == before else changes.mark

    def _add_vectors(self, puts: Sequence[Entry]) -> None:
        """
        Add the vectors of new entries ahead of their commit, unless they are few.

        A vector without an entry is no candidate, so that nobody sees them before; those of
        known entries wait, as theirs would be seen.
        """
        entries = {one.identity: one for one in puts if one.vector is not None}
        if len(entries) <= FEW:
            return
        known = self._fetched(list(entries), ("namespace",))
        new = [one for one, (space,) in zip(entries.values(), known, strict=True) if space is None]
        for at in range(0, len(new), PAGE):
            self._run(partial(self._vadd, new[at : at + PAGE]))

    def _vadd(self, entries: Sequence[Entry], client: Any) -> None:
        with client.pipeline(transaction=False) as pipeline:
            for entry in entries:
                pipeline.execute_command(
                    "VADD", self._vectors(entry.partition), "FP32", vector_of(entry), entry.key,
                    "CAS", "NOQUANT",
                )  # fmt: skip
            pipeline.execute()

    def remove(self, chosen: Selection, limit: int) -> int:
        return self._removed(list(islice(self._chosen(chosen), max(0, limit))))

    def _removed(self, members: Sequence[tuple[bytes, bytes]]) -> int:
        gone = 0
        for at in range(0, len(members), PAGE):
            words = [word for pair in members[at : at + PAGE] for word in pair]
            gone += int(self._script(scripts.REMOVE, [self._dim, *words], is_repeatable=False))
        return gone

    def trim(self, limit: int, namespace: str | None = None) -> int:
        uses = b"uses" if namespace is None else b"uses:" + as_bytes(namespace)
        gone = 0
        while went := int(self._script(scripts.TRIM, [self._dim, uses, max(0, limit), PAGE])):
            gone += went
        return gone

    # -- reading --------------------------------------------------------------------------------

    def fetch(self, identities: Sequence[Identity]) -> Sequence[Entry | None]:
        return self._entries(identities, FIELDS[:-1])

    def search(
        self, partition: Partition, vector: Vector, *, k: int, at_least: float, now: float
    ) -> Sequence[Candidate]:
        if k < 1:
            return []
        asked = k
        while True:
            near = self._nearest(partition, vector, asked)
            close = [key for key, cosine in near if cosine >= at_least - ROUNDING]
            found = self._living(partition, close, vector, at_least, now)
            # Fewer than asked for is all there is; too far away, and so are all others.
            if len(found) >= k or len(near) < asked or len(close) < len(near):
                return found[:k]
            asked *= 4

    def _nearest(
        self, partition: Partition, vector: Vector, count: int
    ) -> list[tuple[bytes, float]]:
        """Keys with their approximate cosine, nearest first."""
        words = [
            "FP32",
            np.ascontiguousarray(vector, "<f4").tobytes(),
            "WITHSCORES",
            "COUNT",
            count,
        ]
        reply = self._run(
            lambda client: client.execute_command(
                "VSIM", self._vectors(partition), *words, *self._how
            )
        )
        # A map or a flat list, as the protocol has it; the score is (1 + cosine) / 2.
        pairs = (
            reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
        )
        return [(key, 2.0 * float(score) - 1.0) for key, score in pairs]

    def _living(
        self,
        partition: Partition,
        keys: Sequence[bytes],
        vector: Vector,
        at_least: float,
        now: float,
    ) -> list[Candidate]:
        identities = [identity_of(partition + key) for key in keys]
        dead = Selection(dead_by=now)
        found = [
            Candidate(entry, float(entry.vector @ vector))
            for entry in self._entries(identities, FIELDS)
            if entry is not None and entry.vector is not None and not dead.has(entry)
        ]
        found.sort(key=lambda candidate: -candidate.similarity)
        return [candidate for candidate in found if candidate.similarity >= at_least]

    def scan(self) -> Iterator[Entry]:
        """Every entry, oldest commit first; what is replaced meanwhile may come twice."""
        after: Any = -1
        while page := self._script(scripts.SCAN, [after, PAGE]):
            after = page[-1]
            identities = [identity_of(member) for member in page[::2]]
            yield from filter(None, self._entries(identities, FIELDS))

    def mark(self) -> int:
        return int(self._run(lambda client: client.hget(self._home, "seq")) or 0)

    def changes_since(self, mark: int) -> Changes | None:
        words = [mark, TOLD_CHANGES + 1]
        (seq, oldest), puts, removed, cleared = self._script(scripts.CHANGES, words)
        is_known = int(oldest or 0) <= mark <= int(seq or 0)
        if not is_known or max(map(len, (puts, removed, cleared))) > TOLD_CHANGES:
            return None
        identities = [identity_of(member) for member in puts]
        entries = self._entries(identities, FIELDS)
        # Removed since they were named: the next changes say so too, but to wait is to be late.
        gone = (one for one, entry in zip(identities, entries, strict=True) if entry is None)
        return Changes(
            tuple(entry for entry in entries if entry is not None),
            (*map(identity_of, removed), *gone),
            mark=int(seq or 0),
            cleared=tuple(map(as_text, cleared)),
        )

    def count(self, chosen: Selection) -> int:
        if chosen == Selection(chosen.namespace):
            sizes = self.sizes()
            return (
                sum(sizes.values()) if chosen.namespace is None else sizes.get(chosen.namespace, 0)
            )
        return sum(1 for _ in self._chosen(chosen))

    def sizes(self) -> Mapping[str, int]:
        found = self._run(lambda client: client.hgetall(self._names + b"sizes"))
        return {as_text(space): int(n) for space, n in found.items()}

    def counts(self) -> Mapping[tuple[str, str], int]:
        found = self._run(lambda client: client.hgetall(self._names + b"counts"))
        counts = {}
        for key, n in found.items():
            name, _, space = as_text(key).partition("\0")
            counts[space, name] = int(n)
        return counts

    def labels(self) -> Iterator[Label]:
        found = self._run(lambda client: client.lrange(self._names + b"labels", 0, -1))
        return map(label_from, found)

    def states(self) -> Mapping[str, bytes]:
        found = self._run(lambda client: client.hgetall(self._names + b"states"))
        return {as_text(name): bytes(data) for name, data in found.items()}

    def close(self) -> None:
        self._client.close()

    def __repr__(self) -> str:
        return f"RedisStore({self.description!r})"

    # -- the driver -----------------------------------------------------------------------------

    def _chosen(self, chosen: Selection) -> Iterator[tuple[bytes, bytes]]:
        """Member and number of the last put of each entry that is chosen."""
        if chosen.dead_by is not None:
            place = b"deaths"
        elif chosen.namespace is not None:
            place = b"uses:" + as_bytes(chosen.namespace)
        else:
            place = b"commits"
        at = 0
        while page := self._script(scripts.LOOK, [place, at, at + PAGE - 1]):
            at += PAGE
            yield from ((told[0], told[1]) for told in page if is_chosen(chosen, told))

    def _entries(self, identities: Sequence[Identity], fields: Sequence[str]) -> list[Entry | None]:
        """The entry of each identity as it is now, as far as `fields` go."""
        rows = self._fetched(identities, fields)
        missing = (None,) * (len(FIELDS) - len(fields))
        entries = []
        for identity, row in zip(identities, rows, strict=True):
            there = row[0] is not None
            entry = entry_from(identity, (*row, *missing), self._dim) if there else None
            if there and entry is None:
                self.bad_rows += 1
            entries.append(entry)
        return entries

    def _fetched(self, identities: Sequence[Identity], fields: Sequence[str]) -> Sequence[Any]:
        if not identities:
            return []
        words: list[bytes | str] = [json.dumps(fields), *map(name_of, identities)]
        found: Sequence[Any] = self._script(scripts.FETCH, words)
        return found

    def _vectors(self, partition: Partition) -> bytes:
        return b"%sv%d:%s" % (self._names, self._dim, partition)

    def _script(
        self,
        text: str,
        words: Sequence[bytes | int | str],
        *,
        is_repeatable: bool = True,
        patience: float = 1.0,
    ) -> Any:
        self._check_open()
        return self._client.script(
            text, self._home, words, is_repeatable=is_repeatable, patience=patience
        )

    def _run(self, work: Callable[[Any], Any]) -> Any:
        self._check_open()
        return self._client.run(work)

    def _check_open(self) -> None:
        if not self._dim:
            raise StoreBackendError(
                f"{self.description}: this store is not open. Open a cache on it."
            )
