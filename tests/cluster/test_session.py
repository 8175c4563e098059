"""A local Ray starts, runs our code on loopback with tcmalloc, and leaves nothing; wrong addresses are named in seconds."""

import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import ray

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


@pytest.mark.cluster
def test_the_logs_stay_when_the_run_fails() -> None:
    with pytest.raises(ArithmeticError), connect(Cluster()) as session:
        raise ArithmeticError
    assert session.directory is not None
    assert list(session.directory.glob("session_latest/logs/gcs_server.*"))
    shutil.rmtree(session.directory)


def test_a_silent_address_is_named_within_seconds() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ClusterUnreachable, match=f"127.0.0.1:{port}"), connect(Cluster(address=f"127.0.0.1:{port}")):
        pass
    assert time.monotonic() - started < 5


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(ClusterUnreachable, match="HOST:PORT"), connect(Cluster(address="head.example")):
        pass


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
