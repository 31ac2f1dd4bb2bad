"""Workers of gunicorn and uvicorn with one cache file: one's writes are the others' answers."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.worlds import PATIENCE

TESTS = Path(__file__).parents[1]
FOLDER, ROUND, WORKER = "MNEME_TEST_FOLDER", "X-Round", "X-Worker"

GUNICORN = ["-m", "gunicorn", "support.workers:wsgi", "--workers", "2", "--log-level", "warning"]
SERVERS = {
    "gunicorn --preload": [*GUNICORN, "--preload", "--bind", "fd://{fd}"],
    "gunicorn": [*GUNICORN, "--bind", "fd://{fd}"],
    "uvicorn": ["-m", "uvicorn", "support.workers:asgi", "--workers", "2", "--fd", "{fd}",
                "--log-level", "warning"],
}  # fmt: skip

pytestmark = [pytest.mark.needs("gunicorn"), pytest.mark.needs("uvicorn")]


class Answer(NamedTuple):
    status: int
    worker: int
    how: str
    said: Any


class Site:
    """Two workers on one file in `folder`."""

    def __init__(self, port: int, folder: Path) -> None:
        self._port = port
        self._round = 0
        self.folder = folder

    def ask(self, path: str, *, name: str | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        headers = {"Content-Type": "application/json", **({} if name is None else {ROUND: name})}
        with closing(connection):
            connection.request("POST", path, json.dumps({"prompt": "a question"}), headers)
            response = connection.getresponse()
            body = response.read()
        return Answer(
            response.status,
            int(response.headers.get(WORKER) or 0),
            str(response.headers.get("Cache-Status")),
            json.loads(body) if body else None,
        )

    def ask_both(self, path: str) -> list[Answer]:
        """One answer of each worker."""
        self._round += 1
        name = str(self._round)

        def until_answered(_: int) -> Answer:
            while (answer := self.ask(path, name=name)).status == 503:
                pass
            return answer

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(until_answered, range(2)))
        assert [answer.status for answer in answers] == [200, 200]
        assert answers[0].worker != answers[1].worker
        return answers

    def settled(self) -> list[Answer]:
        """The answers to the question once both workers have the same from the file."""
        self.ask_both("/ask")
        # What they stored then, they stored before they took this up.
        answers = self.ask_both("/ask")
        assert all("hit" in answer.how for answer in answers)
        assert answers[0].said == answers[1].said
        return answers


@contextmanager
def _serving(server: str, folder: Path) -> Iterator[Site]:
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), FOLDER: str(folder)}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        command = [part.format(fd=number) for part in SERVERS[server]]
        process = subprocess.Popen(
            [sys.executable, *command], env=environ, pass_fds=[number], cwd=TESTS
        )
        try:
            yield Site(listener.getsockname()[1], folder)
        finally:
            process.terminate()
            process.wait(PATIENCE)


@pytest.mark.parametrize("server", SERVERS)
def test_workers_share_one_file(server: str, tmp_path: Path) -> None:
    """What one stores both serve, and what one clears neither does, a killed worker or not."""
    with _serving(server, tmp_path) as site:
        answers = site.settled()
        for _ in range(3):
            assert {answer.said[1] for answer in site.ask_both("/ask")} == {answers[0].said[1]}
        assert site.ask("/forget").said >= 1
        assert all(answer.said != answers[0].said for answer in site.ask_both("/ask"))

        kept = site.settled()
        os.kill(kept[0].worker, signal.SIGKILL)
        later = site.ask_both("/ask")
        assert kept[0].worker not in {answer.worker for answer in later}
        assert {answer.said[1] for answer in later} == {kept[0].said[1]}
        assert all("hit" in answer.how for answer in later)
        assert site.ask("/forget").said >= 1
        assert all(answer.said != kept[0].said for answer in site.ask_both("/ask"))
    known = ("cache.db", "cache.db-mark", "cache.db-shm", "cache.db-wal")
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("round-")}
    assert left <= set(known)


def test_what_was_stored_before_the_workers(tmp_path: Path) -> None:
    """With --preload the cache is open before the fork, and both workers have what it holds."""
    with _serving("gunicorn --preload", tmp_path) as site:
        answers = site.ask_both("/preloaded")
        assert answers[0].said == answers[1].said
        assert answers[0].said not in {answer.worker for answer in answers}
