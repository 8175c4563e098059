"""Stages that turn a model and shards into a model."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from configs.schema.objectives import DpoLoss, KtoLoss, Lora, OrpoLoss, RewardLoss
from configs.schema.tree import Node, PositiveInt, recorded_only


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
    state: Literal["fp32", "8bit"] = Field(
        default="fp32",
        description="Type of the two moments. 8bit: 2 bytes a trained number instead of 8 (arXiv 2110.02861); norms, biases and "
        "tensors under 4,096 numbers stay fp32.",
    )


OTHER_PARALLELISM = ("tensor_parallel", "context_parallel", "pipeline_parallel", "expert_parallel", "sequence_parallel")
"""Ways to cut a model that people look for here."""


class Resources(Node):
    """Where the ranks of a stage run. Changes the speed and the rounding, not the meaning: recorded, not hashed."""

    ranks: PositiveInt = 1
    min_ranks: PositiveInt | None = Field(
        default=None, description="After a lost node go on with so few; default: wait until all `ranks` fit again."
    )
    threads_per_rank: PositiveInt = 1
    gpus_per_rank: float = Field(default=0, ge=0, le=1)
    replicas: PositiveInt = Field(
        default=1, description="Copies of the sharded model (HSDP): ranks / replicas hold one; must divide `ranks`."
    )
    placement: Literal["PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    hang_after_s: float = Field(
        default=300, gt=0, description="A step that takes so long is reported, with the rank the others wait for."
    )

    @model_validator(mode="before")
    @classmethod
    def _only_data_is_parallel(cls, values: Any) -> Any:
        for name in values if isinstance(values, dict) else ():
            if str(name).removesuffix("_size").removesuffix("ism") in OTHER_PARALLELISM:
                raise ValueError(
                    f"{name} is not supported: weights, gradients and moments are cut over `ranks` (FSDP2), a text is not"
                )
        return values

    @model_validator(mode="after")
    def _replicas_divide_ranks(self) -> Self:
        if self.ranks % self.replicas:
            raise ValueError(f"replicas ({self.replicas}) must divide ranks ({self.ranks})")
        if self.min_ranks is not None and (self.min_ranks > self.ranks or self.replicas > 1):
            raise ValueError(
                "min_ranks must not exceed ranks, and needs replicas: 1, which divides any number of ranks"
            )
        return self


class Checkpoints(Node):
    """When a run writes its state, and how many states it keeps."""

    every_steps: PositiveInt = 20
    every_minutes: float | None = Field(
        default=None, gt=0, description="Also when this much time has passed since the last one."
    )
    keep: PositiveInt = Field(default=2, description="Newest checkpoints kept; the best one is kept beside them.")
    max_failures: int = Field(
        default=3,
        ge=0,
        description="Worker groups lost before the stage fails; of ppo since the last step that was saved.",
    )


class HeldoutEvaluation(Node):
    """Held-out loss and, where answers are judged, accuracy while a stage trains; on the `heldout` split of its shards."""

    every_steps: PositiveInt = 10
    rows: PositiveInt = Field(default=32, description="Rows scored each time, the same ones every time.")
    general: str | None = Field(
        default=None, description="Shards of general text whose loss shows what is forgotten; not of a reward model."
    )
    patience: PositiveInt | None = Field(
        default=None, description="Stop after so many evaluations without a lower held-out loss; default: never."
    )
    export: Literal["last", "best"] = Field(
        default="last", description="Which weights become the model; best: those with the lowest held-out loss."
    )
    max_general_increase: float | None = Field(
        default=None,
        gt=0,
        description="Forgetting budget: 0.03 allows 3 % more perplexity on `general` than at the start.",
    )
    over_budget: Literal["warn", "stop"] = Field(default="warn", description="What happens when it is spent.")

    @model_validator(mode="after")
    def _budget_has_something_to_measure(self) -> Self:
        if self.max_general_increase is not None and self.general is None:
            raise ValueError("max_general_increase needs `general`: the shards it is measured on")
        if self.over_budget == "stop" and self.max_general_increase is None:
            raise ValueError("over_budget: stop needs a budget: set max_general_increase, or leave over_budget out")
        return self


class TrainStage(Node):
    """What every training stage has: a model and shards -> a model."""

    model: str = Field(description="Stage or artifact whose weights are the start.")
    shards: str = Field(description="Stage or artifact with the packed rows or examples; of cpt and sft also a mix.")
    steps: PositiveInt | None = Field(default=None, description="Optimizer steps; default: `epochs` over the shards.")
    epochs: float | None = Field(
        default=None,
        gt=0,
        description="Passes over the shards. Batches are all equal: the last one is filled from the epoch after.",
    )
    micro_batch_tokens: PositiveInt = recorded_only(2048, description="Most tokens in one forward pass of one rank.")
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16", description="Compute type; masters and reduction are fp32."
    )
    optimizer: Optimizer = Optimizer()
    lora: Lora | None = Field(default=None, description="Train adapters instead of the whole model.")
    heldout: HeldoutEvaluation | None = None
    activation_checkpointing: bool = recorded_only(False)
    cpu_offload: bool = recorded_only(
        False,
        description="Masters, gradients and moments in the host's memory not the GPU's; without GPUs they are there anyhow.",
    )
    kernels: Literal["torch", "liger"] = recorded_only(
        "torch",
        description="liger: Triton kernels for norms, gated MLPs and rotary angles (liger-kernel); GPUs only.",
    )
    compile: bool = recorded_only(
        False, description="torch.compile for the norms and MLPs of every layer; GPUs only, and not run on one yet."
    )
    checkpoints: Checkpoints = recorded_only(Checkpoints())
    resources: Resources = recorded_only(Resources())

    @model_validator(mode="after")
    def _kernels_have_a_gpu(self) -> Self:
        asked = [
            words
            for words, wanted in (("kernels: liger", self.kernels == "liger"), ("compile: true", self.compile))
            if wanted
        ]
        if asked and not self.resources.gpus_per_rank:
            raise ValueError(f"{asked[0]} needs a GPU for every rank: set resources.gpus_per_rank: 1, or leave it out")
        return self

    @model_validator(mode="after")
    def _length_is_given_once(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of `steps` and `epochs`")
        return self


class LanguageModelStage(TrainStage):
    """A model and packed shards -> a model, by next-token loss over the weighted tokens."""

    stage: Literal["cpt", "sft"]
    batch_tokens: PositiveInt = Field(default=4096, description="Tokens of a global batch, over all ranks.")


class ExampleStage(TrainStage):
    """A model and judged answers -> a model."""

    batch_examples: PositiveInt = Field(default=32, description="Examples of a global batch, over all ranks.")


class RewardStage(ExampleStage):
    """Pairs or rankings -> a model that scores answers.

    After the last step reward.json beside its weights says mean and standard deviation of its scores over judged answers of
    the held-out split (of the train split where `heldout` is not given); whoever scores with it subtracts and divides.
    """

    stage: Literal["reward"]
    loss: RewardLoss = RewardLoss()

    @model_validator(mode="after")
    def _scores_forget_no_text(self) -> Self:
        if self.heldout is not None and self.heldout.general is not None:
            raise ValueError("heldout.general: a reward model scores answers and predicts no text; leave it out")
        return self


class DpoStage(ExampleStage):
    """Pairs or rankings -> a model that prefers the chosen answers."""

    stage: Literal["dpo"]
    loss: DpoLoss = DpoLoss()
    reference: str | None = Field(default=None, description="Stage or artifact; default: the model that is trained.")


class KtoStage(ExampleStage):
    """Thumbs up and down -> a model that prefers what people like."""

    stage: Literal["kto"]
    loss: KtoLoss = KtoLoss()
    reference: str | None = Field(default=None, description="Stage or artifact; default: the model that is trained.")


class OrpoStage(ExampleStage):
    """Pairs or rankings -> a model, SFT and preference in one stage."""

    stage: Literal["orpo"]
    loss: OrpoLoss = OrpoLoss()


AnyTrainStage = LanguageModelStage | RewardStage | DpoStage | KtoStage | OrpoStage
