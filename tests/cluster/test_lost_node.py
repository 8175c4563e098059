"""What a lost node held of a reservation; in a cluster of its own, which a process can join only once."""

from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.nodes import require_shared_store
from cluster.placement import Role, reserve
from cluster.session import connect
from cluster.storage import Store
from configs.schema import run
from tests.world.conditions import wait_for


@pytest.mark.cluster
def test_what_a_lost_node_held_is_reserved_elsewhere_or_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        with (
            connect(run.Cluster(address=cluster.address)),
            reserve({"policy": Role(1, 1), "rollout": Role(1, 1)}, "separate", "STRICT_SPREAD", 60.0) as placement,
        ):
            assert placement.is_whole(0.5)
            both = ray.nodes()
            cluster.remove_node(node, allow_graceful=False)
            wait_for("Ray to know it", lambda: sum(found["Alive"] for found in ray.nodes()) == 1, 60)
            assert not placement.is_whole(2.0)
            # Lost between the list of nodes and the question to each: the one that is left has answered.
            with monkeypatch.context() as patch:
                patch.setattr(ray, "nodes", lambda: both)
                require_shared_store(Store(str(tmp_path)))
            cluster.add_node(num_cpus=1)
            assert placement.is_whole(60.0)
    finally:
        cluster.shutdown()
