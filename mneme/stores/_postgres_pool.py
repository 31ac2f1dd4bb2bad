"""Connections to PostgreSQL: a bounded number, each call with a deadline, broken ones replaced."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from mneme import _forks
from mneme.errors import StoreBackendError
from mneme.stores._engine_errors import unavailable

__all__ = ["Connection", "Pool", "address_of"]

T = TypeVar("T")

LOOK_SECONDS = 0.1
"""How often a waiting call looks at the clock."""

UNDECIDED = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
"""The engine rolled it back and asks to try again."""

TRIES = 3

NO_WORD = ("08", "57P")
"""
Classes of errors that come of no server that does its work: lost connections, and being shut
down (https://www.postgresql.org/docs/current/errcodes-appendix.html).
"""


class Connection(psycopg.Connection[Any]):
    """
    A connection on which a server that says nothing for ``patience`` seconds is given up.

    The server's own ``statement_timeout`` cannot end what waits for a server that hangs.
    """

    patience: float = 2.0
    committing: bool = False
    """Whether COMMIT was sent and not answered: it may be done or not."""

    def wait(
        self, gen: Generator[Any, Any, T], interval: float = 0.0, timeout: float | None = None
    ) -> T:
        return super().wait(self._watched(gen), min(LOOK_SECONDS, self.patience / 4))

    def _watched(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """`gen` of psycopg, which is sent 0 whenever nothing came within the interval."""
        try:
            state = next(gen)
            heard = time.monotonic()
            while True:
                ready = yield state
                now = time.monotonic()
                if ready:
                    heard = now
                elif now - heard > self.patience:
                    self.pgconn.finish()
                    raise TimeoutError(f"no answer within {self.patience:g} s")
                state = gen.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result


def address_of(url: str) -> tuple[str, str]:
    """
    Where `url` leads, without the password; and the password, "" for none.

    Raises:
        ValueError: it is no connection string; the text does not repeat it.
    """
    try:
        parts = conninfo_to_dict(url)
    except psycopg.Error:
        parts = None
    if parts is None:
        raise ValueError(
            "the url is not one of PostgreSQL's (it is not repeated here, as it may hold a "
            "password). Use postgresql://user:password@host:5432/database."
        ) from None
    user = f"{parts['user']}@" if parts.get("user") else ""
    port = f":{parts['port']}" if parts.get("port") else ""
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    text = f"postgresql://{user}{host}{port}/{parts.get('dbname') or ''}"
    return text, str(parts.get("password") or "")


_of_parents: list[Connection] = []
"""Never used and never closed here: what is said on them, their process hears too."""


class Pool(_forks.Forked):
    """
    At most `size` connections, made by need and shared by threads; a forked child makes its own.

    Args:
        url: as libpq understands it.
        timeout: seconds for connecting, for one statement, and for a free connection.
        prepare: called with each new connection; what it raises passes through.
        name: what messages call it.
        password: left out of messages.
    """

    def __init__(
        self,
        url: str,
        *,
        size: int,
        timeout: float,
        prepare: Callable[[Connection], None],
        name: str,
        password: str,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._prepare = prepare
        self._name = name
        self._password = password
        self._size = size
        self._free = threading.BoundedSemaphore(size)
        self._idle: list[Connection] = []
        self._lock = _forks.lock(_forks.STORE)
        self._closed = False
        # A store that nobody closed and nobody uses lets go of its connections too.
        weakref.finalize(self, _close_all, self._idle)
        _forks.watch(self)

    def in_child(self) -> None:
        """Who had a connection is not here, and those that nobody had are the parent's."""
        self._free = threading.BoundedSemaphore(self._size)
        _of_parents.extend(self._idle)
        self._idle.clear()

    def run(self, work: Callable[[Connection], T], *, patience: float | None = None) -> T:
        """
        `work` on a connection; again on a fresh one where the first was found dead.

        Not again where it may have been done: `work` sets ``committing`` before it commits.
        """
        with self._errors():
            if not self._free.acquire(timeout=self._timeout):
                raise TimeoutError(f"all connections were busy for {self._timeout:g} s")
            try:
                return self._try(work, patience)
            finally:
                self._free.release()

    def _try(self, work: Callable[[Connection], T], patience: float | None) -> T:
        for attempt in range(1, TRIES + 1):
            connection, is_used = self._take()
            try:
                connection.patience = patience or self._patience
                result = work(connection)
            except UNDECIDED:
                connection.close()
                if attempt == TRIES:
                    raise
            except psycopg.OperationalError:
                is_dead = connection.closed
                connection.close()
                if connection.committing or not (is_used and is_dead):
                    raise
                # The others are as old: the server was started again.
                _close_all(self._idle)
            except BaseException:
                connection.close()
                raise
            else:
                self._give(connection)
                return result
        raise AssertionError("unreachable")

    @property
    def _patience(self) -> float:
        # A little more than the server allows a statement, so that its word comes first.
        return self._timeout + 0.25

    def _take(self) -> tuple[Connection, bool]:
        with self._lock:
            if self._closed:
                raise StoreBackendError(f"{self._name}: this store is closed. Make a new one.")
            if self._idle:
                return self._idle.pop(), True
        connection = Connection.connect(
            self._url, connect_timeout=max(1, round(self._timeout)), autocommit=True
        )
        try:
            connection.patience = self._patience
            # idle_in_transaction: whoever is stopped in the midst of a commit lets others on.
            for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
                connection.execute(
                    sql.SQL("SET {} = {}").format(
                        sql.Identifier(name), sql.Literal(max(1, round(self._timeout * 1000)))
                    )
                )
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection, False

    def _give(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed and not connection.closed:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        _close_all(self._idle)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The one place where the driver's errors become mneme's."""
        try:
            yield
        except (psycopg.Error, OSError) as exc:
            state = getattr(exc, "sqlstate", None) or NO_WORD[0]
            is_away = state.startswith(NO_WORD)
            raise unavailable(self._name, exc, self._password, is_away=is_away) from exc


def _close_all(connections: list[Connection]) -> None:
    while connections:
        with suppress(IndexError):
            connections.pop().close()
