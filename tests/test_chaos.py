"""Random kills and a store that fails now and then: every run ends with the weights of the unbroken one.

    make chaos                                     20 kills in training and 20 in PPO, seed 1
    make chaos CHAOS_KILLS=100 CHAOS_SEED=7

Ranks, actors, drivers and a node of a two-node cluster are killed (-9) at random moments, most of them after a new
checkpoint, so that the run gets on; all of it on S3 over HTTP with faults. A killed driver is started again by the same
command, a lost node is replaced. The last line on stdout is one JSON object: what was killed, and how many runs ended.
"""

import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from cluster.storage import Store
from tests.world.conditions import wait_for
from tests.world.fault_proxy import Action, Fault, FaultProxy, fault_proxy
from tests.world.s3 import S3Server, s3_environment
from tests.world.toy_ppo import samples_of, weights_of, write_toy_ppo
from tests.world.toy_run import ToyRun, copy_artifacts, write_toy_run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("CHAOS_KILLS", "20"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
STEPS = 16
PPO_STEPS = 60
WITHOUT = ("tasks", "sft", "evaluation", "report")
LONGEST_PAUSE_S = 8.0
"""Between a checkpoint and a kill: more than a step with its checkpoint takes, so kills fall on all parts of it."""
EARLY = 0.25
"""How many kills do not wait for a checkpoint: they find actors that load, meet or take over a state."""
LONGEST_START_S = 30.0
"""Between such a kill and the one before it: as long as the actors of PPO take to start."""
RUN_S = 900
FAULTS = (
    Fault("GET|HEAD|PUT|POST", Action.STATUS, status=500), Fault("GET|HEAD|PUT|POST", Action.STATUS, status=503),
    Fault("GET", Action.CUT_ANSWER), Fault("PUT", Action.CUT_REQUEST), Fault("PUT", Action.CUT_ANSWER),
    Fault("GET|PUT", Action.SLOW, delay_s=2.0),
)  # fmt: skip
FAULTS_A_RUN, REQUESTS_A_RUN = 60, 1500


@dataclass
class Chaos:
    """One run after another, with somebody killing."""

    cluster: Cluster
    node: Any
    node_cpus: int
    config: Path
    s3: S3Server
    proxy: FaultProxy
    draw: random.Random
    stage: str
    """Whose processes are killed."""
    settings: tuple[str, ...]
    """Overrides of the stage's own."""
    victims: dict[str, str]
    """What is killed beside drivers and the node: its name, and what the command lines of its processes hold."""
    killed: Counter[str] = field(default_factory=Counter)

    def start(self, run: ToyRun) -> "subprocess.Popen[str]":
        own = (*self.settings, "checkpoints.every_steps=1", "checkpoints.max_failures=1000")
        return run.start(
            f"store={run.store.root}", f"cluster.address={self.cluster.address}",
            *(f"stages.{self.stage}.{setting}" for setting in own),
        )  # fmt: skip

    def one_run(self, done: Store | None = None) -> ToyRun:
        """A run to its end, with kills while there are any left to make.

        Args:
            done: where other stages were computed before; without, the run begins with an empty store.
        """
        run = ToyRun(self.config, Store(f"s3://{self.s3.new_bucket()}/store"))
        if done is not None:
            copy_artifacts(done, run.store, self.stage)
        for _ in range(FAULTS_A_RUN):
            self.proxy.add(replace(self.draw.choice(FAULTS), first=self.draw.randrange(1, REQUESTS_A_RUN)))
        process = self.start(run)
        before: set[str] = set()
        try:
            while self.killed.total() < KILLS:
                if self.draw.random() < EARLY:
                    time.sleep(self.draw.uniform(0, LONGEST_START_S))
                else:
                    self.wait_for_progress(run, process, before)
                    time.sleep(self.draw.uniform(0, LONGEST_PAUSE_S))
                before = checkpoints(run)
                if process.poll() is not None:
                    break
                process = self.kill_something(run, process)
            output, _ = process.communicate(timeout=RUN_S)
        finally:
            process.kill()
        assert process.returncode == 0, output
        self.proxy.clear()
        return run

    def wait_for_progress(self, run: ToyRun, process: "subprocess.Popen[str]", before: set[str]) -> None:
        """Until there is a checkpoint that was not there before, or the run is over."""
        wait_for("a new checkpoint", lambda: process.poll() is not None or checkpoints(run) - before, RUN_S)

    def kill_something(self, run: ToyRun, process: "subprocess.Popen[str]") -> "subprocess.Popen[str]":
        """Kills a driver, a node or one of the victims that are there; the driver that works from now on."""
        there = {
            kind: [pid for pid, command in self.processes() if pattern in command]
            for kind, pattern in self.victims.items()
        }
        kind = self.draw.choice([*(kind for kind, pids in there.items() if pids), "driver", "node"])
        self.killed[kind] += 1
        match kind:
            case "driver":
                process.kill()
                process.communicate()
                return self.start(run)
            case "node":
                self.cluster.remove_node(self.node, allow_graceful=False)
                self.node = self.cluster.add_node(num_cpus=self.node_cpus)
            case _:
                with suppress(psutil.NoSuchProcess):
                    psutil.Process(self.draw.choice(there[kind])).kill()
        return process

    def processes(self) -> list[tuple[int, str]]:
        """(pid, command line) of everything the cluster of this test runs."""
        found = []
        for child in psutil.Process().children(recursive=True):
            try:
                found.append((child.pid, " ".join(child.cmdline())))
            except psutil.NoSuchProcess:
                continue
        return found


def checkpoints(run: ToyRun) -> set[str]:
    return {info.name for info in run.store.files("artifacts") if info.name.endswith("checkpoint.json")}


@pytest.fixture
def world(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultProxy]:
    """All processes reach S3 through the proxy."""
    with fault_proxy(s3.url) as proxy:
        for name, value in {**s3_environment(proxy.url), "ACCLIMATE_CACHE": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(name, value)
        yield proxy


@contextmanager
def two_nodes(cpus: int) -> Iterator[tuple[Cluster, Any]]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus})
    try:
        node = cluster.add_node(num_cpus=cpus)
        cluster.wait_for_nodes()
        yield cluster, node
    finally:
        cluster.shutdown()


