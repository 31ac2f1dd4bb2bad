"""Rules for the whole suite: its profile, its worlds, its random data, and who may block a loop."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import blockbuster.blockbuster
import hypothesis
import pytest
from blockbuster import BlockBuster, BlockingError
from support import cold
from support.profiles import PROFILES, VARIABLE, imports_of_test

# (function, file name ending, functions there in which mneme may block a loop): the way to
# excuse one place for all tests. Say why beside each.
MAY_BLOCK: tuple[tuple[str, str, set[str]], ...] = (
    # Where log lines go is the application's affair; here it is pytest's own file handler.
    ("io.TextIOWrapper.write", "logging/__init__.py", {"emit"}),
    ("io.BufferedWriter.write", "logging/__init__.py", {"emit"}),
    # What coverage notes is one dictionary for all threads.
    ("threading.Lock.acquire", "coverage/collector.py", {"lock_data"}),
    # The guards' word lists, about 10 ms once a process, at the first question with a neighbour.
    ("io.TextIOWrapper.read", "mneme/_core/lexicon.py", {"_lines"}),
    # FastAPI asks where a route was written, once a route, while the application runs.
    ("os.stat", "fastapi/routing.py", {"_extract_endpoint_context"}),
)

PROFILE = PROFILES[os.environ.get(VARIABLE) or "full"]
LEFT_OUT = pytest.StashKey[list[str]]()

hypothesis.settings.register_profile("dev", deadline=None)
# The same examples on each run: what CI says is about the change, not about luck. Other
# machines keep exploring.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")
if sys.gettrace() is not None:
    # Under coverage an example takes twice as long, and the first ones reach every line. The
    # environments without it try them all.
    hypothesis.settings.register_profile("traced", hypothesis.settings(), max_examples=25)
    hypothesis.settings.load_profile("traced")


def pytest_configure(config: pytest.Config) -> None:
    if found := PROFILE.contradictions():
        raise pytest.UsageError(
            f"{VARIABLE}={PROFILE.name} is for a machine without {', '.join(found)}, "
            f"which this one has. Use tox -e {PROFILE.name}."
        )


def pytest_report_header() -> str:
    return f"mneme: profile {PROFILE.name}, worlds {', '.join(PROFILE.backends)}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if not collection_path.match("test_*.py"):
        return None
    if any(map(PROFILE.lacks, imports_of_test(collection_path.read_text()))):
        config.stash.setdefault(LEFT_OUT, []).append(collection_path.name)
        return True
    return None


def pytest_report_collectionfinish(config: pytest.Config) -> str:
    modules = config.stash.get(LEFT_OUT, [])
    return f"profile {PROFILE.name} leaves out {len(modules)} modules: {', '.join(modules) or '-'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def runs(item: pytest.Item) -> bool:
        needed = (name for mark in item.iter_markers("needs") for name in mark.args)
        is_bent = sys.gettrace() is not None and item.get_closest_marker("timing")
        return not (is_bent or any(map(PROFILE.lacks, needed)))

    if left_out := [item for item in items if not runs(item)]:
        config.hook.pytest_deselected(items=left_out)
        items[:] = filter(runs, items)


@pytest.fixture(scope="module", params=PROFILE.backends)
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Each async test runs once in each world."""
    return str(request.param)


@pytest.fixture(scope="session")
def _blockbuster() -> BlockBuster:
    # Calls by mneme or by what it calls; what a test does to the loop itself is its own affair.
    rules = BlockBuster("mneme")
    for function, file, names in MAY_BLOCK:
        rules.functions[function].can_block_in(file, names)
    return rules


@pytest.fixture(autouse=True)
def blocking_calls(
    request: pytest.FixtureRequest, _blockbuster: BlockBuster
) -> Iterator[list[str]]:
    """
    Fails the test in which mneme blocked a running asyncio loop.

    The error raised at the call is not enough: failing open would swallow it and call it
    weather. A test that expects such calls empties the list.
    """
    seen: list[str] = []
    if any(map(request.node.get_closest_marker, ("may_block", "timing"))):
        yield seen
        return

    class Recorded(BlockingError):
        def __init__(self, function: str) -> None:
            super().__init__(function)
            seen.append(f"{self}\n{''.join(traceback.format_stack(limit=12)[:-2])}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockbuster.blockbuster, "BlockingError", Recorded)
        _blockbuster.activate()
        try:
            yield seen
        finally:
            _blockbuster.deactivate()
    if seen:
        pytest.fail("mneme blocked the event loop:\n\n" + "\n".join(seen), pytrace=False)


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of entries is enough for a side file."""
    cold.few_are_many(monkeypatch)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> cold.Gate:
    """Holds back the filling of memory."""
    return cold.Gate(monkeypatch)
