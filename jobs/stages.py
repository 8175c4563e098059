"""What each kind of stage is: its version, its identity, and the function that computes it.

    stage + finished inputs ──run_stage──► files below the attempt's content + what goes into the artifact's record

A stage function knows nothing of keys, leases and runs (jobs/pipeline.py); it reads artifacts and writes below `content`.
Heavy imports are inside the functions: planning a run needs none of them.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cluster.artifacts import Artifact, Attempt, ancestors, find_artifact
from cluster.storage import Store
from configs.errors import Stopped
from configs.schema.corpus import CorpusStage, ShardsStage
from configs.schema.evaluation import EvaluateStage, ReportStage
from configs.schema.mix import MixStage
from configs.schema.ppo_stage import PpoStage
from configs.schema.run import UNKNOWN_LICENCE, ModelStage, Run, Stage, stage_inputs
from configs.schema.training import AnyTrainStage, KtoStage, LanguageModelStage, TrainStage
from configs.schema.tree import hashed_values
from jobs.ppo.reward_functions import module_identity

STAGE_VERSIONS = {
    "model": 1, "corpus": 6, "shards": 11, "mix": 3, "cpt": 2, "sft": 2, "reward": 2, "dpo": 2,
    "kto": 1, "orpo": 1, "ppo": 3, "evaluate": 1, "report": 1,
}  # fmt: skip
"""Raised by hand when the same config and inputs would give another result: it renews the key."""

Progress = Callable[[str, int, int], None]
"""progress(label, done, total) for long work."""


@dataclass(frozen=True)
class StageContext:
    """Where a stage computes and what it may use."""

    run: Run
    name: str
    inputs: dict[str, Artifact]
    """By config key, e.g. {"model": ..., "shards": ...}; see configs.schema.run.stage_inputs."""
    attempt: Attempt
    store: Store
    progress: Progress
    metrics: Callable[[dict[str, float]], None]
    """Takes the metrics of one training step, or of an evaluation between steps."""
    say: Callable[[str], None]
    """Takes a sentence that people should read while the stage works."""
    stop_asked: Callable[[], bool]

    @property
    def content(self) -> Store:
        return self.attempt.content


@dataclass(frozen=True)
class Outcome:
    """What a stage adds to its artifact's record."""

    metrics: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    licences: list[str] = field(default_factory=list)
    allowed: list[str] | None = None
    """What may be done with it (jobs/corpus/gate.py); None: what its inputs allow."""


def identity(stage: Stage, seed: int) -> dict[str, Any]:
    """What decides the result of a stage besides its parents: config without names of inputs, content of outside inputs."""
    config = hashed_values(stage)
    for key, _, _ in stage_inputs(stage):
        config.pop(key, None)
    match stage:
        case ModelStage():
            from jobs.models import source_fingerprint, source_terms, template_text

            if not stage_inputs(stage):
                config["source"] = source_fingerprint(stage.source)
                config |= source_terms(stage.source)
            if stage.chat_template is not None:
                config["chat_template"] = template_text(stage.chat_template)
        case CorpusStage():
            from jobs.corpus.inputs import find_inputs

            config["inputs"] = [[file.uri, file.size, file.fingerprint] for file in find_inputs(stage, Path.cwd())]
            if config["repeated_paragraphs"] is None:
                del config["repeated_paragraphs"]  # corpora from before it keep their keys
            for key in ("near_duplicates", "decontamination"):
                (config.get(key) or {}).pop("against", None)  # inputs too
        case TrainStage():
            config["seed"] = seed
            (config["heldout"] or {}).pop("general", None)  # an input, by its key
        case PpoStage():
            config["seed"] = seed
            for source in [*config["rewards"], (config["heldout"] or {}).get("gold") or {}]:
                source.pop("model", None)  # inputs too
                source.update(module_identity(source.get("function")))
        case _:
            pass
    return config


def run_stage(stage: Stage, context: StageContext) -> Outcome:
    """Computes a stage with Ray connected. Raises what its parts raise, and Stopped."""
    match stage:
        case ModelStage():
            return _model(stage, context)
        case CorpusStage():
            return _corpus(stage, context)
        case ShardsStage():
            return _shards(stage, context)
        case MixStage():
            return _mix(stage, context)
        case TrainStage():
            return _train(stage, context)
        case PpoStage():
            return _ppo(stage, context)
        case EvaluateStage():
            return _evaluate(stage, context)
        case ReportStage():
            return _report(stage, context)


