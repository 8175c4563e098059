"""The training loop: the same code under every host (a Ray Train worker, a plain actor, a multiprocessing rank).

    load ─► references ─► restore ─► for each step: read ─► loss ─► forward_backward ─► step (one all-reduce) ─► held-out
                                                    ─► report ─► checkpoint if due ─► export

What a host provides: an initialised process group, and `Host`, which carries numbers and sentences out and a wish to stop
in. This module imports no ray.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import psutil
import torch.distributed as dist

from cluster import kill_points
from cluster.storage import Store
from configs.schema.training import TrainStage
from jobs.train import heldout
from jobs.train.bad_batch import save_bad_batch
from jobs.train.checkpoint import CheckpointWriter, find_checkpoints, restore
from jobs.train.fsdp import build_mesh, set_threads
from jobs.train.learner import Learner, LearnerSpec, NonFiniteLoss
from jobs.train.objectives import learns_best_prompt, objective_of
from jobs.train.optimizer import learning_rate
from jobs.train.plan import rows_per_step
from jobs.train.reader import RowReader
from jobs.train.readings import Readings
from jobs.train.reference import check_references, compute_references, find_references, steps_until_all_rows
from jobs.train.reward_scale import measure_scale, write_scale
from jobs.train.step import StepMetrics


@dataclass(frozen=True)
class TrainJob:
    """All that a rank needs to know; picklable.

    `artifact` is the directory all attempts share, `output` the place of this attempt's content below it.
    """

    name: str
    stage: TrainStage
    seed: int
    model: Store
    shards: Store
    context: int
    """Tokens of a packed row, from the shards' manifest."""
    total_steps: int
    artifact: Store
    attempt: int
    output: Store
    reference: Store | None = None
    """The reference's model directory where it is not the model that is trained."""
    general: Store | None = None
    """Shards of general text, for the forgetting budget."""
    adapter: Store | None = None
    """Finished adapters on `model` that are gone on with (`lora.start: continue`)."""
    trust_remote_code: bool = False
    """Of the model and the reference."""


class Ending(Enum):
    """How a training loop ended."""

    FINISHED = "finished"
    """All steps are done and the model is exported."""
    STOPPED = "stopped"
    """Somebody asked to stop; the state is in a checkpoint and the same command goes on from there."""


def _nobody_asks(metrics: dict[str, float]) -> bool:
    del metrics
    return False


def _nobody_listens(*words: object) -> None:
    del words


@dataclass(frozen=True)
class Host:
    """What a rank says to where it runs, and what it hears. Nothing here may block. The default is a host nobody looks at."""

    report: Callable[[dict[str, float]], bool] = _nobody_asks
    """Takes the metrics of a step or an evaluation, returns whether somebody asked to stop. Called on rank 0 only."""
    say: Callable[[str], None] = _nobody_listens
    """Takes a sentence for people. Called on rank 0 only."""
    at: Callable[[int, str], None] = _nobody_listens
    """Hears that this rank begins a phase (liveness.PHASES) of a step (from 1)."""


@dataclass
class _Run:
    """What a rank holds while it trains."""

    job: TrainJob
    learner: Learner
    reader: RowReader
    sets: list[heldout.HeldoutSet]
    checkpoints: CheckpointWriter
    host: Host
    history: list[dict[str, float]]
    readings: Readings
    saved_at: float = field(default_factory=time.monotonic)
    stop_wanted: bool = False
    save_wait_s: float = 0.0
    """How long the last checkpoint has kept the ranks from going on."""

    @property
    def keep_best(self) -> bool:
        evaluation = self.job.stage.heldout
        return evaluation is not None and evaluation.export == "best"


