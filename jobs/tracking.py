"""Curves for people's own tools: TensorBoard files (default, offline) or Weights & Biases.

    metrics of a step (driver) ─► Track ─► runs/<run id>/tensorboard/   or   W&B (WANDB_MODE=offline works without network)

The run's events are the record (cluster/runs.py); this is a second copy in the format of other programs. What fails in those
programs ends the copy, with a warning, and never the run.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from cluster.storage import Store
from configs.errors import UserError

WANDB_START_S = 30.0
"""How long W&B's server is waited for before the run goes on without it; 90 by default."""

Track = Callable[[str, dict[str, float]], None]
"""track(stage, metrics of a step)"""


class Tracker(Protocol):
    """Takes the metrics of each step, and of evaluations between steps."""

    def log(self, stage: str, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def require_tracker(kind: str) -> None:
    """Raises UserError where the package of the tracker a config asks for is missing."""
    if kind == "wandb" and find_spec("wandb") is None:
        raise UserError("tracking: wandb is not installed; `pip install wandb` or set tracking: tensorboard")


@contextmanager
def tracking(
    kind: str, store: Store, run_id: str, config: dict[str, Any], warn: Callable[[str], None]
) -> Iterator[Track]:
    """The tracker a config asks for, which takes metrics for the time of the block and then writes what it still has.

    Its first failure is told to `warn`; from then on metrics are not tracked.
    """
    tracker: Tracker | None = None

    def attempt(what: Callable[[], None]) -> None:
        nonlocal tracker
        try:
            what()
        except Exception as error:  # noqa: BLE001 - other people's programs raise anything, from the network to the disk
            tracker = None
            warn(f"tracking: {kind} failed and is left out from here on: {type(error).__name__}: {error}")

    def start() -> None:
        nonlocal tracker
        tracker = open_tracker(kind, store, run_id, config)

    def track(stage: str, metrics: dict[str, float]) -> None:
        working = tracker
        if working is not None:
            attempt(lambda: working.log(stage, metrics))

    attempt(start)
    try:
        yield track
    finally:
        if tracker is not None:
            attempt(tracker.close)


def open_tracker(kind: str, store: Store, run_id: str, config: dict[str, Any]) -> Tracker | None:
    """The tracker a config asks for; None for `none`."""
    if kind == "tensorboard":
        return TensorBoard(store, run_id)
    return WeightsAndBiases(run_id, config) if kind == "wandb" else None


class TensorBoard:
    """Event files below the run; written to a local directory first, since they are appended to."""

    def __init__(self, store: Store, run_id: str) -> None:
        from tensorboardX import SummaryWriter

        self._store, self._place = store, f"runs/{run_id}/tensorboard"
        self._directory = (
            Path(tempfile.mkdtemp(prefix="acclimate-tensorboard-")) if store.is_s3 else Path(store.path(self._place))
        )
        self._writer = SummaryWriter(str(self._directory), flush_secs=2)

    def log(self, stage: str, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            if name != "step":
                self._writer.add_scalar(f"{stage}/{name}", value, int(metrics["step"]))

    def close(self) -> None:
        self._writer.close()
        if self._store.is_s3:
            for file in self._directory.iterdir():
                self._store.put(file, f"{self._place}/{file.name}")
            shutil.rmtree(self._directory)


class WeightsAndBiases:
    """A run of Weights & Biases; the key comes from its own environment variable, never from a config."""

    def __init__(self, run_id: str, config: dict[str, Any]) -> None:
        import wandb

        self._teardown = wandb.teardown
        settings = wandb.Settings(init_timeout=WANDB_START_S, login_timeout=WANDB_START_S)
        try:
            self._run = wandb.init(project="acclimate", name=run_id, id=run_id, config=config, settings=settings)
        except BaseException:
            wandb.teardown()  # its service process is there already
            raise

    def log(self, stage: str, metrics: dict[str, float]) -> None:
        self._run.log({f"{stage}/{name}": value for name, value in metrics.items()})

    def close(self) -> None:
        self._run.finish()
        self._teardown()  # its service process would outlive the run
