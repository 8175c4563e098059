"""Settings of PPO's arithmetic: what is estimated, penalised, clipped and averaged.

The defaults are those of runs against a learned reward model: clips, epochs and gae_lambda of Ziegler et al. 2019 (arXiv
1909.08593), the fixed KL coefficient of Huang et al. 2024 (2403.17031, "N+ implementation details"), TRL's last PPO.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from configs.schema.tree import Fraction, Node, PositiveInt

KlEstimator = Literal["k1", "k2", "k3", "k3_straight"]
Aggregation = Literal["token", "sequence"]


class AdaptiveKl(Node):
    """Changes the KL coefficient so that the KL stays near a target (Ziegler et al. 2019, section 2.2)."""

    unit: Literal["nats_per_sequence", "nats_per_token"] = Field(
        description="Of the target; the length of the answers lies between the two. Ziegler: 6 a sequence; verl: 0.1 a token."
    )
    target: float = Field(gt=0)
    horizon: PositiveInt = Field(
        default=10_000, description="In answers: over so many a KL 20 % off the target changes the coefficient by 20 %."
    )


class KlPenalty(Node):
    """What holds the policy near the reference (jobs/ppo/kl.py)."""

    where: Literal["reward", "loss", "none"] = Field(
        default="reward", description="none: no reference is loaded; for rewards that cannot be gamed."
    )
    coef: float = Field(default=0.05, gt=0, description="At the start, where `adaptive` is given.")
    estimator: KlEstimator = Field(
        default="k1",
        description="In the reward k1. In the loss k2 or k3_straight, whose gradient is that of KL(policy || reference), or "
        "GRPO's k3, whose gradient is that of KL(reference || policy).",
    )
    adaptive: AdaptiveKl | None = None

    @model_validator(mode="after")
    def _estimator_fits(self) -> Self:
        if self.where == "reward" and self.estimator != "k1":
            raise ValueError(
                f"kl.estimator {self.estimator} in the reward pulls to something else than the reference; set estimator: k1"
            )
        if self.where == "loss" and self.estimator == "k1":
            raise ValueError(
                "kl.estimator k1 in the loss has a gradient of mean 0, it would not pull at all; set k2 or k3_straight"
            )
        if self.where == "none" and self.adaptive is not None:
            raise ValueError("kl.adaptive has nothing to adapt with where: none; remove it, or set where: reward")
        return self


class Rewards(Node):
    """What becomes of the scores before they are learnt from (jobs/ppo/rewards.py)."""

    normalise: Literal["none", "running"] = Field(
        default="none",
        description="running: by mean and deviation of all scores so far, for rewards of unknown size; a reward model of ours is "
        "on a known scale already.",
    )
    clip: float | None = Field(default=10.0, gt=0, description="Largest size of a score; null: none.")
    missing_end_penalty: float = Field(
        default=1.0, ge=0, description="Taken from answers that were cut off by the length limit."
    )


class PpoAlgorithm(Node):
    """What a step of PPO computes from sampled answers (jobs/ppo/)."""

    prompts_per_step: PositiveInt = Field(default=64, description="Whose answers make one batch, over all ranks.")
    answers_per_prompt: PositiveInt = Field(default=1, description="2 and more for grpo and rloo.")
    temperature: float = Field(
        default=1.0,
        ge=0.01,
        description="Of sampling; it divides the logits of policy, old policy and reference alike. vLLM samples at 0.01 where "
        "less is asked.",
    )
    estimator: Literal["gae", "grpo", "rloo"] = Field(
        default="gae", description="gae has a critic; grpo and rloo compare the answers to a prompt."
    )
    gamma: float = Field(default=1.0, gt=0, le=1, description="Discount of later rewards.")
    gae_lambda: Fraction = Field(default=0.95, description="0 trusts the critic, 1 the sampled rewards.")
    grpo_scale: Literal["deviation", "none"] = Field(
        default="deviation", description="none: Dr. GRPO, which does not divide by the deviation of a prompt's answers."
    )
    whiten: bool | None = Field(
        default=None, description="Advantages to mean 0 and deviation 1 over the batch; default: with gae only."
    )
    epochs: PositiveInt = Field(default=4, description="How often a batch is learnt.")
    minibatches: PositiveInt = Field(
        default=1, description="Optimizer steps an epoch; must divide the answers of a step."
    )
    aggregation: Aggregation = Field(
        default="token", description="Every token counts the same, or every answer (sequence) whatever its length."
    )
    clip: float = Field(default=0.2, gt=0, lt=1, description="How far the probability ratio counts below 1, and above.")
    clip_high: float | None = Field(default=None, gt=0, description="Above 1, where it differs (DAPO: 0.28).")
    dual_clip: float | None = Field(
        default=None, gt=1, description="Bounds the loss of bad answers that have become likely; 3 is common."
    )
    value_clip: float | None = Field(default=0.2, gt=0, description="How far a value counts from its old one.")
    entropy_weight: float = Field(default=0.0, ge=0, description="Reward for uncertainty, per nat.")
    kl: KlPenalty = KlPenalty()
    rewards: Rewards = Rewards()
    critic_warmup_steps: int = Field(default=0, ge=0, description="Steps in which only the critic learns.")
    importance_cap: float | None = Field(
        default=2.0,
        ge=1,
        description="Largest weight of an action that an older policy or another precision sampled; null: all weigh 1.",
    )

    @property
    def whitens(self) -> bool:
        """Whether advantages are whitened over the global batch."""
        return self.estimator == "gae" if self.whiten is None else self.whiten

    @property
    def answers_per_step(self) -> int:
        return self.prompts_per_step * self.answers_per_prompt

    @model_validator(mode="after")
    def _groups_have_two(self) -> Self:
        if self.estimator != "gae" and self.answers_per_prompt < 2:
            raise ValueError(
                f"estimator {self.estimator} compares the answers to a prompt, and answers_per_prompt is 1; set 2 or more "
                "(4 to 16 are common), or estimator: gae"
            )
        if self.estimator != "gae" and self.critic_warmup_steps:
            raise ValueError(f"critic_warmup_steps: estimator {self.estimator} has no critic; set it to 0")
        if self.estimator == "grpo" and self.grpo_scale == "deviation" and self.kl.where == "reward":
            raise ValueError(
                "kl.where: reward with grpo_scale: deviation makes of a prompt whose answers score alike nothing but noise of "
                "the KL, at full size; set kl.where: loss with estimator: k3_straight, grpo_scale: none, or kl.where: none"
            )
        if self.kl.adaptive is not None and self.kl.adaptive.horizon < self.answers_per_step:
            raise ValueError(
                f"kl.adaptive.horizon ({self.kl.adaptive.horizon}) is counted in answers, and a step has "
                f"{self.answers_per_step}; the coefficient would jump: set more (10000 is common)"
            )
        return self

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        for name, estimator in {"gamma": "gae", "gae_lambda": "gae", "value_clip": "gae", "grpo_scale": "grpo"}.items():
            if self.estimator != estimator and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} has no effect on estimator: {self.estimator}; it is for {estimator}. Leave it out"
                )
        return self

    @model_validator(mode="after")
    def _minibatches_are_equal(self) -> Self:
        if self.answers_per_step % self.minibatches:
            raise ValueError(
                f"minibatches ({self.minibatches}) must divide the answers of a step: prompts_per_step x answers_per_prompt "
                f"= {self.answers_per_step}"
            )
        return self
