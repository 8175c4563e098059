"""Whether a run fits: CPUs of a Ray started here, memory of this machine, space on the store's disk.

Numbers of parameters come from the files of the models; what is only at a hub is looked at when it was fetched.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from cluster.storage import Store
from configs.errors import DoesNotFit
from configs.schema.evaluation import EvaluateStage
from configs.schema.run import Run
from configs.schema.training import Optimizer, RewardStage, TrainStage
from jobs.estimate.memory import MASTER_BYTES, MOMENT_BYTES, Held, learner_memory
from jobs.estimate.shape import ModelShape
from jobs.pipeline import PlannedStage

RANK_BASELINE_GIB = 0.7
"""Resident memory of a Python process with torch, transformers and ray imported; measured."""
REST_BYTES = 2**30
"""Corpus, shards, reports and logs of a run; their size is known only once they are made."""


@dataclass(frozen=True)
class StageSpace:
    """What a stage writes below the store.

    Example:
        StageSpace("cpt", kept_bytes=269_060_552, passing_bytes=4_842_540_288, keep=2)
    """

    name: str
    kept_bytes: int
    """The artifact."""
    passing_bytes: int = 0
    """Checkpoints, which are removed when the stage is done."""
    keep: int | None = None
    """`checkpoints.keep`, where there are any."""


def training_bytes(stage: TrainStage, shape: ModelShape, trained: int) -> int:
    """Host memory of all ranks of a training stage on one CPU machine, in bytes.

    Args:
        trained: numbers of the model, or of the adapters beside it, that have gradients and moments.
    """
    resources = stage.resources
    rank = learner_memory(
        held_by_training(stage, shape, trained), resources.ranks // resources.replicas, stage.micro_batch_tokens,
        stage.activation_checkpointing,
    )  # fmt: skip
    # A checkpoint is written from a copy.
    copy = trained * checkpoint_bytes(stage.optimizer)
    return int(copy + resources.ranks * (rank.total + RANK_BASELINE_GIB * 2**30))


def held_by_training(stage: TrainStage, shape: ModelShape, trained: int) -> Held:
    """The model of a training stage as its ranks hold it."""
    base = "as_stored" if stage.lora is None else stage.lora.base
    head = "scores" if isinstance(stage, RewardStage) else "logprobs"
    return Held(shape, stage.precision, head, trained, stage.optimizer.state, base)


def training_space(name: str, stage: TrainStage, trained: int, export_bytes: int) -> StageSpace:
    """Disk of a training stage: a checkpoint is written whole before the oldest is removed; the best one is kept beside.

    Args:
        trained: numbers that are trained, hence checkpointed.
        export_bytes: of the model that is written at the end.
    """
    best = stage.heldout is not None and stage.heldout.export == "best"
    count = stage.checkpoints.keep + 1 + best
    return StageSpace(
        name, export_bytes, int(count * trained * checkpoint_bytes(stage.optimizer)), stage.checkpoints.keep
    )


def checkpoint_bytes(optimizer: Optimizer) -> float:
    """Of a trained number: master and moments."""
    return MASTER_BYTES + MOMENT_BYTES[optimizer.state]


def check_memory(name: str, stage: TrainStage, shape: ModelShape, trained: int) -> None:
    """Raises DoesNotFit where the ranks of a CPU stage need more memory than is free."""
    free = psutil.virtual_memory().available
    needed = training_bytes(stage, shape, trained)
    if needed > free and not stage.resources.gpus_per_rank:
        raise DoesNotFit(
            f"stages.{name} needs about {needed / 2**30:.1f} GiB of memory for {shape.parameters / 1e6:,.1f} M parameters "
            f"on {stage.resources.ranks} ranks, {free / 2**30:.1f} GiB are free. Lower stages.{name}.micro_batch_tokens "
            f"(now {stage.micro_batch_tokens}), set activation_checkpointing: true, or take a smaller model."
        )


def check_cpus(run: Run, waiting: Sequence[PlannedStage]) -> None:
    """Ray would wait for ever for ranks that a Ray started here has no room for; a cluster may grow. Raises DoesNotFit."""
    if run.cluster.address != "local":
        return
    for planned in waiting:
        if isinstance(planned.stage, TrainStage | EvaluateStage):
            resources = planned.stage.resources
            needed = resources.ranks * resources.threads_per_rank
            if needed > run.cluster.offered_cpus:
                raise DoesNotFit(
                    f"stages.{planned.name}.resources asks for {resources.ranks} ranks of {resources.threads_per_rank} threads; "
                    f"the Ray started here offers {run.cluster.offered_cpus} CPUs. Ask for fewer, or set cluster.logical_cpus."
                )


def check_disk(store: Store, spaces: Sequence[StageSpace]) -> None:
    """Raises DoesNotFit where a local store's disk cannot hold the run at its fullest.

    Args:
        spaces: of the stages that will be computed, in their order.
    """
    if store.is_s3:
        return
    free = psutil.disk_usage(str(_existing(Path(store.root)))).free
    kept, fullest, where = 0, 0, StageSpace("", 0)
    for space in spaces:
        kept += space.kept_bytes
        if kept + space.passing_bytes > fullest:
            fullest, where = kept + space.passing_bytes, space
    needed = REST_BYTES + fullest
    if free >= needed:
        return
    parts, lower = "", ""
    if where.passing_bytes:
        parts = f", {where.passing_bytes / 2**30:.1f} GiB of it checkpoints of stages.{where.name}"
        lower = f"Lower stages.{where.name}.checkpoints.keep (now {where.keep}), free"
    raise DoesNotFit(
        f"{store.root} has {free / 2**30:.1f} GiB left; checkpoints and models of this run need about "
        f"{needed / 2**30:.1f} GiB{parts}. {lower or 'Free'} some, or set `store` to another disk or s3://."
    )


def _existing(path: Path) -> Path:
    """The directory itself, or the nearest one above it that is there: `plan` makes none."""
    return path if path.exists() else _existing(path.parent)
