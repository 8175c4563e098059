"""A stage that may go on with fewer ranks: a node is lost for good and the run ends all the same."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from cluster.storage import Store
from tests.world.conditions import wait_for
from tests.world.hosts import QUICK_HEALTH_CHECKS
from tests.world.s3 import S3Server
from tests.world.toy_run import ToyRun, write_toy_run

pytestmark = pytest.mark.cluster

WITHOUT = ("tasks", "sft", "evaluation", "report")
STEPS = 40
"""After the loss Ray needs some seconds to give up the node; the run must not be over by then."""

RUN_S = 300


@pytest.fixture
def two_nodes(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for name, value in {**s3.environment(), **QUICK_HEALTH_CHECKS}.items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def test_a_run_goes_on_with_the_ranks_that_are_there(
    two_nodes: Cluster, s3: S3Server, tiny_model: Path, tmp_path: Path
) -> None:
    lost = two_nodes.add_node(num_cpus=1)
    two_nodes.wait_for_nodes()
    run = write_toy_run(tmp_path, tiny_model, str(tmp_path / "unused"), without=WITHOUT, ranks=3, steps=STEPS)
    run = ToyRun(run.config, Store(f"s3://{s3.new_bucket()}/store"))
    process = run.start(
        f"store={run.store.root}", f"cluster.address={two_nodes.address}", "stages.cpt.resources.min_ranks=2",
        "stages.cpt.checkpoints.every_steps=1",
    )  # fmt: skip
    run.wait_for_step(2)
    two_nodes.remove_node(lost, allow_graceful=False)
    wait_for("a checkpoint of the smaller group", lambda: 2 in ranks_of_checkpoints(run.store), RUN_S)
    output, _ = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, output
    history = run.artifact("cpt").content.read_json("history.json")
    assert [entry["step"] for entry in history] == list(range(1, STEPS + 1))
    assert history[-1]["loss"] < history[0]["loss"] - 0.2


def ranks_of_checkpoints(store: Store) -> set[int]:
    """Into how many shards the checkpoints that stand now were written; one may be pruned while we look."""
    found = set()
    for info in store.files("artifacts"):
        if info.name.endswith("checkpoint.json"):
            with contextlib.suppress(FileNotFoundError):
                found.add(len(store.read_json("artifacts", info.name)["ranks"]))
    return found
