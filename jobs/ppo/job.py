"""What every actor of a PPO stage knows, and what the driver hands from one to the next: handles, never tensors.

PpoJob (picklable) -> all actors            Sampled, Judged (lists of handles) -> policy, critic
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from cluster.group import ActorGroup
from cluster.storage import Store
from configs.schema.ppo_stage import PpoStage
from jobs.records import Sampling

Column = dict[int, np.ndarray]
"""Answer -> fp32 (A,), a number for each of its tokens. An answer is numbered prompt x answers_per_prompt + sample."""
Scores = dict[int, float]
"""Answer -> its score; NaN where the one who judges has no opinion."""
Handle = Any
"""A ray.ObjectRef."""


@dataclass(frozen=True)
class PpoJob:
    """All that an actor needs to know.

    `artifact` is the directory all attempts share, `output` the place of this attempt's content below it.
    """

    name: str
    stage: PpoStage
    seed: int
    policy: Store
    """Model directory where the policy starts."""
    reference: Store | None
    critic: Store | None
    rewards: Mapping[int, Store]
    """Model directories of `stage.rewards`, by their place there; functions have none."""
    gold: Store | None
    """Model directory of `stage.heldout.gold`, where that is a model."""
    shards: Store
    end_ids: tuple[int, ...]
    context: int
    """Most tokens of a prompt."""
    total_steps: int
    artifact: Store
    attempt: int
    output: Store
    trust_remote_code: bool = False

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.stage.algorithm.temperature, self.stage.max_new_tokens, self.end_ids)


@dataclass(frozen=True)
class Asked:
    """Which prompts answers belong to.

    Example:
        Asked(split="train", step=12)
    """

    split: Literal["train", "heldout"]
    step: int


@dataclass(frozen=True)
class InFlight:
    """Answers that are being sampled."""

    samplers: ActorGroup
    """By these; no others will send what is missing."""
    streams: list[Any]
    """A stream of unit handles for every engine."""


@dataclass(frozen=True)
class Judged:
    """Answers and what is known of them.

    Each list has a handle for every unit and rank, in the order of the units.
    """

    asked: Asked
    units: list[Handle]
    """Of list[Rollout]."""
    scores: list[tuple[float, list[Handle]]]
    """(weight, Scores) of every source of rewards."""
    reference: list[Handle]
    """Column; empty without a reference."""
    values: list[Handle]
    """Column; empty without a critic."""
    old: list[Handle] = field(default_factory=list)
    """Column: log-probabilities under the policy before the update."""
    gold: list[Handle] = field(default_factory=list)
    """Scores of held-out answers by the judge that nobody learns from, where there is one."""
