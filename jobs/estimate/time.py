"""Seconds of the parts of a step, each the largest of its bounds: compute, HBM bandwidth, links.

    Passes (tokens, rounds) x model x Machine --scoring, learning--> Bound (seconds, by what)
    Sampling (answers, lengths, engine) --sample--> Bound

Pure functions; nothing in them was measured on a GPU. FSDP's collectives are hidden behind compute where they are shorter.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from jobs.estimate.hardware import Assumptions, ClusterShape
from jobs.estimate.memory import COMPUTE_BYTES, GRADIENT_BYTES, Held, Precision, kv_bytes_per_token
from jobs.estimate.shape import ModelShape

COMPUTE, LINKS, WEIGHTS, KV_CACHE, REDUCES, PREFILL, PROMPTS = (
    "compute", "FSDP's collectives", "reading weights", "reading the KV cache", "all-reduces of the engine", "prefill",
    "prompts, too few for all ranks",
)  # fmt: skip
OPTIMIZER_BYTES = 40
"""Read and written for one trained number by an optimizer step: norm 4, clipping 8, AdamW 28 (gradient 4, master and both moments
8 each)."""


class Bound(NamedTuple):
    """How long something takes, and what keeps it from being faster."""

    seconds: float
    by: str


NOTHING = Bound(0.0, "nothing to do")


@dataclass(frozen=True)
class Machine:
    """Where it is calculated for."""

    cluster: ClusterShape
    assumed: Assumptions

    def flops(self, precision: Precision) -> float:
        """Of one GPU, as programs get them."""
        return self.cluster.gpu.flops[precision] * self.assumed.compute_share

    @property
    def usable_bytes(self) -> float:
        """Of one GPU's memory."""
        return self.cluster.gpu.memory_bytes * self.assumed.memory_share

    @property
    def memory_bytes_per_s(self) -> float:
        return self.cluster.gpu.memory_bytes_per_s * self.assumed.bandwidth_share

    def collective_s(self, whole_bytes: float, ranks: int) -> float:
        """Of gathering `whole_bytes` on each of `ranks` GPUs, or of summing and scattering them: a ring over full nodes."""
        cluster = self.cluster
        links = cluster.gpu.link_bytes_per_s
        if ranks > cluster.gpus_per_node:
            links = min(links, cluster.gpus_per_node * cluster.network_bytes_per_s)
        return whole_bytes * (ranks - 1) / ranks / (links * self.assumed.link_share)


@dataclass(frozen=True)
class Passes:
    """What goes through a model in one phase, over all ranks of its role.

    Example:
        512 prompts of 512 tokens with an answer of 512 each, learnt in 2 rounds a rank:
        Passes(tokens=524288, headed=262144, context=1024, rounds=2, busy_ranks=8)
    """

    tokens: float
    headed: float
    """Of them, those that get logits."""
    context: float
    """Tokens of a text: what the last one attends to."""
    rounds: int
    """Micro-batches of each rank: each gathers the model once where it does not stay gathered."""
    busy_ranks: float
    """As many ranks, if all had the same to compute; a prompt is never cut, so it is fewer than there are."""


def forward_flops(held: Held, tokens: float, headed: float, context: float) -> float:
    """2 for each number of a matrix and each token, and scores and sums of causal attention over half the text on the mean."""
    attention = 4 * held.shape.layers * held.shape.query_width * context / 2
    head = 2 * held.shape.head_parameters if held.head == "logprobs" else 0
    return tokens * (2 * held.shape.matrix_parameters + attention) + headed * head


def scoring(held: Held, ranks: int, passes: Passes, machine: Machine) -> Bound:
    """Forward passes without gradient."""
    flops = forward_flops(held, passes.tokens, passes.headed, passes.context)
    compute_s = flops / (passes.busy_ranks * machine.flops(held.precision))
    gathers = 0 if held.stays_gathered else passes.rounds
    links_s = gathers * machine.collective_s(held.gathered_bytes, ranks)
    return _longer(compute_s, links_s, passes.busy_ranks, ranks)


