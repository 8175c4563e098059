"""What the training stages of a run would do on GPUs that nobody has to have: memory, time of a step, where it saturates.

    run file -> stages -> model directories (config.json is enough) -> jobs/estimate -> one Estimate a stage

Calculated from data sheets and `Assumptions`, not run.
"""

import math
from dataclasses import dataclass

from cluster.artifacts import find_named
from cluster.storage import Store
from configs.errors import DoesNotFit, UserError
from configs.schema.ppo_stage import PpoStage
from configs.schema.run import ARTIFACT_PREFIX, ModelStage, Run, stage_inputs
from configs.schema.training import ExampleStage, LanguageModelStage, TrainStage
from jobs.estimate.memory import RankMemory, learner_memory
from jobs.estimate.roles import layout_of
from jobs.estimate.rounding import rounded
from jobs.estimate.search import Saturation, fastest, saturation
from jobs.estimate.step import Step, calculate
from jobs.estimate.time import Bound, Machine, Passes, learning
from jobs.ppo.roles import gpus_per_rank
from jobs.preflight.fit import held_by_training
from jobs.preflight.origin import Origin
from jobs.preflight.ppo import models_of, ways_to_fit
from jobs.preflight.rows import context_of


@dataclass(frozen=True)
class PpoEstimate:
    """Of a PPO stage.

    Example:
        PpoEstimate(name="ppo", parameters=6738415616, work="512 x 1 answers of at most 1024 tokens ...", searched=True,
                    step=Step(...), saturates=[...])
    """

    name: str
    parameters: int
    work: str
    """Of a step, in words."""
    searched: bool
    """The layout is the fastest found; else what the stage's resources ask."""
    step: Step
    saturates: list[Saturation]


@dataclass(frozen=True)
class TrainingEstimate:
    """Of any other training stage, with a rank on every GPU.

    Example:
        TrainingEstimate(name="sft", parameters=6738415616, ranks=8, memory=RankMemory(...), tokens=262144.0,
                         step=Bound(4.1, "compute"))
    """

    name: str
    parameters: int
    ranks: int
    memory: RankMemory
    tokens: float
    """Of a step."""
    step: Bound


def estimate(run: Run, store: Store, machine: Machine) -> list[PpoEstimate | TrainingEstimate]:
    """Of every stage that trains a language model, in order.

    Raises:
        DoesNotFit: some stages would not fit, with what it needs and how to mend it.
        UserError: nothing is trained, or it is unknown how large a model or how long a text is.
    """
    found: list[PpoEstimate | TrainingEstimate] = []
    too_large: list[str] = []
    for name, stage in run.stages.items():
        try:
            if isinstance(stage, PpoStage):
                found.append(_ppo(run, name, stage, store, machine))
            elif isinstance(stage, TrainStage):
                found.append(_training(run, name, stage, store, machine))
        except DoesNotFit as error:
            too_large.append(str(error))
    if too_large:
        raise DoesNotFit("\n".join(too_large))
    if not found:
        raise UserError(f"--on {machine.cluster}: no stage of {run.name} trains a model; there is nothing to calculate")
    return found


def _ppo(run: Run, name: str, stage: PpoStage, store: Store, machine: Machine) -> PpoEstimate:
    from jobs.train.trainable import measure

    inputs = [(key, model) for key, kinds, model in stage_inputs(stage) if kinds != ("shards",)]
    origins = {key: _origin(run, store, model, f"stages.{name}.{key}") for key, model in inputs}
    policy = origins["model"]
    found = measure(policy.directory, policy.trust_remote_code, "logprobs", stage.lora)
    models = models_of(stage, origins, found)
    prompt_tokens = context_of(run, store, stage.shards)
    asked = _asks_for_gpus(name, stage)
    try:
        if asked:
            step = calculate(stage, models, layout_of(stage), prompt_tokens, machine)
        else:
            step = fastest(stage, models, prompt_tokens, machine)
        if step.problems:
            raise DoesNotFit(f"does not fit on {machine.cluster}: {'; '.join(step.problems)}")
    except DoesNotFit as error:
        raise DoesNotFit(f"stages.{name} {error}. {ways_to_fit(stage, 'take more GPUs')}") from None
    limits = saturation(stage, models, step, prompt_tokens, machine)
    algorithm = stage.algorithm
    work = (
        f"{algorithm.prompts_per_step} x {algorithm.answers_per_prompt} answers of at most {stage.max_new_tokens} tokens to "
        f"prompts of at most {prompt_tokens}, {algorithm.epochs} x {algorithm.minibatches} optimizer steps, "
        f"{algorithm.estimator}, {stage.precision}"
    )
    return PpoEstimate(name, found.shape.parameters, work, not asked, step, limits)


