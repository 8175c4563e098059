"""The pull to the reference: how far a policy is from it, and how strongly it is held.

    log-ratio_W = log policy - log reference --kl_per_action--> [W] nats
    measured KL of a batch --next_coefficient--> KlState for the next one

For samples of the policy (Schulman 2020, joschu.net/blog/kl-approx.html), with d = log policy - log reference:

    k1  d               unbiased; its own derivative has mean 0, so it belongs into the reward and never into the loss
    k2  d^2 / 2         biased as a number; its derivative is that of KL(policy || reference), unbiased
    k3  exp(-d) - 1 + d unbiased and >= 0; its derivative is that of KL(reference || policy), as in GRPO's loss
    k3_straight         k3 as a number, k2 in the derivative: right in both
"""

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from configs.schema.ppo import AdaptiveKl, KlEstimator

LARGEST_ERROR = 0.2
"""Of one update of the coefficient (Ziegler et al. 2019, arXiv 1909.08593, section 2.2)."""


def kl_per_action(log_ratio_W: Tensor, estimator: KlEstimator) -> Tensor:
    """(W,) nats an action, differentiable; their sum over an answer estimates the KL of whole answers.

    Args:
        log_ratio_W: log policy - log reference of actions that the policy sampled; others need importance weights.
    """
    match estimator:
        case "k1":
            return log_ratio_W
        case "k2":
            return log_ratio_W.square() / 2
        case "k3":
            return torch.expm1(-log_ratio_W) + log_ratio_W
        case "k3_straight":
            half_square_W = log_ratio_W.square() / 2
            k3_W = (torch.expm1(-log_ratio_W) + log_ratio_W).detach()
            return half_square_W - half_square_W.detach() + k3_W
        case unknown:
            assert_never(unknown)


@dataclass(frozen=True, slots=True)
class KlState:
    """How strongly the policy is held to the reference; part of a checkpoint (dataclasses.asdict, KlState(**json)).

    Example:
        KlState(coefficient=0.05)
    """

    coefficient: float
    """Reward a nat costs, or weight of the KL term of the loss."""


def kl_in_unit(total: float, answers: float, actions: float, adaptive: AdaptiveKl) -> float:
    """The mean KL of a batch in the unit of the target.

    Args:
        total: sum of k1 over all actions of the global batch, in nats.
        answers, actions: of the global batch.
    """
    match adaptive.unit:
        case "nats_per_sequence":
            return total / answers
        case "nats_per_token":
            return total / actions
        case unknown:
            assert_never(unknown)


def next_coefficient(state: KlState, adaptive: AdaptiveKl, kl: float, answers: int) -> KlState:
    """Raises the coefficient where the KL is above its target, lowers it where it is below (Ziegler et al., section 2.2).

        error = clip(kl / target - 1, -0.2, 0.2);  coefficient x (1 + error x answers / horizon)

    Args:
        kl: of the batch, in the unit of the target; below 0 by chance counts as far below the target.
        answers: of the global batch; the horizon is counted in answers.
    """
    error = min(max(kl / adaptive.target - 1, -LARGEST_ERROR), LARGEST_ERROR)
    return KlState(state.coefficient * (1 + error * answers / adaptive.horizon))
