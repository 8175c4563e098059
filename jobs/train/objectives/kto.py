"""Kahneman-Tversky optimisation: thumbs up and down instead of pairs.

    logprobs_W --sum over the answer--> log-ratio_S to the reference --against z_ref--> value of each answer

Ethayarajh et al. 2024, arXiv 2402.01306, equations 7 and 8. The reference point z_ref estimates KL(policy || reference)
from mismatched completions: a prompt with another prompt's answer, fixed when the rows were prepared. It is the mean over
the *global* batch, clamped at 0, from a pass without gradient, so it does not depend on micro-batches and ranks.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from configs.schema.objectives import KtoLoss
from jobs.train.batch import PackedBatch
from jobs.train.model import Head
from jobs.train.objectives.objective import Contribution, LossFunction, Mean, mean_of

if TYPE_CHECKING:
    from jobs.train.learner import Learner
    from jobs.train.reader import StepBatch


def kto_loss(
    logprobs_W: Tensor, batch: PackedBatch, settings: KtoLoss, examples: float, reference_point: float
) -> Contribution:
    """sum over answers(weight x (1 - sigmoid(+-beta x (log-ratio - z_ref)))) / examples; + for thumbs up.

    Args:
        logprobs_W: of the answers' tokens under the policy.
        settings: with unequal numbers of thumbs choose the weights so that desirable_weight x up is 1 to 4/3 times
            undesirable_weight x down (equation 9 of the paper).
        examples: answers of the global batch.
        reference_point: z_ref in nats, >= 0.
    """
    answers = batch.answers
    policy_S = answers.answer_logprobs(logprobs_W)
    # An empty batch has one segment of no answer, which must not count.
    judged_S = answers.answer_lengths() > 0
    log_ratio_S = torch.where(judged_S, policy_S - answers.reference_S, policy_S)
    up_S = answers.level_S == 0
    sign_S = torch.where(up_S, 1.0, -1.0)
    weight_S = torch.where(up_S, settings.desirable_weight, settings.undesirable_weight) * judged_S
    value_S = torch.sigmoid(settings.beta * sign_S * (log_ratio_S - reference_point))
    loss = (weight_S * (1 - value_S)).sum() / examples
    metrics = _metrics(settings, log_ratio_S, policy_S, answers.answer_lengths(), up_S, judged_S)
    judged = judged_S.sum().double()
    return Contribution(loss, {**metrics, "kl": Mean(reference_point * judged, judged)})


def _metrics(
    settings: KtoLoss, log_ratio_S: Tensor, policy_S: Tensor, lengths_S: Tensor, up_S: Tensor, judged_S: Tensor
) -> dict[str, Mean]:
    up_S, down_S = up_S & judged_S, ~up_S & judged_S
    rewards_S = settings.beta * log_ratio_S
    return {
        "rewards/chosen": mean_of(rewards_S[up_S]),
        "rewards/rejected": mean_of(rewards_S[down_S]),
        "logps/chosen": mean_of(policy_S[up_S]),
        "logps/rejected": mean_of(policy_S[down_S]),
        "lengths/chosen": mean_of(lengths_S[up_S]),
        "lengths/rejected": mean_of(lengths_S[down_S]),
        "share_desirable": mean_of(up_S[judged_S].float()),
    }


@dataclass(frozen=True)
class Kto:
    """KTO."""

    settings: KtoLoss
    head: ClassVar[Head] = "logprobs"
    needs_reference: ClassVar[bool] = True

    def loss_of_step(self, learner: "Learner", batch: "StepBatch") -> LossFunction:
        total = 0.0
        for part in batch.mismatched:
            answers = part.answers
            policy_S = answers.answer_logprobs(learner.forward(part).cpu())
            total += float((policy_S - answers.reference_S)[answers.answer_lengths() > 0].double().sum())
        point = max(0.0, learner.sum_over_ranks(total) / batch.examples)
        return partial(kto_loss, settings=self.settings, examples=batch.examples, reference_point=point)