def trusts_code(store: Store, model: Artifact) -> bool:
    """Whether the model stage that a model comes from was told to run the Python files beside the weights.

    A trained model comes from its `model`, one made by `acclimate merge` from its `base`.
    """
    origin: Artifact | None = model
    while origin is not None and "trust_remote_code" not in origin.record["settings"]:
        parents = origin.record["parents"]
        kind, _, key = parents.get("model", parents.get("base", "")).rpartition("-")
        origin = find_artifact(store, kind, key) if key else None
    return origin is not None and bool(origin.record["settings"]["trust_remote_code"])


def _model(stage: ModelStage, context: StageContext) -> Outcome:
    from jobs.models import import_model, resolve_source, source_terms

    source = context.inputs["source"].content.below("model").root if context.inputs else stage.source
    terms = source_terms(source).get("terms", {})
    facts = import_model(stage, resolve_source(source), context.content, context.progress)
    licences = {stage.licence, *(terms.get("licences") or [])}
    if len(licences) > 1:
        licences.discard(UNKNOWN_LICENCE)  # the default; the parent's says more
    counts = {"parameters": facts.parameters, "bytes": facts.bytes}
    return Outcome(counts=counts, licences=sorted(licences), allowed=terms.get("allowed"))


def _corpus(stage: CorpusStage, context: StageContext) -> Outcome:
    from jobs.corpus.collect import build_corpus

    earlier = {key: artifact.content for key, artifact in context.inputs.items()}
    summary = build_corpus(stage, context.content, context.progress, earlier)
    return Outcome(counts=asdict(summary), licences=sorted(summary.documents_by_licence))


def _shards(stage: ShardsStage, context: StageContext) -> Outcome:
    from jobs.corpus.shards import build_shards

    model, corpus = context.inputs["model"], context.inputs["corpus"]
    summary = build_shards(
        stage, corpus.content, model.content.below("model"), context.content, context.progress,
        trusts_code(context.store, model),
    )  # fmt: skip
    gate = context.content.read_json("manifest.json")["gate"]
    licences = sorted({decision["licence"] for decision in gate["decisions"]})
    return Outcome(counts=asdict(summary), licences=licences, allowed=gate["allowed"])


def _mix(stage: MixStage, context: StageContext) -> Outcome:
    from jobs.corpus.mix import build_mix

    inputs = {name: context.inputs[key].content for key, _, name in stage_inputs(stage)}
    summary = build_mix(context.name, stage, inputs, context.content, context.progress, context.say)
    allowed = context.content.read_json("manifest.json")["gate"]["allowed"]
    return Outcome(counts=asdict(summary), licences=sorted(_licences(context)), allowed=allowed)


def _train(stage: AnyTrainStage, context: StageContext) -> Outcome:
    from jobs.corpus.gate import require_purpose
    from jobs.merging import adapters_of
    from jobs.same_tokens import check_same_tokens
    from jobs.train import heldout
    from jobs.train.loop import Ending, TrainJob
    from jobs.train.plan import total_steps
    from jobs.train.ray_host import Listener, train_on_ray
    from jobs.train.reader import read_index

    model, shards = context.inputs["model"], context.inputs["shards"]
    rows = read_index(shards.content, "train")
    manifest = shards.content.read_json("manifest.json")
    trusted = trusts_code(context.store, model)
    check_same_tokens(context.name, context.inputs, trusted)
    check_rows_fit(context.name, stage, shards.name, manifest["rows"])
    require_purpose(shards.name, manifest, "train")
    row_tokens = int(manifest["context"])
    steps = total_steps(stage, len(rows), row_tokens)
    adapter, weights = None, model.content.below("model")
    if stage.lora is not None and stage.lora.start == "continue":
        found = adapters_of(context.store, model)
        adapter, weights = found.adapter, found.base.content.below("model")
    job = TrainJob(
        context.name, stage, context.run.seed, weights, shards.content, row_tokens, steps,
        context.attempt.directory, context.attempt.number, context.content,
        context.inputs["reference"].content.below("model") if "reference" in context.inputs else None,
        context.inputs["heldout.general"].content if "heldout.general" in context.inputs else None,
        adapter,
        trusted or ("reference" in context.inputs and trusts_code(context.store, context.inputs["reference"])),
    )  # fmt: skip
    context.progress("steps", 0, steps)

    def on_metrics(metrics: dict[str, float]) -> None:
        context.metrics(metrics)
        context.progress("steps", int(metrics["step"]), steps)

    ending = train_on_ray(job, Listener(on_metrics, context.say, context.stop_asked))
    if ending is Ending.STOPPED:
        raise Stopped(f"{context.name} stopped at a step boundary; the same command goes on from there")
    history = context.content.read_json("history.json")
    steps_done = [entry for entry in history if "loss" in entry]
    return Outcome(
        metrics={
            "steps": len(steps_done),
            "first_loss": steps_done[0]["loss"],
            "last_loss": steps_done[-1]["loss"],
            **heldout.changes(history, "last" if stage.heldout is None else stage.heldout.export),
        },
        counts={"tokens": int(sum(entry["tokens"] for entry in steps_done))},
        licences=sorted(_licences(context)),
    )


