"""From answers and judgements to what policy and critic learn from; the same on both, for their own prompts only.

handles --fetch--> Experience (all answers of the step, by prompt)
scores --combine, shape--> earned ---+
old - reference ------------------- -+--> rewards_W --gae | grpo | rloo--> advantages, returns of the own answers
values -----------------------------+
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import ray
import torch
from torch import Tensor

from cluster.weights import WeightSyncFailed
from configs.errors import RunFailed
from configs.schema.ppo import PpoAlgorithm
from jobs.ppo.advantages import gae, grpo, rloo
from jobs.ppo.batches import pack_rollouts, split_by_answer
from jobs.ppo.job import Asked, Column, Handle, Judged, Scores
from jobs.ppo.rewards import RunningScale, answer_sums, beyond_clip, shaped, token_rewards
from jobs.records import Rollout


@dataclass(frozen=True)
class Experience:
    """All answers of a step with what is known of them."""

    answers: dict[int, list[Rollout]]
    """By prompt, in the order of their samples."""
    scores: Scores
    """Weighted sum over the sources."""
    reference: Column
    values: Column
    old: Column
    answers_per_prompt: int
    gold: Scores = field(default_factory=dict)
    """Of held-out answers, where a judge is there that nobody learns from."""
    sources: tuple[Scores, ...] = ()
    """What each source said, before its weight; NaN where it has no opinion."""

    def tokens_of_prompts(self) -> dict[int, int]:
        """`tokens_by_prompt` of all of them."""
        return tokens_by_prompt(self.answers)

    def rollouts(self, prompts: Sequence[int]) -> list[Rollout]:
        return [answer for prompt in prompts for answer in self.answers[prompt]]

    def number(self, rollout: Rollout) -> int:
        return rollout.prompt_id * self.answers_per_prompt + rollout.sample

    def column(self, column: Column, rollouts: Sequence[Rollout]) -> list[Tensor] | None:
        """Numbers of some answers; None where the column is empty."""
        if not column:
            return None
        return [torch.from_numpy(column[self.number(rollout)]) for rollout in rollouts]

    def source_means(self) -> dict[str, float]:
        """Of several sources the mean score of each, over the answers it has an opinion of: which of them is it that rises?"""
        if len(self.sources) < 2:
            return {}
        said = [[score for score in scores.values() if not math.isnan(score)] for scores in self.sources]
        return {f"source_{number}": float(np.mean(scores)) for number, scores in enumerate(said) if scores}

    def all_scores(self) -> Tensor:
        """fp64 (S,) in the order of prompts and samples."""
        return torch.tensor([self.scores[number] for number in sorted(self.scores)], dtype=torch.float64)


def tokens_by_prompt(answers: Mapping[int, Sequence[Rollout]]) -> dict[int, int]:
    """What a forward pass over all answers to a prompt costs: the prompt once, its last token again and every answer."""
    return {
        prompt: len(found[0].prompt_ids) + sum(1 + len(answer.answer_ids) for answer in found)
        for prompt, found in answers.items()
    }


def fetch(judged: Judged, answers_per_prompt: int, staleness: int) -> Experience:
    """Waits for everything and puts it together.

    Raises:
        RunFailed: no source of rewards judges an answer.
        WeightSyncFailed: an answer was sampled with other weights than the step asks for.
    """
    units: list[list[Rollout]] = cast(Any, ray.get(judged.units))
    answers: dict[int, list[Rollout]] = {}
    for rollout in (rollout for unit in units for rollout in unit):
        _check_version(rollout, judged.asked, staleness)
        answers.setdefault(rollout.prompt_id, []).append(rollout)
    for of_prompt in answers.values():
        of_prompt.sort(key=lambda rollout: rollout.sample)
        assert [rollout.sample for rollout in of_prompt] == list(range(answers_per_prompt)), of_prompt[0].prompt_id
    sources = [(weight, _merged(handles)) for weight, handles in judged.scores]
    return Experience(
        dict(sorted(answers.items())),
        combined(sources),
        _merged(judged.reference),
        _merged(judged.values),
        _merged(judged.old),
        answers_per_prompt,
        _merged(judged.gold),
        tuple(scores for _, scores in sources),
    )


def _check_version(rollout: Rollout, asked: Asked, staleness: int) -> None:
    """Answers to learn from may be `staleness` steps old, held-out ones are the policy's as it is."""
    oldest = asked.step - staleness if asked.split == "train" else asked.step
    if not oldest <= rollout.version <= asked.step:
        raise WeightSyncFailed(
            f"prompt {rollout.prompt_id} of {asked.split} after step {asked.step} was answered with weights of version "
            f"{rollout.version}: a sampler has missed an update"
        )


def combined(sources: Sequence[tuple[float, Scores]]) -> Scores:
    """The weighted sum of what the sources say; one without an opinion (NaN) adds nothing.

    Raises:
        RunFailed: no source has an opinion of some answer, or one says infinity.
    """
    total: Scores = {}
    for number in sources[0][1]:
        said = [weight * scores[number] for weight, scores in sources if not math.isnan(scores[number])]
        if not said or not math.isfinite(sum(said)):
            raise RunFailed(
                f"answer {number} has no reward: the sources say {[scores[number] for _, scores in sources]}. Every answer "
                "needs a finite number from one source at least."
            )
        total[number] = sum(said)
    return total


