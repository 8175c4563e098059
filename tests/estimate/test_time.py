"""Seconds: hand numbers of published shapes, and what must hold whatever the numbers are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import UserError
from jobs.estimate.hardware import GPUS, Assumptions, ClusterShape, parse_assumptions, parse_cluster
from jobs.estimate.memory import Held
from jobs.estimate.sync import over_buckets, over_nccl
from jobs.estimate.time import (
    COMPUTE,
    KV_CACHE,
    LINKS,
    PROMPTS,
    WEIGHTS,
    Machine,
    Passes,
    Sampling,
    decode_step,
    forward_flops,
    learning,
    sample,
    scoring,
)
from tests.estimate.shapes import LLAMA_2_7B, LLAMA_3_8B, LLAMA_3_70B, SMOLLM2_135M

IDEAL = Assumptions(compute_share=1.0, bandwidth_share=1.0, link_share=1.0, collective_latency_s=1e-30)
WHOLE = Held(LLAMA_2_7B, "bf16", "logprobs", LLAMA_2_7B.parameters)
POWERS = st.sampled_from([1, 2, 4, 8, 16, 32])


def machine(gpus: int = 8, assumed: Assumptions = IDEAL) -> Machine:
    return Machine(ClusterShape("H100", gpus), assumed)


def sampling(answers: int = 1, at_a_time: int = 1, parallel: int = 1, **lengths: int) -> Sampling:
    long = {"prompt_tokens": 0, "answer_tokens": 100, "longest": 100} | lengths
    return Sampling(answers, answers, at_a_time=at_a_time, tensor_parallel=parallel, **long)


def test_one_answer_reads_all_weights_for_each_token() -> None:
    """Llama 3 8B: 2 x (8,030,261,248 - 525,340,672 of the embedding) bytes, the final norm's 4,096 numbers left out, over 3.35
    TB/s; 50 tokens of cache are 6.5 MB."""
    step = decode_step(LLAMA_3_8B, "bf16", sampling(), machine())
    weights = 2 * (8_030_261_248 - 128_256 * 4096 - 4096)
    assert step.seconds == pytest.approx((weights + 50 * 131_072) / 3.35e12, rel=1e-9)
    assert step.by == WEIGHTS
    assert 1 / step.seconds == pytest.approx(223, rel=0.01)  # tokens a second, the roofline that is quoted for it


def test_what_bounds_decoding() -> None:
    many = sampling(answers=256, at_a_time=256, prompt_tokens=1024)
    assert decode_step(LLAMA_2_7B, "bf16", many, machine()).by == KV_CACHE  # no grouped queries
    grouped = sampling(answers=512, at_a_time=512)
    computing = decode_step(LLAMA_3_8B, "bf16", grouped, machine())
    flops = forward_flops(Held(LLAMA_3_8B, "bf16", "logprobs"), 512, 512, 2 * 50)
    assert computing == (pytest.approx(flops / 989e12), COMPUTE)
    half = Machine(ClusterShape("H100", 8), Assumptions(compute_share=1.0, bandwidth_share=0.5))
    one = decode_step(LLAMA_3_8B, "bf16", sampling(), machine()).seconds
    assert decode_step(LLAMA_3_8B, "bf16", sampling(), half).seconds == pytest.approx(2 * one)


def test_the_long_tail() -> None:
    """Four answers of 50 tokens on the mean, two at a time, one of 100: 4 x 50 / 2 passes of two, and 50 more of one."""
    two, one = (decode_step(LLAMA_3_8B, "bf16", sampling(4, at, answer_tokens=50), machine()).seconds for at in (2, 1))
    work = sampling(4, 2, answer_tokens=50)
    assert sample(LLAMA_3_8B, "bf16", work, machine()).seconds == pytest.approx(100 * two + 50 * one)
    even = sampling(4, 2, answer_tokens=50, longest=50)
    assert sample(LLAMA_3_8B, "bf16", even, machine()).seconds == pytest.approx(100 * two)
    asked = sampling(4, 2, answer_tokens=50, longest=50, prompt_tokens=1000)
    prefill = 4 * forward_flops(Held(LLAMA_3_8B, "bf16", "logprobs"), 1000, 0, 1000) / 989e12
    longer = decode_step(LLAMA_3_8B, "bf16", asked, machine()).seconds
    assert sample(LLAMA_3_8B, "bf16", asked, machine()).seconds == pytest.approx(prefill + 100 * longer)


def test_flops_of_a_pass() -> None:
    """2 a number and token; a token of a text of 4,096 attends to 2,048 others on the mean, in 32 layers of width 4,096."""
    assert forward_flops(WHOLE, 1, 0, 0) == 2 * 32 * 202_383_360
    assert forward_flops(WHOLE, 1, 1, 0) - forward_flops(WHOLE, 1, 0, 0) == 2 * 32_000 * 4096
    assert forward_flops(WHOLE, 1, 0, 4096) - forward_flops(WHOLE, 1, 0, 0) == 4 * 32 * 4096 * 2048
    assert forward_flops(Held(LLAMA_2_7B, "bf16", "scores"), 1, 1, 0) == forward_flops(WHOLE, 1, 0, 0)


def test_learning_is_three_passes_four_with_checkpointing_two_of_adapters() -> None:
    passes = Passes(1e6, 1e6, 0, 1, 1)
    forward = forward_flops(WHOLE, 1e6, 1e6, 0) / 989e12
    update = 40 * LLAMA_2_7B.parameters / 3.35e12
    assert learning(WHOLE, 1, passes, False, machine()).seconds == pytest.approx(3 * forward + update)
    assert learning(WHOLE, 1, passes, True, machine()).seconds == pytest.approx(4 * forward + update)
    adapters = Held(LLAMA_2_7B, "bf16", "logprobs", 1000)
    assert learning(adapters, 1, passes, False, machine()).seconds == pytest.approx(2 * forward, rel=1e-6)


def test_collectives_that_are_longer_than_computing() -> None:
    """70B on 64 GPUs in one round of a few tokens: gathered twice in bf16, summed once in fp32, at 400 GB/s a node."""
    held = Held(LLAMA_3_70B, "bf16", "logprobs", LLAMA_3_70B.parameters)
    bound = learning(held, 64, Passes(64, 64, 0, 1, 64), False, machine(64))
    sent = (2 + 2 + 4) * 70_553_706_496 * 63 / 64
    assert bound.seconds == pytest.approx(sent / 400e9 + 40 * 70_553_706_496 / 64 / 3.35e12)
    assert bound.by == LINKS
    assert learning(held, 8, Passes(64, 64, 0, 1, 8), False, machine()).seconds > sent / 450e9 * 7 / 8
    small = Held(SMOLLM2_135M, "bf16", "logprobs")
    assert scoring(small, 8, Passes(1, 1, 0, 99, 8), machine()).by == COMPUTE  # stays gathered, whatever the rounds


@given(POWERS, st.integers(1, 8))
def test_twice_the_ranks_halve_computing_while_there_are_prompts(ranks: int, rounds: int) -> None:
    def seconds(count: int) -> float:
        return scoring(WHOLE, count, Passes(1e9, 1e9, 1000, rounds, count), machine(64)).seconds

    assert seconds(2 * ranks) == pytest.approx(seconds(ranks) / 2)


def test_ranks_without_prompts_do_not_help() -> None:
    few, many = (scoring(WHOLE, ranks, Passes(1e9, 1e9, 1000, 1, 4), machine()) for ranks in (4, 8))
    assert few.seconds == many.seconds and (few.by, many.by) == (COMPUTE, PROMPTS)


@given(st.integers(1, 512), st.integers(1, 512), st.sampled_from([1, 2, 4, 8]))
def test_sampling_more_takes_longer_and_more_at_a_time_does_not(answers: int, slots: int, parallel: int) -> None:
    def seconds(many: int, at_a_time: int) -> float:
        work = sampling(many, min(at_a_time, many), parallel, prompt_tokens=100, answer_tokens=50, longest=50)
        return sample(LLAMA_3_8B, "bf16", work, machine()).seconds

    assert seconds(answers, slots) < seconds(answers + slots, slots)
    if answers % slots == 0:
        assert seconds(answers, slots) <= seconds(answers, max(1, slots // 2)) * (1 + 1e-9)


def test_a_weight_sync_by_hand() -> None:
    """13.5 GB: from 2 ranks to 24 GPUs, 6 of them beside rank 0, the others on 3 nodes."""
    assumed = Assumptions(link_share=1.0, pack_bytes_per_s=1e9, open_bytes_per_s=10e9)
    sync = over_buckets(13.5e9, 2, 12, 2, machine(32, assumed))
    assert list(sync.legs.values()) == pytest.approx(
        [13.5 / 2 / 450 + 13.5 / 64, 13.5, 3 * 13.5 / 12.5, 1.35 + 13.5 / 64], rel=1e-9
    )
    assert sync.seconds == pytest.approx(sum(sync.legs.values()))
    alone = over_buckets(13.5e9, 2, 6, 1, machine(8, assumed))
    assert not any("nodes" in leg for leg in alone.legs)
    assert over_nccl(13.5e9, 2, 3, 8, machine(32, assumed)).legs["broadcast"] == pytest.approx(3 * 13.5 / 50)
    one = over_nccl(13.5e9, 2, 1, 6, machine(8, assumed))
    assert list(one.legs.values()) == pytest.approx([13.5 / 2 / 450 + 2 * 13.5 / 64, 13.5 / 450])


def test_a_cluster_by_its_name() -> None:
    assert parse_cluster("64xH100") == ClusterShape("H100", 64)
    assert parse_cluster("8Xh100").gpu is GPUS["H100"]
    for wrong in ("H100", "0xH100", "8xB300", "8 H100", "-8xH100"):
        with pytest.raises(UserError, match="8xH100; known: H100, H200, A100"):
            parse_cluster(wrong)


def test_assumptions_by_name() -> None:
    assert parse_assumptions(["mean_answer_share=1", "compute_share=0.4"]) == Assumptions(0.4, mean_answer_share=1.0)
    for wrong, said in (
        ("mfu=0.4", "there is no 'mfu'; known: compute_share, "), ("compute_share=much", "'much' is not a number"),
        ("compute_share=1.2", "at most 1"), ("compute_share=0", "above 0"), ("open_bytes_per_s=nan", "above 0"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            parse_assumptions([wrong])
