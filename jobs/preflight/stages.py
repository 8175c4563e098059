"""What can be known before anything expensive starts: what a stage will read, and whether it fits.

`describe` is one line per stage for `acclimate plan`; `foresee` and `check` raise what would fail later:

    inputs that stand -> first rows of the sources -> models: files, architecture, context, template, memory -> disk
    `check` before: writers; after: shards, byte by byte
"""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.artifacts import Artifact, ArtifactNotFound, artifact_directory, find_artifact
from cluster.lease import require_free
from cluster.storage import Store
from configs.schema.corpus import CorpusStage, ShardsStage
from configs.schema.evaluation import EvaluateStage, ReportStage
from configs.schema.mix import MixStage
from configs.schema.ppo_stage import PpoStage
from configs.schema.run import ModelStage, Run, shards_behind, stage_inputs
from configs.schema.training import ExampleStage, LanguageModelStage, TrainStage
from jobs.heldout import check_fractions
from jobs.pipeline import PlannedStage
from jobs.preflight.fit import StageSpace, check_cpus, check_disk, check_memory, training_space
from jobs.preflight.gate import check_gate
from jobs.preflight.origin import ContextTooLong, Origin, check_context, window_of
from jobs.preflight.ppo import check_ppo, describe_ppo
from jobs.preflight.rows import check_rows, context_of
from jobs.stages import trusts_code

if TYPE_CHECKING:
    from jobs.corpus.inputs import InputFile


def describe(planned: PlannedStage) -> dict[str, Any]:
    """What a stage reads and about how much it does: {"what": for people, ...numbers for machines}."""
    stage = planned.stage
    match stage:
        case ModelStage():
            return {"what": stage.source}
        case CorpusStage():
            from jobs.corpus.inputs import estimate_tokens, files_not_read, find_inputs

            inputs = find_inputs(stage, Path.cwd())
            size, tokens = sum(file.size for file in inputs), sum(estimate_tokens(stage, inputs).values())
            formats = _formats(stage, inputs)
            what = f"{len(inputs)} files, {size / 2**20:.1f} MiB, about {tokens / 1e6:.1f} M tokens"
            read_as = "".join(f"; {name} read as {found}" for name, found in formats.items())
            others = {name: files_not_read(source, Path.cwd()) for name, source in stage.sources.items()}
            read_as += "".join(f"; of {name} not read: {found}" for name, found in others.items() if found)
            return {
                "what": what + read_as, "files": len(inputs), "bytes": size, "estimated_tokens": tokens, "formats": formats,
            }  # fmt: skip
        case ShardsStage():
            return {"what": f"{stage.rows} rows of {stage.context} tokens in {stage.shards} shards"}
        case MixStage():
            shares = ", ".join(f"{share:.4g} {name}" for name, share in stage.fractions.items())
            return {"what": f"{shares}, by tokens, in {stage.shards} shards", "shares": stage.fractions}
        case LanguageModelStage():
            tokens = stage.steps * stage.batch_tokens if stage.steps is not None else None
            total = f", about {tokens:,} tokens" if tokens else ""
            what = f"{_length(stage)} of {stage.batch_tokens} tokens{total}, {stage.resources.ranks} ranks, {stage.precision}"
            return {"what": what + _offload(stage), "estimated_tokens": tokens}
        case ExampleStage():
            what = (
                f"{_length(stage)} of {stage.batch_examples} examples, {stage.resources.ranks} ranks, {stage.precision}"
            )
            return {"what": what + _offload(stage)}
        case PpoStage():
            return describe_ppo(stage)
        case EvaluateStage():
            return {"what": f"{len(stage.models)} models on {', '.join(stage.sets)}"}
        case ReportStage():
            return {"what": "report.html"}


def _length(stage: TrainStage) -> str:
    if stage.steps is not None:
        return f"{stage.steps} steps"
    return f"{stage.epochs:g} epochs (the last batch is filled from the next one) in steps"


def _offload(stage: TrainStage) -> str:
    if not stage.cpu_offload:
        return ""
    return ", state in host memory" if stage.resources.gpus_per_rank else ", cpu_offload changes nothing without GPUs"


