"""How a Learner learns from the answers of a step: the same for policy and critic but for the loss.

Experience --plan_of--> minibatches --learn_from--> advantages, returns of the own prompts --whiten over ranks-->
--batches_of--> PackedBatch per micro-batch --epochs x minibatches: forward_backward, step--> metrics
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from cluster import kill_points
from configs.errors import RunFailed
from jobs.ppo.advantages import moments, whitened
from jobs.ppo.batches import pack_rollouts
from jobs.ppo.experience import Experience, Learnt
from jobs.ppo.job import PpoJob
from jobs.ppo.losses import Totals
from jobs.ppo.plan import UpdatePlan, epoch_order, plan_update
from jobs.train.batch import PackedBatch
from jobs.train.learner import Learner
from jobs.train.objectives.objective import EntropyLoss, LossFunction

Minibatch = list[PackedBatch]
"""The micro-batches of this rank."""
FIRST_RATIO = "ratio/max_log"
"""Before any weight has changed it must be 0 to the bit."""


class RatioNotOne(RunFailed):
    """The policy gives other log-probabilities in its update than just before: what it learns from is not its own."""


def plan_of(job: PpoJob, experience: Experience, step: int) -> UpdatePlan:
    """Who of this role's ranks learns from which prompts; known from the numbers of tokens alone."""
    stage = job.stage
    return plan_update(
        experience.tokens_of_prompts(), stage.algorithm.minibatches, dist.get_world_size(), stage.micro_batch_tokens,
        job.seed, step,
    )  # fmt: skip


def watched_sums(learner: Learner, learnt: Learnt, experience: Experience) -> dict[str, float]:
    """Sums over all answers of the step, of the KL where there is a reference; collective."""
    scores_S = torch.tensor([experience.scores[experience.number(rollout)] for rollout in learnt.rollouts])
    lengths_S = torch.tensor([float(len(rollout.answer_ids)) for rollout in learnt.rollouts])
    sums = {
        "answers": float(len(learnt.rollouts)), "actions": float(lengths_S.sum()), "score": float(scores_S.double().sum()),
        "score_square": float(scores_S.double().square().sum()), "earned": float(learnt.earned_S.double().sum()),
        "ended": float(sum(rollout.finished for rollout in learnt.rollouts)), "clipped": float(learnt.clipped_S.sum()),
    }  # fmt: skip
    if experience.reference:
        sums["kl"] = float(learnt.kl_S.double().sum())
    return dict(zip(sums, learner.sums_over_ranks(torch.tensor([*sums.values()], dtype=torch.float64)), strict=True))


def per_answer(totals: dict[str, float]) -> dict[str, float]:
    """What people read a run of PPO by."""
    answers = totals["answers"]
    mean = totals["score"] / answers
    numbers = {
        "reward/score": mean,
        "reward/score_deviation": max(totals["score_square"] / answers - mean * mean, 0.0) ** 0.5,
        "reward/earned": totals["earned"] / answers,
        "reward/clip_fraction": totals["clipped"] / answers,
        "answers/tokens": totals["actions"] / answers,
        "answers/end_rate": totals["ended"] / answers,
    }
    if "kl" in totals:
        numbers |= {"kl/per_answer": totals["kl"] / answers, "kl/per_token": totals["kl"] / totals["actions"]}
    return numbers


def whiten(learner: Learner, advantages: Sequence[Tensor]) -> list[Tensor]:
    """Advantages of the own answers at mean 0 and deviation 1 of the whole step's; collective."""
    own_W = torch.cat([torch.empty(0), *advantages])
    count, total, squares = learner.sums_over_ranks(moments(own_W))
    return [whitened(values_A, count, total, squares) for values_A in advantages]


def batches_of(
    experience: Experience, plan: UpdatePlan, learnt: Learnt, advantages: Sequence[Tensor]
) -> list[Minibatch]:
    """For each minibatch this rank's micro-batches, with everything in them."""
    by_number = {
        experience.number(rollout): values
        for rollout, *values in zip(learnt.rollouts, advantages, learnt.returns, strict=True)
    }
    made: list[Minibatch] = []
    for micro_batches in plan.of_rank(dist.get_rank()):
        made.append([])
        for prompts in micro_batches:
            rollouts = experience.rollouts(prompts)
            own = [by_number[experience.number(rollout)] for rollout in rollouts]
            made[-1].append(
                pack_rollouts(
                    rollouts,
                    old_logprobs=experience.column(experience.old, rollouts),
                    reference_logprobs=experience.column(experience.reference, rollouts),
                    old_values=experience.column(experience.values, rollouts),
                    advantages=[values_A for values_A, _ in own],
                    returns=[values_A for _, values_A in own],
                )
            )
    return made


def learn(
    learner: Learner,
    minibatches: Sequence[Minibatch],
    loss_of: Callable[[Totals], LossFunction | EntropyLoss],
    rate: float,
    job: PpoJob,
    step: int,
    temperature: float,
) -> dict[str, float]:
    """All epochs over all minibatches; means (or highest) of their metrics. Collective.

    Raises:
        RatioNotOne: the first minibatch does not begin where the old log-probabilities were taken.
        NonFiniteLoss: with the weights as they were before that optimizer step.
    """
    own = [count for minibatch in minibatches for count in _counted(minibatch)]
    counts = learner.sums_over_ranks(torch.tensor(own, dtype=torch.float64))
    losses = [loss_of(Totals(*pair)) for pair in zip(counts[::2], counts[1::2], strict=True)]
    metrics: dict[str, list[float]] = {}
    for epoch in range(job.stage.algorithm.epochs):
        for number in epoch_order(len(minibatches), job.seed, step, epoch):
            sums = learner.forward_backward(minibatches[number], losses[number], temperature)
            done = learner.step(rate, sums)
            kill_points.reach("ppo_learning")
            off = done.metrics.get(FIRST_RATIO, 0.0)
            if not metrics and off != 0:
                raise RatioNotOne(
                    f"before the first update log-probabilities are off by up to {off:.3g}; the ratio must be 1"
                )
            for name, value in {"loss": done.loss, "grad_norm": done.gradient_norm, **done.metrics}.items():
                metrics.setdefault(name, []).append(value)
    return {
        name: max(values) if name.rpartition("/")[2].startswith("max") else sum(values) / len(values)
        for name, values in metrics.items()
    }


def _counted(minibatch: Minibatch) -> tuple[int, int]:
    """(answers, actions) of this rank."""
    segments = [batch.actions.segment_W for batch in minibatch if batch.actions is not None]
    return sum(len(segment_W.unique()) for segment_W in segments), sum(map(len, segments))
