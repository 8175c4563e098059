"""A PPO step on GPUs, phase by phase, as jobs/ppo/driver.py takes it.

    role memory -> cache of the samplers -> answers at a time
    sample ║ judge (reference, rewards, values) -> old log-probabilities -> update (policy ║ critic) -> sync
    staleness 1: the next answers are sampled beside old log-probabilities and update

Calculated from data sheets and `Assumptions`; nothing of it was run on a GPU.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from configs.schema.ppo_stage import PpoStage
from jobs.estimate import sync
from jobs.estimate.memory import COMPUTE_BYTES, Held, RankMemory
from jobs.estimate.roles import Layout, PpoModels, held_by, role_memory
from jobs.estimate.rounding import rounded
from jobs.estimate.shape import ModelShape
from jobs.estimate.time import NOTHING, Bound, Machine, Passes, Sampling, at_a_time, learning, sample, scoring
from jobs.ppo.roles import CRITIC, GOLD, POLICY, ROLLOUT

SAMPLE, JUDGE, OLD, UPDATE = "sample", "judge", "old log-probs", "update"
Phases = Mapping[tuple[str, str], Bound]
"""By role and phase; roles that judge do so while others sample."""


@dataclass(frozen=True)
class Step:
    """What a layout would give.

    Example:
        Step(layout, memory={"policy": RankMemory(...), ...}, problems=[], sampled_together=64,
             phases={("rollout", "sample"): Bound(31.0, "reading weights"), ...}, buckets=Sync(...), nccl=Sync(...),
             seconds=52.0, overlapped_s=39.0)
    """

    layout: Layout
    memory: Mapping[str, RankMemory]
    """Of one GPU of each role."""
    problems: list[str]
    """Why it does not fit; times are of no use then."""
    sampled_together: int
    """Answers at a time of one engine."""
    phases: Phases
    buckets: sync.Sync
    nccl: sync.Sync
    seconds: float
    """Of a step with staleness 0."""
    overlapped_s: float
    """With staleness 1."""

    @property
    def sync(self) -> sync.Sync:
        """By the road of the layout."""
        return self.buckets if self.layout.transfer == "buckets" else self.nccl

    @property
    def longest_part(self) -> tuple[str, float]:
        """Of a step with staleness 0; judging goes on beside sampling."""
        update_s = max(bound.seconds for (_, phase), bound in self.phases.items() if phase == UPDATE)
        parts = {
            "sampling": self.phases[ROLLOUT, SAMPLE].seconds, "old log-probs": self.phases[POLICY, OLD].seconds,
            "the update": update_s, "the weight sync": self.sync.seconds,
        }  # fmt: skip
        return max(parts.items(), key=lambda part: part[1])

    def idle(self, role: str) -> float:
        """Share of a step with staleness 0 in which the GPUs of a role wait, where nobody else is on them."""
        busy = sum(bound.seconds for (who, _), bound in self.phases.items() if who == role)
        return max(0.0, 1 - busy / self.seconds)


def calculate(stage: PpoStage, models: PpoModels, layout: Layout, prompt_tokens: int, machine: Machine) -> Step:
    """Args:
    prompt_tokens: of the longest prompt.
    """
    usable = machine.usable_bytes
    memory = role_memory(stage, models, layout, 0.0, prompt_tokens)
    beside = sum(part.total for role, part in memory.items() if role != ROLLOUT) if layout.shared else 0.0
    cache = max(0.0, usable - memory[ROLLOUT].total - beside)
    problems = _problems(layout, memory, machine)
    memory[ROLLOUT] = replace(memory[ROLLOUT], kv_cache=cache)
    together = answers_at_a_time(stage, models.policy, layout, cache, prompt_tokens)
    if not problems and together < 1:
        problems = [f"the cache of an engine has no room for one text of {prompt_tokens + stage.max_new_tokens} tokens"]
    phases = {(ROLLOUT, SAMPLE): sampled(stage, models.policy, layout, max(1, together), prompt_tokens, machine)}
    for role, held in held_by(stage, models).items():
        phases |= model_phases(stage, role, held, layout.ranks[role], prompt_tokens, machine)
    buckets, nccl = syncs(stage, models.policy, layout, machine)
    sync_s = buckets.seconds if layout.transfer == "buckets" else nccl.seconds
    seconds, overlapped_s = step_s(stage, layout.shared, phases, sync_s)
    return Step(layout, memory, problems, together, phases, buckets, nccl, seconds, overlapped_s)


def _problems(layout: Layout, memory: Mapping[str, RankMemory], machine: Machine) -> list[str]:
    said = []
    cluster = machine.cluster
    if layout.gpus > cluster.gpus:
        said.append(f"it asks for {layout.gpus} GPUs of {cluster.gpus}")
    if layout.tensor_parallel > cluster.gpus_per_node:
        said.append(f"an engine on {layout.tensor_parallel} GPUs fits on no node of {cluster.gpus_per_node}")
    holds = {"all roles together": sum(part.total for part in memory.values())} if layout.shared else {
        role: part.total for role, part in memory.items()
    }  # fmt: skip
    usable = machine.usable_bytes
    said += [
        f"a GPU would hold {rounded(total / 1e9):g} GB of {who}, usable are {rounded(usable / 1e9):g} GB"
        for who, total in holds.items()
        if total > usable
    ]
    return said


def answers_at_a_time(stage: PpoStage, policy: ModelShape, layout: Layout, kv_cache: float, prompt_tokens: int) -> int:
    """Of one engine, whose workers have `kv_cache` bytes each."""
    longest = prompt_tokens + stage.max_new_tokens
    return min(at_a_time(policy, stage.precision, kv_cache, longest, layout.tensor_parallel), layout.at_a_time)


def model_phases(
    stage: PpoStage, role: str, held: Held, ranks: int, prompt_tokens: int, machine: Machine
) -> dict[tuple[str, str], Bound]:
    """Of policy, critic, reference or a reward model."""
    algorithm, assumed = stage.algorithm, machine.assumed
    prompt, answer = prompt_tokens * assumed.mean_prompt_share, stage.max_new_tokens * assumed.mean_answer_share
    text = prompt + algorithm.answers_per_prompt * answer

    def passes(prompts: int, times: int) -> Passes:
        """`times` batches of `prompts`, each over all ranks."""
        most = math.ceil(prompts / ranks)
        per_round = max(1, math.floor(stage.micro_batch_tokens / text))
        tokens = times * prompts * text
        headed = times * prompts * algorithm.answers_per_prompt * answer
        return Passes(tokens, headed, prompt + answer, times * math.ceil(most / per_round), prompts / most)

    minibatch = algorithm.prompts_per_step // algorithm.minibatches
    phases: dict[tuple[str, str], Bound] = {}
    if role == GOLD:  # of held-out answers, now and then
        return phases
    if role == POLICY:
        phases[role, OLD] = scoring(held, ranks, passes(minibatch, algorithm.minibatches), machine)
    if role != POLICY or stage.reference_is_base:
        unit = min(stage.unit_prompts, algorithm.prompts_per_step)
        phases[role, JUDGE] = scoring(held, ranks, passes(unit, _units(stage)), machine)
    if role in (POLICY, CRITIC):
        one = learning(held, ranks, passes(minibatch, 1), stage.activation_checkpointing, machine)
        phases[role, UPDATE] = Bound(algorithm.epochs * algorithm.minibatches * one.seconds, one.by)
    return phases


def sampled(
    stage: PpoStage, policy: ModelShape, layout: Layout, together: int, prompt_tokens: int, machine: Machine
) -> Bound:
    """Of the engine with the most to sample; whole units are dealt out."""
    algorithm, assumed = stage.algorithm, machine.assumed
    prompts = min(math.ceil(_units(stage) / layout.ranks[ROLLOUT]) * stage.unit_prompts, algorithm.prompts_per_step)
    answers = prompts * algorithm.answers_per_prompt
    work = Sampling(
        answers, prompts, prompt_tokens * assumed.mean_prompt_share, stage.max_new_tokens * assumed.mean_answer_share,
        stage.max_new_tokens, min(together, answers), layout.tensor_parallel,
    )  # fmt: skip
    return sample(policy, stage.precision, work, machine)


def syncs(stage: PpoStage, policy: ModelShape, layout: Layout, machine: Machine) -> tuple[sync.Sync, sync.Sync]:
    """(in buckets, over nccl)."""
    sent = policy.parameters * COMPUTE_BYTES[stage.precision]
    gpus = layout.ranks[POLICY], layout.ranks[ROLLOUT], layout.tensor_parallel
    return sync.over_buckets(sent, *gpus, machine), sync.over_nccl(sent, *gpus, machine)


def step_s(stage: PpoStage, shared: bool, phases: Phases, sync_s: float) -> tuple[float, float]:
    """(with staleness 0, with staleness 1)."""
    sampling_s, old_s = phases[ROLLOUT, SAMPLE].seconds, phases[POLICY, OLD].seconds
    judging = {role: bound.seconds for (role, phase), bound in phases.items() if phase == JUDGE}
    updating = [phases.get((role, UPDATE), NOTHING).seconds for role in (POLICY, CRITIC)]
    if shared:  # one after the other, whatever waits for what
        all_s = sampling_s + old_s + sum(judging.values()) + sum(updating) + sync_s
        return all_s, all_s
    # Units are judged as they come; after the last answer its own unit is left, or what has piled up.
    left_s = {role: max(seconds - sampling_s, seconds / _units(stage)) for role, seconds in judging.items()}
    # A policy that is its own reference judges before it computes its old log-probabilities.
    left_s[POLICY], judging[POLICY] = left_s.get(POLICY, 0.0) + old_s, judging.get(POLICY, 0.0) + old_s
    # Overlapped, the driver hands units to who judges only when it is done with the step before.
    learnt_s = max(judging.values()) + max(updating)
    return sampling_s + max(left_s.values()) + max(updating) + sync_s, max(sampling_s, learnt_s) + sync_s


def _units(stage: PpoStage) -> int:
    return math.ceil(stage.algorithm.prompts_per_step / stage.unit_prompts)
