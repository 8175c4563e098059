"""Ray Train as the host of the training loop: gang start, restart after a loss, resize.

    driver ─ TorchTrainer ─► rank 0..n-1: run_training(job)
       └──── Hub (actor on the driver's node) ◄── metrics of rank 0, beats of all; ──► "stop" on the way back

Ray only starts and restarts the group: our checkpoint records are the single truth (jobs/train/checkpoint.py), and nothing
is reported to Ray.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from configs.errors import RunFailed, UserError, with_exit_code
from jobs.train.hub import Hub
from jobs.train.liveness import Beat, Heart, slow_ranks
from jobs.train.loop import Ending, Host, TrainJob, run_training

POLL_S = 0.5
"""How often the driver empties the hub; what people see is at most this old."""
RENDEZVOUS_TIMEOUT_S = 1800
"""gloo and nccl: the longest wait for the other ranks; loading a large model from a slow store takes minutes."""
PLACED_WITHIN_S = "15"
"""How long Ray Train waits for room for the ranks before it counts again how many there are: with fewer than before, those of
a lost node are asked for once in vain, because Ray's count is up to 20 s old. Its own 60 s would be lost each time."""

OUT_OF_MEMORY = "running low on memory"
"""How Ray's memory monitor says that it has ended a task or an actor."""

RAY_TRAIN_NOTES = str(Path(tempfile.gettempdir()) / f"acclimate-ray-train-{os.getuid()}")
"""Where Ray Train writes what it remembers of a group. Each node has its own: workers look there only to keep a checkpoint
of Ray's, and we make none."""


class TrainingFailed(RunFailed):
    """The worker group was lost more often than `checkpoints.max_failures`, or a rank met a bug."""


