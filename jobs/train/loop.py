"""The training loop: the same code under every host (a Ray Train worker, a plain actor, a multiprocessing rank).

    restore ─► for each step: read ─► forward_backward ─► step (one all-reduce) ─► report ─► checkpoint if due ─► export

What a host provides: an initialised process group, and `Reporter`, which carries numbers out and a wish to stop in. This
module imports no ray.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import psutil
import torch.distributed as dist

from cluster import kill_points
from cluster.storage import Store
from configs.schema.training import TrainStage
from jobs.train.checkpoint import CheckpointWriter, find_checkpoints, restore
from jobs.train.fsdp import build_mesh, set_threads
from jobs.train.learner import Learner, LearnerSpec
from jobs.train.optimizer import learning_rate
from jobs.train.plan import rows_per_step
from jobs.train.reader import RowReader


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


class Ending(Enum):
    """How a training loop ended."""

    FINISHED = "finished"
    """All steps are done and the model is exported."""
    STOPPED = "stopped"
    """Somebody asked to stop; the state is in a checkpoint and the same command goes on from there."""


Reporter = Callable[[dict[str, float]], bool]
"""Takes the metrics of a step, returns whether somebody asked to stop. Called on rank 0 only; must not block."""


def run_training(job: TrainJob, report: Reporter) -> Ending:
    """Trains to the end, or until it is asked to stop. All ranks call it together."""
    stage, rank, world_size = job.stage, dist.get_rank(), dist.get_world_size()
    set_threads(stage.resources.threads_per_rank)
    spec = LearnerSpec(job.model, stage.precision, stage.optimizer, stage.activation_checkpointing)
    learner = Learner(spec, build_mesh(world_size))
    learner.load()
    start, history = _resume(learner, job)
    count = rows_per_step(stage, job.context)
    reader = RowReader(job.shards, "train", job.seed, count, rank, world_size, stage.micro_batch_tokens)
    checkpoints = CheckpointWriter(job.artifact, job.attempt, stage.checkpoints.keep)
    stop_wanted = False

    for step in range(start, job.total_steps):
        began = time.perf_counter()
        batch = reader.batch(step)
        sums = learner.forward_backward(batch.micro_batches, batch.denominator)
        rate = learning_rate(step, job.total_steps, stage.optimizer)
        done = learner.step(rate, sums, stop=stop_wanted)
        kill_points.reach("after_optimizer_step_before_checkpoint")
        elapsed_s = time.perf_counter() - began
        history.append({
            "step": step + 1, "loss": done.loss, "learning_rate": rate, "grad_norm": done.gradient_norm, "tokens": batch.tokens,
        })  # fmt: skip
        if rank == 0:
            speed = {"tokens_per_s": batch.tokens / elapsed_s, "rss_gib": psutil.Process().memory_info().rss / 2**30}
            stop_wanted = report({**history[-1], **speed})
        last = step + 1 == job.total_steps
        if done.stop or (step + 1) % stage.checkpoints.every_steps == 0 or last:
            checkpoints.save(learner, step + 1, history)
        if done.stop and not last:
            checkpoints.close()
            reader.close()
            return Ending.STOPPED

    reader.close()
    checkpoints.close()
    learner.export(job.output.below("model"))
    if rank == 0:
        job.output.write_json("history.json", history)
    return Ending.FINISHED


def _resume(learner: Learner, job: TrainJob) -> tuple[int, list[dict[str, float]]]:
    """Loads the newest checkpoint of any attempt; (steps done, metrics so far)."""
    newest = find_checkpoints(job.artifact)[-1:]
    # Rank 0 decides, so that no two ranks resume from different checkpoints while an old writer still prunes.
    chosen = [newest[0] if newest else None]
    dist.broadcast_object_list(chosen, src=0)
    if chosen[0] is None:
        return 0, []
    restore(learner, chosen[0])
    return chosen[0].step, chosen[0].history()
