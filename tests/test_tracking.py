"""Curves arrive in the files of other people's tools, without a network."""

import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cluster.storage import Store
from configs.errors import UserError
from jobs.tracking import open_tracker, require_tracker, tracking
from tests.world.free_port import free_port

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


def test_a_tracker_that_cannot_write_is_left_out_after_one_warning(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where TensorBoard needs a directory")
    warnings: list[str] = []
    with tracking("tensorboard", Store(str(tmp_path)), "run-4", {}, warnings.append) as track:
        for metrics in STEPS:
            track("cpt", metrics)
    assert len(warnings) == 1 and "tensorboard failed" in warnings[0] and "left out" in warnings[0]


def test_a_tracker_that_fails_in_the_middle_is_left_out_and_what_the_run_raises_stays(tmp_path: Path) -> None:
    warnings: list[str] = []
    with (
        pytest.raises(ZeroDivisionError),
        tracking("tensorboard", Store(str(tmp_path)), "run-5", {}, warnings.append) as track,
    ):
        track("cpt", STEPS[0])
        track("cpt", {"loss": 2.0})
        track("cpt", {"loss": 3.0})
        raise ZeroDivisionError
    assert len(warnings) == 1 and "KeyError" in warnings[0]


@pytest.mark.cluster
def test_wandb_without_its_server_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("jobs.tracking.WANDB_START_S", 3.0)
    warnings: list[str] = []
    began = time.monotonic()
    with tracking("wandb", Store(str(tmp_path)), "run-6", {}, warnings.append) as track:
        for metrics in STEPS:
            track("cpt", metrics)
    assert len(warnings) == 1 and "wandb failed" in warnings[0]
    assert time.monotonic() - began < 60


def test_a_tracker_that_is_not_installed_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.tracking.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        require_tracker("wandb")
    require_tracker("tensorboard")
