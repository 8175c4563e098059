"""The stage that learns from its own answers: which models take part, what is measured."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from configs.schema.objectives import Lora
from configs.schema.ppo import PpoAlgorithm
from configs.schema.ppo_health import Health
from configs.schema.ppo_resources import PpoResources
from configs.schema.training import Checkpoints, Optimizer
from configs.schema.tree import Node, PositiveInt, recorded_only

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class RewardSource(Node):
    """One thing that judges answers; several are added up by their weights."""

    model: str | None = Field(default=None, description="Stage or artifact of kind `reward`.")
    function: str | None = Field(
        default=None,
        description="module:function, called as TRL calls its reward functions: prompts, completions, completion_ids and the "
        "data's own `answer` by keyword, lists of one batch, and trainer_state (global_step, max_steps); returns a number for "
        "each, or None where it has no opinion. The file of its module is part of the artifact's key, what that imports is not.",
    )
    weight: float = 1.0

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if (self.model is None) == (self.function is None):
            raise ValueError("give exactly one of `model` and `function`")
        if self.function is not None and not FUNCTION.fullmatch(self.function):
            raise ValueError(f"function: {self.function!r} is not of the form module:function")
        return self


class PpoEvaluation(Node):
    """Held-out prompts, answered every so often by the policy as it is; the start model's answers are what it is held against."""

    every_steps: PositiveInt = 10
    prompts: PositiveInt = Field(default=32, description="Of the held-out split, the same ones every time.")
    gold: RewardSource | None = Field(
        default=None,
        description="Judges held-out answers and teaches nothing: what `rewards` stand for, such as a reward model trained on "
        "more pairs. Where it falls while the reward rises, it is said that the policy exploits the reward.",
    )

    @model_validator(mode="after")
    def _gold_is_alone(self) -> Self:
        if self.gold is not None and self.gold.weight != 1:
            raise ValueError(f"gold.weight ({self.gold.weight:g}): gold is added to nothing; leave its weight out")
        return self


class PolicyOptimizer(Optimizer):
    """AdamW as for RLHF: epsilon keeps steps small where gradients are (Huang et al. 2024, arXiv 2403.17031, section 4)."""

    learning_rate: float = Field(default=3e-6, gt=0)
    epsilon: float = Field(default=1e-5, gt=0)


class CriticOptimizer(PolicyOptimizer):
    """The same, faster: values may move further than answers."""

    learning_rate: float = Field(default=1e-5, gt=0)


class PpoCheckpoints(Checkpoints):
    """When a run writes its state; a step is dear."""

    every_steps: PositiveInt = 5

    @model_validator(mode="after")
    def _goes_by_steps(self) -> Self:
        if self.every_minutes is not None:
            raise ValueError("every_minutes: a ppo stage saves between steps only; set every_steps, 1 for every step")
        return self


