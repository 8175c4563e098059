"""One of several separated hosts: running commands on it, killing some of them or all of it."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.world.conditions import kill_process
from tests.world.network import Wire, held_by_this_process

CHECKOUT = Path(__file__).resolve().parents[2]

HOST_END_S = 10.0
"""The kernel ends some thirty processes and frees their memory; a tenth of a second when the machine is idle."""


@dataclass
class Host:
    """One host. `environment` is all that its commands see; nothing of the tests' own environment leaks in."""

    number: int
    name: str
    wire: Wire
    environment: dict[str, str]
    logs: Path
    init_pid: int
    _unshare: subprocess.Popen[str]
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.wire.address

    @property
    def is_alive(self) -> bool:
        return self._unshare.poll() is None

    def run(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end. Raises CalledProcessError (with both outputs as notes) and TimeoutExpired."""
        result = subprocess.run(
            self._entered(command, environment), capture_output=True, text=True, timeout=timeout_s, env={}, check=False
        )
        if result.returncode != 0:
            error = subprocess.CalledProcessError(result.returncode, list(command), result.stdout, result.stderr)
            error.add_note(f"on {self.name}\nstdout: {result.stdout[-4000:]}\nstderr: {result.stderr[-4000:]}")
            raise error
        return result

    def start(
        self, command: Sequence[str], log: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Starts a command whose output goes to `<logs>/<host>-<log>.log`; it ends with the host at the latest."""
        with open(self.log_path(log), "a") as output:
            process = subprocess.Popen(
                self._entered(command, environment), stdout=output, stderr=subprocess.STDOUT, text=True, env={}
            )
        self._started.append(process)
        return process

    def log_path(self, log: str) -> Path:
        return self.logs / f"{self.name}-{log}.log"

    def processes(self) -> dict[int, str]:
        """What runs on the host, but for its process 1: pid on this machine -> command line."""
        namespace = Path(f"/proc/{self.init_pid}/ns/pid").readlink()
        found: dict[int, str] = {}
        for process in psutil.process_iter():
            try:
                if process.pid != self.init_pid and Path(f"/proc/{process.pid}/ns/pid").readlink() == namespace:
                    found[process.pid] = " ".join(process.cmdline())
            except (FileNotFoundError, ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                continue  # Ended meanwhile, or of another user and so not ours.
        return found

    def kill_processes(self, pattern: str) -> list[int]:
        """Kills (-9) the processes whose command line matches `pattern`, and returns their ids; at least one must be there."""
        pids = [pid for pid, command in self.processes().items() if re.search(pattern, command)]
        assert pids, f"nothing on {self.name} matches {pattern!r}: {self.processes()}"
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return pids

    def kill(self) -> None:
        """The host is lost at once: its processes are killed (-9), its network and disk are gone."""
        if self.is_alive:
            os.kill(self.init_pid, signal.SIGKILL)
            self._unshare.wait(HOST_END_S)
        for process in [self._unshare, *self._started]:
            kill_process(process)

    def _entered(self, command: Sequence[str], environment: Mapping[str, str] | None) -> list[str]:
        variables = {**self.environment, **(environment or {})}
        assignments = [f"{name}={value}" for name, value in variables.items()]
        directory = str(CHECKOUT) if self.number == 1 else "/tmp"
        enter = ["nsenter", "-t", str(self.init_pid), "--mount", "--uts", "--net", "--pid", f"--wdns={directory}"]
        return held_by_this_process([*map(_absolute, enter[:1]), *enter[1:], _absolute("env"), *assignments, *command])


def _absolute(command: str) -> str:
    """Commands are started with an empty environment, hence without PATH."""
    path = shutil.which(command)
    assert path is not None, f"{command} is not installed"
    return path
