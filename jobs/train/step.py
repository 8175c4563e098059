"""What a training step is made of: the sums of a rank before the all-reduce, the numbers of all ranks after it.

no_sums --added, one micro-batch after the other--> StepSums --reduced, one all-reduce--> OverRanks -> StepMetrics
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from jobs.train.memory import peak_rss_bytes
from jobs.train.objectives.objective import Contribution, Mean, with_margin


@dataclass(frozen=True)
class StepSums:
    """What this rank's micro-batches add to the global batch."""

    loss: Tensor
    """fp64 (), its share of the loss."""
    metrics: dict[str, Mean]
    highest: dict[str, Tensor]
    """Numbers >= 0, the largest of the micro-batches."""


@dataclass(frozen=True)
class OverRanks:
    """Sums over all ranks."""

    squares: float
    loss: float
    flags: list[int]
    """How many ranks have set each."""
    metrics: dict[str, float]
    peak_rss_bytes: list[int]


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step, over all ranks."""

    loss: float
    gradient_norm: float
    """Before clipping."""
    metrics: dict[str, float]
    """What the objective watches, and `entropy`; without those that had nothing to count."""
    stop: bool
    """Some rank asked to stop after this step."""
    checkpoint: bool
    """Some rank asked for a checkpoint after this step."""
    peak_rss_bytes: list[int]
    """Of each rank's process, since it was started."""


def no_sums(device: torch.device) -> StepSums:
    """Before the first micro-batch."""
    return StepSums(torch.zeros((), dtype=torch.float64, device=device), {}, {})


def added(sums: StepSums, contribution: Contribution, entropy: Mean) -> StepSums:
    """The sums with one micro-batch more."""
    metrics = {**contribution.metrics, "entropy": entropy}
    for name, before in sums.metrics.items():
        metrics[name] = Mean(before.total + metrics[name].total, before.count + metrics[name].count)
    highest = {
        name: torch.maximum(value.detach().double(), sums.highest.get(name, value))
        for name, value in contribution.highest.items()
    }
    return StepSums(sums.loss + contribution.loss.detach(), metrics, highest)


def reduced(sums: StepSums, squares: Tensor, flags: Sequence[bool | Tensor]) -> OverRanks:
    """Everything a step has to know of the other ranks, in one all-reduce.

    Args:
        squares: fp64 (), this rank's part of the squared gradient norm.
        flags: of this rank.
    """
    flags_F = torch.tensor(flags, dtype=torch.float64, device=squares.device)
    watched = [part for mean in sums.metrics.values() for part in (mean.total, mean.count)]
    # Each rank adds to a column of its own, so the sum has them all.
    own_NR = squares.new_zeros(1 + len(sums.highest), dist.get_world_size())
    own_NR[0, dist.get_rank()] = peak_rss_bytes()
    for row, value in enumerate(sums.highest.values(), start=1):
        own_NR[row, dist.get_rank()] = value
    totals = torch.cat([torch.stack([squares, sums.loss]), flags_F, own_NR.flatten(), torch.stack(watched)])
    dist.all_reduce(totals)
    all_squares, loss, *rest = totals.tolist()
    counted, rest = rest[: len(flags)], rest[len(flags) :]
    columns, pairs = (
        torch.tensor(rest[: own_NR.numel()], dtype=torch.float64).view(own_NR.shape),
        rest[own_NR.numel() :],
    )
    metrics = {
        name: total / count for name, total, count in zip(sums.metrics, pairs[::2], pairs[1::2], strict=True) if count
    }
    metrics = with_margin(metrics) | dict(zip(sums.highest, columns[1:].amax(1).tolist(), strict=True))
    return OverRanks(all_squares, loss, [int(count) for count in counted], metrics, columns[0].long().tolist())
