"""Random kills and a store that fails now and then: every run ends with the weights of the unbroken one.

    make chaos                                     20 kills, seed 1
    make chaos CHAOS_KILLS=100 CHAOS_SEED=7

Ranks, drivers and a node of a two-node cluster are killed (-9) at random moments, each kill after a new checkpoint, so that
the run gets on; all of it on S3 over HTTP with faults. A killed driver is started again by the same command, a lost node is
replaced. The last line on stdout is one JSON object: what was killed, and how many runs ended.
"""

import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
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
from tests.world.toy_run import ToyRun, write_toy_run

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("CHAOS_KILLS", "20"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
STEPS = 16
WITHOUT = ("tasks", "sft", "evaluation", "report")
LONGEST_PAUSE_S = 8.0
"""Between a checkpoint and a kill: more than a step with its checkpoint takes, so kills fall on all parts of it."""
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
    config: Path
    s3: S3Server
    proxy: FaultProxy
    draw: random.Random
    killed: Counter[str] = field(default_factory=Counter)

    def start(self, run: ToyRun) -> "subprocess.Popen[str]":
        return run.start(
            f"store={run.store.root}", f"cluster.address={self.cluster.address}", "stages.cpt.checkpoints.every_steps=1",
            "stages.cpt.checkpoints.max_failures=1000", "stages.cpt.resources.placement=STRICT_SPREAD",
        )  # fmt: skip

    def one_run(self) -> ToyRun:
        """A run from an empty store to its end, with kills while there are any left to make."""
        run = ToyRun(self.config, Store(f"s3://{self.s3.new_bucket()}/store"))
        for _ in range(FAULTS_A_RUN):
            self.proxy.add(replace(self.draw.choice(FAULTS), first=self.draw.randrange(1, REQUESTS_A_RUN)))
        process = self.start(run)
        before: set[str] = set()
        try:
            while self.killed.total() < KILLS:
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
        """Kills one of the three; the driver that works from now on."""
        kind = self.draw.choice(["rank", "driver", "node"])
        self.killed[kind] += 1
        match kind:
            case "rank":
                ranks = [child for child in self.processes() if "RayTrainWorker" in child[1]]
                if ranks:
                    psutil.Process(self.draw.choice(ranks)[0]).kill()
            case "driver":
                process.kill()
                process.communicate()
                return self.start(run)
            case _:
                self.cluster.remove_node(self.node, allow_graceful=False)
                self.node = self.cluster.add_node(num_cpus=1)
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
def chaos(s3: S3Server, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chaos]:
    with fault_proxy(s3.url) as proxy:
        for name, value in s3_environment(proxy.url).items():
            monkeypatch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            node = cluster.add_node(num_cpus=1)
            cluster.wait_for_nodes()
            toy = write_toy_run(tmp_path, tiny_model, str(tmp_path / "unused"), without=WITHOUT, ranks=2, steps=STEPS)
            yield Chaos(cluster, node, toy.config, s3, proxy, random.Random(SEED))
        finally:
            cluster.shutdown()


def test_every_run_ends_with_the_weights_of_the_unbroken_one(
    chaos: Chaos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unbroken = ToyRun(chaos.config, Store(str(tmp_path / "store")))
    code, output = unbroken.finish(f"store={unbroken.store.root}", timeout_s=RUN_S)
    assert code == 0, output
    wanted, runs = unbroken.digests("texts", "cpt"), 0
    while chaos.killed.total() < KILLS:
        assert chaos.one_run().digests("texts", "cpt") == wanted, f"seed {SEED}, run {runs + 1}"
        runs += 1
    with capsys.disabled():
        print("\n" + json.dumps({"seed": SEED, "kills": dict(chaos.killed), "runs": runs, "equal": runs}))
