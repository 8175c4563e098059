"""A PPO step: what waits for what, which layout is the fastest, and what it says where nothing fits."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from configs.errors import DoesNotFit
from configs.schema.ppo_stage import PpoStage
from jobs.estimate.hardware import Assumptions, ClusterShape
from jobs.estimate.roles import Layout, PpoModels, layout_of, role_memory
from jobs.estimate.search import COUNTS, SEQUENCES, fastest, least_gpus, saturation
from jobs.estimate.shape import ModelShape
from jobs.estimate.step import JUDGE, OLD, SAMPLE, UPDATE, Step, calculate, step_s
from jobs.estimate.time import LINKS, PROMPTS, Bound, Machine
from tests.estimate.shapes import LLAMA_2_7B, LLAMA_3_70B

PROMPT = 1024


def stage(**changes: Any) -> PpoStage:
    algorithm = {"prompts_per_step": 512, "minibatches": 4, "epochs": 1, **changes.pop("algorithm", {})}
    values = {
        "stage": "ppo", "model": "base", "shards": "prompts", "rewards": [{"model": "reward"}], "steps": 1,
        "max_new_tokens": 1024, "micro_batch_tokens": 2048, "unit_prompts": 64, "activation_checkpointing": True,
        "algorithm": algorithm,
    }  # fmt: skip
    return PpoStage.model_validate(values | changes)


def models(shape: ModelShape = LLAMA_2_7B) -> PpoModels:
    return PpoModels(shape, shape.parameters, shape, shape, {"reward_0": shape})


def machine(gpus: int, **assumed: float) -> Machine:
    return Machine(ClusterShape("H100", gpus), Assumptions(**assumed))


def layout(policy: int = 2, critic: int = 2, reference: int = 1, reward: int = 1, engines: int = 2) -> Layout:
    ranks = {"policy": policy, "critic": critic, "reference": reference, "reward_0": reward, "rollout": engines}
    return Layout(ranks, 1, 64)


PHASES = {
    ("rollout", SAMPLE): 10.0, ("reference", JUDGE): 4.0, ("reward_0", JUDGE): 16.0, ("critic", JUDGE): 2.0, ("policy", OLD): 3.0,
    ("policy", UPDATE): 5.0, ("critic", UPDATE): 7.0,
}  # fmt: skip


def test_what_waits_for_what() -> None:
    """Of 8 units; the reward model needs 6 s more than sampling; overlapped, judging (16) and the critic (7) are longest."""
    phases = {key: Bound(seconds, "") for key, seconds in PHASES.items()}
    assert step_s(stage(), False, phases, 1.0) == (10 + 6 + 7 + 1, 16 + 7 + 1)
    fast = phases | {
        ("reward_0", JUDGE): Bound(8.0, "")
    }  # its last unit takes 1 s, the policy's old log-probabilities 3
    assert step_s(stage(), False, fast, 1.0) == (10 + 3 + 7 + 1, 8 + 7 + 1)
    slow = fast | {("rollout", SAMPLE): Bound(30.0, "")}
    assert step_s(stage(), False, slow, 1.0) == (30 + 3 + 7 + 1, 30 + 1)
    assert step_s(stage(), True, phases, 1.0) == (48, 48)


def test_a_policy_that_is_its_own_reference_judges_first() -> None:
    """The last of its 8 units takes 0.5 s after sampling, and then come its old log-probabilities; overlapped it does all of both."""
    phases = {key: Bound(seconds, "") for key, seconds in PHASES.items() if key[0] in ("rollout", "policy")}
    phases["policy", JUDGE] = Bound(4.0, "")
    assert step_s(stage(), False, phases, 1.0) == (10 + 0.5 + 3 + 5 + 1, 4 + 3 + 5 + 1)
    assert step_s(stage(), True, phases, 1.0) == (23, 23)
    algorithm = {"estimator": "rloo", "answers_per_prompt": 2}
    own = stage(algorithm=algorithm, rewards=[{"function": "a:b"}], lora={"rank": 8}, reference_is_base=True)
    alone = PpoModels(LLAMA_2_7B, 20_000_000, LLAMA_2_7B, LLAMA_2_7B, {})
    found = calculate(own, alone, layout_of(own), PROMPT, machine(8))
    assert set(found.phases) == {("policy", JUDGE), ("policy", OLD), ("policy", UPDATE), ("rollout", SAMPLE)}
    assert found.phases["policy", JUDGE].seconds == pytest.approx(found.phases["policy", OLD].seconds, rel=0.01)


def test_who_takes_part() -> None:
    whole = calculate(stage(), models(), layout(), PROMPT, machine(8))
    assert set(whole.phases) == set(PHASES) and set(whole.memory) == set(whole.layout.ranks)
    grpo = stage(
        algorithm={"estimator": "grpo", "answers_per_prompt": 2, "kl": {"where": "none"}},
        rewards=[{"function": "a:b"}, {"model": "reward"}],
    )
    few = PpoModels(LLAMA_2_7B, LLAMA_2_7B.parameters, LLAMA_2_7B, LLAMA_2_7B, {"reward_1": LLAMA_2_7B})
    assert set(layout_of(grpo).ranks) == {"policy", "reward_1", "rollout"}
    step = calculate(grpo, few, layout_of(grpo), PROMPT, machine(8))
    assert set(step.memory) == {"policy", "reward_1", "rollout"}
    assert set(step.phases) == {("policy", OLD), ("policy", UPDATE), ("reward_1", JUDGE), ("rollout", SAMPLE)}


def test_the_cache_is_what_the_weights_leave() -> None:
    step = calculate(stage(), models(), layout(), PROMPT, machine(8))
    assert step.memory["rollout"].kv_cache == pytest.approx(0.92 * 80e9 - 2 * 6_738_415_616)
    assert step.sampled_together == 55 == int(step.memory["rollout"].kv_cache // (2048 * 524_288))
    shared = calculate(stage(), models(), replace(layout(8, 8, 8, 8, 8), shared=True), PROMPT, machine(8))
    others = sum(part.total for role, part in shared.memory.items() if role != "rollout")
    assert shared.memory["rollout"].kv_cache == pytest.approx(0.92 * 80e9 - 2 * 6_738_415_616 - others)


def test_policy_and_critic_learn_twice_as_fast_on_twice_as_many() -> None:
    def updates(ranks: int) -> Step:
        return calculate(stage(), models(), layout(policy=ranks, critic=ranks), PROMPT, machine(256))

    for role in ("policy", "critic"):
        seconds = [updates(ranks).phases[role, UPDATE].seconds for ranks in (2, 4, 8, 16, 32, 64, 128)]
        assert seconds == pytest.approx([seconds[0] / 2**power for power in range(7)])
        assert updates(256).phases[role, UPDATE].seconds > 0.9 * seconds[-1]  # a minibatch has 128 prompts


def test_a_prompt_is_never_cut() -> None:
    """Of 128 prompts of a minibatch six are on the fullest of 22 ranks, and of 24 too."""
    seconds = [
        calculate(stage(), models(), layout(policy=ranks), PROMPT, machine(64)).phases["policy", OLD].seconds
        for ranks in (21, 22, 24, 26)
    ]
    assert seconds[0] > seconds[1] == seconds[2] > seconds[3]


def test_a_layout_that_does_not_fit_says_why() -> None:
    one = calculate(stage(), models(), layout(policy=1), PROMPT, machine(8))
    assert len(one.problems) == 1 and "GB of policy, usable are 74 GB" in one.problems[0]
    many = calculate(stage(), models(), layout(engines=8), PROMPT, machine(8))
    assert many.problems == ["it asks for 14 GPUs of 8"]
    shared = calculate(stage(), models(), replace(layout(2, 2, 2, 2, 2), shared=True), PROMPT, machine(8))
    assert "of all roles together" in shared.problems[0]


@pytest.mark.parametrize("staleness", [0, 1])
def test_no_other_layout_is_faster(staleness: int) -> None:
    asked, where = stage(staleness=staleness), machine(8)
    found = fastest(asked, models(), PROMPT, where)
    assert not found.problems and found.layout.gpus <= 8

    def seconds(step: Step) -> float:
        return step.overlapped_s if staleness else step.seconds

    tried = 0
    for *ranks, parts in product(*[(1, 2, 3, 4)] * 4, (1, 2, 4)):
        if (left := 8 - sum(ranks)) < parts:
            continue
        other = replace(layout(*ranks, engines=left // parts), tensor_parallel=parts, at_a_time=SEQUENCES)
        step = calculate(asked, models(), other, PROMPT, where)
        tried += not step.problems
        assert step.problems or seconds(step) >= seconds(found) * (1 - 1e-9)
    assert tried > 3


def test_weights_take_the_faster_road() -> None:
    found = fastest(stage(), models(), PROMPT, machine(8))
    assert found.layout.transfer == "nccl" and found.sync == found.nccl
    buckets = calculate(stage(), models(), replace(found.layout, transfer="buckets"), PROMPT, machine(8))
    assert buckets.sync == buckets.buckets
    assert buckets.seconds - found.seconds == pytest.approx(found.buckets.seconds - found.nccl.seconds)
    slow = machine(8, pack_bytes_per_s=1e15, open_bytes_per_s=1e15)
    assert fastest(stage(), models(), PROMPT, slow).layout.transfer == "buckets"  # to the host and back once less


def test_more_gpus_are_never_slower() -> None:
    seconds = [fastest(stage(), models(), PROMPT, machine(gpus)).seconds for gpus in (8, 16, 32, 64)]
    assert seconds == sorted(seconds, reverse=True) and seconds[0] > 3 * seconds[-1]


def test_what_fits_nowhere_says_what_each_role_needs() -> None:
    least = {one.role: one.gpus for one in least_gpus(stage(), models(LLAMA_3_70B), PROMPT, machine(8))}
    with pytest.raises(
        DoesNotFit, match=rf"on 8xH100: with 74 GB usable on each, {sum(map(int, least.values()))} GPUs"
    ):
        fastest(stage(), models(LLAMA_3_70B), PROMPT, machine(8))
    for role, gpus in least.items():
        if role == "rollout":
            continue
        fewer = COUNTS[COUNTS.index(gpus) - 1]
        totals = [
            role_memory(
                stage(), models(LLAMA_3_70B), replace(layout(), ranks={**layout().ranks, role: ranks}), 0, PROMPT
            )[role].total
            for ranks in (fewer, gpus)
        ]
        assert totals[0] > 0.92 * 80e9 >= totals[1], role
    fits = fastest(stage(), models(LLAMA_3_70B), PROMPT, machine(sum(map(int, least.values()))))
    assert not fits.problems


@pytest.mark.parametrize("prompts", [8, 64])
def test_a_layout_that_is_found_is_one_that_a_stage_may_have(prompts: int) -> None:
    """Every rank of policy and critic needs a prompt of each of the 4 minibatches, whatever more of them would win."""
    algorithm = {"prompts_per_step": prompts, "minibatches": 4}
    ranks = fastest(stage(algorithm=algorithm), models(), PROMPT, machine(128)).layout.ranks
    resources = {role: {"ranks": ranks[role]} for role in ("policy", "critic")}
    assert stage(algorithm=algorithm, resources=resources).resources.policy.ranks == ranks["policy"]
    if prompts == 8:
        with pytest.raises(DoesNotFit, match=r"no number of GPUs is enough .*; a minibatch has 2 prompts"):
            fastest(stage(algorithm=algorithm), models(LLAMA_3_70B), PROMPT, machine(128))


def test_where_more_gpus_hardly_help() -> None:
    step = fastest(stage(), models(), PROMPT, machine(8))
    limits = {limit.role: limit for limit in saturation(stage(), models(), step, PROMPT, machine(8))}
    assert set(limits) == {"rollout", "policy", "critic"}
    assert limits["policy"].gpus == 128 and limits["policy"].by in (PROMPTS, LINKS)  # a minibatch has 128 prompts
    ranks = limits["rollout"].gpus // step.layout.tensor_parallel
    seconds = [
        calculate(stage(), models(), replace(step.layout, ranks={**step.layout.ranks, "rollout": many}), PROMPT, machine(999))
        .phases["rollout", SAMPLE].seconds
        for many in (ranks // 2, ranks, 2 * ranks)
    ]  # fmt: skip
    assert seconds[1] <= 0.9 * seconds[0] and seconds[2] > 0.9 * seconds[1]
    assert seconds[1] == limits["rollout"].seconds
