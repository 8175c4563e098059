"""Whether a sampler really computes with the weights it was sent: its log-probabilities of a fixed text against the learner's.

    old learner -- d = new - old --> new learner          the sampler s lies at `position` on this line:
    0 ......................... 1/2 ............ 1        (s - old) . d / d . d, with a standard error of noise / |d|

Sampler and learner never agree exactly (bf16 kernels round differently), so distance alone sees no small step that was
skipped. Along d the noise of thousands of tokens averages out: a step of a hundredth of the noise can still be told.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cluster.weights import WeightSyncFailed

LEAST_TOKENS = 2048
"""Fewer would need larger steps to tell old from new; this many cost a forward pass of one micro-batch."""
SURE = 8.0
"""Standard errors between old and new from which the reading is trusted. Half of them lie between a right position (1) and the
boundary (1/2): a false alarm once in 30,000 syncs if noise were normal and independent."""
MOST_MISMATCH = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}
"""Root mean square, in nats, of sampler minus learner. Seen here with SmolLM2-135M: 1e-6 in fp32, 0.03 in bf16
(tests/benchmarks/weight_sync.py); weights of another model or a broken layer give whole nats."""


@dataclass(frozen=True)
class Probe:
    """Text, and what the learner makes of it.

    Example:
        Probe(sequences=((5, 9, 2), (7, 2)), new_logprobs_N=tensor([-1.2, -0.3, -2.0]), old_logprobs_N=tensor([-1.3, ...]))
    """

    sequences: tuple[tuple[int, ...], ...]
    """Token ids; together at least LEAST_TOKENS tokens that have a predecessor. Rollouts of the last step will do."""
    new_logprobs_N: Tensor
    """fp32, at temperature 1: of every token but the first of its sequence, by the weights that are sent."""
    old_logprobs_N: Tensor
    """The same by the weights that the sampler had before."""


@dataclass(frozen=True)
class ProbeReading:
    """Where a sampler lies between the old and the new learner."""

    position: float
    """0 = at the old one, 1 = at the new one; NaN where both are the same."""
    standard_errors: float
    """Between old and new; below SURE the position says nothing."""
    mismatch: float
    """Root mean square of sampler minus new learner, in nats."""

    @property
    def is_sure(self) -> bool:
        return self.standard_errors >= SURE


def read_probe(sampled_N: Tensor, probe: Probe) -> ProbeReading:
    """Args:
    sampled_N: the sampler's log-probabilities of the tokens of the probe.
    """
    step_N = probe.new_logprobs_N.double() - probe.old_logprobs_N.double()
    moved_N = sampled_N.double() - probe.old_logprobs_N.double()
    mismatch = float((sampled_N.double() - probe.new_logprobs_N.double()).square().mean().sqrt())
    square = float(step_N @ step_N)
    if square == 0:
        return ProbeReading(math.nan, 0.0, mismatch)
    position = float(moved_N @ step_N) / square
    noise = float((moved_N - position * step_N).square().mean().sqrt())
    return ProbeReading(position, math.sqrt(square) / noise if noise else math.inf, mismatch)


def check_probe(reading: ProbeReading, dtype: torch.dtype) -> None:
    """Raises WeightSyncFailed where the sampler is nearer to the old learner, or near to neither.

    Args:
        dtype: in which the sampler computes.
    """
    if reading.is_sure and reading.position <= 0.5:
        raise WeightSyncFailed(
            f"the sampler still computes with the old weights: it lies at {reading.position:.2f} between the old (0) and the "
            f"new learner (1), which are {reading.standard_errors:.0f} standard errors apart"
        )
    if not reading.mismatch <= MOST_MISMATCH[dtype]:  # NaN fails too
        raise WeightSyncFailed(
            f"the sampler's log-probabilities differ from the learner's by {reading.mismatch:.3g} nats (root mean square; at "
            f"most {MOST_MISMATCH[dtype]} in {dtype}): it computes with other weights, or computes something else"
        )


def check_tokens(sequences: Sequence[Sequence[int]], logprobs_N: Tensor) -> None:
    """Raises WeightSyncFailed where a probe is too short to tell anything, or its parts do not belong together."""
    tokens = sum(len(sequence) - 1 for sequence in sequences)
    if tokens < LEAST_TOKENS or tokens != len(logprobs_N):
        raise WeightSyncFailed(
            f"the probe has {tokens} tokens and {len(logprobs_N)} log-probabilities; it needs {LEAST_TOKENS} of both at least"
        )
