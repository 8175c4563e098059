"""What the driver asks of all actors at once, with actors that do no more than answer."""

import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
import ray

from cluster.group import gather, spawn
from cluster.placement import Placement, Role, reserve
from cluster.session import connect
from configs.schema.ppo_stage import PpoStage
from configs.schema.run import Cluster
from jobs.ppo.cast import Cast
from jobs.ppo.driver import _save
from jobs.ppo.job import PpoJob
from jobs.ppo.kl import KlState
from jobs.ppo.progress import Progress
from jobs.ppo.rewards import RunningScale
from tests.ppo.idle_learner import Learner
from tests.world.toy_ppo import toy_ppo_stage

pytestmark = pytest.mark.cluster

UPLOAD_S = 2.0


@pytest.fixture(scope="module")
def placement() -> Iterator[Placement]:
    with (
        connect(Cluster(logical_cpus=3)),
        reserve({"policy": Role(1, 1), "critic": Role(1, 1), "rollout": Role(1, 1)}, "separate", "PACK", 60.0) as found,
    ):
        yield found


def cast_of(placement: Placement, critic_s: float = 0.0) -> Cast:
    """A policy, a critic and a sampler that run."""
    made = [
        spawn(role, ray.remote(Learner), placement, {}, upload_s)
        for role, upload_s in {"policy": 0.0, "critic": critic_s, "rollout": 0.0}.items()
    ]
    gather([(group, group.all(lambda rank: rank.process.remote())) for group in made], 60, "starting")
    job = cast(PpoJob, SimpleNamespace(stage=PpoStage.model_validate(toy_ppo_stage())))
    policy, critic, samplers = made
    return Cast(job, placement, policy, critic, None, [], None, samplers)


def test_no_learner_saves_a_step_before_both_have_committed_the_one_before(placement: Placement) -> None:
    """With two kept, a policy that is two steps ahead has pruned the last one that the critic has."""
    actors = cast_of(placement, critic_s=UPLOAD_S)
    assert actors.critic is not None
    try:
        for step in (1, 2):
            _save(actors, Progress(step, KlState(0.1), RunningScale(), ()))
        policy, critic = (ray.get(group.ranks[0].saved_at.remote()) for group in (actors.policy, actors.critic))
        assert len(policy) == len(critic) == 2
        assert policy[1] >= critic[0] + UPLOAD_S
    finally:
        actors.end()


def test_the_dead_are_told_from_the_busy(placement: Placement) -> None:
    actors = cast_of(placement)
    try:
        began = time.monotonic()
        assert actors.dead(60.0) is None
        assert time.monotonic() - began < 10
        busy = actors.policy.ranks[0].busy_s.remote(4.0)
        assert actors.dead(1.0) is None
        ray.get(busy)
        os.kill(ray.get(actors.samplers.ranks[0].process.remote()), signal.SIGKILL)
        busy = actors.policy.ranks[0].busy_s.remote(20.0)
        began = time.monotonic()
        assert actors.dead(60.0) == "rollout on 127.0.0.2"
        assert time.monotonic() - began < 10
    finally:
        actors.end()
