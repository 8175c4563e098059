"""The roles of a PPO stage as models on ranks, and what each of their ranks holds.

PpoStage + PpoModels + Layout --role_memory--> {role: RankMemory}
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from configs.schema.ppo_stage import PpoStage
from jobs.estimate.memory import Held, RankMemory, engine_memory, learner_memory, scorer_memory
from jobs.estimate.shape import ModelShape
from jobs.ppo.roles import CRITIC, GOLD, POLICY, REFERENCE, ROLLOUT, judges_of, reward_role


@dataclass(frozen=True)
class PpoModels:
    """Which model each role has.

    Example:
        PpoModels(policy=shape, trained=134515008, critic=shape, reference=shape, rewards={"reward_0": shape})
    """

    policy: ModelShape
    trained: int
    """Numbers of the policy that are trained; with adapters, those only."""
    critic: ModelShape
    reference: ModelShape
    rewards: Mapping[str, ModelShape]
    """By role; functions have none."""


@dataclass(frozen=True)
class Layout:
    """Ranks of every role.

    Example:
        Layout({"policy": 2, "critic": 2, "reference": 1, "reward_0": 1, "rollout": 2}, tensor_parallel=1, at_a_time=64)
    """

    ranks: Mapping[str, int]
    """Of rollout: engines."""
    tensor_parallel: int
    """GPUs of an engine."""
    at_a_time: int
    """Answers that an engine samples together, where its cache holds so many."""
    shared: bool = False
    """All roles on the same GPUs, in turn."""
    transfer: Literal["buckets", "nccl", "ipc"] = "buckets"
    """How weights travel (`resources.transfer`)."""

    @property
    def gpus(self) -> int:
        """On which it runs, one rank on each; an engine has several."""
        needed = [ranks * (self.tensor_parallel if role == ROLLOUT else 1) for role, ranks in self.ranks.items()]
        return max(needed) if self.shared else sum(needed)


def layout_of(stage: PpoStage) -> Layout:
    """As the stage's resources ask."""
    resources = stage.resources
    ranks = {POLICY: resources.policy.ranks}
    if stage.needs_critic:
        ranks[CRITIC] = resources.critic.ranks
    if stage.loads_reference:
        ranks[REFERENCE] = resources.reference.ranks
    ranks |= dict.fromkeys(judges(stage), resources.reward.ranks)
    ranks[ROLLOUT] = resources.rollout.ranks
    engines = resources.rollout
    shared = resources.placement == "colocated"
    return Layout(ranks, max(1, engines.gpus_per_rank), engines.max_num_seqs, shared, resources.transfer)


def judges(stage: PpoStage) -> dict[str, str]:
    """Config keys of the reward models, by role."""
    models = {role for role, source in judges_of(stage).items() if source.model is not None}
    keys = {reward_role(number): f"rewards.{number}" for number in range(len(stage.rewards))} | {GOLD: "heldout.gold"}
    return {role: key for role, key in keys.items() if role in models}


def held_by(stage: PpoStage, models: PpoModels) -> dict[str, Held]:
    """The model of every role but the samplers."""
    lora = stage.lora
    held = {
        POLICY: Held(
            models.policy, stage.precision, "logprobs", models.trained, stage.optimizer.state,
            "as_stored" if lora is None else lora.base,
        )
    }  # fmt: skip
    if stage.needs_critic:
        frozen = Held(models.critic, stage.precision, "values")
        held[CRITIC] = Held(models.critic, stage.precision, "values", frozen.parameters, stage.critic_optimizer.state)
    if stage.loads_reference:
        held[REFERENCE] = Held(models.reference, stage.precision, "logprobs")
    return held | {role: Held(shape, stage.precision, "scores") for role, shape in models.rewards.items()}


def model_memory(stage: PpoStage, held: Held, ranks: int, prompt_tokens: int) -> RankMemory:
    """Of one rank of policy, critic, reference or a reward model.

    Args:
        prompt_tokens: of the longest prompt.
    """
    algorithm = stage.algorithm
    answers = algorithm.answers_per_prompt * stage.max_new_tokens
    tokens = max(stage.micro_batch_tokens, prompt_tokens + answers)  # a prompt and its answers are never cut
    answered = math.ceil(tokens * answers / (prompt_tokens + answers))
    if held.trained:
        return learner_memory(held, ranks, tokens, stage.activation_checkpointing, answered)
    return scorer_memory(held, ranks, tokens, answered)


def role_memory(
    stage: PpoStage, models: PpoModels, layout: Layout, kv_cache: float, prompt_tokens: int
) -> dict[str, RankMemory]:
    """Of one rank of every role; of the samplers of one worker.

    Args:
        kv_cache: bytes of one worker of an engine.
    """
    memory = {
        role: model_memory(stage, held, layout.ranks[role], prompt_tokens)
        for role, held in held_by(stage, models).items()
    }
    return memory | {ROLLOUT: engine_memory(models.policy, stage.precision, layout.tensor_parallel, kv_cache)}