class PpoStage(Node):
    """A model, prompts and rewards -> a model whose answers earn more (Ouyang et al. 2022, arXiv 2203.02155, section 3.4)."""

    stage: Literal["ppo"]
    model: str = Field(description="Stage or artifact where the policy starts.")
    shards: str = Field(description="Stage or artifact with `rows: prompts`.")
    rewards: list[RewardSource] = Field(min_length=1)
    reference: str | None = Field(
        default=None,
        description="Stage or artifact the KL is measured to; default: `model`. Not loaded with `kl.where: none`.",
    )
    reference_is_base: bool = Field(
        default=False,
        description="With `lora`: the KL is measured to the policy without its adapters, which the policy computes itself, so no "
        "reference is loaded.",
    )
    critic: str | None = Field(
        default=None,
        description="Stage or artifact the critic starts from, e.g. a reward model; its head starts at 0 (a reward model's means "
        "something at an answer's end only); `algorithm.critic_warmup_steps` lets it learn first. Default: `model`.",
    )
    steps: PositiveInt | None = Field(default=None, description="Default: `epochs` over the prompts.")
    epochs: float | None = Field(default=None, gt=0)
    max_new_tokens: PositiveInt = Field(default=128, description="Of an answer, its end token among them.")
    algorithm: PpoAlgorithm = PpoAlgorithm()
    staleness: Literal[0, 1] = Field(
        default=0,
        description="1: the next answers are sampled while these are learnt from, by a policy one step older.",
    )
    optimizer: PolicyOptimizer = PolicyOptimizer()
    critic_optimizer: CriticOptimizer = CriticOptimizer()
    lora: Lora | None = Field(default=None, description="Of the policy; its critic is trained whole.")
    precision: Literal["bf16", "fp32"] = "bf16"
    unit_prompts: PositiveInt = recorded_only(
        8,
        description="Prompts whose answers are scored together, as soon as all of them are there; colocated roles take turns, "
        "and each scores all answers of a step together.",
    )
    micro_batch_tokens: PositiveInt = recorded_only(
        2048,
        description="Most tokens in one forward pass of one rank; a prompt with its answers is never cut, and one that is longer "
        "has a pass of its own.",
    )
    activation_checkpointing: bool = recorded_only(False)
    heldout: PpoEvaluation | None = None
    health: Health = recorded_only(Health())
    checkpoints: PpoCheckpoints = recorded_only(PpoCheckpoints())
    resources: PpoResources = recorded_only(PpoResources())

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.health.kl_ceiling is not None and not self.needs_reference:
            raise ValueError(
                "health.kl_ceiling: with kl.where: none there is no reference and no KL to hold it against; remove it, or set "
                "kl.where to reward or loss"
            )
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        if self.critic is not None and self.algorithm.estimator != "gae":
            raise ValueError(f"critic: estimator {self.algorithm.estimator} has no critic; remove one of the two")
        if self.reference is not None and not self.needs_reference:
            raise ValueError(
                "reference: with kl.where: none there is none; remove it, or set kl.where to reward or loss"
            )
        if self.algorithm.prompts_per_step % self.algorithm.minibatches:
            raise ValueError(
                f"minibatches ({self.algorithm.minibatches}) must divide prompts_per_step "
                f"({self.algorithm.prompts_per_step}): the answers to a prompt stay together"
            )
        if self.steps is not None and self.algorithm.critic_warmup_steps >= self.steps:
            raise ValueError(
                f"critic_warmup_steps ({self.algorithm.critic_warmup_steps}): of {self.steps} steps none is left in which the "
                "policy learns"
            )
        self._require_adapters_fit()
        self._require_ranks_fit()
        if self.reference_is_base:
            self._require_base_is_start()
        if self.checkpoints.keep < 2:
            raise ValueError("checkpoints.keep must be 2 or more: policy and critic are saved one after the other")
        return self

    def _require_adapters_fit(self) -> None:
        if self.lora is None:
            return
        if self.lora.dropout > 0:
            raise ValueError(
                "lora.dropout: a policy with dropout is not the one that sampled, and its first ratios are not 1; leave it out"
            )
        if self.lora.start == "continue":
            raise ValueError(
                "lora.start: continue is not possible here; start: merge begins new adapters on the model with the old ones in it"
            )
        if self.lora.base != "as_stored":
            raise ValueError(
                f"lora.base: {self.lora.base}: samplers start with the weights as they are stored, which is another model than "
                "the policy; leave it out"
            )

    def _require_ranks_fit(self) -> None:
        prompts = self.algorithm.prompts_per_step // self.algorithm.minibatches
        learners = {"policy": self.resources.policy.ranks}
        if self.needs_critic:
            learners["critic"] = self.resources.critic.ranks
        for role, ranks in learners.items():
            if ranks > prompts:
                raise ValueError(
                    f"resources.{role}.ranks ({ranks}): a minibatch has {prompts} prompts, and every rank needs one; lower "
                    "minibatches or raise prompts_per_step"
                )
        if self.staleness and self.resources.placement == "colocated" and self.resources.rollout.gpus_per_rank:
            raise ValueError(
                "staleness: 1 samples while the others compute, and on shared GPUs they take turns; set placement: separate"
            )

    def _require_base_is_start(self) -> None:
        if self.lora is None or self.lora.train_whole:
            raise ValueError(
                "reference_is_base: below the policy there must be the model it starts from: set `lora`, without train_whole"
            )
        if self.reference is not None or not self.needs_reference:
            raise ValueError(
                "reference_is_base: remove `reference`, and set kl.where to reward or loss; or leave this out"
            )

    @property
    def needs_reference(self) -> bool:
        return self.algorithm.kl.where != "none"

    @property
    def loads_reference(self) -> bool:
        """Whether the reference is a model of its own."""
        return self.needs_reference and not self.reference_is_base

    @property
    def needs_critic(self) -> bool:
        return self.algorithm.estimator == "gae"