def learning(held: Held, ranks: int, passes: Passes, checkpointing: bool, machine: Machine) -> Bound:
    """One optimizer step: forward, backward (twice the forward; once where the weights are frozen), the layers a second time with
    checkpointing, gradients summed, weights updated."""
    forward = forward_flops(held, passes.tokens, passes.headed, passes.context)
    backward = 1 if held.frozen else 2
    compute_s = forward * (1 + backward + checkpointing) / (passes.busy_ranks * machine.flops(held.precision))
    # Gathered for the forward and for the backward pass of every round and summed after it, or once for all of them.
    times = (1, 1) if held.stays_gathered else (2 * passes.rounds, passes.rounds)
    sums = GRADIENT_BYTES * held.trained
    links_s = times[0] * machine.collective_s(held.gathered_bytes, ranks) + times[1] * machine.collective_s(sums, ranks)
    update_s = OPTIMIZER_BYTES * held.trained / ranks / machine.memory_bytes_per_s
    seconds, by = _longer(compute_s, links_s, passes.busy_ranks, ranks)
    return Bound(seconds + update_s, by)


@dataclass(frozen=True)
class Sampling:
    """What one engine samples in a step.

    Example:
        Sampling(answers=64, prompts=64, prompt_tokens=512, answer_tokens=512, longest=1024, at_a_time=64, tensor_parallel=1)
    """

    answers: int
    prompts: int
    prompt_tokens: float
    answer_tokens: float
    """On the mean."""
    longest: int
    """Answer, in tokens; one is taken to be so long."""
    at_a_time: int
    tensor_parallel: int


def sample(shape: ModelShape, precision: Precision, work: Sampling, machine: Machine) -> Bound:
    """Prefill of every prompt once, then one pass for each token of the answers that are sampled together.

    Full slots for answers x mean length / slots passes; then the longest answer is not ended yet (the long tail), and on the way
    there half of the slots are taken.
    """
    if not work.answers:
        return NOTHING
    prefill = forward_flops(
        Held(shape, precision, "logprobs"), work.prompts * work.prompt_tokens, 0, work.prompt_tokens
    )
    prefill_s = prefill / (work.tensor_parallel * machine.flops(precision))
    step = decode_step(shape, precision, work, machine)
    full_s = step.seconds * work.answers * work.answer_tokens / work.at_a_time
    half = replace(work, at_a_time=max(1, work.at_a_time // 2))
    tail_s = decode_step(shape, precision, half, machine).seconds * (work.longest - work.answer_tokens)
    return Bound(prefill_s + full_s + tail_s, step.by if full_s + tail_s > prefill_s else PREFILL)


def decode_step(shape: ModelShape, precision: Precision, work: Sampling, machine: Machine) -> Bound:
    """One token for each of `at_a_time` answers: the slower of reading weights and cache and of computing, and two all-reduces
    a layer where the engine has several GPUs."""
    compute, parts = COMPUTE_BYTES[precision], work.tensor_parallel
    context = work.prompt_tokens + work.answer_tokens / 2
    weights = (shape.matrix_parameters + shape.head_parameters) * compute / parts
    cache = work.at_a_time * context * kv_bytes_per_token(shape, precision, parts)
    read_s = (weights + cache) / machine.memory_bytes_per_s
    flops = forward_flops(Held(shape, precision, "logprobs"), work.at_a_time, work.at_a_time, 2 * context)
    compute_s = flops / parts / machine.flops(precision)
    reduced_s = 0.0
    if parts > 1:
        state = work.at_a_time * shape.hidden * compute
        one = machine.assumed.collective_latency_s + 2 * machine.collective_s(state, parts)
        reduced_s = 2 * shape.layers * one
    seconds = max(read_s, compute_s) + reduced_s
    if reduced_s > max(read_s, compute_s):
        return Bound(seconds, REDUCES)
    if compute_s > read_s:
        return Bound(seconds, COMPUTE)
    return Bound(seconds, WEIGHTS if weights > cache else KV_CACHE)


def at_a_time(shape: ModelShape, precision: Precision, kv_cache: float, longest: int, parts: int) -> int:
    """How many texts of the longest length a worker's cache holds."""
    return math.floor(kv_cache / (longest * kv_bytes_per_token(shape, precision, parts)))


def _longer(compute_s: float, links_s: float, busy_ranks: float, ranks: int) -> Bound:
    if links_s > compute_s:
        return Bound(links_s, LINKS)
    return Bound(compute_s, COMPUTE if busy_ranks > 0.9 * ranks else PROMPTS)
