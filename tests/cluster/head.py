"""A real Ray head with a dashboard and a token, and the command line of somebody who sends work to it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.world.conditions import kill_process, wait_for
from tests.world.free_port import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
TOKEN = "throwaway-token-of-the-tests-0123456789"
ACCLIMATE = (sys.executable, "-m", "jobs.cli")


@dataclass(frozen=True)
class Head:
    dashboard: str
    gcs: str
    environment: dict[str, str]

    def acclimate(self, *arguments: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ACCLIMATE, *arguments], cwd=CHECKOUT, env={**self.environment, "RAY_AUTH_TOKEN": token},
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip

    def python(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a program that speaks to the cluster in a process of its own: Ray caches the token of a process."""
        return subprocess.run(
            [sys.executable, "-c", program, self.dashboard, *arguments], cwd=CHECKOUT, env=self.environment,
            capture_output=True, text=True, timeout=180, check=True,
        )  # fmt: skip

    def submit(self, command: str, directory: Path | None = None) -> str:
        program = (
            "import sys; from pathlib import Path; from cluster.submit import reach, submit_command;"
            "print(submit_command(reach(sys.argv[1]), sys.argv[2], 'toy', Path(sys.argv[3]) if sys.argv[3] else None, {}))"
        )
        return self.python(program, command, str(directory or "")).stdout.split()[-1]


@contextmanager
def started_head(home: Path, added: dict[str, str]) -> Iterator[Head]:
    """A head for the time of the block, with `added` in its environment and in that of the commands sent to it."""
    home.mkdir(parents=True, exist_ok=True)
    gcs, dashboard = free_port(), free_port()
    environment = {
        **os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home), **added,
    }  # fmt: skip
    with_directory = subprocess.run(["mktemp", "-d", "/tmp/head-XXXX"], capture_output=True, text=True, check=True)
    directory = with_directory.stdout.strip()
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2",
            "--node-ip-address=127.0.0.3", f"--port={gcs}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}", f"--temp-dir={directory}", "--disable-usage-stats",
            f"--dashboard-agent-listen-port={free_port()}", "--include-dashboard=true",
        ],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=directory,
    )  # fmt: skip
    url = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for("the dashboard", lambda: process.poll() is not None or _answers(url), timeout_s=90)
        assert process.poll() is None, process.stdout and process.stdout.read()
        yield Head(url, f"127.0.0.3:{gcs}", environment)
    finally:
        started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        for child in psutil.wait_procs(started, timeout=15)[1]:
            child.kill()
        kill_process(process)
        subprocess.run(["rm", "-rf", directory], check=True)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/version", headers={"Authorization": f"Bearer {TOKEN}"}).is_success
    except httpx.HTTPError:
        return False
