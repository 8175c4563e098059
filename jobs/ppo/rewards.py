"""What an answer earns, token by token.

scores_S --RunningScale--> deviations --clip--> --missing end--> shaped_S --> last action of each answer
old_logprobs_W - reference_logprobs_W = k1_W ------ x -coefficient ------> every action        = rewards_W
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.schema.ppo import Rewards


@dataclass(frozen=True, slots=True)
class RunningScale:
    """Mean and spread of all scores so far; part of a checkpoint (dataclasses.asdict, RunningScale(**json)).

    Chan, Golub & LeVeque 1979 ("Updating formulae"): merging batches loses no digits, however many there are.

    Example:
        scores 1, 2, 6: RunningScale(count=3, mean=3.0, squared_deviations=14.0)
    """

    count: float = 0.0
    mean: float = 0.0
    squared_deviations: float = 0.0
    """Sum over scores of (score - mean)^2."""

    def including(self, scores_S: Tensor) -> "RunningScale":
        """With one batch more: scores of the whole global batch, in any order."""
        if not len(scores_S):
            return self
        scores_S = scores_S.double()
        count, mean = len(scores_S), float(scores_S.mean())
        together = self.count + count
        apart = mean - self.mean
        return RunningScale(
            together,
            self.mean + apart * count / together,
            self.squared_deviations
            + float((scores_S - mean).square().sum())
            + apart**2 * self.count * count / together,
        )

    @property
    def deviation(self) -> float:
        """Of the population; 1 where nothing differs (yet), so that a constant reward stays what it is."""
        variance = self.squared_deviations / self.count if self.count else 0.0
        return math.sqrt(variance) if variance > 0 else 1.0


def shaped(scores_S: Tensor, finished_S: Tensor, scale: RunningScale, settings: Rewards) -> Tensor:
    """(S,) what whole answers earn: normalised, clipped, less the penalty for a missing end, in this order.

    The penalty comes last: it is in the unit of what is learnt from, whatever the scores are, and neither a clip nor a
    normalisation by answers that do not end takes it back.

    Args:
        scores_S: of the reward model (on the scale of its reward.json) or a function.
        finished_S: bool, whether an answer has its end token (Rollout.finished).
        scale: with this batch included; used where `normalise` is running.
    """
    scores_S = _normalised(scores_S, scale, settings)
    if settings.clip is not None:
        scores_S = scores_S.clamp(-settings.clip, settings.clip)
    return torch.where(finished_S, scores_S, scores_S - settings.missing_end_penalty)


def beyond_clip(scores_S: Tensor, scale: RunningScale, settings: Rewards) -> Tensor:
    """(S,) bool, whose score is larger than the clip lets count. Arguments as of `shaped`."""
    clip = math.inf if settings.clip is None else settings.clip
    return _normalised(scores_S, scale, settings).abs() > clip


def _normalised(scores_S: Tensor, scale: RunningScale, settings: Rewards) -> Tensor:
    return (scores_S - scale.mean) / scale.deviation if settings.normalise == "running" else scores_S


def token_rewards(rewards_S: Tensor, kl_W: Tensor, segment_W: Tensor, kl_coefficient: float) -> Tensor:
    """(W,) minus coefficient x KL for every action, and the answer's reward at its last one, end token or cut-off.

    Args:
        rewards_S: of whole answers, in the order of the segments.
        kl_W: k1 = old log-probability - reference, of both at the sampling temperature; zeros without a reference.
        segment_W: the answer of each action, ascending from 0, with one action at least in every answer.
        kl_coefficient: 0 where the KL is in the loss.
    """
    lengths_S = torch.bincount(segment_W, minlength=len(rewards_S))
    assert len(lengths_S) == len(rewards_S) and bool((lengths_S > 0).all()), (lengths_S.tolist(), len(rewards_S))
    rewards_W = -kl_coefficient * kl_W
    return rewards_W.index_add(0, lengths_S.cumsum(0) - 1, rewards_S.to(rewards_W.dtype))


def answer_sums(values_W: Tensor, segment_W: Tensor, answers: int) -> Tensor:
    """(S,) the sum over each answer's actions: what grpo and rloo compare, and the KL of whole answers."""
    return values_W.new_zeros(answers).index_add(0, segment_W, values_W)
