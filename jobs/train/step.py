"""What a training step is made of: the sums of a rank before the all-reduce, the numbers of all ranks after it."""

from dataclasses import dataclass

from torch import Tensor

from jobs.train.objectives.objective import Mean


@dataclass(frozen=True)
class StepSums:
    """What this rank's micro-batches add to the global batch."""

    loss: Tensor
    """fp64 (), its share of the loss."""
    metrics: dict[str, Mean]


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
