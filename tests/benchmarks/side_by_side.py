"""Contenders in processes of their own that take turns, so that a ratio compares minutes and not hours.

    take_turns --a line--> Turns.wait in the contender --one step--> Turns.report --a JSON line--> take_turns

The same command drifts by up to 40 % within an hour on a shared machine. While one contender runs, the others wait for
their line and use no CPU. All get the same allocator (tcmalloc where it is installed).
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

TCMALLOC = Path("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4")
STDERR_TAIL = 4000
"""Characters of a failed contender's stderr that are shown."""


class Turns:
    """The contender's end: numbers leave on what was stdout, everything else that is printed goes to stderr."""

    def __init__(self) -> None:
        self._channel = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def wait(self) -> bool:
        """Blocks until it is this contender's turn; False where no more turn will come."""
        return bool(sys.stdin.readline())

    def report(self, seconds: float, loss: float | None = None, **others: float) -> None:
        """Ends the turn."""
        numbers = {"seconds": seconds, "loss": loss, "peak_mib": memory_bytes("VmHWM") / 2**20, **others}
        print(json.dumps(numbers), file=self._channel, flush=True)


def memory_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/self/status has no {field}")


class _Contender:
    def __init__(self, name: str, command: Sequence[str], stderr: IO[str]) -> None:
        environment = {**os.environ, **({"LD_PRELOAD": str(TCMALLOC)} if TCMALLOC.exists() else {})}
        self.name, self._stderr = name, stderr
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        )

    def step(self) -> dict[str, float]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has died; what it said is shown below
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._stderr.seek(0)
            raise RuntimeError(f"{self.name} has died ({self._process.wait()}):\n{self._stderr.read()[-STDERR_TAIL:]}")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def take_turns(
    commands: Mapping[str, Sequence[str]], warm_up: int, rounds: int
) -> Iterator[tuple[bool, dict[str, dict[str, float]]]]:
    """For every round (counts?, what each contender reported); the order of the contenders is turned round every time.

    Warm-up rounds come first and do not count: kernels are chosen, moments and pools allocated.
    """
    with ExitStack() as stack:
        contenders: list[_Contender] = []
        for name, command in commands.items():
            stderr = stack.enter_context(tempfile.TemporaryFile("w+"))
            contenders.append(_Contender(name, command, stderr))
            stack.callback(contenders[-1].close)
        for number in range(warm_up + rounds):
            contenders.reverse()
            results = {contender.name: contender.step() for contender in contenders}
            yield number >= warm_up, {name: results[name] for name in commands}
