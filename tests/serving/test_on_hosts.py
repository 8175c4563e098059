"""A model on S3, served on a joined cluster of two hosts that share no disk: routes on one, engine on the other."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.storage import Store
from tests.serving.tiny_llama import write_tiny_llama
from tests.world.conditions import wait_for
from tests.world.hosts import SeparatedHosts, why_no_hosts
from tests.world.s3 import s3_server

NO_HOSTS = why_no_hosts()
pytestmark = [
    pytest.mark.cluster, pytest.mark.vllm, pytest.mark.skipif(NO_HOSTS is not None, reason=str(NO_HOSTS)),
]  # fmt: skip

KEY = "a-throwaway-key-of-the-tests"
START_S = 300.0
ASK = (
    "import httpx, os, sys; answer = httpx.post(sys.argv[1], json={'model': 'tiny', 'prompt': 'The heart', 'max_tokens': 4},"
    " headers={'Authorization': 'Bearer ' + sys.argv[2]}, timeout=60); print(answer.status_code, answer.text)"
)


@dataclass(frozen=True)
class World:
    """Two hosts with Ray, two CPUs each, and a model on the S3 server they reach."""

    hosts: SeparatedHosts
    model: str

    def ask(self, number: int, url: str, key: str) -> tuple[int, str]:
        """A request from host `number`."""
        status, _, body = self.hosts[number].run(["python", "-c", ASK, f"{url}/completions", key]).stdout.partition(" ")
        return int(status), body


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_llama(directory)
    with (
        SeparatedHosts(2, tmp_path_factory.mktemp("hosts")) as hosts,
        s3_server(hosts.gateway_address) as s3,
        pytest.MonkeyPatch.context() as environment,
    ):
        for name, value in s3.environment().items():
            environment.setenv(name, value)
        model = Store(f"s3://{s3.new_bucket()}/tiny")
        for file in sorted(directory.iterdir()):
            model.put(Path(file), file.name)
        # The routes take one CPU, a replica two: they cannot be on one host.
        hosts.start_ray(s3.environment(), cpus_per_host=2)
        yield World(hosts, model.root)


def _serve(world: World, log: str, *options: str):
    command = ["python", "-m", "jobs.cli", "serve", world.model, "dtype=float32", "--cluster", "auto", *options]
    return world.hosts.driver.start(command, log=log, environment={"ACCLIMATE_API_KEY": KEY})


def test_it_answers_from_both_hosts_and_leaves_the_cluster_as_it_was(world: World) -> None:
    driver, log = world.hosts.driver, "serve"
    service = _serve(world, log, "--host", "0.0.0.0")

    def is_ready() -> bool:
        assert service.poll() is None, driver.log_path(log).read_text()
        return "Ctrl-C ends it." in driver.log_path(log).read_text()

    wait_for("ready", is_ready, START_S)
    status, body = world.ask(1, "http://127.0.0.1:8000/v1", KEY)
    assert status == 200 and json.loads(body)["choices"], body
    status, body = world.ask(2, f"http://{driver.address}:8000/v1", KEY)
    assert status == 200, body
    status, body = world.ask(2, f"http://{driver.address}:8000/v1", "wrong")
    assert status == 401 and json.loads(body)["error"]["code"] == "invalid_api_key"
    engine, routes = _hosts_with(world, "LLMServer"), _hosts_with(world, "OpenAiIngress")
    assert len(engine) == len(routes) == 1 and engine != routes, _serving(world)
    entered = [pid for pid, command in driver.processes().items() if "jobs.cli serve" in command]
    for pid in entered:
        signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGTERM)
    assert service.wait(120) == 130, driver.log_path(log).read_text()
    wait_for("Serve ends", lambda: not _serving(world), 30)
    assert "Traceback" not in driver.log_path(log).read_text()


def _hosts_with(world: World, part: str) -> list[str]:
    return [host.name for host in world.hosts.hosts if any(part in command for command in host.processes().values())]


def _serving(world: World) -> list[str]:
    processes = [command for host in world.hosts.hosts for command in host.processes().values()]
    return [command for command in processes if any(word in command for word in ("Serve", "Proxy", "LLM", "Ingress"))]
