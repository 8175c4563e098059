"""Curves arrive in the files of other people's tools, without a network."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.storage import Store
from jobs.tracking import open_tracker

STEPS = [
    {"step": 0, "heldout/loss": 2.0},
    *({"step": step, "loss": float(step), "grad_norm": 1.0} for step in (1, 2, 3)),
]
"""An evaluation before the first step has no training loss."""


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    tracker = open_tracker("tensorboard", Store(str(tmp_path)), "run-1", {})
    assert tracker is not None
    for metrics in STEPS:
        tracker.log("cpt", metrics)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "runs/run-1/tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("cpt/loss")] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert [(event.step, event.value) for event in events.Scalars("cpt/heldout/loss")] == [(0, 2.0)]


@pytest.mark.cluster
def test_wandb_writes_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    tracker = open_tracker("wandb", Store(str(tmp_path)), "run-2", {"seed": 3})
    assert tracker is not None
    for metrics in STEPS:
        tracker.log("cpt", metrics)
    tracker.close()
    runs = list(tmp_path.glob("wandb/offline-run-*run-2/*.wandb"))
    assert len(runs) == 1 and runs[0].stat().st_size > 0


def test_none_tracks_nothing(tmp_path: Path) -> None:
    assert open_tracker("none", Store(str(tmp_path)), "run-3", {}) is None