def unbroken(config: Path, store: Path, *settings: str) -> ToyRun:
    run = ToyRun(config, Store(str(store)))
    code, output = run.finish(f"store={run.store.root}", *settings, timeout_s=RUN_S)
    assert code == 0, output
    return run


def report(capsys: pytest.CaptureFixture[str], chaos: Chaos, runs: int) -> None:
    with capsys.disabled():
        print("\n" + json.dumps({"seed": SEED, "kills": dict(chaos.killed), "runs": runs, "equal": runs}))


def test_every_training_run_ends_with_the_weights_of_the_unbroken_one(
    world: FaultProxy, s3: S3Server, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = write_toy_run(tmp_path, tiny_model, str(tmp_path / "unused"), without=WITHOUT, ranks=2, steps=STEPS)
    wanted, runs = unbroken(toy.config, tmp_path / "store").digests("texts", "cpt"), 0
    with two_nodes(cpus=1) as (cluster, node):
        settings, victims = ("resources.placement=STRICT_SPREAD",), {"rank": "RayTrainWorker"}
        chaos = Chaos(cluster, node, 1, toy.config, s3, world, random.Random(SEED), "cpt", settings, victims)
        while chaos.killed.total() < KILLS:
            assert chaos.one_run().digests("texts", "cpt") == wanted, f"seed {SEED}, run {runs + 1}"
            runs += 1
    report(capsys, chaos, runs)


ACTORS = {"policy": "ray::Policy", "critic": "ray::Critic", "scorer": "ray::Scorer", "sampler": "ray::Sampler"}


def test_every_run_of_ppo_ends_with_the_weights_and_samples_of_the_unbroken_one(
    world: FaultProxy, s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = write_toy_ppo(
        tmp_path, str(tmp_path / "unused"), steps=PPO_STEPS, heldout={"every_steps": 3, "prompts": 4},
        resources={"placement": "separate", "strategy": "SPREAD", "policy": {"ranks": 2}},
    )  # fmt: skip
    wanted, runs = unbroken(toy.config, tmp_path / "store", "cluster.logical_cpus=8"), 0
    with two_nodes(cpus=4) as (cluster, node):
        chaos = Chaos(cluster, node, 4, toy.config, s3, world, random.Random(SEED), "ppo", (), ACTORS)
        while chaos.killed.total() < KILLS:
            run = chaos.one_run(wanted.store)
            assert (samples_of(run), weights_of(run)) == (samples_of(wanted), weights_of(wanted)), (
                f"seed {SEED}, run {runs + 1}"
            )
            runs += 1
    report(capsys, chaos, runs)
