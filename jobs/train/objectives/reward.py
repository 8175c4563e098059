"""Reward model: a score for every answer, so that preferred answers score higher.

    scores_S (at the last token of each answer) --pairs--> -log sigmoid(better - worse - margin)

Bradley & Terry 1952 as in Ouyang et al. 2022, arXiv 2203.02155, equation 1: all pairs of a ranking are in one batch and
each ranking weighs the same. Margin: Touvron et al. 2023, 2307.09288, equation 2. Centring: Eisenstein et al. 2023,
2312.09244, equation 2.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.nn import functional as F

from configs.schema.objectives import RewardLoss
from jobs.train.batch import PackedBatch
from jobs.train.model import Head
from jobs.train.objectives.objective import Contribution, LossFunction, mean_of, weighted_mean

if TYPE_CHECKING:
    from jobs.train.learner import Learner
    from jobs.train.reader import StepBatch


def reward_loss(scores_S: Tensor, batch: PackedBatch, settings: RewardLoss, examples: float) -> Contribution:
    """sum over pairs(share x (-log sigmoid(better - worse - margin) + centring x (better + worse)^2)) / examples.

    Args:
        scores_S: fp32, one a segment.
        settings: only differences of scores are learnt; `centring` > 0 keeps their mean near 0.
        examples: rankings of the global batch.
    """
    pairs = batch.answers
    better_P, worse_P = scores_S[pairs.better_P], scores_S[pairs.worse_P]
    losses_P = -F.logsigmoid(better_P - worse_P - pairs.margin_P)
    if settings.centring > 0:
        losses_P = losses_P + settings.centring * (better_P + worse_P) ** 2
    lengths_S = pairs.answer_lengths()
    judged_S = scores_S[lengths_S > 0]
    metrics = {
        "accuracy": weighted_mean((better_P > worse_P).float(), pairs.share_P),
        "margin": weighted_mean(better_P - worse_P, pairs.share_P),
        "rewards/chosen": weighted_mean(better_P, pairs.share_P),
        "rewards/rejected": weighted_mean(worse_P, pairs.share_P),
        "lengths/chosen": weighted_mean(lengths_S[pairs.better_P], pairs.share_P),
        "lengths/rejected": weighted_mean(lengths_S[pairs.worse_P], pairs.share_P),
        "rewards/mean": mean_of(judged_S),
        "rewards/square": mean_of(judged_S.square()),
    }
    return Contribution((pairs.share_P * losses_P).sum() / examples, metrics)


@dataclass(frozen=True)
class Reward:
    """The reward model's objective."""

    settings: RewardLoss
    head: ClassVar[Head] = "scores"
    needs_reference: ClassVar[bool] = False

    def loss_of_step(self, learner: "Learner", batch: "StepBatch") -> LossFunction:
        del learner
        return partial(reward_loss, settings=self.settings, examples=batch.examples)
