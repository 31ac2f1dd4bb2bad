"""Rights and room that are lost while a cache is open: calls go on, and later all is as before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.unprivileged import a_shared_folder, said_by

IN_BOTH = pytest.mark.parametrize("durability", ["commit", "group"])


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in which every user may make another."""
    with a_shared_folder() as folder:
        os.chmod(folder, 0o777)
        yield folder


COMMON = """
from contextlib import contextmanager
durability = sys.argv[2]
home = folder + "/home"
os.mkdir(home)
path = home + "/cache.db"

# What makes answers larger.
pad = ""

def answer_to(prompt):
    return "answer to " + prompt + pad

def opened():
    return SemanticCache(path, embedder=HashEmbedder(8), durability=durability, self_check=False)

def function_of(cache):
    calls = []
    @semantic_cache(cache=cache)
    def ask(prompt):
        calls.append(prompt)
        return answer_to(prompt)
    return ask, calls

def settled(cache):
    # A group may wait for its thread; what reads the file back has it written.
    cache.vacuum()

def check_trouble(cache, spell):
    '''In `spell` nothing can be written, and afterwards everything is as before.'''
    ask, calls = function_of(cache)
    assert ask("before it") == answer_to("before it")
    settled(cache)
    with spell():
        assert ask("before it") == answer_to("before it") and calls == ["before it"]
        for _ in range(2):
            assert ask("in the midst") == answer_to("in the midst")
        if durability == "commit":
            assert calls.count("in the midst") == 2, calls
            assert cache.stats().failed_open == 2
            try:
                cache.put("put", "r" + pad)
            except StoreBackendError as exc:
                assert "Check" in str(exc), exc
            else:
                raise SystemExit("it was put")
            assert cache.get("put") is None
        else:
            # It waits, and is served from memory until it can be written.
            assert calls.count("in the midst") == 1
            try:
                settled(cache)
            except StoreBackendError as exc:
                assert "Check" in str(exc), exc
            else:
                raise SystemExit("it was written")
        # However often writing has failed, what is in memory is served.
        assert ask("before it") == answer_to("before it") and calls.count("before it") == 1
    assert ask("afterwards") == ask("afterwards") == answer_to("afterwards")
    assert ask("in the midst") == answer_to("in the midst")
    assert cache.put("put", "r" + pad)
    assert calls.count("afterwards") == 1
    settled(cache)
    assert cache.health().healthy
    failed = cache.stats().failed_open
    cache.close()
    with opened() as again:
        ask, calls = function_of(again)
        for prompt in ("before it", "in the midst", "afterwards"):
            assert ask(prompt) == answer_to(prompt)
        assert again.get("put").response == "r" + pad
        assert calls == []
        assert again.stats().failed_open == failed
        assert again.health().healthy
    print("fine")
"""

LOCKED = """
@contextmanager
def spell():
    os.chmod(home, 0)
    try:
        yield
    finally:
        os.chmod(home, 0o700)

check_trouble(opened(), spell)
"""


@IN_BOTH
def test_a_folder_that_is_locked(durability: str, folder: Path) -> None:
    """Where the folder may not be entered any more; once it may, what waited is written."""
    assert said_by(COMMON + LOCKED, folder, durability) == "fine\n"


BROKEN = """
def descriptor_of(name):
    for one in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + one) == name:
                return int(one)
        except FileNotFoundError:
            continue
    raise SystemExit(name + " is not open")

@contextmanager
def spell():
    # As of a file system that was made read-only: reading goes on, and no write succeeds.
    log = descriptor_of(path + "-wal")
    kept, reading = os.dup(log), os.open(path + "-wal", os.O_RDONLY)
    os.dup2(reading, log)
    os.close(reading)
    try:
        yield
    finally:
        os.dup2(kept, log)
        os.close(kept)

check_trouble(opened(), spell)
"""


@IN_BOTH
def test_a_disk_that_takes_no_writes_any_more(durability: str, folder: Path) -> None:
    """Whose log can be read and not written, as after a read-only remount; then as before."""
    assert said_by(COMMON + BROKEN, folder, durability) == "fine\n"


FULL = """
pad = "x" * 50_000

cache = opened()
file = cache._core.store._file

def limited_to(pages):
    with file.lock:
        ((limit,),) = file.connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        return limit

@contextmanager
def spell():
    # SQLite says then what it says of a disk that has no room.
    before = limited_to(0)
    limited_to(1)
    try:
        yield
    finally:
        limited_to(before)

check_trouble(cache, spell)
"""


@IN_BOTH
def test_a_file_that_cannot_grow(durability: str, folder: Path) -> None:
    """Where there is no room for another page; once there is, what waited is written."""
    assert said_by(COMMON + FULL, folder, durability) == "fine\n"


FORKED = """
import json
cache = opened()
ask, calls = function_of(cache)
ask("before it")
settled(cache)
said, says = os.pipe()
back, go_on = os.pipe()
child = os.fork()
if not child:
    # Its rights are gone before it first needs the file, as of a worker that changes its user.
    os.read(back, 1)
    try:
        first = [ask("before it"), ask("in the child"), ask("in the child")]
        failed = cache.stats().failed_open
        os.write(says, json.dumps([first, calls, failed]).encode() + b"\\n")
        os.read(back, 1)
        then = [ask("later"), ask("later"), cache.put("put", "r")]
        settled(cache)
        os.write(says, json.dumps([then, calls]).encode() + b"\\n")
        cache.close()
    finally:
        os._exit(0)
answers = os.fdopen(said)
os.chmod(home, 0)
os.write(go_on, b".")
first, asked, failed = json.loads(answers.readline())
assert first == ["answer to before it"] + ["answer to in the child"] * 2, first
assert asked[0] == "before it" and "in the child" in asked, asked
if durability == "commit":
    assert failed >= 2, failed
os.chmod(home, 0o700)
os.write(go_on, b".")
then, asked = json.loads(answers.readline())
assert then == ["answer to later"] * 2 + [True], then
assert asked.count("later") == 1, asked
assert os.waitpid(child, 0)[1] == 0
assert ask("later") == "answer to later" and "later" not in calls
cache.close()
print("fine")
"""


@IN_BOTH
def test_a_worker_that_loses_its_rights(durability: str, folder: Path) -> None:
    """A forked child that may not open the file goes on without it, and with it once it may."""
    assert said_by(COMMON + FORKED, folder, durability) == "fine\n"
