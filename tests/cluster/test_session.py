"""A local Ray starts, runs our code on loopback with tcmalloc, and leaves nothing; wrong addresses are named in seconds."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import ray

from cluster import session
from cluster.checkout import CHECKOUT
from cluster.preload import preloaded_tcmalloc, tcmalloc_installed
from cluster.session import ClusterUnreachable, connect, versions
from configs.schema.run import Cluster
from tests.world.conditions import wait_for


@ray.remote
def _worker_facts() -> tuple[bool, str]:
    import cluster.checkout

    return preloaded_tcmalloc(), str(cluster.checkout.CHECKOUT)


@pytest.mark.cluster
def test_a_local_ray_runs_our_code_and_leaves_nothing() -> None:
    with connect(Cluster(logical_cpus=3)) as session:
        assert session.started_here and session.address.startswith("127.")
        assert ray.cluster_resources()["CPU"] == 3
        preloaded, checkout = ray.get(_worker_facts.remote())
        assert preloaded is tcmalloc_installed()
        assert checkout == str(Path(__file__).parents[2])
        directory = session.directory
        assert directory is not None and directory.is_dir()
    assert not ray.is_initialized()
    assert not directory.exists()


@pytest.mark.cluster
def test_a_sigterm_still_reaches_the_callers_handler() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with connect(Cluster()):
            os.kill(os.getpid(), signal.SIGTERM)
            wait_for("SIGTERM", lambda: received, timeout_s=5)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


DRIVER = """
import signal, sys, threading
from cluster.session import connect
from configs.schema.run import Cluster
import ray
stopped = threading.Event()
signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
@ray.remote
class Learner:
    def answer(self): return "still here"
with connect(Cluster(logical_cpus=1)):
    learner = Learner.remote()
    ray.get(learner.answer.remote())
    print("up", flush=True)
    while not stopped.wait(0.1): pass
    print(ray.get(learner.answer.remote(), timeout=30), flush=True)
"""


@contextmanager
def started_driver() -> Iterator["tuple[subprocess.Popen[str], list[psutil.Process]]"]:
    """A driver at the head of a process group, whose Ray has a busy worker; and all of its Ray's processes."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as driver:
        processes: list[psutil.Process] = []
        try:
            assert driver.stdout is not None and driver.stdout.readline() == "up\n"
            processes = psutil.Process(driver.pid).children(recursive=True)
            yield driver, processes
        finally:
            driver.kill()
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@pytest.mark.cluster
def test_a_sigterm_to_the_whole_group_leaves_ray_to_the_driver() -> None:
    """As `timeout` sends it: what the driver still has to do, it does with a Ray that works."""
    with started_driver() as (driver, processes):
        assert not [process for process in processes if driver.pid in (os.getpgid(process.pid), os.getsid(process.pid))]
        os.killpg(driver.pid, signal.SIGTERM)
        output, _ = driver.communicate(timeout=90)
        assert (driver.returncode, output) == (0, "still here\n")
        _, alive = psutil.wait_procs(processes, timeout=60)
        assert not alive


@pytest.mark.cluster
def test_a_killed_driver_takes_its_ray_with_it() -> None:
    """But for Ray's two agents, which first try to report the death to the head that died as well: a minute or two."""
    with started_driver() as (driver, processes):
        working = [process for process in processes if "Agent" not in process.name()]
        assert {"raylet", "gcs_server", "ray::Learner"} <= {process.name() for process in working}
        driver.kill()
        _, alive = psutil.wait_procs(working, timeout=60)
        assert not alive


@pytest.mark.cluster
def test_the_logs_stay_when_the_run_fails() -> None:
    with pytest.raises(ArithmeticError), connect(Cluster()) as session:
        raise ArithmeticError
    assert session.directory is not None
    assert list(session.directory.glob("session_latest/logs/gcs_server.*"))
    shutil.rmtree(session.directory)


def test_what_a_killed_driver_left_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    names = (f"{ended.pid}-dead", f"{ended.pid}-failed", f"{os.getpid()}-alive", "12345678", "checkout-x", "12-a-b")
    for name in names:
        (tmp_path / f"acclimate-{name}").mkdir()
    (tmp_path / f"acclimate-{ended.pid}-failed" / session.KEPT).touch()
    monkeypatch.setattr(session, "DIRECTORIES", tmp_path)
    monkeypatch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(ArithmeticError))
    with pytest.raises(ArithmeticError), connect(Cluster(logical_cpus=1)):
        pass
    left = {path.name.removeprefix("acclimate-") for path in tmp_path.iterdir()}
    [own] = left - set(names)
    assert own.startswith(f"{os.getpid()}-") and set(names) - left == {f"{ended.pid}-dead"}


def test_a_silent_address_is_named_within_seconds() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ClusterUnreachable, match=f"127.0.0.1:{port}"), connect(Cluster(address=f"127.0.0.1:{port}")):
        pass
    assert time.monotonic() - started < 5


def test_versions_are_those_of_the_installed_packages() -> None:
    import torch

    found = versions()
    assert found["ray"] == ray.__version__
    assert found["torch"] == torch.__version__
    assert found["vllm"].startswith("0.29")


def test_a_busy_machine_gets_more_than_rays_thirty_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own start cannot be slowed down from outside, so its failure is played."""
    tries: list[int] = []

    def times_out(**_: object) -> None:
        tries.append(1)
        raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "init", times_out)
    with pytest.raises(ClusterUnreachable, match=r"did not start within 30 s, 4 times: this machine is too busy"):  # noqa: SIM117
        with connect(Cluster(logical_cpus=1)):
            pass
    assert len(tries) == 4
