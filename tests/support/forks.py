"""What a forked child says; a child that hangs fails the test."""

from __future__ import annotations

import json
import os
import select
import signal
import traceback
import warnings
from collections.abc import Callable
from typing import Any

from support.worlds import PATIENCE


def forked(work: Callable[[], Any], fork: Callable[[], int] = os.fork) -> Any:
    """``work()`` in a child that is forked from here, as far as JSON carries it."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # From 3.12 on Python warns of forking beside threads, which is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = fork()
    if not child:
        try:
            said = ["ok", work()]
        except BaseException:
            said = ["failed", traceback.format_exc()]
        with os.fdopen(writer, "w") as out:
            json.dump(said, out)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said_by_child:
        is_there, _, _ = select.select([said_by_child], [], [], PATIENCE)
        if not is_there:
            os.kill(child, signal.SIGKILL)
        text = said_by_child.read()
    os.waitpid(child, 0)
    assert is_there, "the child hangs"
    outcome, value = json.loads(text)
    assert outcome == "ok", value
    return value
