"""Where the roles of a PPO stage run, and how weights travel between them."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from configs.schema.tree import Node, PositiveInt

RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory")


def _own_names(amounts: dict[str, float]) -> dict[str, float]:
    for kind, amount in amounts.items():
        if kind in RAYS_OWN or amount <= 0:
            raise ValueError(
                f"{kind}: {amount:g}: give names that nodes offer by `ray start --resources`, with amounts above 0; CPUs and "
                "GPUs are asked for by threads_per_rank and gpus_per_rank"
            )
    return amounts


CustomResources = Annotated[
    dict[str, float],
    AfterValidator(_own_names),
    Field(
        description="What else a rank asks of its node, by the names of `ray start --resources` or of a cluster's node types, "
        "e.g. {L4: 1}: it sends a role to one kind of machine."
    ),
]


class RoleResources(Node):
    """What the actors of one role need."""

    ranks: PositiveInt = 1
    threads_per_rank: PositiveInt = 1
    gpus_per_rank: float = Field(default=0, ge=0, le=1)
    custom_resources: CustomResources = Field(default_factory=dict)


class EngineResources(Node):
    """The samplers: every rank is a vLLM engine of its own, and prompts are dealt out to them."""

    ranks: PositiveInt = 1
    threads_per_rank: PositiveInt = 1
    gpus_per_rank: int = Field(default=0, ge=0, description="Tensor parallelism of one engine; not run on GPUs yet.")
    custom_resources: CustomResources = Field(default_factory=dict)
    kv_cache_gib: float | None = Field(
        default=None,
        gt=0,
        description="Keys and values, of an engine or of each of its GPUs; default: 1 on CPUs, on GPUs what vLLM leaves.",
    )
    max_num_seqs: PositiveInt = Field(default=64, description="Answers sampled at a time.")

    @property
    def kv_cache_on_cpu_gib(self) -> float:
        return 1.0 if self.kv_cache_gib is None else self.kv_cache_gib


class PpoResources(Node):
    """Where the roles run. Changes speed and rounding: recorded, not hashed."""

    placement: Literal["separate", "colocated"] = Field(
        default="separate", description="colocated: rank i of all roles shares a bundle, and they take turns."
    )
    strategy: Literal["PACK", "SPREAD", "STRICT_SPREAD"] = "PACK"
    transfer: Literal["buckets", "nccl", "ipc"] = Field(
        default="buckets",
        description="How weights reach the samplers: through Ray's object store, or from GPU to GPU, nccl between separate ones "
        "and ipc on shared ones (not run on GPUs yet).",
    )
    policy: RoleResources = RoleResources()
    critic: RoleResources = RoleResources()
    reference: RoleResources = RoleResources()
    reward: RoleResources = RoleResources()
    rollout: EngineResources = EngineResources()
    reserve_timeout_s: float = Field(default=120, gt=0, description="For all of them to find room.")
    start_timeout_s: float = Field(default=1800, gt=0, description="For models to load and engines to start.")
    step_timeout_s: float = Field(default=3600, gt=0, description="For each phase of a step.")

    @model_validator(mode="after")
    def _engines_have_whole_gpus(self) -> Self:
        if self.placement == "colocated" and self.rollout.gpus_per_rank > 1:
            raise ValueError(
                f"rollout.gpus_per_rank ({self.rollout.gpus_per_rank}): with placement: colocated an engine shares the one GPU "
                "of its bundle with rank i of the other roles; set 1, or placement: separate"
            )
        return self

    @model_validator(mode="after")
    def _transfer_has_gpus(self) -> Self:
        if self.transfer == "buckets":
            return self
        placement = "separate" if self.transfer == "nccl" else "colocated"
        if self.placement != placement or not (self.policy.gpus_per_rank and self.rollout.gpus_per_rank):
            raise ValueError(
                f"transfer: {self.transfer} goes from GPU to GPU with placement: {placement}; give policy and rollout "
                "gpus_per_rank, or set transfer: buckets"
            )
        return self
