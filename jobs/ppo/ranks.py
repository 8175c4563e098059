"""What the ranks of policy, critic, reference and reward share: meeting, scoring units, keeping time.

units (prompts with all their answers) --share out over ranks--> forward --> Column | Scores, of this rank's answers
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import ray
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from cluster.group import Rendezvous
from configs.errors import RunFailed
from configs.schema.ppo_resources import PpoResources, RoleResources
from jobs.ppo.batches import pack_rollouts, split_by_answer
from jobs.ppo.experience import as_column, tokens_by_prompt
from jobs.ppo.job import Column, Handle, Scores
from jobs.records import Rollout
from jobs.train.batch import PackedBatch
from jobs.train.fsdp import set_threads
from jobs.train.learner import Learner
from jobs.train.plan import share_out

COLLECTIVE_GRACE_S = 300
"""How much longer ranks wait for each other than the driver waits for them all: it names who is missing, they cannot."""


def join(rendezvous: Rendezvous, own: RoleResources, resources: PpoResources) -> None:
    """Makes this process a rank of its role's group. Before anything else computes here.

    Args:
        own: of `resources` those of the role.
    """
    threads, gpus = own.threads_per_rank, own.gpus_per_rank
    longest_s = max(resources.start_timeout_s, resources.step_timeout_s) + COLLECTIVE_GRACE_S
    set_threads(threads)
    alone = rendezvous.ranks == 1  # nobody else may take the port meanwhile, where there is none
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        init_method=None if alone else f"tcp://{rendezvous.host}:{rendezvous.port}",
        store=HashStore() if alone else None,
        rank=rendezvous.rank,
        world_size=rendezvous.ranks,
        timeout=timedelta(seconds=longest_s),
    )


def waits_in_host_memory(own: RoleResources, resources: PpoResources) -> bool:
    """Whether a model of the role is on its GPU group by group only (FSDP's CPU offload): a sampler wakes there in between."""
    return resources.placement == "colocated" and own.gpus_per_rank > 0


@dataclass
class Clock:
    """How long a rank has worked, and not waited, since it was asked last; by what it did."""

    busy_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def working(self, doing: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.busy_s[doing] = self.busy_s.get(doing, 0.0) + time.perf_counter() - began

    def take(self) -> dict[str, float]:
        taken, self.busy_s = self.busy_s, {}
        return taken


def read_units(units: Sequence[Handle]) -> dict[int, list[Rollout]]:
    """The answers of some units by prompt."""
    answers: dict[int, list[Rollout]] = {}
    for unit in ray.get(list(units)):
        for rollout in unit:
            answers.setdefault(rollout.prompt_id, []).append(rollout)
    return answers


def own_micro_batches(answers: dict[int, list[Rollout]], micro_batch_tokens: int) -> list[list[Rollout]]:
    """This rank's part of some units, as many micro-batches as every other rank has.

    It depends on which prompts they are, not on the order in which their answers came.
    """
    shared = share_out(sorted(answers), tokens_by_prompt(answers), dist.get_world_size(), micro_batch_tokens)
    return [[answer for prompt in batch for answer in answers[prompt]] for batch in shared[dist.get_rank()]]


def numbers_of_tokens(
    learner: Learner, micro_batches: Sequence[list[Rollout]], temperature: float, answers_per_prompt: int
) -> Column:
    """Log-probabilities or values of every token of the answers. Collective."""
    column: Column = {}
    for rollouts in micro_batches:
        values = split_by_answer(_forward(learner, pack_rollouts(rollouts), temperature), rollouts) if rollouts else []
        if not rollouts:
            _forward(learner, pack_rollouts([]), temperature)
        column |= as_column([answer_number(rollout, answers_per_prompt) for rollout in rollouts], values)
    return column


def scores_of_answers(
    learner: Learner, micro_batches: Sequence[list[Rollout]], answers_per_prompt: int, end_id: int
) -> Scores:
    """A reward model's score of every answer, on the scale of its reward.json. Collective.

    Args:
        end_id: what closes an answer in the rows the model was trained on, where its scores are read (`written_end`).

    Raises:
        RunFailed: a score is NaN or infinite; NaN would pass for a source without an opinion.
    """
    scores: Scores = {}
    for rollouts in micro_batches:
        values_S = _forward(learner, pack_rollouts([_closed(rollout, end_id) for rollout in rollouts]), 1.0)
        for rollout, score in zip(rollouts, values_S.tolist(), strict=False):  # an empty batch has one segment
            if not math.isfinite(score):
                raise RunFailed(
                    f"the reward model {learner.spec.model.root} scores an answer {score}: its weights are damaged, or too large "
                    "for `precision`; try precision: fp32"
                )
            scores[answer_number(rollout, answers_per_prompt)] = score
    return scores


def _closed(rollout: Rollout, end_id: int) -> Rollout:
    """With this end, also where it was cut off or ended by another token: at those a reward model has never been read."""
    kept = rollout.answer_ids[:-1] if rollout.finished else rollout.answer_ids
    return replace(rollout, answer_ids=[*kept, end_id], sampler_logprobs=[0.0] * (len(kept) + 1))


def answer_number(rollout: Rollout, answers_per_prompt: int) -> int:
    return rollout.prompt_id * answers_per_prompt + rollout.sample


def same_everywhere(value: Any) -> Any:
    """Rank 0's, on every rank."""
    chosen = [value]
    dist.broadcast_object_list(chosen, src=0)
    return chosen[0]


def _forward(learner: Learner, batch: PackedBatch, temperature: float) -> Tensor:
    return learner.forward(batch, temperature).to("cpu", torch.float32)
