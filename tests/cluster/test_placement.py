"""Room for roles: what is asked for, that it is all or nothing, and what is said where it is not there."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayActorError, RayTaskError

from cluster.group import GroupTimeout, await_all, gather, spawn
from cluster.placement import Role, bundles_of, describe_roles, reserve, what_is_missing
from cluster.session import connect
from configs.errors import DoesNotFit
from configs.schema.run import Cluster

ROLES = {"policy": Role(2, 2, 1), "critic": Role(1, 2, 1), "reward": Role(1, 1)}


def test_separate_roles_have_a_bundle_for_every_rank() -> None:
    bundles, slots = bundles_of(ROLES, "separate")
    assert bundles == [{"CPU": 2, "GPU": 1}] * 3 + [{"CPU": 1}]
    assert [slot.bundle for name in ROLES for slot in slots[name]] == [0, 1, 2, 3]
    assert (slots["policy"][1].cpus, slots["policy"][1].gpus) == (2, 1)


def test_colocated_roles_share_the_bundles_of_the_largest() -> None:
    bundles, slots = bundles_of(ROLES, "colocated")
    assert bundles == [{"CPU": 2, "GPU": 1}, {"CPU": 2, "GPU": 1}]
    assert {name: [slot.bundle for slot in found] for name, found in slots.items()} == {
        "policy": [0, 1], "critic": [0], "reward": [0],
    }  # fmt: skip
    assert (slots["policy"][0].gpus, slots["policy"][1].gpus, slots["reward"][0].gpus) == (0.5, 1, 0)


def test_custom_resources_choose_the_node_of_a_bundle() -> None:
    roles = {"policy": Role(1, 2, 1, {"H100": 1}), "rollout": Role(2, 1, custom={"L4": 0.5}), "reward": Role(1, 1)}
    bundles, _ = bundles_of(roles, "separate")
    assert bundles == [{"CPU": 2, "GPU": 1, "H100": 1}, {"CPU": 1, "L4": 0.5}, {"CPU": 1, "L4": 0.5}, {"CPU": 1}]
    bundles, _ = bundles_of(roles, "colocated")
    assert bundles == [{"CPU": 2, "GPU": 1, "H100": 1, "L4": 0.5}, {"CPU": 1, "L4": 0.5}]
    assert describe_roles(roles) == (
        "policy 1 x (2 CPU, 1 GPU, 1 H100), rollout 2 x (1 CPU, 0.5 L4), reward 1 x (1 CPU)"
    )


@given(
    st.dictionaries(st.text(min_size=1), st.builds(Role, st.integers(1, 5), st.floats(0.1, 8)), min_size=1, max_size=7)
)
def test_shares_never_exceed_a_bundle(roles: dict[str, Role]) -> None:
    bundles, slots = bundles_of(roles, "colocated")
    for number, bundle in enumerate(bundles):
        assert sum(slot.cpus for found in slots.values() for slot in found if slot.bundle == number) <= bundle["CPU"]


def test_what_is_missing_is_named() -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0}]
    assert "2 GPU are needed, the cluster has 1" in what_is_missing([{"CPU": 1, "GPU": 1}] * 2, "PACK", nodes)
    assert "no node has so many" in what_is_missing([{"CPU": 6}], "PACK", nodes)
    assert "3 ranks want a node each, the cluster has 2" in what_is_missing([{"CPU": 1}] * 3, "STRICT_SPREAD", nodes)
    assert "1 L4 are needed, the cluster has 0" in what_is_missing([{"CPU": 1, "L4": 1}], "PACK", nodes)
    assert "other work holds it" in what_is_missing([{"CPU": 3}] * 2, "PACK", nodes)


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[None]:
    with connect(Cluster(logical_cpus=2)):
        yield


class Rank:
    def number(self, value: float, pause_s: float = 0.0) -> float:
        time.sleep(pause_s)
        return value

    def fail(self) -> None:
        raise ValueError("this rank fails")

    def process(self) -> int:
        return os.getpid()


@pytest.mark.cluster
def test_what_does_not_fit_is_refused_in_time_and_leaves_no_room_taken(two_cpus: None) -> None:
    began = time.monotonic()
    with (
        pytest.raises(DoesNotFit, match=r"policy 3 x \(1 CPU\).*3 CPU are needed, the cluster has 2.*colocated"),
        reserve({"policy": Role(3, 1)}, "separate", "PACK", 2.0),
    ):
        pass
    assert time.monotonic() - began < 20
    with reserve({"policy": Role(2, 1)}, "separate", "PACK", 60.0):
        pass


@pytest.mark.cluster
def test_a_group_answers_as_one(two_cpus: None) -> None:
    with reserve({"policy": Role(2, 1)}, "separate", "PACK", 60.0) as placement:
        group = spawn("policy", ray.remote(Rank), placement, {})
        both = [(group, group.all(lambda rank: rank.number.remote(2.0)))]
        assert gather(both, 60, "a number") == [2.0, 2.0]
        # One fails, the other would be waited for: the failure comes first.
        began = time.monotonic()
        with pytest.raises(RayTaskError, match="this rank fails"):
            gather([(group, [group.ranks[0].number.remote(1.0, 30), group.ranks[1].fail.remote()])], 60, "one fails")
        assert time.monotonic() - began < 20
        os.kill(ray.get(group.ranks[1].process.remote()), signal.SIGKILL)
        with pytest.raises(RayActorError):
            gather([(group, [group.ranks[1].number.remote(1.0)])], 60, "a dead rank")
        group.end()


@pytest.mark.cluster
def test_a_turn_is_over_when_all_are_done_whatever_they_say(two_cpus: None) -> None:
    with reserve({"policy": Role(2, 1)}, "separate", "PACK", 60.0) as placement:
        group = spawn("policy", ray.remote(Rank), placement, {})
        first, second = group.ranks
        gather([(group, group.all(lambda rank: rank.process.remote()))], 60, "starting")
        began = time.monotonic()
        await_all([(group, [first.number.remote(1.0, 1), second.fail.remote()])], 60, "a turn")
        assert 1 <= time.monotonic() - began < 10
        # A rank that keeps the others waiting for nothing is told of.
        with pytest.raises(RayTaskError, match="this rank fails"):
            await_all([(group, [first.number.remote(1.0, 40), second.fail.remote()])], 60, "a turn")
        with pytest.raises(GroupTimeout, match=r"^a turn: policy rank 0 on .* has not answered for 1 s$"):
            await_all([(group, [first.number.remote(1.0)])], 1.0, "a turn")
        group.end()


@pytest.mark.cluster
def test_who_is_late_is_named_and_not_those_that_wait_for_it(two_cpus: None) -> None:
    with reserve({"policy": Role(1, 0.5), "reward": Role(2, 0.5)}, "separate", "PACK", 60.0) as placement:
        policy, reward = (spawn(role, ray.remote(Rank), placement, {}) for role in ("policy", "reward"))
        gather([(group, group.all(lambda rank: rank.process.remote())) for group in (policy, reward)], 60, "starting")
        scores = [reward.ranks[0].number.remote(1.0), reward.ranks[1].number.remote(1.0, 5)]
        learnt = [(policy, [policy.ranks[0].number.remote(scores[1])])]
        named = r"^update: reward rank 1 on 127\.0\.0\.2 has not answered for 1 s; policy may be waiting for it$"
        with pytest.raises(GroupTimeout, match=named):
            gather(learnt, 1.0, "update", needs=[(reward, scores)])
        assert gather(learnt, 60.0, "update", needs=[(reward, scores)]) == [1.0]
        with pytest.raises(GroupTimeout, match=r"^update: policy on 127\.0\.0\.2 has not answered for 1 s$"):
            gather([(policy, [policy.ranks[0].number.remote(1.0, 5)])], 1.0, "update", needs=[(reward, scores)])
        policy.end()
        reward.end()
