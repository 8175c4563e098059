"""Next-token loss over the weighted tokens: continued pre-training and, with other weights, supervised fine-tuning."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NextTokenLoss:
    """What one micro-batch adds to the global batch."""

    loss: Tensor
    """fp32 (), its share of the global loss: differentiate this."""
    loss_sum: Tensor
    """fp64 (), sum of weight x -logprob, detached."""
    weight_sum: Tensor
    """fp64 ()"""


def next_token_loss(logprobs_W: Tensor, weights_W: Tensor, denominator: float) -> NextTokenLoss:
    """sum_w(weight x -logprob) / denominator.

    Args:
        logprobs_W: of the targets, as PackedCausalLM returns them.
        weights_W: > 0, in the same order.
        denominator: the weight sum of the *global* batch, over all micro-batches and ranks; with a local one, ranks with
            few weighted tokens would count more. It must be > 0.
    """
    assert denominator > 0, denominator
    loss_sum = -(weights_W * logprobs_W).sum()
    return NextTokenLoss(loss_sum / denominator, loss_sum.detach().double(), weights_W.sum(dtype=torch.float64))
