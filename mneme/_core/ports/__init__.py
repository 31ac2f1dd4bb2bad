"""
Doing: the two ways in which a flow's steps happen, and `drive`. The only place that knows loops.

`BlockingPort` never suspends, so `drive` runs a flow to its end with one ``send``: sync code
needs no event loop. `LoopPort` awaits async embedders and sends blocking work to worker
threads, on asyncio and trio alike.
"""

from mneme._core.ports.blocking import BlockingPort, drive
from mneme._core.ports.crews import task_crew
from mneme._core.ports.failing import embeds_async
from mneme._core.ports.looping import LoopPort
from mneme._core.ports.waiting import (
    Turnstile,
    deadline,
    here,
    in_worker_thread,
    run_loop_once,
    to_its_end,
)

__all__ = [
    "BlockingPort",
    "LoopPort",
    "Turnstile",
    "deadline",
    "drive",
    "embeds_async",
    "here",
    "in_worker_thread",
    "run_loop_once",
    "task_crew",
    "to_its_end",
]
