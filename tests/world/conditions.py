"""Waiting for a condition, and ending a process for certain."""

import subprocess
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

POLL_S = 0.05
"""Short against what is waited for (process starts: 0.3 s and more), long against the cost of asking."""


def wait_for(what: str, condition: Callable[[], Answer], timeout_s: float) -> Answer:
    """The first true answer of `condition`. Raises TimeoutError which names `what` was waited for."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(POLL_S)
    return answer


def kill_process(process: subprocess.Popen[str]) -> None:
    """Kills a process (-9) if it still runs, reaps it and closes its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
