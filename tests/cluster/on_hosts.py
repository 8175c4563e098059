"""What the first of several hosts runs: `look` (a task on each host) or `train` (a Ray Train group over them).

usage: python -m tests.cluster.on_hosts look|train GROUP_AS_JSON

Run as a program, so that its functions travel by value; `cluster` reaches the ranks only as Ray's working directory.
"""

import json
import socket
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass(frozen=True)
class Group:
    """`store` gets started/<attempt>/<rank>.json from every rank; the ranks go on all-reducing until it has a file `stop`."""

    store: str
    scratch: str
    ranks: int
    placement: str


def connect() -> None:
    ray.init(address="auto", runtime_env={"working_dir": ".", "excludes": [".venv", "tests"]}, log_to_driver=False)


def look(group: Group) -> None:
    """Every host writes seen/<its name>.json: what it is, and what it finds where the driver's host has its files."""
    driver = "host1"
    checkout = str(Path.cwd())
    Path(checkout, "artifacts").mkdir()
    Path(checkout, "artifacts", "of-the-driver").write_text(driver)
    tasks = [
        _look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            group.store, checkout
        )
        for node in ray.nodes()
    ]
    ray.get(tasks)


@ray.remote(num_cpus=1)
def _look(store: str, checkout: str) -> None:
    from cluster.storage import Store

    found = {
        "address": ray.util.get_node_ip_address(),
        "checkout": sorted(path.name for path in Path(checkout).iterdir()),
        "home": sorted(path.name for path in Path.home().iterdir()),
    }
    Store(store).write_json(f"seen/{socket.gethostname()}.json", found)


def train(group: Group) -> None:
    TorchTrainer(
        _rank,
        train_loop_config=asdict(group),
        torch_config=TorchConfig(backend="gloo", timeout_s=60),
        scaling_config=ScalingConfig(
            num_workers=group.ranks, placement_strategy=group.placement, resources_per_worker={"CPU": 1}
        ),
        run_config=RunConfig(name="group", storage_path=group.scratch, failure_config=FailureConfig(max_failures=3)),
    ).fit()


def _rank(config: dict[str, Any]) -> None:
    import torch
    import torch.distributed as dist

    import cluster
    from cluster.storage import Store

    store = Store(config["store"])
    attempt = len(store.names("started"))
    own = torch.tensor([10.0 ** dist.get_rank()], dtype=torch.float64)
    highest = torch.tensor([float(attempt)])
    dist.all_reduce(highest, dist.ReduceOp.MIN)
    dist.all_reduce(own)
    found = {
        "host": socket.gethostname(),
        "sum": own.item(),
        "code": cluster.__file__,
    }
    store.write_json(f"started/{int(highest.item())}/{dist.get_rank()}.json", found)
    stop = torch.zeros(1)
    while not stop.item():
        stop[0] = float(store.exists("stop"))
        dist.all_reduce(stop, dist.ReduceOp.MAX)
        time.sleep(0.1)


if __name__ == "__main__":
    connect()
    {"look": look, "train": train}[sys.argv[1]](Group(**json.loads(sys.argv[2])))
