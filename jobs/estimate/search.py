"""Which layout of a PPO stage is the fastest on a cluster, and from how many GPUs on more of them hardly help.

each model: ranks that fit -> its phases      engines of 1, 2, 4, 8 GPUs on all that are left -> sampling
every combination of them -> seconds of a step -> the fewest
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from configs.errors import DoesNotFit
from configs.schema.ppo_stage import PpoStage
from jobs.estimate.memory import engine_memory
from jobs.estimate.roles import Layout, PpoModels, held_by, model_memory
from jobs.estimate.rounding import rounded
from jobs.estimate.step import (
    SAMPLE,
    UPDATE,
    Phases,
    Step,
    answers_at_a_time,
    calculate,
    model_phases,
    sampled,
    step_s,
    syncs,
)
from jobs.estimate.time import Bound, Machine
from jobs.ppo.roles import CRITIC, POLICY, ROLLOUT

SEQUENCES = 256
"""Answers that an engine of a searched layout may sample at a time: vLLM's own default for servers."""
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Ranks of a model that are tried."""
PARTS = (1, 2, 4, 8)
"""GPUs of an engine that are tried."""
WORTHWHILE = 0.9
"""Twice the GPUs of a role help where its phase then takes at most so much of the time."""


@dataclass(frozen=True)
class Saturation:
    """From `gpus` of a role on, twice as many make its phase less than 10 % shorter.

    Example:
        Saturation(role="rollout", gpus=32, seconds=21.0, by="reading weights")
    """

    role: str
    gpus: int
    seconds: float
    """Of the phase there."""
    by: str
    """What keeps it from being faster with twice as many."""


@dataclass(frozen=True)
class Least:
    """GPUs that a role needs for its memory.

    Example:
        Least(role="critic", gpus=24)
    """

    role: str
    gpus: int | None
    """None: as many as it may have are too few."""


def fastest(stage: PpoStage, models: PpoModels, prompt_tokens: int, machine: Machine) -> Step:
    """The layout with every role on GPUs of its own whose step is the shortest; overlapped, where the stage overlaps.

    Raises:
        DoesNotFit: saying how many GPUs each role needs at least.
    """
    _require_room(stage, least_gpus(stage, models, prompt_tokens, machine), machine)
    sampling: dict[tuple[int, int], Bound] = {}
    best: tuple[float, int] = math.inf, 0
    chosen: Layout | None = None
    for ranks, known in _models_on_ranks(stage, models, prompt_tokens, machine):
        left = machine.cluster.gpus - sum(ranks.values())
        for parts in _engine_sizes(stage, models, prompt_tokens, machine):
            if parts > left:
                continue
            layout = Layout({**ranks, ROLLOUT: left // parts}, parts, SEQUENCES)
            engines = left // parts, parts
            if engines not in sampling:
                together = _together(stage, models, layout, prompt_tokens, machine)
                sampling[engines] = sampled(stage, models.policy, layout, together, prompt_tokens, machine)
            buckets, nccl = syncs(stage, models.policy, layout, machine)
            layout = replace(layout, transfer="nccl" if nccl.seconds < buckets.seconds else "buckets")
            sync_s = min(buckets.seconds, nccl.seconds)
            seconds = step_s(stage, False, {**known, (ROLLOUT, SAMPLE): sampling[engines]}, sync_s)
            if (seconds[stage.staleness], layout.gpus) < best:
                best, chosen = (seconds[stage.staleness], layout.gpus), layout
    assert chosen is not None, machine
    return calculate(stage, models, chosen, prompt_tokens, machine)


def least_gpus(stage: PpoStage, models: PpoModels, prompt_tokens: int, machine: Machine) -> list[Least]:
    """Of each role, on GPUs of its own."""
    found = []
    for role, held in held_by(stage, models).items():
        fitting = (
            ranks
            for ranks in _counts(stage, role)
            if model_memory(stage, held, ranks, prompt_tokens).total <= machine.usable_bytes
        )
        found.append(Least(role, next(fitting, None)))
    return [*found, Least(ROLLOUT, next(iter(_engine_sizes(stage, models, prompt_tokens, machine)), None))]


def saturation(
    stage: PpoStage, models: PpoModels, step: Step, prompt_tokens: int, machine: Machine
) -> list[Saturation]:
    """Of sampling and of both updates, whatever number of GPUs the cluster has."""
    least = {found.role: found.gpus or 1 for found in least_gpus(stage, models, prompt_tokens, machine)}
    found = []
    for role, phase in ((ROLLOUT, SAMPLE), (POLICY, UPDATE), (CRITIC, UPDATE)):
        if (role, phase) not in step.phases:
            continue
        parts = step.layout.tensor_parallel if role == ROLLOUT else 1

        def bound_of(ranks: int, role: str = role, phase: str = phase) -> Bound:
            layout = replace(step.layout, ranks={**step.layout.ranks, role: ranks})
            larger = replace(machine.cluster, gpus=max(machine.cluster.gpus, layout.gpus))
            return calculate(stage, models, layout, prompt_tokens, replace(machine, cluster=larger)).phases[role, phase]

        ranks = 1 if role == ROLLOUT else least[role]
        while bound_of(2 * ranks).seconds <= WORTHWHILE * bound_of(ranks).seconds:
            ranks *= 2
        found.append(Saturation(role, ranks * parts, bound_of(ranks).seconds, bound_of(2 * ranks).by))
    return found


def _counts(stage: PpoStage, role: str) -> list[int]:
    """Ranks of a model that are tried: of those that learn no more than a minibatch has prompts, as PpoStage asks."""
    return [ranks for ranks in COUNTS if role not in (POLICY, CRITIC) or ranks <= _prompts(stage)]


def _prompts(stage: PpoStage) -> int:
    """Of a minibatch."""
    return stage.algorithm.prompts_per_step // stage.algorithm.minibatches


def _require_room(stage: PpoStage, least: list[Least], machine: Machine) -> None:
    cluster = machine.cluster
    needed = sum(found.gpus or 0 for found in least)
    endless = [found.role for found in least if found.gpus is None]
    learns = {POLICY, CRITIC} & set(endless)
    if not endless and needed <= cluster.gpus:
        return
    each = ", ".join(f"{found.role} {found.gpus or 'more than there could be'}" for found in least)
    raise DoesNotFit(
        f"does not fit on {cluster}: with {rounded(machine.usable_bytes / 1e9):g} GB usable on each, "
        + (f"{needed} GPUs are needed ({each})" if not endless else f"no number of GPUs is enough ({each})")
        + (
            f"; a minibatch has {_prompts(stage)} prompts, and every rank of policy and critic needs one"
            if learns
            else ""
        )
    )


def _models_on_ranks(
    stage: PpoStage, models: PpoModels, prompt_tokens: int, machine: Machine
) -> Iterator[tuple[dict[str, int], Phases]]:
    """Every choice of ranks that fit, with its phases; reward models share one number (`resources.reward`)."""
    held = held_by(stage, models)
    judges = list(models.rewards)
    options = {
        role: {
            ranks: model_phases(stage, role, model, ranks, prompt_tokens, machine)
            for ranks in _counts(stage, role)
            if ranks < machine.cluster.gpus
            and model_memory(stage, model, ranks, prompt_tokens).total <= machine.usable_bytes
        }
        for role, model in held.items()
    }
    free = [role for role in held if role not in judges[1:]]
    for numbers in product(*(options[role] for role in free)):
        ranks = dict(zip(free, numbers, strict=True))
        for role in judges[1:]:
            ranks[role] = ranks[judges[0]]
        if sum(ranks.values()) < machine.cluster.gpus and all(ranks[role] in options[role] for role in ranks):
            yield ranks, {key: bound for role in ranks for key, bound in options[role][ranks[role]].items()}


def _engine_sizes(stage: PpoStage, models: PpoModels, prompt_tokens: int, machine: Machine) -> list[int]:
    """GPUs on which an engine has room for one text, from the fewest on; they cut the heads evenly."""
    fitting = []
    for parts in PARTS:
        layout = Layout({ROLLOUT: 1}, parts, SEQUENCES)
        cut = models.policy.heads % parts == 0 and parts <= machine.cluster.gpus_per_node
        if cut and _together(stage, models, layout, prompt_tokens, machine) >= 1:
            fitting.append(parts)
    return fitting


def _together(stage: PpoStage, models: PpoModels, layout: Layout, prompt_tokens: int, machine: Machine) -> int:
    """Answers that an engine alone on its GPUs samples at a time."""
    weights = engine_memory(models.policy, stage.precision, layout.tensor_parallel, 0.0).total
    return answers_at_a_time(stage, models.policy, layout, machine.usable_bytes - weights, prompt_tokens)