def _formats(stage: CorpusStage, inputs: "list[InputFile]") -> dict[str, str]:
    """As what the first readable row of each source with `format: auto` is read. Raises DataError where it is nothing known."""
    from jobs.corpus.probe import PROBED_ROWS
    from jobs.corpus.raw import Raw
    from jobs.corpus.readers import read_file

    formats: dict[str, str] = {}
    for name, source in stage.sources.items():
        if source.format == "auto":
            file = next(file for file in inputs if file.source == name)
            rows = list(islice(read_file(file.location, file.uri, source), PROBED_ROWS))
            first = next((row for row in rows if isinstance(row, Raw)), rows[0])
            formats[name] = first.format if isinstance(first, Raw) else f"nothing yet ({first.uri}: {first.reason})"
    return formats


def check(run: Run, waiting: list[PlannedStage], store: Store) -> None:
    """Raises what `foresee` does, LeaseHeld and ShardError: what would fail after minutes of work."""
    for planned in waiting:
        require_free(artifact_directory(store, planned.stage.stage, planned.key))
    foresee(run, waiting, store)
    _check_shards(waiting, store)


def foresee(run: Run, waiting: list[PlannedStage], store: Store) -> None:
    """Raises ArtifactNotFound, DataError, ModelError, UnsupportedModel, WeightsError, TemplateError, ContextTooLong,
    EvaluationError or DoesNotFit. A model that is still at a hub is looked at when it was fetched.
    """
    _check_parents(waiting, store)
    for planned in waiting:
        check_fractions(run, planned.name, planned.stage)
        check_rows(run, planned.name, planned.stage)
        if isinstance(planned.stage, LanguageModelStage):
            _check_batch(planned, planned.stage, context_of(run, store, planned.stage.shards))
        if isinstance(planned.stage, ShardsStage):
            check_gate(run, planned.name, planned.stage)
        if isinstance(planned.stage, CorpusStage):
            from jobs.corpus.inputs import find_inputs
            from jobs.corpus.pii import check_finders
            from jobs.corpus.probe import check_sources

            check_finders(planned.stage.pii)
            check_sources(planned.name, planned.stage, find_inputs(planned.stage, Path.cwd()))
    check_cpus(run, waiting)
    by_name = {planned.name: planned for planned in waiting}
    spaces = [_check_model(run, planned, by_name, store) for planned in waiting]
    if waiting:
        check_disk(store, spaces)


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

    read = [
        _parent(planned, "shards", store) for planned in waiting if isinstance(planned.stage, TrainStage | PpoStage)
    ]
    for shards in {artifact.key: artifact for artifact in read if artifact is not None}.values():
        verify_shards(shards.content)


def _check_model(run: Run, planned: PlannedStage, waiting: dict[str, PlannedStage], store: Store) -> StageSpace:
    """Looks at the models a stage reads; the disk space it will take."""
    match planned.stage:
        case ModelStage() as stage:
            return StageSpace(planned.name, _check_import(planned, stage, store))
        case ShardsStage() as stage:
            origin = model_origin(planned, "model", waiting, store)
            if origin is not None:
                _check_rows(planned.name, stage, origin)
        case MixStage():
            _check_mix(planned, store)
        case TrainStage() as stage:
            origin = model_origin(planned, "model", waiting, store)
            if origin is not None:
                return _check_training(run, planned, stage, origin, store)
        case PpoStage() as stage:
            keys = [key for key, kinds, _ in stage_inputs(stage) if kinds != ("shards",)]
            found = {key: model_origin(planned, key, waiting, store) for key in keys}
            origins = {key: origin for key, origin in found.items() if origin}
            return check_ppo(run, planned.name, stage, origins, context_of(run, store, stage.shards))
        case EvaluateStage() as stage:
            for key, name in ((f"models.{index}", name) for index, name in enumerate(stage.models)):
                origin = model_origin(planned, key, waiting, store)
                if origin is not None:
                    for chosen, tokens in ((chosen, found.tokens) for chosen, found in stage.sets.items()):
                        check_context(f"stages.{planned.name}.sets.{chosen}.tokens", tokens, name, origin)
        case _:
            pass
    return StageSpace(planned.name, 0)


