"""Whether a sampler really computes with the weights it was sent: its log-probabilities of a fixed text against the learner's.

    old learner ---- d = new - old ----> new learner       the sampler s lies at `position` on this line:
    0 ............... 1/2 ............... 1                |s - old|^2 - |s - new|^2 = 2 sum u,  u = (s - (old + new) / 2) d

Sampler and learner never agree exactly: in bf16 both round, and a step of 1e-6 moves log-probabilities less than rounding does,
in the learner's own difference too. So the sum of u is judged by its standard error over the tokens: significantly below 0 is
an update that was skipped, significantly above 0 is one that arrived, and between them the probe says that it cannot tell.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cluster.weights import WeightSyncFailed

LEAST_TOKENS = 2048
"""Fewer would need larger steps to tell old from new; this many cost a forward pass of one micro-batch."""
SURE = 4.0
"""Standard errors: by chance once in 30,000 syncs, were tokens independent."""
MOST_MISMATCH = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.05}
"""Root mean square, in nats, of sampler minus learner. Seen with SmolLM2-135M: 2e-6 at most in fp32 (design.md 7), 0.07 in
bf16 (tests/benchmarks/rollouts.py; a few unlikely tokens make most of it). Weights of another model give whole nats."""


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
    """0 = at the old one, 1 = at the new one; NaN where both are the same. Drawn to 1/2 by the learner's own rounding."""
    standard_errors: float
    """By which the sampler is nearer to the new learner than to the old one; negative where it is nearer to the old one."""
    mismatch: float
    """Root mean square of sampler minus new learner, in nats."""

    @property
    def is_sure(self) -> bool:
        """The step is large enough to be seen here, and was."""
        return self.standard_errors >= SURE


def read_probe(sampled_N: Tensor, probe: Probe) -> ProbeReading:
    """Args:
    sampled_N: the sampler's log-probabilities of the tokens of the probe.
    """
    mismatch = float((sampled_N.double() - probe.new_logprobs_N.double()).square().mean().sqrt())
    once_N = first_seen(probe.sequences)
    old_N, new_N, sampled_N = (
        values_N.double()[once_N] for values_N in (probe.old_logprobs_N, probe.new_logprobs_N, sampled_N)
    )
    step_N = new_N - old_N
    square = float(step_N @ step_N)
    if square == 0:
        return ProbeReading(math.nan, 0.0, mismatch)
    nearer_N = (sampled_N - (old_N + new_N) / 2) * step_N
    error = float(nearer_N.std(correction=0)) * math.sqrt(len(nearer_N))
    total = float(nearer_N.sum())
    standard_errors = total / error if error else math.copysign(math.inf, total)
    return ProbeReading(0.5 + total / square, standard_errors, mismatch)


def first_seen(sequences: Sequence[Sequence[int]]) -> Tensor:
    """bool (N,) of every token but the first of its sequence: whether no earlier sequence begins with the same text up to it.

    Prompts of one template begin alike, and where there are few of them they come again. What is computed of the same text is
    the same to the bit, so only the first of them counts where a standard error is taken: with 51 prompts of SmolLM2's template
    909 of 2,089 tokens are new ones, and all together seemed to be 2.5 times as sure.
    """
    seen: dict[int, Any] = {}
    new: list[bool] = []
    for sequence in sequences:
        after = seen.setdefault(sequence[0], {})
        for token in sequence[1:]:
            new.append(token not in after)
            after = after.setdefault(token, {})
    return torch.tensor(new, dtype=torch.bool)


def check_probe(reading: ProbeReading, dtype: torch.dtype) -> None:
    """Raises WeightSyncFailed where the sampler is nearer to the old learner, or near to neither.

    Args:
        dtype: in which the sampler computes.
    """
    if reading.standard_errors <= -SURE:
        raise WeightSyncFailed(
            f"the sampler still computes with the old weights: it is nearer to the old than to the new learner by "
            f"{-reading.standard_errors:.0f} standard errors (at {reading.position:.2f} between them, 1 is the new one)"
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
