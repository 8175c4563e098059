"""Stages that turn a model and shards into a model."""

from typing import Literal

from pydantic import Field, model_validator

from configs.schema.tree import Node, PositiveInt, StageName, recorded_only


class Optimizer(Node):
    """AdamW with fp32 masters, linear warm-up and cosine decay (Loshchilov & Hutter 2019, arXiv 1711.05101)."""

    learning_rate: float = Field(default=2e-5, gt=0)
    warmup_fraction: float = Field(default=0.1, ge=0, le=1, description="Share of all steps with linearly rising rate.")
    final_rate_fraction: float = Field(
        default=0.1, ge=0, le=1, description="Rate of the last step over the highest rate."
    )
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(
        default=0.95, ge=0, lt=1, description="0.95 as in Llama 2; PyTorch's 0.999 forgets too slowly here."
    )
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0, description="Not applied to norms and biases.")
    clip_norm: float = Field(default=1.0, gt=0, description="Largest global gradient norm.")


class Resources(Node):
    """Where the ranks of a stage run. Changes the speed and the rounding, not the meaning: recorded, not hashed."""

    ranks: PositiveInt = 1
    threads_per_rank: PositiveInt = 1
    gpus_per_rank: float = Field(default=0, ge=0, le=1)
    placement: Literal["PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"


class Checkpoints(Node):
    """When a run writes its state, and how many states it keeps."""

    every_steps: PositiveInt = 20
    keep: PositiveInt = 2
    max_failures: int = Field(default=3, ge=0, description="Worker groups lost before the stage fails.")


class TrainStage(Node):
    """A model and packed shards -> a model, by next-token loss over the weighted tokens."""

    stage: Literal["cpt", "sft"]
    model: str = Field(description="Stage or artifact whose weights are the start.")
    shards: StageName
    steps: PositiveInt | None = Field(default=None, description="Optimizer steps; default: `epochs` over the shards.")
    epochs: float | None = Field(default=None, gt=0)
    batch_tokens: PositiveInt = Field(default=4096, description="Tokens of a global batch, over all ranks.")
    micro_batch_tokens: PositiveInt = recorded_only(2048, description="Most tokens in one forward pass of one rank.")
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16", description="Compute type; masters and reduction are fp32."
    )
    optimizer: Optimizer = Optimizer()
    activation_checkpointing: bool = recorded_only(False)
    checkpoints: Checkpoints = recorded_only(Checkpoints())
    resources: Resources = recorded_only(Resources())

    @model_validator(mode="after")
    def _length_is_given_once(self) -> "TrainStage":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        return self