def run_training(job: TrainJob, host: Host) -> Ending:
    """Trains to the end, or until it is asked to stop. All ranks call it together."""
    run = _prepare(job, host)
    ending = Ending.FINISHED
    for step in _steps_left(run):
        done = _train_step(run, step)
        last = step + 1 == job.total_steps
        reason = _measure(run, step, last)
        regular = (step + 1) % job.stage.checkpoints.every_steps == 0
        if done.stop or done.checkpoint or regular or last or reason or _is_best(run):
            best = heldout.best_step(run.history) if run.keep_best else None
            host.at(step + 1, "saving")
            began = time.monotonic()
            run.checkpoints.save(run.learner, step + 1, run.history, best)
            run.saved_at = time.monotonic()
            run.save_wait_s = run.saved_at - began
        if reason is not None:
            break
        if done.stop and not last:
            ending = Ending.STOPPED
            break
    run.reader.close()
    run.checkpoints.close()
    host.at(job.total_steps, "exporting")
    if ending is Ending.FINISHED:
        _export(run)
    return ending


def _steps_left(run: _Run) -> range:
    """None where an attempt before this one has stopped early and was lost before its export."""
    evaluation, start = run.job.stage.heldout, int(run.history[-1]["step"]) if run.history else 0
    ended = evaluation is not None and heldout.reason_to_stop(evaluation, run.history) is not None
    return range(start, start if ended else run.job.total_steps)


def _prepare(job: TrainJob, host: Host) -> _Run:
    """A loaded learner with everything beside it, at the step where it goes on."""
    stage, rank, world_size = job.stage, dist.get_rank(), dist.get_world_size()
    set_threads(stage.resources.threads_per_rank)
    objective = objective_of(stage)
    count = rows_per_step(stage, job.context)
    reader = RowReader(
        job.shards, "train", job.seed, count, rank, world_size, stage.micro_batch_tokens, learns_best_prompt(stage)
    )
    sets = heldout.open_sets(stage, job.shards, job.general)
    learner = _load(job, job.model, trained=True)
    if objective.needs_reference:
        _add_references(job, learner, reader, sets, count)
    checkpoints = CheckpointWriter(job.artifact, job.attempt, stage.checkpoints.keep)
    history = _resume(learner, job)
    run = _Run(job, learner, reader, sets, checkpoints, host, history, Readings(stage, host.say, history))
    if not history:
        if objective.needs_reference and job.reference is None:
            check_references(learner, reader.read(0))
        if sets and job.total_steps:
            history.append({"step": 0, **heldout.measure(learner, sets)})
            _tell(run, history[-1])
    return run


def _load(job: TrainJob, model: Store, trained: bool) -> Learner:
    stage = job.stage
    spec = LearnerSpec(
        model, stage.precision, stage.optimizer if trained else None, stage.activation_checkpointing,
        trust_remote_code=job.trust_remote_code, head=objective_of(stage).head, seed=job.seed,
        lora=stage.lora if trained else None, adapter=job.adapter if trained else None,
        cpu_offload=stage.cpu_offload, kernels=stage.kernels, compile=stage.compile,
    )  # fmt: skip
    learner = Learner(spec, build_mesh(dist.get_world_size(), stage.resources.replicas))
    learner.load()
    return learner


def _add_references(
    job: TrainJob, learner: Learner, reader: RowReader, sets: list[heldout.HeldoutSet], count: int
) -> None:
    """The reference model is in memory only here; where the trained model is its own reference, that one is used."""
    reader.references = find_references(job.artifact)
    if reader.references is not None and not sets:
        return
    reference = learner if job.reference is None else _load(job, job.reference, trained=False)
    if reader.references is None:
        steps = steps_until_all_rows(job.total_steps, reader.row_count, count)
        reader.references = compute_references(reference, reader, steps, job.output)
    heldout.add_references(sets, reference, job.output)


