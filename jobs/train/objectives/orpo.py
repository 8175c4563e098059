"""Odds-ratio preference optimisation: SFT on the best answer and a penalty on the odds of the other, in one stage.

    logprobs_W --mean over the answer--> log p_S --> log odds = log p - log(1 - p) --pairs--> loss

Hong et al. 2024, arXiv 2403.07691, equations 4, 6 and 7. No reference and no reward model. As in the authors' code and
TRL's ORPOTrainer the SFT term covers the prompt's tokens too, unless `sft_on: answer` is set.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.schema.objectives import OrpoLoss
from jobs.train.batch import PackedBatch
from jobs.train.model import Head
from jobs.train.objectives.objective import Contribution, LossFunction, Mean, weighted_mean

if TYPE_CHECKING:
    from jobs.train.learner import Learner
    from jobs.train.reader import StepBatch


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0 without cancellation (Maechler 2012, "Accurately computing log(1 - exp(-|a|))")."""
    return torch.where(x > -0.6931472, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))


def orpo_loss(
    logprobs_W: Tensor, batch: PackedBatch, settings: OrpoLoss, examples: float, learnt_tokens: float
) -> Contribution:
    """-sum over best(logprob) / learnt_tokens - beta x sum over pairs(share x log sigmoid(log odds ratio)) / examples.

    Args:
        logprobs_W: under the policy, of the answers' tokens, and of the best prompt's where those are learnt too.
        examples: of the global batch.
        learnt_tokens: of the SFT term in the global batch.
    """
    answers = batch.answers
    lengths_S = answers.answer_lengths()
    mean_S = answers.answer_logprobs(logprobs_W) / lengths_S.clamp(min=1)
    # An answer of probability 1 has infinite odds; the smallest fp32 step below keeps the gradient finite.
    odds_S = mean_S - log1mexp(mean_S.clamp(max=-1e-7))
    log_odds_P = odds_S[answers.better_P] - odds_S[answers.worse_P]
    best_W = (answers.level_S[answers.segment_W] == 0).to(logprobs_W.dtype)
    sft_loss = -(best_W * logprobs_W).sum()
    penalty = -(answers.share_P * F.logsigmoid(log_odds_P)).sum()
    loss = sft_loss / learnt_tokens + settings.beta * penalty / examples
    return Contribution(loss, _metrics(settings.beta, mean_S, log_odds_P, lengths_S, sft_loss, batch))


def _metrics(
    beta: float, mean_S: Tensor, log_odds_P: Tensor, lengths_S: Tensor, sft_loss: Tensor, batch: PackedBatch
) -> dict[str, Mean]:
    pairs = batch.answers
    chosen_P, rejected_P = mean_S[pairs.better_P], mean_S[pairs.worse_P]
    learnt = torch.tensor(tokens_of_sft(batch), dtype=torch.float64, device=mean_S.device)
    return {
        "sft_loss": Mean(sft_loss.detach().double(), learnt),
        "log_odds_ratio": weighted_mean(log_odds_P, pairs.share_P),
        "rewards/chosen": weighted_mean(beta * chosen_P, pairs.share_P),
        "rewards/rejected": weighted_mean(beta * rejected_P, pairs.share_P),
        "rewards/margins": weighted_mean(beta * (chosen_P - rejected_P), pairs.share_P),
        "rewards/accuracies": weighted_mean((chosen_P > rejected_P).float(), pairs.share_P),
        "logps_per_token/chosen": weighted_mean(chosen_P, pairs.share_P),
        "logps_per_token/rejected": weighted_mean(rejected_P, pairs.share_P),
        "lengths/chosen": weighted_mean(lengths_S[pairs.better_P], pairs.share_P),
        "lengths/rejected": weighted_mean(lengths_S[pairs.worse_P], pairs.share_P),
    }


def tokens_of_sft(batch: PackedBatch) -> float:
    """Weighted tokens of the best answers of a micro-batch, with those of their prompts where they are weighted."""
    return float((batch.answers.level_S[batch.answers.segment_W] == 0).sum())


@dataclass(frozen=True)
class Orpo:
    """ORPO."""

    settings: OrpoLoss
    head: ClassVar[Head] = "logprobs"
    needs_reference: ClassVar[bool] = False

    def loss_of_step(self, learner: "Learner", batch: "StepBatch") -> LossFunction:
        learnt_tokens = learner.sum_over_ranks(sum(tokens_of_sft(part) for part in batch.micro_batches))
        return partial(orpo_loss, settings=self.settings, examples=batch.examples, learnt_tokens=learnt_tokens)
