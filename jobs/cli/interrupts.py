"""What Ctrl-C and SIGTERM mean while a run works.

first   stop at the next step boundary with a checkpoint
second  stop now: KeyboardInterrupt unwinds through the run, which says so in its log and ends its Ray
third   end the process as it stands; leases and checkpoints are made for that
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from configs.errors import Stopped


@contextmanager
def stop_on_signals(console: Console) -> Iterator[Callable[[], bool]]:
    """For the time of the block signals are counted; yields whether one has come."""
    received = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal received
        received += 1
        if received == 1:
            console.print("stopping at the next step boundary with a checkpoint; once more to stop at once")
        elif received == 2:
            raise KeyboardInterrupt
        else:
            os._exit(Stopped.exit_code)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received > 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
