"""The `acclimate` command as a function of its arguments: exit code, stdout and stderr."""

import io
import os
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from cluster.storage import Store
from jobs.cli import main
from tests.world.toy_run import CHECKOUT

SCREEN_CHARACTERS = 80 * 24
SOON_S = 30
"""What is asked of an unreachable store; everything else takes a few seconds, most of them for importing torch."""


@dataclass(frozen=True)
class Answer:
    """How a command ended and what it said."""

    code: int
    stdout: str
    stderr: str


def acclimate(*arguments: str) -> Answer:
    """Inside this process, where heavy imports are paid for once. What is no UserError is raised as it is."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            main(list(arguments))
            code = 0
        except SystemExit as ended:
            assert ended.code is None or isinstance(ended.code, int), ended.code
            code = ended.code or 0
    return Answer(code, stdout.getvalue(), stderr.getvalue())


def acclimate_process(*arguments: str, **environment: str) -> Answer:
    """In a process of its own, with its own environment. Fails where that takes longer than SOON_S."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments], cwd=CHECKOUT, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=2 * SOON_S, check=False,
    )  # fmt: skip
    assert time.monotonic() - began < SOON_S
    return Answer(done.returncode, done.stdout, done.stderr)


def require_refused(answer: Answer, code: int, *told: str, store: Store | None = None) -> None:
    """The exit code, every part of `told` in one screen on stderr, no traceback, and no run begun."""
    assert answer.code == code, answer.stderr
    said = " ".join(answer.stderr.split())
    assert [part for part in told if part not in said] == [], said
    assert "Traceback" not in said and "starting Ray" not in said
    assert len(said) < SCREEN_CHARACTERS and answer.stdout == ""
    assert store is None or store.names("runs") == [], "a run's log is begun right before Ray"
