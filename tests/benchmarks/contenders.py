"""
The caches that are compared, each in its own environment and process, measured in turn.

The environments of other packages are made once, in the user's folder of caches, and kept.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus import Corpus

__all__ = ["GPTCACHE", "OURS", "PEER", "Bench", "Failed", "Found", "environment"]

OURS, PEER, GPTCACHE = "mneme", "mneme-cache", "gptcache"

PINNED = {
    PEER: ("mneme-cache==1.0.1", "numpy==2.4.6"),
    # The last release of GPTCache does not say what its SQLite and faiss stores need.
    GPTCACHE: ("gptcache==0.1.44", "faiss-cpu==1.15.1", "sqlalchemy==2.1.9", "numpy==2.4.6"),
}

WORKER = Path(__file__).with_name("worker.py")
LONGEST = 600.0
"""Seconds for one step of one worker; then it is given up."""


LARGEST_OF = ("worst_ms", "longest_wait_ms")
"""Figures of which not the median round is told, but the worst."""


ENOUGH = 30.0
"""Seconds of rounds after which no other begins."""


class Failed(Exception):
    """A worker could not do what it was asked."""


def environment(name: str, folder: Path | None = None) -> Path:
    """
    The interpreter of the environment of `name`, which is made at its first use.

    Raises:
        Failed: it cannot be installed here.
    """
    own = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = (folder or Path(own) / "mneme-benchmarks") / PINNED[name][0].replace("==", "-")
    python, is_ready = place / "bin" / "python", place / "ready"
    wanted = "\n".join(PINNED[name])
    if not is_ready.exists() or is_ready.read_text() != wanted:
        print(f"installing {PINNED[name][0]} in {place}", file=sys.stderr)
        venv.create(place, clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--only-binary", ":all:"]
        done = subprocess.run([*pip, *PINNED[name]], capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{PINNED[name][0]} cannot be installed: {done.stderr.strip()[-300:]}")
        is_ready.write_text(wanted)
    return python


class Worker:
    """A process that measures one cache; see `worker`."""

    def __init__(self, name: str, python: Path | str) -> None:
        environ = dict(os.environ)
        if name != OURS:
            # It has the same import name as ours.
            environ.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [str(python), str(WORKER), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            text=True,
        )
        try:
            self.version: str = self._answer()["version"]
        except Failed:
            self.close()
            raise

    def ask(self, **what: Any) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return dict(self._answer()["found"])

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        too_late = threading.Timer(LONGEST, self._process.kill)
        too_late.start()
        try:
            line = self._process.stdout.readline()
        finally:
            too_late.cancel()
        if not line:
            raise Failed(f"it ended with {self._process.wait()}, or took over {LONGEST:.0f} s")
        answer = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return dict(answer)


@dataclass
class Found:
    """What each cache told in each of its rounds, and why one told nothing."""

    rounds: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def of(self, name: str, figure: str = "us") -> float | None:
        """The median of a figure of one cache, or the largest; None where it has none."""
        values = [told[figure] for told in self.rounds.get(name, []) if figure in told]
        if not values:
            return None
        return max(values) if figure in LARGEST_OF else statistics.median(values)

    def ratio(self, figure: str = "us", name: str = OURS) -> float | None:
        """How often the figure goes into what it is ``against``, in the same process and round."""
        rounds = self.rounds.get(name, [])
        ratios = [told["against"] / told[figure] for told in rounds if told.get(figure)]
        return statistics.median(ratios) if ratios else None

    def faster(self, than: str, figure: str = "us") -> float | None:
        """How often our figure goes into the one of another cache, round by round."""
        pairs = zip(self.rounds.get(OURS, []), self.rounds.get(than, []), strict=False)
        ratios = [theirs[figure] / own[figure] for own, theirs in pairs]
        return statistics.median(ratios) if ratios else None


class Bench:
    """Runs scenarios with several caches in turn."""

    def __init__(
        self, folder: Path, pythons: Mapping[str, Path | str], *, is_quick: bool = False
    ) -> None:
        self.folder = folder
        self.pythons = pythons
        self.is_quick = is_quick
        self.versions: dict[str, str] = {}

    def vectors(self, data: str) -> Any:
        """Those that are called `data`, questions last."""
        return Corpus.read(self.folder, data).vectors

    def run(
        self,
        scenario: str,
        *,
        rounds: int = 7,
        others: Sequence[str] = (PEER,),
        other_rounds: int | None = None,
        **arguments: Any,
    ) -> Found:
        """What `scenario` found with ours and `others`, which take turns at being first."""
        names = [OURS, *(name for name in others if name in self.pythons)]
        counts = {name: rounds if name == OURS else other_rounds or rounds for name in names}
        found = Found({name: [] for name in names})
        asked = {"scenario": scenario, "folder": str(self.folder), "args": arguments}
        asked["is_quick"] = self.is_quick
        with ExitStack() as stack:
            workers: dict[str, Worker] = {}
            for name in names:
                with self._noting(found, name):
                    workers[name] = stack.enter_context(self._worker(name))
                    workers[name].ask(**asked)
            start = time.perf_counter()
            for at in range(max(counts.values())):
                if at and time.perf_counter() - start > ENOUGH:
                    break
                for name in names if at % 2 else reversed(names):
                    if at < counts[name] and name not in found.failed:
                        with self._noting(found, name):
                            found.rounds[name].append(workers[name].ask())
        return found

    def together(
        self, scenario: str, workers: int, *, figure: str, rounds: int = 7, **arguments: Any
    ) -> float:
        """
        The median over rounds of the sum of `figure` of so many of ours at work at once.

        Raises:
            Failed: one of them could not do it.
        """
        asked = {"scenario": scenario, "folder": str(self.folder), "is_quick": self.is_quick}
        with ExitStack() as stack:
            own = [stack.enter_context(self._worker(OURS)) for _ in range(workers)]
            for at, worker in enumerate(own):
                worker.ask(**asked, args={**arguments, "worker": at, "workers": workers})
            pool = stack.enter_context(ThreadPoolExecutor(workers))
            sums = [
                sum(told[figure] for told in pool.map(lambda worker: worker.ask(), own))
                for _ in range(rounds)
            ]
        return statistics.median(sums)

    @contextmanager
    def _worker(self, name: str) -> Iterator[Worker]:
        worker = Worker(name, self.pythons[name])
        self.versions[name] = worker.version
        try:
            yield worker
        finally:
            worker.close()

    @contextmanager
    def _noting(self, found: Found, name: str) -> Iterator[None]:
        try:
            yield
        except (Failed, OSError) as exc:
            found.failed[name] = str(exc)
