"""Ctrl-C as a terminal sends it: to the whole foreground group, Ray's processes included."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.lease import is_live, read_lease
from cluster.runs import list_runs
from tests.world.conditions import kill_process, wait_for
from tests.world.toy_run import CHECKOUT, ToyRun, write_toy_run

pytestmark = pytest.mark.cluster

CTRL_C = b"\x03"
AT_ONCE_S = 10.0
"""Ray takes about three seconds to end its own processes; a checkpoint of a real model takes longer."""


class Terminal:
    """A command whose standard streams are a terminal, in a session of its own."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
             "os.execv(sys.executable, [sys.executable, '-m', 'jobs.cli', *sys.argv[1:]])", *arguments],
            cwd=CHECKOUT, env={**os.environ, "TERM": "xterm", **environment}, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, text=True,
        )  # fmt: skip
        os.close(slave)
        self.screen = ""

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def shows(self, text: str) -> bool:
        self._read(0.0)
        return text in self.screen

    def wait(self, timeout_s: float) -> int:
        """The exit code."""
        wait_for("the end", lambda: self._read(0.05) or self.process.poll() is not None, timeout_s)
        self._read(0.1)
        return self.process.wait()

    def close(self) -> None:
        kill_process(self.process)
        os.close(self._master)

    def _read(self, patience_s: float) -> None:
        while select.select([self._master], [], [], patience_s)[0]:
            try:
                self.screen += os.read(self._master, 65536).decode(errors="replace")
            except OSError:  # EIO: nobody holds the other side any more
                return


@pytest.fixture
def toy(tiny_model: Path, tmp_path: Path) -> ToyRun:
    without = ("tasks", "sft", "evaluation", "report")
    return write_toy_run(tmp_path / "toy", tiny_model, str(tmp_path / "store"), without, ranks=1, steps=4000)


def test_once_checkpoints_twice_ends_at_once_and_the_same_command_goes_on(toy: ToyRun) -> None:
    steps = "stages.cpt.checkpoints.every_steps=1000"
    terminal = Terminal("run", str(toy.config), steps)
    try:
        wait_for("training", lambda: terminal.shows("tok/s"), 120)
        terminal.press(CTRL_C)
        assert terminal.wait(60) == 130, terminal.screen
    finally:
        terminal.close()
    assert "stopping at the next step" in terminal.screen and "Traceback" not in terminal.screen, terminal.screen
    assert "the same command goes on from there" in terminal.screen
    [first] = list_runs(toy.store)
    assert first["status"] == "cancelled"
    checkpoints = [info.name for info in toy.store.files("artifacts") if info.name.endswith("checkpoint.json")]
    assert len(checkpoints) == 1 and "step-001000" not in checkpoints[0]

    terminal = Terminal("run", str(toy.config), steps)
    try:
        wait_for("training again", lambda: terminal.shows("tok/s"), 120)
        assert "resuming" in terminal.screen
        # Both before a step boundary can be reached: the second is what ends it.
        terminal.press(CTRL_C)
        wait_for("the first is heard", lambda: terminal.shows("once more to stop at once"), 10)
        terminal.press(CTRL_C)
        began = time.monotonic()
        assert terminal.wait(60) == 130, terminal.screen
        took_s = time.monotonic() - began
    finally:
        terminal.close()
    assert "Traceback" not in terminal.screen and took_s < AT_ONCE_S, (took_s, terminal.screen)
    ended = list_runs(toy.store)[-1]
    assert ended["status"] == "cancelled" and "stopped at once" in ended["error"], (
        "not by the first, at a step boundary"
    )
    for name in toy.store.names("artifacts"):
        lease = read_lease(toy.store.below("artifacts", name))
        assert lease is not None and not is_live(lease, time.time())
    assert set(checkpoints) <= {info.name for info in toy.store.files("artifacts")}