def _training(run: Run, name: str, stage: TrainStage, store: Store, machine: Machine) -> TrainingEstimate:
    from jobs.train.objectives import objective_of
    from jobs.train.trainable import measure

    origin = _origin(run, store, stage.model, f"stages.{name}.model")
    found = measure(origin.directory, origin.trust_remote_code, objective_of(stage).head, stage.lora)
    held = held_by_training(stage, found.shape, found.trained)
    resources = stage.resources
    ranks = resources.ranks if resources.gpus_per_rank else machine.cluster.gpus
    shards = ranks // resources.replicas if resources.gpus_per_rank else ranks
    context = context_of(run, store, stage.shards)
    memory = learner_memory(held, shards, max(stage.micro_batch_tokens, context), stage.activation_checkpointing)
    if ranks > machine.cluster.gpus or memory.total > machine.usable_bytes:
        raise DoesNotFit(
            f"stages.{name} does not fit on {machine.cluster}: {ranks} ranks would hold {rounded(memory.total / 1e9):g} GB each, "
            f"usable are {rounded(machine.usable_bytes / 1e9):g} GB. Use `lora`; set optimizer.state: 8bit; set "
            f"activation_checkpointing: true; lower micro_batch_tokens (now {stage.micro_batch_tokens}); or take more GPUs."
        )
    assert isinstance(stage, LanguageModelStage | ExampleStage), stage
    rows = stage.batch_tokens / context if isinstance(stage, LanguageModelStage) else stage.batch_examples
    most = math.ceil(rows / ranks)
    rounds = math.ceil(most / max(1, stage.micro_batch_tokens // context))
    passes = Passes(rows * context, rows * context, context, rounds, rows / most)
    bound = learning(held, shards, passes, stage.activation_checkpointing, machine)
    return TrainingEstimate(name, found.shape.parameters, ranks, memory, rows * context, bound)


def _asks_for_gpus(name: str, stage: PpoStage) -> bool:
    """Whether the stage has a layout of its own. Raises UserError where only some of its models have a GPU each."""
    gpus = {role: gpus_per_rank(stage, role) for role in layout_of(stage).ranks}
    if not any(gpus.values()):
        return False
    wrong = sorted(role for role, number in gpus.items() if number < 1)
    if wrong:
        raise UserError(
            f"stages.{name}.resources: {', '.join(wrong)} would have {gpus[wrong[0]]:g} GPUs a rank. Give every role that has a "
            "model `gpus_per_rank: 1` for this layout to be calculated, or none of them for the fastest one to be searched."
        )
    return True


def _origin(run: Run, store: Store, name: str, key: str) -> Origin:
    """The model files that a stage goes back to. Raises UserError where they are at a hub, ModelError where there are none."""
    from jobs.model_hub import PREFIX
    from jobs.models import source_directory
    from jobs.stages import trusts_code

    if name.startswith(ARTIFACT_PREFIX):
        artifact = find_named(store, name.removeprefix(ARTIFACT_PREFIX))
        return Origin(artifact.content.below("model"), None, trusts_code(store, artifact))
    stage = run.stages[name]
    if not isinstance(stage, ModelStage):
        assert isinstance(stage, TrainStage | PpoStage), name
        return _origin(run, store, stage.model, key)
    if stage.source.startswith(ARTIFACT_PREFIX):
        return _origin(run, store, stage.source, key)
    if stage.source.startswith(PREFIX):
        raise UserError(
            f"{key}: the model is at a hub ({stage.source}), and --on fetches nothing. Put its config.json into a directory and "
            f"say stages.{name}.source=DIRECTORY."
        )
    return Origin(source_directory(stage.source), None, stage.trust_remote_code)
