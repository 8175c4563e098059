"""Servers of the test world run in processes of their own: what kills a test's processes does not hit them, or the reverse."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.world.conditions import kill_process
from tests.world.network import held_by_this_process

CHECKOUT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(module: str, *arguments: str) -> Iterator[int]:
    """Runs `python -m module arguments`, which prints {"port": N} once it accepts connections, and yields that port."""
    process = subprocess.Popen(
        held_by_this_process([sys.executable, "-m", module, *arguments]),
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"{module} ended before it listened, with exit code {process.wait()}"
        yield int(json.loads(line)["port"])
    finally:
        kill_process(process)
