"""A run over three hosts that share nothing but S3 and Ray gives the bytes of a run on one; also when a host is lost."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cluster.artifacts import find_named
from cluster.storage import Store
from tests.world.conditions import wait_for
from tests.world.hosts import QUICK_HEALTH_CHECKS, SeparatedHosts, why_no_hosts
from tests.world.s3 import s3_server
from tests.world.toy_run import ToyRun, toy_run_values, write_toy_run

NO_HOSTS = why_no_hosts()
pytestmark = [pytest.mark.cluster, pytest.mark.skipif(NO_HOSTS is not None, reason=str(NO_HOSTS))]

WITHOUT = ("evaluation", "report")
NEARLY_THE_SAME = {"similarity": 0.95}
"""The made-up texts are made of ten sentences, so some of them go."""
RUN_S = 400
"""Three groups of three ranks start, each importing torch for 10-20 s a rank on two cores."""


@dataclass(frozen=True)
class World:
    """Three hosts with Ray, and inputs on the S3 server they reach."""

    hosts: SeparatedHosts
    bucket: str

    def write_config(self, name: str) -> Store:
        """A run file /tmp/NAME.yaml on the driver's host, writing to s3://BUCKET/NAME; the store."""
        values = toy_run_values(
            Path("unused"), Path("unused"), f"s3://{self.bucket}/{name}", ranks=3, near_duplicates=NEARLY_THE_SAME
        )
        values["stages"] = {key: stage for key, stage in values["stages"].items() if key not in WITHOUT}
        values["stages"]["base"]["source"] = f"s3://{self.bucket}/inputs/model"
        values["stages"]["papers"]["sources"]["made_up"]["path"] = f"s3://{self.bucket}/inputs/documents.jsonl"
        for stage in ("cpt", "sft"):
            values["stages"][stage]["resources"] = {"ranks": 3, "placement": "SPREAD"}
        values["cluster"] = {"address": "auto"}
        text = yaml.safe_dump(values, sort_keys=False)
        self.hosts.driver.run(["python", "-c", f"open('/tmp/{name}.yaml', 'w').write({text!r})"])
        return Store(f"s3://{self.bucket}/{name}")

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        return self.hosts.driver.start(["python", "-m", "jobs.cli", "run", f"/tmp/{name}.yaml", "--yes"], log=name)

    def printed(self, name: str) -> str:
        return self.hosts.driver.log_path(name).read_text()


@pytest.fixture(scope="module")
def on_one_host(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> ToyRun:
    """The same run with three ranks on this machine's own Ray and disk."""
    directory = tmp_path_factory.mktemp("one")
    run = write_toy_run(
        directory, tiny_model, str(directory / "store"), without=WITHOUT, ranks=3, near_duplicates=NEARLY_THE_SAME
    )
    code, output = run.finish(timeout_s=RUN_S)
    assert code == 0, output
    assert run.artifact("papers").record["counts"]["quarantined"]["near_duplicate"] > 5
    return run


@pytest.fixture(scope="module")
def world(on_one_host: ToyRun, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        SeparatedHosts(3, tmp_path_factory.mktemp("hosts")) as hosts,
        s3_server(hosts.gateway_address) as s3,
        pytest.MonkeyPatch.context() as environment,
    ):
        for name, value in s3.environment().items():
            environment.setenv(name, value)
        bucket = s3.new_bucket()
        inputs = Store(f"s3://{bucket}/inputs")
        inputs.put(on_one_host.config.parent / "documents.jsonl", "documents.jsonl")
        for file in sorted(tiny_model.iterdir()):
            inputs.put(file, f"model/{file.name}")
        hosts.start_ray({**s3.environment(), **QUICK_HEALTH_CHECKS})
        yield World(hosts, bucket)


def outputs(store: Store) -> dict[str, bytes]:
    """What must not depend on where it was computed: packed rows of both kinds and weights of both models."""
    found: dict[str, bytes] = {}
    for name in ("texts", "tasks"):
        content = find_named(store, name).content
        found |= {f"{name}/{info.name}": content.read("train", info.name) for info in content.files("train")}
    for name in ("cpt", "sft"):
        found[name] = find_named(store, name).content.read("model/model.safetensors")
    return found


def test_three_hosts_give_the_bytes_of_one(world: World, on_one_host: ToyRun) -> None:
    store = world.write_config("spread")
    assert world.start("spread").wait(RUN_S) == 0, world.printed("spread")
    assert outputs(store) == outputs(on_one_host.store)


@pytest.mark.chaos
def test_losing_a_raylet_and_then_a_host_costs_time_and_nothing_else(world: World, on_one_host: ToyRun) -> None:
    store = world.write_config("lossy")
    driver = world.start("lossy")
    seen: set[str] = set()

    def another_checkpoint() -> bool:
        assert driver.poll() is None, world.printed("lossy")
        return bool(checkpoints() - seen)

    def checkpoints() -> set[str]:
        return {info.name for info in store.files("artifacts") if info.name.endswith("checkpoint.json")}

    wait_for("a checkpoint", another_checkpoint, RUN_S)
    assert len(world.hosts[3].kill_processes("raylet/raylet")) == 1
    seen |= checkpoints()
    wait_for("a checkpoint without that host", another_checkpoint, RUN_S)
    world.hosts[2].kill()
    assert driver.wait(RUN_S) == 0, world.printed("lossy")
    assert outputs(store) == outputs(on_one_host.store)