def _merged(handles: Sequence[Handle]) -> dict[int, Any]:
    merged: dict[int, Any] = {}
    for part in ray.get(list(handles)):
        merged |= part
    return merged


@dataclass(frozen=True)
class Learnt:
    """What the answers of some prompts teach, one tensor (A,) for each answer, in the order of `rollouts`."""

    rollouts: list[Rollout]
    advantages: list[Tensor]
    returns: list[Tensor]
    earned_S: Tensor
    """Rewards of whole answers after shaping, before the KL."""
    kl_S: Tensor
    """k1 of whole answers, old policy to reference, in nats; zeros without a reference."""
    clipped_S: Tensor
    """bool, whose score is larger than `rewards.clip`."""


def estimate(
    experience: Experience, prompts: Sequence[int], settings: PpoAlgorithm, scale: RunningScale, kl_coefficient: float
) -> Learnt:
    """Advantages before whitening, and returns.

    Args:
        prompts: of this rank.
        scale: of scores, with this step's included.
        kl_coefficient: used where the KL is in the reward.
    """
    rollouts = experience.rollouts(prompts)
    batch = pack_rollouts(
        rollouts,
        old_logprobs=experience.column(experience.old, rollouts),
        reference_logprobs=experience.column(experience.reference, rollouts),
        old_values=experience.column(experience.values, rollouts),
    )
    actions = batch.actions
    assert actions is not None
    scores_S = torch.tensor(
        [experience.scores[experience.number(rollout)] for rollout in rollouts], dtype=torch.float32
    )
    finished_S = torch.tensor([rollout.finished for rollout in rollouts], dtype=torch.bool)
    earned_S = shaped(scores_S, finished_S, scale, settings.rewards)
    with_reference = bool(experience.reference)
    kl_W = (
        actions.old_logprobs_W - actions.reference_logprobs_W
        if with_reference
        else torch.zeros_like(actions.old_logprobs_W)
    )
    in_reward = kl_coefficient if settings.kl.where == "reward" else 0.0
    rewards_W = token_rewards(earned_S, kl_W, actions.segment_W, in_reward)
    if settings.estimator == "gae":
        advantages_W, returns_W = gae(
            rewards_W, actions.old_values_W, actions.segment_W, settings.gamma, settings.gae_lambda
        )
    else:
        of_answers_S = answer_sums(rewards_W, actions.segment_W, len(rollouts))
        group_S = torch.tensor([rollout.prompt_id for rollout in rollouts], dtype=torch.int64)
        advantages_S = (
            grpo(of_answers_S, group_S, settings.grpo_scale)
            if settings.estimator == "grpo"
            else rloo(of_answers_S, group_S)
        )
        advantages_W = advantages_S[actions.segment_W]
        returns_W = torch.full_like(advantages_W, torch.nan)
    return Learnt(
        rollouts, split_by_answer(advantages_W, rollouts), split_by_answer(returns_W, rollouts),
        earned_S, answer_sums(kl_W, actions.segment_W, len(rollouts)), beyond_clip(scores_S, scale, settings.rewards),
    )  # fmt: skip


@dataclass(frozen=True)
class Watched:
    """Numbers of answers that nobody learns from; `by_prompt[name]` holds means over the answers to each prompt.

    Of gold scores those of answers that the gold reward has an opinion of.
    """

    metrics: dict[str, float]
    by_prompt: dict[str, dict[int, float]]


def watched(experience: Experience) -> Watched:
    """Score, length in tokens, share of answers that end; KL to the reference (k1, nats an answer) and gold score if known.

    Raises:
        RunFailed: the gold reward has no opinion of any answer.
    """
    answers = {experience.number(answer): answer for answer in experience.rollouts(list(experience.answers))}
    seen = {
        "score": experience.scores,
        "tokens": {number: float(len(answer.answer_ids)) for number, answer in answers.items()},
        "end_rate": {number: float(answer.finished) for number, answer in answers.items()},
    }
    if experience.reference:
        seen["kl_per_answer"] = {
            number: float((experience.old[number].astype(np.float64) - experience.reference[number]).sum())
            for number in answers
        }
    if experience.gold:
        seen["gold"] = {number: score for number, score in experience.gold.items() if not math.isnan(score)}
        if not seen["gold"]:
            raise RunFailed("heldout.gold has no opinion of any held-out answer; remove it, or let it return numbers")
    by_prompt: dict[str, dict[int, float]] = {}
    for name, values in seen.items():
        of_prompts: dict[int, list[float]] = {}
        for number in answers:
            if number in values:
                of_prompts.setdefault(answers[number].prompt_id, []).append(values[number])
        by_prompt[name] = {prompt: float(np.mean(of_prompt)) for prompt, of_prompt in of_prompts.items()}
    means = {name: float(np.mean(list(values.values()))) for name, values in seen.items()}
    return Watched(means | experience.source_means(), by_prompt)


def as_column(experience_numbers: Sequence[int], values: Sequence[Tensor]) -> Column:
    """fp32 arrays that Ray hands on without a copy."""
    return {
        number: np.ascontiguousarray(values_A.numpy(), dtype=np.float32)
        for number, values_A in zip(experience_numbers, values, strict=True)
    }
