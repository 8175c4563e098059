"""What an objective is to the training loop.

    StepBatch --Objective.loss_of_step (totals over all ranks)--> LossFunction
    per micro-batch: Outputs.values --LossFunction--> Contribution (its share of the global loss, numbers to watch)

The losses themselves are pure functions, one file each beside this one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import Tensor

from jobs.train.batch import PackedBatch
from jobs.train.model import Head

if TYPE_CHECKING:
    from jobs.train.learner import Learner
    from jobs.train.reader import StepBatch


@dataclass(frozen=True)
class Mean:
    """A number to watch, before it is divided: both parts are summed over micro-batches and ranks."""

    total: Tensor
    """fp64 ()"""
    count: Tensor
    """fp64 ()"""


@dataclass(frozen=True)
class Contribution:
    """What one micro-batch adds to the global batch."""

    loss: Tensor
    """(), its share of the global loss: differentiate this. The shares of all micro-batches and ranks sum to the loss."""
    metrics: dict[str, Mean]
    """The same names in the same order for every micro-batch of an objective, also for an empty one."""
    highest: dict[str, Tensor] = field(default_factory=dict)
    """Numbers >= 0 of which the largest over micro-batches and ranks is watched; names as in `metrics`."""


LossFunction = Callable[[Tensor, PackedBatch], Contribution]
"""(values of a forward pass, its batch) -> Contribution"""


@dataclass(frozen=True)
class EntropyLoss:
    """A loss that differentiates the entropy of the next token too; another one does not pay for its gradient."""

    function: Callable[[Tensor, Tensor, PackedBatch], Contribution]
    """(logprobs_W, entropy_W, batch) -> Contribution"""


class Objective(Protocol):
    """What the loop needs to know of an objective."""

    head: ClassVar[Head]
    needs_reference: ClassVar[bool]
    """Whether the log-probabilities of the answers under the reference have to be known before the first step."""

    def loss_of_step(self, learner: "Learner", batch: "StepBatch") -> LossFunction:
        """The loss of one step, with the totals of the global batch in it. Collective: all ranks call it together."""
        ...


def mean_of(values: Tensor) -> Mean:
    """The mean of some values, detached."""
    values = values.detach().double()
    return Mean(values.sum(), torch.tensor(float(values.numel()), dtype=torch.float64, device=values.device))


def weighted_mean(values: Tensor, weights: Tensor) -> Mean:
    """sum(weight x value) / sum(weight), detached."""
    weights = weights.detach().double()
    return Mean((values.detach().double() * weights).sum(), weights.sum())


def with_margin(metrics: dict[str, float]) -> dict[str, float]:
    """Adds the difference of the mean rewards where no pairs give it: thumbs have none, and a mean of differences neither."""
    if not {"rewards/chosen", "rewards/rejected"} <= metrics.keys() or "margin" in metrics:
        return metrics
    return {"rewards/margins": metrics["rewards/chosen"] - metrics["rewards/rejected"], **metrics}
