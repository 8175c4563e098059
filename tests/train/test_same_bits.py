"""The loop gives the same bits under its three hosts: plain processes, plain Ray actors, Ray Train workers."""

from pathlib import Path

import pytest
import ray
import torch.distributed as dist

from cluster.session import connect
from cluster.storage import Store
from configs.schema.run import Cluster
from jobs.train.loop import Ending, TrainJob
from jobs.train.ray_host import Listener, train_on_ray
from tests.world.ranks import run_ranks
from tests.world.toy_training import model_digest, toy_job, toy_stage, train_toy

pytestmark = pytest.mark.cluster


@ray.remote(num_cpus=1)
class RankActor:
    """A rank in an actor of its own, as PPO's Learners are."""

    def train(self, rank: int, rendezvous: str, job: TrainJob) -> None:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
        train_toy(job)
        dist.destroy_process_group()


def test_three_hosts_give_the_same_bits(tmp_path: Path, tiny_model: Path) -> None:
    jobs = {
        host: toy_job(Store(str(tmp_path / host)), tiny_model, toy_stage(precision="bf16"))
        for host in ("processes", "actors", "ray_train")
    }
    assert run_ranks(2, train_toy, jobs["processes"]) == [0, 0]
    with connect(Cluster()):
        actors = [RankActor.remote() for _ in range(2)]
        rendezvous = str(tmp_path / "rendezvous")
        ray.get([actor.train.remote(rank, rendezvous, jobs["actors"]) for rank, actor in enumerate(actors)])
        for actor in actors:
            ray.kill(actor)
        silent = Listener(metrics=lambda metrics: None, say=lambda sentence: None, stop_asked=lambda: False)
        assert train_on_ray(jobs["ray_train"], silent) is Ending.FINISHED
    assert len({model_digest(job) for job in jobs.values()}) == 1
    histories = [job.output.read_json("history.json") for job in jobs.values()]
    assert histories[0] == histories[1] == histories[2]
