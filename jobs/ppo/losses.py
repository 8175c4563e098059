"""The losses of policy and critic: pure functions of one micro-batch, with the denominators of the whole minibatch.

    logprobs_W, entropy_W of the policy --policy_loss--> Contribution        values_W of the critic --value_loss--> Contribution

They stand here and not with the objectives of jobs/train, because no stage of one model over fixed rows has them: they
learn from Actions, which only PPO makes, and share the KL estimators with its rewards.

Every action has a share of the loss, the same for policy and critic and independent of micro-batches and ranks: by `token`
1 / actions, by `sequence` 1 / (actions of its answer x answers), counted over the minibatch of all ranks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from configs.schema.ppo import Aggregation, PpoAlgorithm
from jobs.ppo.kl import kl_per_action
from jobs.train.batch import Actions, PackedBatch
from jobs.train.objectives.objective import Contribution, EntropyLoss, LossFunction, Mean, mean_of

LEAST_SPREAD = 1e-12
"""Of the mean square of returns: a variance below it is the rounding of its two sums, not that returns differ."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Of a minibatch over all ranks and micro-batches.

    Example:
        answers of 3 and 5 tokens: Totals(answers=2, actions=8)
    """

    answers: float
    actions: float


def shares(actions: Actions, aggregation: Aggregation, totals: Totals) -> Tensor:
    """(W,) fp32, what every action counts of the loss; over the minibatch they sum to 1."""
    if aggregation == "token":
        return torch.full_like(actions.advantages_W, 1 / totals.actions)
    lengths_S = torch.bincount(actions.segment_W)
    return 1 / (lengths_S[actions.segment_W] * totals.answers)


def policy_loss(
    logprobs_W: Tensor,
    entropy_W: Tensor | None,
    batch: PackedBatch,
    settings: PpoAlgorithm,
    kl_coefficient: float,
    totals: Totals,
) -> Contribution:
    """Clipped surrogate, less the entropy bonus, plus the KL to the reference where it belongs to the loss.

        sum over actions of share x (w max(-r A, -clip(r, 1 - low, 1 + high) A) - bonus x H + coefficient x w r' KL)

    r = exp(new - old) (Schulman et al. 2017, arXiv 1707.06347, equation 7); with `dual_clip` c the first term is at most -c A
    where A < 0 (Ye et al. 2020, 1912.09729, equation 5). w = min(exp(old - sampler), cap), without gradient, corrects for
    actions that an older policy or another precision sampled (Yao et al. 2025, "Your efficient RL framework secretly brings
    you off-policy RL training"); r' is the same for the epochs since, as a KL is estimated by samples of the policy it is of.
    It breaks down where r leaves the clip range at once: lower the learning rate.

    Args:
        logprobs_W, entropy_W: of the policy now, at the sampling temperature; entropy only for an entropy bonus.
        batch: with `actions`.
        kl_coefficient: of the KL in the loss, from KlState; not used where it is in the reward.
        totals: of the minibatch.
    """
    actions = _actions(batch)
    share_W = shares(actions, settings.aggregation, totals)
    log_ratio_W = logprobs_W - actions.old_logprobs_W
    ratio_W = log_ratio_W.exp()
    weight_W = _importance(actions.old_logprobs_W - actions.sampler_logprobs_W, settings.importance_cap)
    plain_W = -ratio_W * actions.advantages_W
    high = settings.clip if settings.clip_high is None else settings.clip_high
    clipped_W = -ratio_W.clamp(1 - settings.clip, 1 + high) * actions.advantages_W
    loss_W = torch.maximum(plain_W, clipped_W)
    if settings.dual_clip is not None:
        most_W = -settings.dual_clip * actions.advantages_W
        loss_W = torch.where(actions.advantages_W < 0, torch.minimum(loss_W, most_W), loss_W)
    loss_W = weight_W * loss_W
    if settings.entropy_weight > 0:
        assert entropy_W is not None, "an entropy bonus needs the entropy: use policy_loss_of_step"
        loss_W = loss_W - settings.entropy_weight * entropy_W
    metrics = _policy_metrics(log_ratio_W.detach(), (clipped_W > plain_W).float(), actions)
    if settings.kl.where != "none":
        reference_W = logprobs_W - actions.reference_logprobs_W
        on_policy_W = weight_W * _importance(log_ratio_W.detach(), settings.importance_cap)
        if settings.kl.where == "loss":
            loss_W = loss_W + kl_coefficient * on_policy_W * kl_per_action(reference_W, settings.kl.estimator)
        metrics["kl/reference_k1"] = mean_of(on_policy_W * reference_W)
        metrics["kl/reference_k3"] = mean_of(on_policy_W * kl_per_action(reference_W.detach(), "k3"))
    mismatch_W = (actions.old_logprobs_W - actions.sampler_logprobs_W).abs()
    highest = {"ratio/max_log": _highest(log_ratio_W.abs()), "mismatch/max_delta": _highest(mismatch_W)}
    return Contribution((share_W * loss_W).sum(), metrics, highest)


def policy_loss_of_step(settings: PpoAlgorithm, kl_coefficient: float, totals: Totals) -> LossFunction | EntropyLoss:
    """`policy_loss` as Learner.forward_backward takes it; the entropy costs nothing without an entropy bonus."""
    bound = partial(policy_loss, settings=settings, kl_coefficient=kl_coefficient, totals=totals)
    if settings.entropy_weight > 0:
        return EntropyLoss(bound)
    return lambda logprobs_W, batch: bound(logprobs_W, None, batch)


def value_loss(values_W: Tensor, batch: PackedBatch, settings: PpoAlgorithm, totals: Totals) -> Contribution:
    """sum over actions of share x 1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2), as in OpenAI's baselines.

    A critic has an optimizer of its own, so there is no weight beside the policy's loss (0.1 in Ziegler's and TRL's): set its
    learning rate. It breaks down where returns move by much more than the clip in one step, as with rewards of size 10: then
    set value_clip to null.

    Args:
        values_W: of the critic now, of the state before each action.
        batch: with `actions`.
        totals: of the minibatch.
    """
    actions = _actions(batch)
    errors_W = (values_W - actions.returns_W).square()
    clipped_errors_W = errors_W
    if settings.value_clip is not None:
        low_W, high_W = actions.old_values_W - settings.value_clip, actions.old_values_W + settings.value_clip
        clipped_errors_W = (values_W.clamp(low_W, high_W) - actions.returns_W).square()
    loss_W = 0.5 * torch.maximum(errors_W, clipped_errors_W)
    old_errors_W = actions.returns_W - actions.old_values_W  # not of values that have learnt these very returns
    metrics = {
        "value/clip_fraction": mean_of((clipped_errors_W > errors_W).float()),
        "value/mean": mean_of(values_W),
        "value/returns": mean_of(actions.returns_W),
        "value/returns_square": mean_of(actions.returns_W.double().square()),
        "value/errors": mean_of(old_errors_W),
        "value/errors_square": mean_of(old_errors_W.square()),
    }
    return Contribution((shares(actions, settings.aggregation, totals) * loss_W).sum(), metrics)


def explained_variance(metrics: Mapping[str, float]) -> float:
    """1 - Var(returns - values) / Var(returns), from the metrics of `value_loss` over all ranks, of the values before the update:
    1 is a perfect critic, 0 as good as a constant, below 0 worse; 0 where all returns are equal."""
    variance = metrics["value/returns_square"] - metrics["value/returns"] ** 2
    left = metrics["value/errors_square"] - metrics["value/errors"] ** 2
    return 1 - left / variance if variance > LEAST_SPREAD * metrics["value/returns_square"] else 0.0


def _importance(log_ratio_W: Tensor, cap: float | None) -> Tensor:
    """min(ratio, cap); 1 without a cap."""
    return torch.ones_like(log_ratio_W) if cap is None else log_ratio_W.exp().clamp(max=cap)


def _policy_metrics(log_ratio_W: Tensor, clipped_W: Tensor, actions: Actions) -> dict[str, Mean]:
    mismatch_W = actions.sampler_logprobs_W - actions.old_logprobs_W
    return {
        "clip_fraction": mean_of(clipped_W),
        "kl/old_k1": mean_of(-log_ratio_W),
        "kl/old_k3": mean_of(kl_per_action(-log_ratio_W, "k3")),
        "mismatch/kl": mean_of(kl_per_action(mismatch_W, "k3")),
    }


def _highest(values_W: Tensor) -> Tensor:
    return values_W.detach().amax() if len(values_W) else values_W.new_zeros(())


def _actions(batch: PackedBatch) -> Actions:
    assert batch.actions is not None, "a batch of PPO holds rollouts: jobs.ppo.batches.pack_rollouts"
    return batch.actions
