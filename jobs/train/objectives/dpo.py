"""Direct preference optimisation: the policy's own log-ratios to a frozen reference are the rewards.

    logprobs_W --sum over the answer--> policy_S - reference_S = log-ratio_S --pairs--> loss

Rafailov et al. 2023, arXiv 2305.18290, equation 7. Variants: IPO (Azar et al., 2310.12036, equation 17, per token as its
authors advise), hinge (SLiC, Zhao et al., 2305.10425), robust (Chowdhury et al., 2403.00409), label smoothing (Mitchell,
"A note on DPO with noisy preferences", 2023), length-normalised (Meng et al., 2405.14734, with a reference). The numbers
are those of TRL's DPOTrainer.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, assert_never

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.schema.objectives import DpoLoss
from jobs.train.batch import PackedBatch
from jobs.train.model import Head
from jobs.train.objectives.objective import Contribution, LossFunction, Mean, weighted_mean

if TYPE_CHECKING:
    from jobs.train.learner import Learner
    from jobs.train.reader import StepBatch


def pair_loss(log_ratio_S: Tensor, lengths_S: Tensor, batch: PackedBatch, settings: DpoLoss) -> Tensor:
    """(P,) the loss of every pair.

    Args:
        log_ratio_S: log policy - log reference of each answer, in nats.
        lengths_S: tokens of each answer.
        settings: beta is the strength of the KL term: larger stays nearer to the reference. It breaks down where all
            log-ratios fall together (the chosen ones too): lower beta, or add the SFT term.
    """
    pairs = batch.answers
    if settings.kind in ("ipo", "sigmoid_norm"):
        log_ratio_S = log_ratio_S / lengths_S.clamp(min=1)
    delta_P = log_ratio_S[pairs.better_P] - log_ratio_S[pairs.worse_P]
    smoothing = settings.label_smoothing
    match settings.kind:
        case "sigmoid" | "sigmoid_norm":
            right_P, wrong_P = -F.logsigmoid(settings.beta * delta_P), -F.logsigmoid(-settings.beta * delta_P)
            return (1 - smoothing) * right_P + smoothing * wrong_P
        case "robust":
            right_P, wrong_P = -F.logsigmoid(settings.beta * delta_P), -F.logsigmoid(-settings.beta * delta_P)
            return ((1 - smoothing) * right_P - smoothing * wrong_P) / (1 - 2 * smoothing)
        case "hinge":
            return torch.relu(1 - settings.beta * delta_P)
        case "ipo":
            return (delta_P - 1 / (2 * settings.beta)) ** 2
        case unknown:
            assert_never(unknown)


def dpo_loss(
    logprobs_W: Tensor, batch: PackedBatch, settings: DpoLoss, examples: float, best_tokens: float
) -> Contribution:
    """sum over pairs(share x pair loss) / examples + sft_weight x sum over best answers(-logprob) / best_tokens.

    Args:
        logprobs_W: of the answers' tokens under the policy.
        examples: of the global batch.
        best_tokens: tokens of the best answers of the global batch; used where `sft_weight` > 0.
    """
    answers = batch.answers
    policy_S, lengths_S = answers.answer_logprobs(logprobs_W), answers.answer_lengths()
    log_ratio_S = policy_S - answers.reference_S
    losses_P = pair_loss(log_ratio_S, lengths_S, batch, settings)
    loss = (answers.share_P * losses_P).sum() / examples
    best_S = (answers.level_S == 0).to(policy_S.dtype)
    if settings.sft_weight > 0:
        loss = loss - settings.sft_weight * (best_S * policy_S).sum() / best_tokens
    return Contribution(loss, _metrics(settings.beta * log_ratio_S, policy_S, lengths_S, batch))


def _metrics(rewards_S: Tensor, policy_S: Tensor, lengths_S: Tensor, batch: PackedBatch) -> dict[str, Mean]:
    pairs = batch.answers
    chosen_P, rejected_P = rewards_S[pairs.better_P], rewards_S[pairs.worse_P]
    # Equal ones count half: before the first step all are, and a model that is its own reference is no worse than chance.
    prefers_P = (chosen_P > rejected_P).float() + 0.5 * (chosen_P == rejected_P).float()
    return {
        "rewards/chosen": weighted_mean(chosen_P, pairs.share_P),
        "rewards/rejected": weighted_mean(rejected_P, pairs.share_P),
        "rewards/margins": weighted_mean(chosen_P - rejected_P, pairs.share_P),
        "rewards/accuracies": weighted_mean(prefers_P, pairs.share_P),
        "logps/chosen": weighted_mean(policy_S[pairs.better_P], pairs.share_P),
        "logps/rejected": weighted_mean(policy_S[pairs.worse_P], pairs.share_P),
        "lengths/chosen": weighted_mean(lengths_S[pairs.better_P], pairs.share_P),
        "lengths/rejected": weighted_mean(lengths_S[pairs.worse_P], pairs.share_P),
    }


@dataclass(frozen=True)
class Dpo:
    """DPO and its variants."""

    settings: DpoLoss
    head: ClassVar[Head] = "logprobs"
    needs_reference: ClassVar[bool] = True

    def loss_of_step(self, learner: "Learner", batch: "StepBatch") -> LossFunction:
        best_tokens = 1.0
        if self.settings.sft_weight > 0:
            best_tokens = learner.sum_over_ranks(sum(tokens_of_best(part) for part in batch.micro_batches))
        return partial(dpo_loss, settings=self.settings, examples=batch.examples, best_tokens=best_tokens)


def tokens_of_best(batch: PackedBatch) -> float:
    """Tokens of the best answers of a micro-batch."""
    answers = batch.answers
    return float(answers.answer_lengths()[answers.level_S == 0].sum())
