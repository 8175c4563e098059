"""What can be known before anything expensive starts: what a stage will read, and whether it fits.

`describe` is one line per stage for `acclimate plan`; `check` raises what would fail later.
"""

from pathlib import Path
from typing import Any

import psutil

from cluster.storage import Store
from configs.errors import DoesNotFit
from configs.schema.corpus import CorpusStage, ShardsStage
from configs.schema.evaluation import EvaluateStage, ReportStage
from configs.schema.run import ARTIFACT_PREFIX, ModelStage, Run
from configs.schema.training import TrainStage
from jobs.pipeline import PlannedStage

STATE_BYTES_PER_PARAMETER = 16
"""fp32 master, gradient and two AdamW moments."""
COPY_BYTES_PER_PARAMETER = 14
"""Beside the state: the copy a checkpoint is written from (12) and the bf16 weights of the forward pass (2)."""
RANK_BASELINE_GIB = 0.7
"""Resident memory of a Python process with torch, transformers and ray imported; measured."""
ACTIVATION_BYTES_PER_TOKEN_AND_LAYER = 34
"""Times hidden size: bytes of a transformer layer's activations in 16 bit (Korthikanti et al. 2022, arXiv 2205.05198, eq. 2)."""


def describe(planned: PlannedStage) -> dict[str, Any]:
    """What a stage reads and about how much it does: {"what": for people, ...numbers for machines}."""
    stage = planned.stage
    match stage:
        case ModelStage():
            return {"what": stage.source}
        case CorpusStage():
            from jobs.corpus.inputs import estimate_tokens, find_inputs

            inputs = find_inputs(stage, Path.cwd())
            size, tokens = sum(file.size for file in inputs), sum(estimate_tokens(stage, inputs).values())
            what = f"{len(inputs)} files, {size / 2**20:.1f} MiB, about {tokens / 1e6:.1f} M tokens"
            return {"what": what, "files": len(inputs), "bytes": size, "estimated_tokens": tokens}
        case ShardsStage():
            return {"what": f"{stage.rows} rows of {stage.context} tokens in {stage.shards} shards"}
        case TrainStage():
            length = f"{stage.steps} steps" if stage.steps is not None else f"{stage.epochs} epochs"
            tokens = stage.steps * stage.batch_tokens if stage.steps is not None else None
            total = f", about {tokens:,} tokens" if tokens else ""
            what = f"{length} of {stage.batch_tokens} tokens{total}, {stage.resources.ranks} ranks, {stage.precision}"
            return {"what": what, "estimated_tokens": tokens}
        case EvaluateStage():
            return {"what": f"{len(stage.models)} models on {', '.join(stage.sets)}"}
        case ReportStage():
            return {"what": "report.html"}


def check(run: Run, waiting: list[PlannedStage], store: Store) -> None:
    """Raises DoesNotFit, ModelError, ... for what would fail after minutes of work."""
    from jobs.model_files import check_model
    from jobs.models import resolve_source

    trained = [planned for planned in waiting if isinstance(planned.stage, TrainStage)]
    for planned in waiting:
        stage = planned.stage
        if isinstance(stage, ModelStage) and not stage.source.startswith(ARTIFACT_PREFIX):
            origin = resolve_source(stage.source).origin
            if isinstance(origin, Store):
                parameters = check_model(origin).parameters
                if run.cluster.address == "local" and trained:
                    _check_memory(trained, parameters, origin.read_json("config.json"))
    _check_disk(waiting, store)


def training_bytes(stage: TrainStage, parameters: int, layers: int, hidden: int) -> int:
    """Host memory of all ranks of a training stage on one CPU machine, in bytes."""
    state = parameters * (STATE_BYTES_PER_PARAMETER + COPY_BYTES_PER_PARAMETER)
    per_token = hidden * layers * (2 if stage.activation_checkpointing else ACTIVATION_BYTES_PER_TOKEN_AND_LAYER)
    per_rank = RANK_BASELINE_GIB * 2**30 + stage.micro_batch_tokens * per_token
    return int(state + stage.resources.ranks * per_rank)


def _check_memory(trained: list[PlannedStage], parameters: int, config: dict[str, Any]) -> None:
    free = psutil.virtual_memory().available
    for planned in trained:
        stage = planned.stage
        assert isinstance(stage, TrainStage)
        needed = training_bytes(stage, parameters, config["num_hidden_layers"], config["hidden_size"])
        if needed > free and not stage.resources.gpus_per_rank:
            raise DoesNotFit(
                f"stages.{planned.name} needs about {needed / 2**30:.1f} GiB of memory for {parameters / 1e6:.0f} M parameters "
                f"on {stage.resources.ranks} ranks, {free / 2**30:.1f} GiB are free. Lower "
                f"stages.{planned.name}.micro_batch_tokens (now {stage.micro_batch_tokens}), set activation_checkpointing: "
                "true, or take a smaller model."
            )


def _check_disk(waiting: list[PlannedStage], store: Store) -> None:
    if store.is_s3 or not waiting:
        return
    free = psutil.disk_usage(store.root).free
    needed = 2**30 * (1 + 2 * sum(isinstance(planned.stage, TrainStage) for planned in waiting))
    if free < needed:
        raise DoesNotFit(
            f"{store.root} has {free / 2**30:.1f} GiB left; checkpoints and models of this run need about "
            f"{needed / 2**30:.0f} GiB. Free some, or set `store` to another disk or s3://."
        )