class HubReporter:
    """Sends metrics to a Hub without waiting and reads the answer to the previous report."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._asked: list[ray.ObjectRef] = []
        self._stop = False

    def __call__(self, metrics: dict[str, float]) -> bool:
        self._asked.append(self._hub.report.remote(metrics))
        ready, self._asked = ray.wait(self._asked, num_returns=len(self._asked), timeout=0)
        self._stop = self._stop or any(ray.get(ready))
        return self._stop


@dataclass(frozen=True)
class Listener:
    """What the driver does with what it hears, and how it asks for a stop."""

    metrics: Callable[[dict[str, float]], None]
    """Called with the metrics of each step, in order."""
    say: Callable[[str], None]
    """Called with what rank 0 says in words, with a new group of ranks, and with the slow rank where a step does not end."""
    stop_asked: Callable[[], bool]
    """Polled; True ends the run at the next step boundary with a checkpoint."""


@dataclass(frozen=True)
class _RankConfig:
    job: TrainJob
    hub: Any


class _Trainer(TorchTrainer):
    """Without what Ray Train does beside starting ranks."""

    def _register_sigint_handler(self, controller: Any) -> None:
        """Ray's Ctrl-C handler aborts the ranks; the driver's asks them for a checkpoint first, so it has to stay."""
        del controller

    def _create_default_callbacks(self) -> list[Any]:
        """Two actors fewer. We read our own shards; and Ray's cleaner asks whichever Ray started last on its host whether our
        controller lives, and ends the ranks when that one has never heard of it. It is for controllers that die before their
        driver; with ours, all that they reserved goes.
        """
        unwanted = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, unwanted)]


def _rank(config: dict[str, _RankConfig]) -> None:
    """What runs on every Ray Train worker."""
    hub = config["rank"].hub
    fatal = ray.get(hub.fatal.remote())
    if fatal is not None:
        raise TrainingFailed(fatal[0])
    context = ray.train.get_context()
    rank = context.get_world_rank()
    if rank == 0:
        ray.get(hub.begin.remote(context.get_world_size()))

    def beat(beat: Beat) -> None:
        hub.beat.remote(beat)

    def say(sentence: str) -> None:
        hub.say.remote(sentence)

    heart = Heart(rank, beat)
    try:
        ending = run_training(config["rank"].job, Host(HubReporter(hub), say, heart.at))
    except UserError as error:
        # It has to be raised, so that the other ranks are not waited for; the restarts that follow end at once above.
        ray.get(hub.fail.remote(str(error), error.exit_code))
        raise
    finally:
        heart.stop()
    # Ray Train keeps what is reported only beside a checkpoint of its own, which we do not use.
    if rank == 0:
        ray.get(hub.end.remote(ending.value))


def train_on_ray(job: TrainJob, listener: Listener) -> Ending:
    """Runs a training job on the connected Ray. Raises TrainingFailed, and UserErrors with the exit code a rank gave them."""
    # Beside the driver: a hub on another host would be lost with that host.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    hub = Hub.options(scheduling_strategy=here).remote()
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", PLACED_WITHIN_S)
    resources = job.stage.resources
    trainer = _Trainer(
        _rank,
        train_loop_config={"rank": _RankConfig(job, hub)},
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_rank else "gloo", timeout_s=RENDEZVOUS_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=resources.ranks if resources.min_ranks is None else (resources.min_ranks, resources.ranks),
            use_gpu=resources.gpus_per_rank > 0,
            resources_per_worker={"CPU": resources.threads_per_rank, **_gpus(resources.gpus_per_rank)},
            placement_strategy=resources.placement,
        ),
        run_config=RunConfig(
            name=f"{job.name}-{job.attempt}-{int(time.time())}",
            storage_path=RAY_TRAIN_NOTES,
            failure_config=FailureConfig(max_failures=job.stage.checkpoints.max_failures),
        ),
    )
    done = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="hub") as pool:
        pump = pool.submit(_pump, hub, done, listener, resources.hang_after_s)
        try:
            trainer.fit()
        except Exception as error:
            fatal = ray.get(hub.fatal.remote())
            if fatal is not None:
                raise with_exit_code(fatal[1], f"{job.name}: {fatal[0]}") from error
            raise TrainingFailed(f"{job.name}: {_root_cause(error)}") from error
        finally:
            done.set()
    pump.result()
    return Ending(ray.get(hub.ending.remote()))


def _pump(hub: Any, done: threading.Event, listener: Listener, hang_after_s: float) -> None:
    stopping = False
    last_round = False
    heard_at, patience_s = time.monotonic(), hang_after_s
    while not last_round:
        last_round = done.wait(POLL_S)
        for metrics in ray.get(hub.take.remote()):
            listener.metrics(metrics)
            heard_at, patience_s = time.monotonic(), hang_after_s
        for sentence in ray.get(hub.take_sentences.remote()):
            listener.say(sentence)
        silence_s = time.monotonic() - heard_at
        if silence_s > patience_s:
            patience_s *= 2
            listener.say(f"no step has ended for {silence_s:.0f} s: {slow_ranks(ray.get(hub.heard.remote()))}")
        if listener.stop_asked() and not stopping:
            stopping = True
            ray.get(hub.stop.remote())


def _gpus(per_rank: float) -> dict[str, float]:
    return {"GPU": per_rank} if per_rank else {}


def _root_cause(error: BaseException) -> str:
    """The innermost message of Ray's nested errors: the one that says what to mend."""
    if any(OUT_OF_MEMORY in str(inner) for inner in _nested(error)):
        return (
            "a machine ran out of memory, and Ray ended a rank before the system would have. Lower micro_batch_tokens or the "
            "ranks on one machine (resources.ranks, resources.placement: SPREAD), or set activation_checkpointing: true. The "
            "same command then goes on from the last checkpoint"
        )
    *_, innermost = _nested(error)
    lines = [line for line in str(innermost).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(innermost).__name__


def _nested(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised for; of a worker group what its ranks met first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        ranks = list(cause.worker_failures.values()) if isinstance(cause, WorkerGroupError) else []
        cause = cause.__cause__ or next(iter(ranks), None)
