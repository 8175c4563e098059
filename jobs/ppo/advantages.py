"""How much better each action was than expected.

    rewards_W, old_values_W --gae--> advantages_W, returns_W
    rewards_S of the answers to a prompt --grpo, rloo--> advantages_S --[segment_W]--> advantages_W
    advantages_W --moments--> [3] --sum over ranks--> whitened

All columns hold actions only (jobs/train/batch.py, Actions): prompts, padding and whatever else is not sampled have no
place in them, so the next action of an action is the next *sampled* token and nothing steps through zeros in between.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

DEVIATION_FLOOR = 1e-4
"""Added to the deviation of a group, as in TRL's GRPOTrainer: of equal rewards, rounding is not blown up to advantages."""
VARIANCE_FLOOR = 1e-8
"""Added to the variance that advantages are whitened by, as in Ziegler's `whiten` and TRL's."""


class Estimate(NamedTuple):
    """Of every action."""

    advantages_W: Tensor
    returns_W: Tensor
    """What the critic should have said: advantages + old values."""


def gae(rewards_W: Tensor, old_values_W: Tensor, segment_W: Tensor, gamma: float, gae_lambda: float) -> Estimate:
    """Generalised advantage estimation, answer by answer (Schulman et al. 2016, arXiv 1506.02438, equation 16).

        A_t = sum over k >= 0 of (gamma lambda)^k delta_(t + k),   delta_t = r_t + gamma V_(t + 1) - V_t

    After the last action of an answer there is no value: V = 0, whether it ended by itself or was cut off. The length limit
    is part of the task (nobody reads on), and a cut-off answer pays for it by the missing-end penalty. There is no state to
    bootstrap from either: the value after the last token is never computed, and the one at padding, which others take, is
    the value of nothing.

    Args:
        rewards_W: per action.
        old_values_W: of the state before each action.
        segment_W: the answer of each action, ascending.
        gamma: discount of later rewards; 1 for answers.
        gae_lambda: 0 trusts the critic, 1 the sampled rewards.
    """
    if not len(segment_W):
        return Estimate(rewards_W.clone(), rewards_W.clone())
    _, segment_W, lengths_S = segment_W.unique_consecutive(return_inverse=True, return_counts=True)
    longest = int(lengths_S.max())
    # Answers end in the same column, so what pads a shorter one lies before it and is never reached.
    place_W = torch.arange(len(segment_W), device=segment_W.device) + longest - lengths_S.cumsum(0)[segment_W]
    values_SL, rewards_SL = (
        column_W.new_zeros(len(lengths_S), longest).index_put((segment_W, place_W), column_W)
        for column_W in (old_values_W, rewards_W)
    )
    advantages_SL = torch.zeros_like(rewards_SL)
    next_value_S, next_advantage_S = values_SL.new_zeros(len(lengths_S)), rewards_SL.new_zeros(len(lengths_S))
    for place in reversed(range(longest)):
        delta_S = rewards_SL[:, place] + gamma * next_value_S - values_SL[:, place]
        next_advantage_S = delta_S + gamma * gae_lambda * next_advantage_S
        next_value_S = values_SL[:, place]
        advantages_SL[:, place] = next_advantage_S
    advantages_W = advantages_SL[segment_W, place_W]
    return Estimate(advantages_W, advantages_W + old_values_W)


def grpo(rewards_S: Tensor, group_S: Tensor, scale: Literal["deviation", "none"]) -> Tensor:
    """(S,) each reward minus the mean of its group, in deviations of the group (Shao et al. 2024, arXiv 2402.03300, 4.1.2).

    Args:
        rewards_S: of whole answers.
        group_S: int64, the prompt of each answer, in any order.
        scale: none is Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): prompts that are too easy or too hard count no more
            than others. The deviation is the sample's (n - 1), as in TRL and verl.

    Raises:
        ValueError: a group of one.
    """
    groups = _groups(group_S)
    centred_S = rewards_S - groups.mean(rewards_S)[groups.of_S]
    if scale == "none":
        return centred_S
    variance_G = groups.sum(centred_S.square()) / (groups.sizes_G - 1)
    return centred_S / (variance_G.sqrt() + DEVIATION_FLOOR)[groups.of_S]


def rloo(rewards_S: Tensor, group_S: Tensor) -> Tensor:
    """(S,) each reward minus the mean of the *others* of its group (Kool et al. 2019; Ahmadian et al. 2024, arXiv
    2402.14740, equation 7). What an answer is measured against does not depend on it, so the gradient stays unbiased.

    Raises:
        ValueError: a group of one.
    """
    groups = _groups(group_S)
    others_G = groups.sizes_G / (groups.sizes_G - 1)
    return (rewards_S - groups.mean(rewards_S)[groups.of_S]) * others_G[groups.of_S]


class _Groups(NamedTuple):
    of_S: Tensor
    sizes_G: Tensor

    def sum(self, values_S: Tensor) -> Tensor:
        return values_S.new_zeros(len(self.sizes_G)).index_add(0, self.of_S, values_S)

    def mean(self, values_S: Tensor) -> Tensor:
        return self.sum(values_S) / self.sizes_G


def _groups(group_S: Tensor) -> _Groups:
    groups_G, of_S, sizes_G = group_S.unique(return_inverse=True, return_counts=True)
    if (sizes_G < 2).any():
        raise ValueError(
            f"prompt {int(groups_G[sizes_G < 2][0])} has one answer only, which has nothing to be compared with; grpo and "
            "rloo need answers_per_prompt >= 2 and all answers of a prompt together"
        )
    return _Groups(of_S, sizes_G)


def moments(values_W: Tensor) -> Tensor:
    """fp64 (3,) count, sum and sum of squares: add those of all ranks and micro-batches (Learner.sums_over_ranks)."""
    values_W = values_W.double()
    return torch.stack([torch.ones_like(values_W).sum(), values_W.sum(), values_W.square().sum()])


def whitened(values_W: Tensor, count: float, total: float, squares: float) -> Tensor:
    """(value - mean) / deviation, over all actions of the global batch ([N] detail 13: mean shift for advantages).

    The variance is the population's, as in Ziegler's code; TRL divides by count - 1.

    Args:
        count, total, squares: `moments` over all ranks: whitened by its own a rank would see other advantages.
    """
    assert count > 0, "no action in the global batch"
    mean = total / count
    variance = max(squares / count - mean * mean, 0.0)  # below 0 by rounding, where all are equal
    return ((values_W.double() - mean) / (variance + VARIANCE_FLOOR) ** 0.5).to(values_W.dtype)
