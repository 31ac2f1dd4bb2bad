"""
One cache in a process of its own, asked line by line: JSON in, JSON out.

    python worker.py mneme|mneme-cache|gptcache

It is run with the interpreter of each package's environment, and so imports nothing of the
others. ``{"scenario": name, "folder": path, "args": {...}}`` prepares one, each ``{}`` after
that is one round of it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

# Before numpy is imported: more threads make small products slower and noisier.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
# Where the interpreter leaves the folder of a script out (PYTHONSAFEPATH).
sys.path.insert(0, str(Path(__file__).parent))

import timing
from scenarios import SCENARIOS
from subjects import SUBJECTS, Unsupported


def main() -> None:
    # What libraries print must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    subject = SUBJECTS[sys.argv[1]]()
    say(version=subject.version)
    scenario: Any = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if "scenario" in asked:
                if asked["is_quick"]:
                    timing.PAUSE = 0.01
                made = SCENARIOS[asked["scenario"]]
                scenario = made(subject, Path(asked["folder"]), **asked["args"])
                say(found={})
            else:
                say(found=scenario.round())
        except Unsupported as exc:
            say(failed=str(exc))
        except Exception as exc:
            say(failed=f"{type(exc).__name__}: {exc}")


if __name__ == "__main__":
    main()
