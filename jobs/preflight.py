"""What can be known before anything expensive starts: what a stage will read, and whether it fits.

`describe` is one line per stage for `acclimate plan`; `check` raises what would fail later:

    writers -> inputs that stand -> shards, byte by byte -> models: files, memory, architecture, chat template -> disk
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.artifacts import Artifact, ArtifactNotFound, artifact_directory, find_artifact
from cluster.lease import require_free
from cluster.storage import Store
from configs.errors import DoesNotFit
from configs.schema.corpus import CorpusStage, ShardsStage
from configs.schema.evaluation import EvaluateStage, ReportStage
from configs.schema.run import ModelStage, Run, stage_inputs
from configs.schema.training import ExampleStage, LanguageModelStage, TrainStage
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
        case LanguageModelStage():
            length = f"{stage.steps} steps" if stage.steps is not None else f"{stage.epochs} epochs"
            tokens = stage.steps * stage.batch_tokens if stage.steps is not None else None
            total = f", about {tokens:,} tokens" if tokens else ""
            what = f"{length} of {stage.batch_tokens} tokens{total}, {stage.resources.ranks} ranks, {stage.precision}"
            return {"what": what, "estimated_tokens": tokens}
        case ExampleStage():
            length = f"{stage.steps} steps" if stage.steps is not None else f"{stage.epochs} epochs"
            return {
                "what": f"{length} of {stage.batch_examples} examples, {stage.resources.ranks} ranks, {stage.precision}"
            }
        case EvaluateStage():
            return {"what": f"{len(stage.models)} models on {', '.join(stage.sets)}"}
        case ReportStage():
            return {"what": "report.html"}


def check(run: Run, waiting: list[PlannedStage], store: Store) -> None:
    """Raises LeaseHeld, ArtifactNotFound, ShardError, ModelError, TemplateError or DoesNotFit: what would fail after
    minutes of work. A model that is still at a hub is looked at when it was fetched.
    """
    for planned in waiting:
        require_free(artifact_directory(store, planned.stage.stage, planned.key))
    _check_parents(waiting, store)
    _check_shards(waiting, store)
    _check_cpus(run, waiting)
    _check_models(run, waiting, store)
    _check_disk(waiting, store)


@dataclass(frozen=True)
class Origin:
    """The model files that a stage goes back to, as they lie now."""

    directory: Store
    template: str | None
    """The Jinja text that the import will set; None where the model keeps its own."""


def _check_parents(waiting: list[PlannedStage], store: Store) -> None:
    """`eval` computes one stage alone: what it reads must be there."""
    names = {planned.name for planned in waiting}
    for planned in waiting:
        for key, _, name in stage_inputs(planned.stage):
            if _parent(planned, key, store) is None and name not in names:
                raise ArtifactNotFound(
                    f"stages.{planned.name}.{key}: {name} is not computed yet in {store.root} "
                    f"({planned.parents[key]}). Compute it first: acclimate run CONFIG"
                )


def _check_shards(waiting: list[PlannedStage], store: Store) -> None:
    from jobs.train.reader import verify_shards

    read = [_parent(planned, "shards", store) for planned in waiting if isinstance(planned.stage, TrainStage)]
    for shards in {artifact.key: artifact for artifact in read if artifact is not None}.values():
        verify_shards(shards.content)


def _check_models(run: Run, waiting: list[PlannedStage], store: Store) -> None:
    from jobs.model_files import check_model
    from jobs.models import check_chat_template, require_trust

    by_name = {planned.name: planned for planned in waiting}
    for planned in waiting:
        match planned.stage:
            case ModelStage() as stage:
                origin = _source(planned, store)
                if origin is not None:
                    check_model(origin.directory)
                    require_trust(stage, origin.directory)
                    if origin.template is not None:
                        check_chat_template(origin.directory, origin.template)
            case ShardsStage(rows="messages" | "preferences" | "thumbs"):
                origin = _origin(planned, by_name, store)
                if origin is not None:
                    check_chat_template(origin.directory, origin.template)
            case TrainStage() as stage:
                origin = _origin(planned, by_name, store)
                if origin is not None:
                    parameters = check_model(origin.directory).parameters
                    if run.cluster.address == "local":
                        _check_memory(planned.name, stage, parameters, origin.directory)
                    _check_continued(planned, stage, store)
                    _check_trainable(stage, origin.directory, _context(planned, by_name, store))
            case _:
                pass


def _origin(planned: PlannedStage, waiting: dict[str, PlannedStage], store: Store) -> Origin | None:
    """The files behind the `model` of a stage: training changes numbers only. None where they are still at a hub."""
    finished = _parent(planned, "model", store)
    if finished is not None:
        return Origin(finished.content.below("model"), None)
    [name] = [name for key, _, name in stage_inputs(planned.stage) if key == "model"]
    before = waiting[name]
    return _origin(before, waiting, store) if isinstance(before.stage, TrainStage) else _source(before, store)


def _source(planned: PlannedStage, store: Store) -> Origin | None:
    from jobs.model_hub import PREFIX
    from jobs.models import source_directory, template_text

    stage = planned.stage
    assert isinstance(stage, ModelStage), planned.name
    template = None if stage.chat_template is None else template_text(stage.chat_template)
    if stage.source.startswith(PREFIX):
        return None
    artifact = _parent(planned, "source", store) if planned.parents else None
    directory = source_directory(stage.source) if artifact is None else artifact.content.below("model")
    return Origin(directory, template)


def _parent(planned: PlannedStage, key: str, store: Store) -> Artifact | None:
    """The finished artifact behind an input of a stage; None where it is not computed yet."""
    kind, _, parent_key = planned.parents[key].rpartition("-")
    return find_artifact(store, kind, parent_key)


def training_bytes(stage: TrainStage, parameters: int, layers: int, hidden: int) -> int:
    """Host memory of all ranks of a training stage on one CPU machine, in bytes."""
    state = parameters * (STATE_BYTES_PER_PARAMETER + COPY_BYTES_PER_PARAMETER)
    per_token = hidden * layers * (2 if stage.activation_checkpointing else ACTIVATION_BYTES_PER_TOKEN_AND_LAYER)
    per_rank = RANK_BASELINE_GIB * 2**30 + stage.micro_batch_tokens * per_token
    return int(state + stage.resources.ranks * per_rank)


def _check_memory(name: str, stage: TrainStage, parameters: int, model: Store) -> None:
    config = model.read_json("config.json")
    free = psutil.virtual_memory().available
    needed = training_bytes(stage, parameters, config["num_hidden_layers"], config["hidden_size"])
    if needed > free and not stage.resources.gpus_per_rank:
        raise DoesNotFit(
            f"stages.{name} needs about {needed / 2**30:.1f} GiB of memory for {parameters / 1e6:.0f} M parameters "
            f"on {stage.resources.ranks} ranks, {free / 2**30:.1f} GiB are free. Lower stages.{name}.micro_batch_tokens "
            f"(now {stage.micro_batch_tokens}), set activation_checkpointing: true, or take a smaller model."
        )


def _check_continued(planned: PlannedStage, stage: TrainStage, store: Store) -> None:
    """Raises MergeError or AdapterError where `lora.start: continue` finds no adapters, or others; later ones come from the
    same config."""
    from jobs.merging import adapters_of
    from jobs.train.adapters import check_same_adapters

    model = _parent(planned, "model", store)
    if stage.lora is not None and stage.lora.start == "continue" and model is not None:
        check_same_adapters(adapters_of(store, model).adapter, stage.lora)


def _context(planned: PlannedStage, waiting: dict[str, PlannedStage], store: Store) -> int:
    """Tokens of the longest row that a training stage may read."""
    finished = _parent(planned, "shards", store)
    if finished is not None:
        return int(finished.content.read_json("manifest.json")["context"])
    [name] = [name for key, _, name in stage_inputs(planned.stage) if key == "shards"]
    shards = waiting[name].stage
    assert isinstance(shards, ShardsStage), name
    return shards.context


def _check_trainable(stage: TrainStage, model: Store, context: int) -> None:
    """Raises ModelError, or AdapterError where `lora` does not fit."""
    from jobs.model_files import ModelError
    from jobs.train.attention import UnsupportedModel
    from jobs.train.model import build_on_meta, check_length, read_config

    try:
        module = build_on_meta(read_config(model, trust_remote_code=False), trust_remote_code=False, lora=stage.lora)
        if module.longest_segment is not None:
            check_length(context, module.longest_segment)
    except UnsupportedModel as error:
        raise ModelError(f"{model.root} cannot be trained: {error}") from error


def _check_cpus(run: Run, waiting: list[PlannedStage]) -> None:
    """Ray would wait for ever for ranks that a Ray started here has no room for; a cluster may grow."""
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
