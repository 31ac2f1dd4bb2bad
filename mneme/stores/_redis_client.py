"""A client for one server or a cluster of them, with a deadline for each call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mneme import _forks
from mneme.errors import StoreBackendError
from mneme.stores._engine_errors import unavailable

__all__ = ["Client", "address_of"]

T = TypeVar("T")

NO_WORD = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.ClusterDownError, OSError)
"""What the driver raises where no server does its work."""


def address_of(url: str) -> tuple[str, str]:
    """
    Where `url` leads, without the password; and the password, "" for none.

    Raises:
        ValueError: it is no address of Redis; the text does not repeat it.
    """
    parts = urlsplit(url)
    try:
        is_address = parts.scheme in ("redis", "rediss", "unix") and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise ValueError(
            "the url is not one of Redis (it is not repeated here, as it may hold a password). "
            "Use redis://user:password@host:6379/0."
        )
    user = f"{parts.username}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    text = f"{parts.scheme}://{user}{parts.hostname or ''}{port}{parts.path}"
    return text, unquote(parts.password or "")


class Client:
    """
    Runs commands and scripts; made by need, and closed for good.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        timeout: seconds for connecting, for an answer, and for a free connection.
        size: how many connections at most (to each node of a cluster).
        name: what messages call it.
        password: left out of messages.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        size: int,
        name: str,
        password: str,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._size = size
        self._name = name
        self._password = password
        self._lock = _forks.lock(_forks.STORE)
        self._made: dict[float, Any] = {}
        self._scripts: dict[tuple[float, str], Any] = {}
        self._closed = False

    def run(
        self, work: Callable[[Any], T], *, is_repeatable: bool = True, patience: float = 1.0
    ) -> T:
        """
        `work` with a `redis.Redis`; once more on a fresh connection if the first one broke.

        Not more than once where doing it twice is not doing it once, and never after a
        timeout. A call may take `patience` times the timeout.
        """
        with self._errors():
            client = self._client(patience)
            try:
                return work(client)
            except redis.ConnectionError:
                if not is_repeatable:
                    raise
                return work(client)

    def knows(self, *command: Any) -> bool:
        """Whether the server has the command; it is tried."""

        def work(client: Any) -> bool:
            try:
                client.execute_command(*command)
            except redis.ResponseError as exc:
                if "unknown command" not in str(exc):
                    raise
                return False
            return True

        return self.run(work)

    def script(
        self,
        text: str,
        key: bytes,
        arguments: Sequence[bytes | int | str],
        *,
        is_repeatable: bool = True,
        patience: float = 1.0,
    ) -> Any:
        """What the script `text` gives."""

        def work(client: Any) -> Any:
            script = self._scripts.get((patience, text))
            if script is None:
                script = self._scripts[patience, text] = client.register_script(text)
            return script(keys=[key], args=arguments)

        return self.run(work, is_repeatable=is_repeatable, patience=patience)

    def _client(self, patience: float) -> Any:
        with self._lock:
            if self._closed:
                raise StoreBackendError(f"{self._name}: this store is closed. Make a new one.")
            client = self._made.get(patience)
        if client is None:
            made = self._connect(self._timeout * patience)
            with self._lock:
                client = self._made.setdefault(patience, made)
            if client is not made:
                made.close()
        return client

    def _connect(self, timeout: float) -> Any:
        options: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": self._timeout,
            "max_connections": self._size,
            # The driver would try again for seconds; `run` knows what may be repeated.
            "retry": Retry(NoBackoff(), 0),
        }
        pool = redis.BlockingConnectionPool.from_url(self._url, timeout=self._timeout, **options)
        client = redis.Redis(connection_pool=pool)
        is_cluster = False
        # Who may not ask has to name a single server.
        with suppress(redis.ResponseError):
            is_cluster = bool(client.info("cluster").get("cluster_enabled"))
        if not is_cluster:
            return client
        client.close()
        return redis.RedisCluster.from_url(self._url, **options)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            made, self._made, self._scripts = self._made, {}, {}
        for client in made.values():
            with suppress(redis.RedisError):
                client.close()
                if isinstance(client, redis.Redis):
                    client.connection_pool.disconnect()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The one place where the driver's errors become mneme's."""
        try:
            yield
        except (redis.RedisError, OSError) as exc:
            is_away = isinstance(exc, NO_WORD)
            raise unavailable(
                self._name, exc, self._password, is_away=is_away, also=" its memory,"
            ) from exc