def _train_step(run: _Run, step: int) -> StepMetrics:
    job, learner = run.job, run.learner
    began = time.perf_counter()
    run.host.at(step + 1, "reading")
    batch = run.reader.batch(step)
    data_wait_s = time.perf_counter() - began
    run.host.at(step + 1, "computing")
    loss_function = objective_of(job.stage).loss_of_step(learner, batch)
    learner.draw_dropout(job.seed, step)
    sums = learner.forward_backward(batch.micro_batches, loss_function)
    rate = learning_rate(step, job.total_steps, job.stage.optimizer)
    every_minutes = job.stage.checkpoints.every_minutes
    save = every_minutes is not None and time.monotonic() - run.saved_at >= 60 * every_minutes
    run.host.at(step + 1, "updating")
    try:
        done = learner.step(rate, sums, stop=run.stop_wanted, checkpoint=save)
    except NonFiniteLoss as error:
        raise NonFiniteLoss(
            f"step {step + 1}: {error} {save_bad_batch(job.artifact, job.attempt, step, batch)}"
        ) from error
    kill_points.reach("after_optimizer_step_before_checkpoint")
    elapsed_s = time.perf_counter() - began
    run.history.append({
        "step": step + 1, "loss": done.loss, "learning_rate": rate, "grad_norm": done.gradient_norm, "tokens": batch.tokens,
        **done.metrics,
    })  # fmt: skip
    peak = max(done.peak_rss_bytes)
    seen = {
        "tokens_per_s": batch.tokens / elapsed_s,
        "rss_gib": psutil.Process().memory_info().rss / 2**30,
        "peak_rss_gib": peak / 2**30,  # of all ranks the highest, and whose it is: the one that runs out first
        "peak_rss_rank": done.peak_rss_bytes.index(peak),
        "idle_share": batch.idle_share,
        "step_s": elapsed_s, "data_wait_s": data_wait_s, "save_wait_s": run.save_wait_s,  # the save before this step
    }  # fmt: skip
    run.save_wait_s = 0.0
    _tell(run, {**run.history[-1], **seen})
    return done


def _tell(run: _Run, metrics: dict[str, float]) -> None:
    if dist.get_rank() == 0:
        run.stop_wanted = run.host.report(metrics) or run.stop_wanted
        run.readings.add(metrics)


def _measure(run: _Run, step: int, last: bool) -> str | None:
    """Held-out metrics where they are due; why the run should end now, if it should. The same on every rank."""
    evaluation = run.job.stage.heldout
    if evaluation is None or not (last or (step + 1) % evaluation.every_steps == 0):
        return None
    run.host.at(step + 1, "measuring")
    measured = heldout.measure(run.learner, run.sets)
    run.history[-1] |= measured
    _tell(run, {"step": step + 1, **measured})
    reason = heldout.reason_to_stop(evaluation, run.history)
    if reason is not None and dist.get_rank() == 0:
        run.host.say(f"stopping after step {step + 1}: {reason}")
    return reason


def _is_best(run: _Run) -> bool:
    """Whether the state has just been measured, is the best so far, and may be what is exported."""
    return run.keep_best and heldout.best_step(run.history) == run.history[-1]["step"]


def _export(run: _Run) -> None:
    job = run.job
    wanted = heldout.best_step(run.history) if run.keep_best else None
    if wanted == 0:
        run.learner.begin_again()  # measured before the first step, and never saved
    elif wanted is not None and wanted != run.history[-1]["step"]:
        restore(run.learner, next(kept for kept in find_checkpoints(job.artifact) if kept.step == wanted))
    run.learner.export(job.output.below("model"))
    if job.stage.lora is not None:
        run.learner.export_adapters(job.output.below("adapter"))
    if objective_of(job.stage).head == "scores":
        scale = measure_scale(run.learner, job.stage, job.shards)
        if dist.get_rank() == 0:
            for place in ("model",) if job.stage.lora is None else ("model", "adapter"):
                write_scale(scale, job.output.below(place))
    if dist.get_rank() == 0:
        job.output.write_json("history.json", run.history)


def _resume(learner: Learner, job: TrainJob) -> list[dict[str, float]]:
    """Loads the newest checkpoint of any attempt; the metrics so far."""
    newest = find_checkpoints(job.artifact)[-1:]
    # Rank 0 decides, so that no two ranks resume from different checkpoints while an old writer still prunes.
    chosen = [newest[0] if newest else None]
    dist.broadcast_object_list(chosen, src=0)
    if chosen[0] is None:
        return []
    restore(learner, chosen[0])
    return chosen[0].history()
