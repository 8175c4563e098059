"""A run: stages in order, each an artifact that is found, resumed or computed.

    config ─plan─► [stage, key, state] ─► for each stage not done: lease ─► compute ─► record ─► next

`plan_run` needs no Ray and touches nothing; `execute` is the only writer of a run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from cluster.artifacts import Artifact, artifact_directory, artifact_key, attempt, find_artifact, find_named
from cluster.session import versions
from cluster.storage import Store
from configs.errors import Stopped, UserError
from configs.loader import Loaded
from configs.schema.corpus import CorpusStage
from configs.schema.ppo_stage import PpoStage
from configs.schema.run import ARTIFACT_PREFIX, ModelStage, Run, Stage, stage_inputs
from configs.schema.training import TrainStage
from jobs.heldout import check_documents
from jobs.stages import STAGE_VERSIONS, Outcome, StageContext, identity, run_stage


class InputsChanged(UserError):
    """Files from outside were changed between planning and the end of the stage that read them."""


class State(Enum):
    """What a run would do with a stage."""

    DONE = "done"
    """The artifact exists and is taken as it is."""
    RESUME = "resume"
    """An earlier attempt left work that is gone on from."""
    NEW = "new"


@dataclass(frozen=True)
class PlannedStage:
    """A stage with its key and what would happen to it."""

    name: str
    stage: Stage
    key: str
    parents: dict[str, str]
    """By config key: `<kind>-<key>` of the input."""
    state: State
    config: dict[str, Any]
    """What decides the result (jobs.stages.identity)."""


def plan_run(run: Run, store: Store) -> list[PlannedStage]:
    """Keys and states of all stages. Reads the inputs from outside (to fingerprint them) and the store; starts nothing.

    Raises the errors of missing inputs (ModelError, CorpusError, ArtifactNotFound).
    """
    planned: dict[str, PlannedStage] = {}
    for name, stage in run.stages.items():
        parents = {key: _parent(input_name, planned, kinds, store) for key, kinds, input_name in stage_inputs(stage)}
        config = identity(stage, run.seed)
        key = artifact_key(stage.stage, STAGE_VERSIONS[stage.stage], config, parents)
        planned[name] = PlannedStage(name, stage, key, parents, _state(store, stage.stage, key), config)
    return list(planned.values())


def execute(
    loaded: Loaded,
    store: Store,
    planned: list[PlannedStage],
    watch: "Watch",
) -> dict[str, Artifact]:
    """Computes what is not done, in order, with Ray connected; the artifacts by stage name.

    Raises LeaseHeld where another run writes one of the stages, Stopped where it was asked to stop, EvaluationError where a
    corpus turns out to hold less out than later stages measure on.
    """
    artifacts: dict[str, Artifact] = {}
    for plan in planned:
        _stop_if_asked(watch, plan)
        done = find_artifact(store, plan.stage.stage, plan.key)
        if done is None:
            done = _compute(loaded.run, plan, _inputs(plan, store), store, watch)
        else:
            watch.reused(plan)
        artifacts[plan.name] = done
        watch.artifact(plan, done)
        if isinstance(plan.stage, CorpusStage):
            check_documents(loaded.run, {each.name: each.stage for each in planned}, plan.name, done.record["counts"])
    return artifacts


@dataclass(frozen=True)
class Watch:
    """What the driver shows and listens to while stages work."""

    started: Callable[[PlannedStage], None]
    progress: Callable[[str, int, int], None]
    metrics: Callable[[dict[str, float]], None]
    say: Callable[[str], None]
    finished: Callable[[PlannedStage, Outcome, float], None]
    reused: Callable[[PlannedStage], None]
    artifact: Callable[[PlannedStage, Artifact], None]
    stop_asked: Callable[[], bool]


def _compute(run: Run, plan: PlannedStage, inputs: dict[str, Artifact], store: Store, watch: Watch) -> Artifact:
    kind = plan.stage.stage
    with attempt(store, kind, plan.key) as own:
        # Somebody may have finished it between our look and our lease.
        done = find_artifact(store, kind, plan.key)
        if done is not None:
            watch.reused(plan)
            return done
        watch.started(plan)
        began = time.time()

        def progress(label: str, finished: int, total: int) -> None:
            watch.progress(label, finished, total)
            if not isinstance(
                plan.stage, TrainStage | PpoStage
            ):  # a training stage stops at a step boundary, with a checkpoint
                _stop_if_asked(watch, plan)

        context = StageContext(run, plan.name, inputs, own, store, progress, watch.metrics, watch.say, watch.stop_asked)
        _require_unchanged(run, plan)
        outcome = run_stage(plan.stage, context)
        _require_unchanged(run, plan)
        own.commit({**_record(run, plan, outcome, began), **_allowed(outcome, inputs)})
        watch.finished(plan, outcome, time.time() - began)
    artifact = find_artifact(store, kind, plan.key)
    assert artifact is not None, plan.key
    _remove_scratch(artifact)
    return artifact


def _require_unchanged(run: Run, plan: PlannedStage) -> None:
    """Raises InputsChanged where inputs from outside are not those the key was made of: the record would name others."""
    if not isinstance(plan.stage, ModelStage | CorpusStage):
        return
    now = identity(plan.stage, run.seed)
    if now != plan.config:
        before = {uri: rest for uri, *rest in plan.config.get("inputs", [])}
        after = {uri: rest for uri, *rest in now.get("inputs", [])}
        files = sorted(uri for uri in {**before, **after} if before.get(uri) != after.get(uri))
        shown = ", ".join(files[:3]) or ", ".join(sorted(key for key in now if now[key] != plan.config.get(key)))
        raise InputsChanged(
            f"stages.{plan.name}: {shown} changed while the run was working, so its result belongs to neither state and was "
            "not kept. Run again when nobody writes there any more; what else is done stays done."
        )


def _stop_if_asked(watch: Watch, plan: PlannedStage) -> None:
    if watch.stop_asked():
        raise Stopped(f"stopped at {plan.name}; the same command goes on from there")


def _record(run: Run, plan: PlannedStage, outcome: Outcome, began: float) -> dict[str, Any]:
    return {
        "name": plan.name,
        "run": run.name,
        "stage_version": STAGE_VERSIONS[plan.stage.stage],
        "config": plan.config,
        "settings": plan.stage.model_dump(mode="json"),
        "parents": plan.parents,
        "seed": run.seed,
        "versions": versions(),
        "started_at": began,
        "metrics": outcome.metrics,
        "counts": outcome.counts,
        "licences": outcome.licences,
    }


def _allowed(outcome: Outcome, inputs: dict[str, Artifact]) -> dict[str, list[str]]:
    """What may be done with the result, once that was decided of what it is made of. What is only measured on does not count."""
    from jobs.corpus.gate import allowed_of

    if outcome.allowed is not None:
        return {"allowed": outcome.allowed}
    records = [artifact.record for key, artifact in inputs.items() if not key.startswith("heldout.")]
    return {"allowed": [*allowed_of(records)]} if any("allowed" in record for record in records) else {}


def _remove_scratch(artifact: Artifact) -> None:
    """Checkpoints and earlier attempts: nothing needs them once the record stands."""
    directory = artifact_directory(artifact.store, artifact.kind, artifact.key)
    kept = artifact.record["content"].rsplit("/", 1)[-1]
    for name in directory.names("attempts"):
        directory.remove(*(("attempts", name) if name != kept else ("attempts", name, "checkpoints")))


def _parent(name: str, planned: dict[str, PlannedStage], kinds: tuple[str, ...], store: Store) -> str:
    if name.startswith(ARTIFACT_PREFIX):
        artifact = find_named(store, name.removeprefix(ARTIFACT_PREFIX), kinds)
        return f"{artifact.kind}-{artifact.key}"
    return f"{planned[name].stage.stage}-{planned[name].key}"


def _inputs(plan: PlannedStage, store: Store) -> dict[str, Artifact]:
    found: dict[str, Artifact] = {}
    for key, directory in plan.parents.items():
        kind, _, parent_key = directory.rpartition("-")
        artifact = find_artifact(store, kind, parent_key)
        assert artifact is not None, directory
        found[key] = artifact
    return found


def _state(store: Store, kind: str, key: str) -> State:
    if find_artifact(store, kind, key) is not None:
        return State.DONE
    return State.RESUME if artifact_directory(store, kind, key).names("attempts") else State.NEW