def _check_import(planned: PlannedStage, stage: ModelStage, store: Store) -> int:
    """The bytes that will be copied."""
    from jobs.model_files import check_model
    from jobs.models import check_chat_template, load_tokenizer, require_trust, resolve_source

    origin = _source(planned, store)
    if origin is None:
        return resolve_source(stage.source).total_bytes
    check_model(origin.directory)
    require_trust(stage, origin.directory)
    window_of(origin)
    if origin.template is not None:
        check_chat_template(origin.directory, origin.template, stage.trust_remote_code, origin.added_tokens)
    elif origin.added_tokens:
        load_tokenizer(origin.directory, stage.trust_remote_code, origin.added_tokens)
    # While rows are appended, the weights lie in the store twice.
    copies = 2 if origin.added_tokens else 1
    return copies * sum(file.size for file in origin.directory.files())


def _check_rows(name: str, stage: ShardsStage, origin: Origin) -> None:
    from jobs.corpus.shards import document_end_id
    from jobs.models import check_chat_template, load_tokenizer

    check_context(f"stages.{name}.context", stage.context, stage.model, origin)
    if stage.rows == "text":
        document_end_id(stage, load_tokenizer(origin.directory, origin.trust_remote_code, origin.added_tokens))
    else:
        check_chat_template(origin.directory, origin.template, origin.trust_remote_code, origin.added_tokens)


def _check_mix(planned: PlannedStage, store: Store) -> None:
    """Of inputs that are done, whether they fit together; those of this run that are not say so in their configs."""
    from jobs.corpus.mix import check_mixable

    found = {name: _parent(planned, key, store) for key, _, name in stage_inputs(planned.stage)}
    done = {name: artifact.content for name, artifact in found.items() if artifact is not None}
    if done:
        check_mixable(planned.name, done, {name: content.read_json("manifest.json") for name, content in done.items()})


def _check_training(run: Run, planned: PlannedStage, stage: TrainStage, origin: Origin, store: Store) -> StageSpace:
    from jobs.model_files import check_model
    from jobs.train.trainable import require_trainable

    facts = check_model(origin.directory)
    row_tokens = context_of(run, store, stage.shards)
    packed_by = next(iter(shards_behind(run, stage.shards)), stage.shards)
    check_context(f"stages.{packed_by}.context", row_tokens, stage.model, origin)
    _check_continued(planned, stage, store)
    shape = require_trainable(origin.directory, origin.trust_remote_code, stage, row_tokens)
    if run.cluster.address == "local":
        check_memory(planned.name, stage, shape.shape, shape.trained)
    return training_space(planned.name, stage, shape.trained, facts.bytes)


def _check_batch(planned: PlannedStage, stage: LanguageModelStage, row_tokens: int) -> None:
    if stage.batch_tokens < row_tokens:
        raise ContextTooLong(
            f"stages.{planned.name}.batch_tokens: {stage.batch_tokens} tokens hold no row of {stage.shards}, which has "
            f"{row_tokens}. Set stages.{planned.name}.batch_tokens to {row_tokens} or more, or lower"
            f" the context of {stage.shards}."
        )


def model_origin(planned: PlannedStage, key: str, waiting: dict[str, PlannedStage], store: Store) -> Origin | None:
    """The files behind a model that a stage reads: training changes numbers only. None where they are still at a hub."""
    finished = _parent(planned, key, store)
    if finished is not None:
        return Origin(finished.content.below("model"), None, trusts_code(store, finished))
    [name] = [name for input_key, _, name in stage_inputs(planned.stage) if input_key == key]
    before = waiting[name]
    return (
        model_origin(before, "model", waiting, store)
        if isinstance(before.stage, TrainStage | PpoStage)
        else _source(before, store)
    )


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
    return Origin(directory, template, stage.trust_remote_code, stage.rope_scaling, tuple(stage.added_tokens))


def _parent(planned: PlannedStage, key: str, store: Store) -> Artifact | None:
    """The finished artifact behind an input of a stage; None where it is not computed yet."""
    kind, _, parent_key = planned.parents[key].rpartition("-")
    return find_artifact(store, kind, parent_key)


def _check_continued(planned: PlannedStage, stage: TrainStage, store: Store) -> None:
    """Raises MergeError or AdapterError where `lora.start: continue` finds no adapters, or others; later ones come from the
    same config."""
    from jobs.merging import adapters_of
    from jobs.train.adapters import check_same_adapters

    model = _parent(planned, "model", store)
    if stage.lora is not None and stage.lora.start == "continue" and model is not None:
        check_same_adapters(adapters_of(store, model).adapter, stage.lora)
