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
from configs.schema.training import TrainStage
from jobs.pipeline import PlannedStage

MASTER_BYTES, GRADIENT_BYTES, COMPUTE_BYTES = 4, 4, 2
"""Of a trained number: fp32, fp32, and bf16 in the forward pass."""
MOMENT_BYTES = {"fp32": 8.0, "8bit": 2.1}
"""Of both of AdamW's moments of a trained number; in 8 bits with the scales of blocks of 192 to 256 numbers."""
FROZEN_BYTES_PER_PARAMETER = {"bf16": 2, "fp32": 4}
"""Of a model beside which adapters are trained; one in 4 bits takes less."""
RANK_BASELINE_GIB = 0.7
"""Resident memory of a Python process with torch, transformers and ray imported; measured."""
ACTIVATION_BYTES_PER_TOKEN_AND_LAYER = 34
"""Times hidden size: bytes of a transformer layer's activations in 16 bit (Korthikanti et al. 2022, arXiv 2205.05198, eq. 2)."""
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


def training_bytes(stage: TrainStage, parameters: int, trained: int, layers: int, hidden: int) -> int:
    """Host memory of all ranks of a training stage on one CPU machine, in bytes.

    Args:
        parameters: of the model; `trained` of them, or of the adapters beside it, have gradients and moments.
    """
    frozen = 0 if stage.lora is None else parameters * FROZEN_BYTES_PER_PARAMETER[stage.precision]
    # A checkpoint is written from a copy.
    state = frozen + trained * (GRADIENT_BYTES + COMPUTE_BYTES + 2 * checkpoint_bytes(stage))
    per_token = hidden * layers * (2 if stage.activation_checkpointing else ACTIVATION_BYTES_PER_TOKEN_AND_LAYER)
    per_rank = RANK_BASELINE_GIB * 2**30 + stage.micro_batch_tokens * per_token
    return int(state + stage.resources.ranks * per_rank)


def training_space(name: str, stage: TrainStage, trained: int, export_bytes: int) -> StageSpace:
    """Disk of a training stage: a checkpoint is written whole before the oldest is removed; the best one is kept beside.

    Args:
        trained: numbers that are trained, hence checkpointed.
        export_bytes: of the model that is written at the end.
    """
    best = stage.heldout is not None and stage.heldout.export == "best"
    count = stage.checkpoints.keep + 1 + best
    return StageSpace(name, export_bytes, int(count * trained * checkpoint_bytes(stage)), stage.checkpoints.keep)


def checkpoint_bytes(stage: TrainStage) -> float:
    """Of a trained number: master and moments."""
    return MASTER_BYTES + MOMENT_BYTES[stage.optimizer.state]


def check_memory(name: str, stage: TrainStage, parameters: int, trained: int, layers: int, hidden: int) -> None:
    """Raises DoesNotFit where the ranks of a CPU stage need more memory than is free."""
    free = psutil.virtual_memory().available
    needed = training_bytes(stage, parameters, trained, layers, hidden)
    if needed > free and not stage.resources.gpus_per_rank:
        raise DoesNotFit(
            f"stages.{name} needs about {needed / 2**30:.1f} GiB of memory for {parameters / 1e6:,.1f} M parameters "
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
