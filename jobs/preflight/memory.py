"""How much memory each rank of a stage will hold, for people to see before anything starts.

planned stages -> model files at hand -> jobs/estimate/memory.py -> one Share a role
"""

from dataclasses import asdict, dataclass
from typing import Any

from cluster.storage import Store
from configs.schema.ppo_stage import PpoStage
from configs.schema.run import Run, stage_inputs
from configs.schema.training import TrainStage
from jobs.estimate.memory import RankMemory, learner_memory
from jobs.pipeline import PlannedStage
from jobs.ppo.roles import gpus_per_rank
from jobs.preflight.fit import held_by_training
from jobs.preflight.ppo import memory_of, models_of
from jobs.preflight.rows import context_of
from jobs.preflight.stages import model_origin


@dataclass(frozen=True)
class Share:
    """Of one role.

    Example:
        Share(role="policy", ranks=2, gpus_per_rank=1.0, rank=RankMemory(weights=2.7e8, ...))
    """

    role: str
    ranks: int
    gpus_per_rank: float
    rank: RankMemory

    def row(self) -> dict[str, Any]:
        """For JSON, in bytes."""
        return {**asdict(self), "total_bytes": self.rank.total}


def shares_of(run: Run, planned: PlannedStage, waiting: dict[str, PlannedStage], store: Store) -> list[Share]:
    """Calculated, not measured; empty where a stage trains nothing, or its model is still at a hub."""
    stage = planned.stage
    if not isinstance(stage, TrainStage | PpoStage):
        return []
    origin = model_origin(planned, "model", waiting, store)
    if origin is None:
        return []
    from jobs.train.objectives import objective_of
    from jobs.train.trainable import measure

    if isinstance(stage, TrainStage):
        found = measure(origin.directory, origin.trust_remote_code, objective_of(stage).head, stage.lora)
        resources = stage.resources
        rank = learner_memory(
            held_by_training(stage, found.shape, found.trained), resources.ranks // resources.replicas,
            stage.micro_batch_tokens, stage.activation_checkpointing,
        )  # fmt: skip
        return [Share(stage.stage, resources.ranks, resources.gpus_per_rank, rank)]
    keys = [key for key, kinds, _ in stage_inputs(stage) if kinds != ("shards",)]
    origins = {key: model_origin(planned, key, waiting, store) for key in keys}
    found = measure(origin.directory, origin.trust_remote_code, "logprobs", stage.lora)
    models = models_of(stage, {key: there for key, there in origins.items() if there}, found)
    memory = memory_of(stage, models, context_of(run, store, stage.shards))
    return [
        Share(role, memory.layout.ranks[role], gpus_per_rank(stage, role), rank) for role, rank in memory.ranks.items()
    ]