def _ppo(stage: PpoStage, context: StageContext) -> Outcome:
    from jobs.ppo.driver import Listener, run_ppo
    from jobs.ppo.inputs import ppo_job
    from jobs.ppo.progress import summary
    from jobs.train.loop import Ending

    trusted = any(trusts_code(context.store, artifact) for key, artifact in context.inputs.items() if key != "shards")
    job = ppo_job(context.name, stage, context.run.seed, context.inputs, context.attempt, trusted)
    context.progress("steps", 0, job.total_steps)

    def on_metrics(metrics: dict[str, float]) -> None:
        context.metrics(metrics)
        context.progress("steps", int(metrics["step"]), job.total_steps)

    if run_ppo(job, Listener(on_metrics, context.say, context.stop_asked)) is Ending.STOPPED:
        raise Stopped(f"{context.name} stopped at a step boundary; the same command goes on from there")
    return Outcome(metrics=summary(context.content.read_json("history.json")), licences=sorted(_licences(context)))


def check_rows_fit(name: str, stage: AnyTrainStage | PpoStage, shards: str, rows: str) -> None:
    """Raises DataError where shards hold another kind of rows than the objective learns from."""
    from jobs.corpus.schema import DataError

    match stage:
        case PpoStage():
            wanted = ("prompts",)
        case LanguageModelStage():
            wanted = ("text", "messages", "mixed")
        case KtoStage():
            wanted = ("thumbs",)
        case _:
            wanted = ("preferences",)
    if rows not in wanted:
        raise DataError(
            f"stages.{name}.shards: {shards} has `rows: {rows}`, a {stage.stage} stage learns from `rows: {' or '.join(wanted)}`"
        )


def _licences(context: StageContext) -> set[str]:
    """Of everything the stage reads."""
    return {licence for artifact in context.inputs.values() for licence in artifact.record["licences"]}


def _evaluate(stage: EvaluateStage, context: StageContext) -> Outcome:
    from jobs.evaluate.evaluate import evaluate

    models = {name: context.inputs[f"models.{index}"].content.below("model") for index, name in enumerate(stage.models)}
    corpora = {chosen.corpus: context.inputs[f"sets.{name}.corpus"].content for name, chosen in stage.sets.items()}
    if stage.answers is not None:
        corpora[stage.answers.corpus] = context.inputs["answers.corpus"].content
    trusted = [
        name for index, name in enumerate(stage.models) if trusts_code(context.store, context.inputs[f"models.{index}"])
    ]
    evaluation = evaluate(stage, models, corpora, context.content, context.progress, trusted)
    return Outcome(
        metrics={"scores": evaluation["scores"], "changes": evaluation["changes"]}, licences=sorted(_licences(context))
    )


def _report(stage: ReportStage, context: StageContext) -> Outcome:
    from jobs.evaluate.report import write_report

    evaluation = context.inputs["evaluation"]
    parents = ancestors(context.store, evaluation)
    write_report(evaluation.content.read_json("evaluation.json"), [evaluation, *parents], context.content)
    return Outcome(licences=sorted({licence for parent in parents for licence in parent.record["licences"]}))
