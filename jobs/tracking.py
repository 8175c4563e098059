"""Curves for people's own tools: TensorBoard files (default, offline) or Weights & Biases.

    metrics of a step (driver) ─► Tracker ─► runs/<run id>/tensorboard/   or   W&B (WANDB_MODE=offline works without network)

The run's events are the record (cluster/runs.py); this is a second copy in the format of other programs.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any, Protocol

from cluster.storage import Store
from configs.errors import UserError


class Tracker(Protocol):
    """Takes the metrics of each step, and of evaluations between steps."""

    def log(self, stage: str, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def open_tracker(kind: str, store: Store, run_id: str, config: dict[str, Any]) -> Tracker | None:
    """The tracker a config asks for; None for `none`. Raises UserError where its package is missing."""
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
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "tracking: wandb is not installed; `pip install wandb` or set tracking: tensorboard"
            ) from error
        self._teardown = wandb.teardown
        self._run = wandb.init(project="acclimate", name=run_id, id=run_id, config=config)

    def log(self, stage: str, metrics: dict[str, float]) -> None:
        self._run.log({f"{stage}/{name}": value for name, value in metrics.items()})

    def close(self) -> None:
        self._run.finish()
        self._teardown()  # its service process would outlive the run
