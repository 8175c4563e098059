"""Next-token loss over the weighted tokens: continued pre-training and, with other weights, supervised fine-tuning."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from jobs.train.batch import PackedBatch
from jobs.train.model import Head
from jobs.train.objectives.objective import Contribution, LossFunction

if TYPE_CHECKING:
    from jobs.train.learner import Learner
    from jobs.train.reader import StepBatch


def next_token_loss(logprobs_W: Tensor, batch: PackedBatch, denominator: float) -> Contribution:
    """sum_w(weight x -logprob) / denominator.

    Args:
        logprobs_W: of the targets, at the positions of `batch` with weight > 0.
        denominator: the weight sum of the *global* batch, over all micro-batches and ranks; with a local one, ranks with
            few weighted tokens would count more. It must be > 0.
    """
    assert denominator > 0, denominator
    return Contribution(-(batch.weights_W * logprobs_W).sum() / denominator, {})


@dataclass(frozen=True)
class LanguageModel:
    """CPT and SFT."""

    head: ClassVar[Head] = "logprobs"
    needs_reference: ClassVar[bool] = False

    def loss_of_step(self, learner: "Learner", batch: "StepBatch") -> LossFunction:
        del learner
        return partial(next_token_loss, denominator=batch.weight)
