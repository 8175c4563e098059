"""A whole run of PPO as it is shipped, one step a turn: driver, Ray, five roles, weights to the sampler.

Turns.wait -> the driver goes on: sample, judge, update, sync -> Listener.metrics -> Turns.report (wall clock, metrics)
"""

import os
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.ppo_bare import newest_rollouts
from tests.benchmarks.ppo_work import SEED, Shape, stage_of, write_prompts
from tests.benchmarks.side_by_side import Turns


def serve(shape: Shape, model: str, threads: int, scratch: Path, turns: Turns, **changes: Any) -> None:
    """Every step waits for its turn; between turns no role has anything to do.

    Args:
        scratch: where shards, samples and checkpoints are written; other contenders read the samples.
        changes: of the stage.
    """
    from cluster.session import connect
    from configs.schema.run import Cluster
    from jobs.ppo.driver import Listener, run_ppo

    # Ray lets its workers give way to all else (15); no other contender does.
    os.environ.update(RAY_worker_niceness="0")
    job = job_of(shape, model, threads, scratch, **changes)
    began = time.perf_counter()

    def on_metrics(metrics: dict[str, float]) -> None:
        nonlocal began
        seconds = time.perf_counter() - began
        asked = sum(len(rollout.prompt_ids) for rollout in newest_rollouts(scratch))
        turns.report(seconds, prompt_tokens=asked, **metrics)
        _wait(turns)
        began = time.perf_counter()

    _wait(turns)
    began = time.perf_counter()
    with connect(Cluster(logical_cpus=8)):
        run_ppo(job, Listener(on_metrics, print, lambda: False))


def job_of(shape: Shape, model: str, threads: int, scratch: Path, **changes: Any) -> Any:
    """A job whose four models are the same one: reward and critic get new heads."""
    from cluster.lease import acquire
    from cluster.storage import open_store
    from jobs.corpus.segments import load_tokenizer, read_tokenizer_files
    from jobs.corpus.template import end_token_ids
    from jobs.ppo.job import PpoJob

    write_prompts(shape, model, scratch / "shards")
    weights, artifact = open_store(model), open_store(str(scratch / "ppo"))
    lease = acquire(artifact)
    ends = end_token_ids(weights, load_tokenizer(read_tokenizer_files(weights, False)))
    stage = stage_of(shape, threads, **changes)
    return PpoJob(
        "benchmark", stage, SEED, weights, weights, weights, {0: weights}, None, open_store(str(scratch / "shards")),
        tuple(sorted(ends)) if shape.ends else (), shape.context, stage.steps, artifact, lease.attempt,
        artifact.below(f"attempts/{lease.attempt}"),
    )  # fmt: skip


def _wait(turns: Turns) -> None:
    if not turns.wait():
        raise SystemExit
