"""PPO over four hosts that share nothing but S3 and Ray: a host for every role, the bits of one host, also when one is lost.

Every host offers one logical accelerator. Policy, reward and rollout ask for one each, critic and reference for a half each,
so that the two share a host and everybody else has one of their own; where they are is read from Ray's table of actors.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.storage import Store
from tests.world.conditions import wait_for
from tests.world.hosts import QUICK_HEALTH_CHECKS, SeparatedHosts, why_no_hosts
from tests.world.s3 import s3_server
from tests.world.toy_ppo import samples_of, weights_of, write_toy_ppo
from tests.world.toy_run import ToyRun, copy_artifacts

NO_HOSTS = why_no_hosts()
pytestmark = [
    pytest.mark.chaos, pytest.mark.vllm, pytest.mark.timeout(1800),
    pytest.mark.skipif(NO_HOSTS is not None, reason=str(NO_HOSTS)),
]  # fmt: skip

STEPS = 20
RUN_S = 450
"""Five actors import torch, one of them vLLM, on two cores; twice where a host is lost."""
WHOLE, HALF = {"custom_resources": {"accelerator": 1}}, {"custom_resources": {"accelerator": 0.5}}
ON_FOUR_HOSTS = {
    "placement": "separate", "strategy": "SPREAD", "policy": WHOLE, "critic": HALF, "reference": HALF, "reward": WHOLE,
    "rollout": {"kv_cache_gib": 0.25, "max_num_seqs": 8, **WHOLE},
}  # fmt: skip

ACTORS = """
import json, sys, time, ray
from ray._private import state
ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
deadline = time.monotonic() + float(sys.argv[2])
while len(alive := [actor for actor in state.actors().values() if actor["State"] == "ALIVE"]) < int(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit(f"{len(alive)} actors are alive after {sys.argv[2]} s")
    time.sleep(0.1)
print(json.dumps([[actor["ActorClassName"], actor["Address"]["IPAddress"]] for actor in alive]))
"""


@dataclass(frozen=True)
class World:
    """Four hosts with Ray, a bucket they all reach, and the run on one host whose bits are wanted."""

    hosts: SeparatedHosts
    bucket: str
    on_one_host: ToyRun

    def start(self, name: str) -> "subprocess.Popen[str]":
        """The ppo stage of the same run over the hosts, in s3://BUCKET/NAME; what is before it was done on one."""
        store = self.run(name).store
        copy_artifacts(self.on_one_host.store, store, "ppo")
        values = yaml.safe_load(self.on_one_host.config.read_text())
        values |= {"store": store.root, "cluster": {"address": "auto"}}
        values["stages"]["ppo"]["resources"] = ON_FOUR_HOSTS
        text = yaml.safe_dump(values, sort_keys=False)
        self.hosts.driver.run(["python", "-c", f"open('/tmp/{name}.yaml', 'w').write({text!r})"])
        return self.hosts.driver.start(["python", "-m", "jobs.cli", "run", f"/tmp/{name}.yaml", "--yes"], log=name)

    def run(self, name: str) -> ToyRun:
        return ToyRun(self.on_one_host.config, Store(f"s3://{self.bucket}/{name}"))

    def printed(self, name: str) -> str:
        return self.hosts.driver.log_path(name).read_text()

    def hosts_by_role(self) -> dict[str, list[str]]:
        """Addresses by the class of an actor, once all five are alive, as Ray's own table of actors has them."""
        found: dict[str, list[str]] = {}
        for role, address in json.loads(
            self.hosts.driver.run(["python", "-c", ACTORS, "5", "120"], timeout_s=150).stdout
        ):
            found.setdefault(role, []).append(address)
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with (
        SeparatedHosts(4, tmp_path_factory.mktemp("hosts")) as hosts,
        s3_server(hosts.gateway_address) as s3,
        pytest.MonkeyPatch.context() as environment,
    ):
        cache = tmp_path_factory.mktemp("cache")
        for name, value in {**s3.environment(), "ACCLIMATE_CACHE": str(cache)}.items():
            environment.setenv(name, value)
        bucket = s3.new_bucket()
        run = on_one_host(tmp_path_factory.mktemp("one"), bucket)
        hosts.start_ray({**s3.environment(), **QUICK_HEALTH_CHECKS}, resources={"accelerator": 1})
        yield World(hosts, bucket, run)


def on_one_host(directory: Path, bucket: str) -> ToyRun:
    """The whole run with this machine's own Ray; its inputs are on S3, so that it is the same run for the hosts.

    Roles that are separate judge unit by unit, wherever they are; those that take turns judge a step at a time, which rounds
    otherwise.
    """
    store = Store(f"s3://{bucket}/one")
    run = write_toy_ppo(directory, store.root, steps=STEPS, resources={"placement": "separate"})
    inputs = Store(f"s3://{bucket}/inputs")
    inputs.put(directory / "pairs.jsonl", "pairs.jsonl")
    for file in sorted((directory / "model").iterdir()):
        inputs.put(file, f"model/{file.name}")
    values = yaml.safe_load(run.config.read_text())
    values["cluster"] = {"logical_cpus": 6}
    values["stages"]["base"]["source"] = inputs.below("model").root
    values["stages"]["opinions"]["sources"]["pairs"]["path"] = inputs.path("pairs.jsonl")
    run.config.write_text(yaml.safe_dump(values, sort_keys=False))
    code, output = run.finish(timeout_s=RUN_S)
    assert code == 0, output
    return run


def outputs(run: ToyRun) -> dict[str, Any]:
    """What must not depend on where it was computed: the weights, and every answer with what was sampled and judged."""
    rows = samples_of(run)
    assert [(row["step"], row["prompt"], row["sample"]) for name in sorted(rows) for row in rows[name]] == [
        (step, prompt, sample) for step in range(1, STEPS + 1) for prompt in range(6) for sample in range(2)
    ]
    return {**rows, "weights": weights_of(run)}


def test_every_role_has_a_host_and_the_bits_are_those_of_one(world: World) -> None:
    driver = world.start("spread")
    at = world.hosts_by_role()
    assert {role: len(addresses) for role, addresses in at.items()} == {
        "Policy": 1,
        "Critic": 1,
        "Scorer": 2,
        "Sampler": 1,
    }
    # Of the two scorers the reference is with the critic, the reward model has the host that is left.
    assert at["Critic"][0] in at["Scorer"]
    apart = {*at["Policy"], *at["Critic"], *at["Scorer"], *at["Sampler"]}
    assert apart == {host.address for host in world.hosts.hosts}
    assert driver.wait(RUN_S) == 0, world.printed("spread")
    assert outputs(world.run("spread")) == outputs(world.on_one_host)


def test_a_lost_host_costs_time_and_nothing_else(world: World) -> None:
    driver = world.start("lost")
    at = world.hosts_by_role()
    # The policy's host; where the run itself is there, that of critic and reference.
    lost = next(
        host for address in (*at["Policy"], *at["Critic"]) for host in world.hosts.hosts[1:] if host.address == address
    )

    def checkpoint_stands() -> bool:
        assert driver.poll() is None, world.printed("lost")
        return any(
            info.name.startswith("ppo-") and info.name.endswith("checkpoint.json")
            for info in world.run("lost").store.files("artifacts")
        )

    wait_for("a checkpoint", checkpoint_stands, RUN_S)
    lost.kill()
    world.hosts.replace(lost.number)
    assert driver.wait(RUN_S) == 0, world.printed("lost")
    assert "going on from the last checkpoint" in " ".join(world.printed("lost").split())
    assert outputs(world.run("lost")) == outputs(world.on_one_host)
