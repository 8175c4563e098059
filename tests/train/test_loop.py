"""The training loop under kills: whatever dies, the next attempt ends with the same bits."""

import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch.distributed as dist

from cluster.lease import LeaseLost
from cluster.storage import Store
from configs.schema.training import Resources
from jobs.train.checkpoint import CheckpointDamaged, find_checkpoints
from jobs.train.loop import Ending, Host, TrainJob, run_training
from jobs.train.reader import ShardError
from tests.train.tiny_models import save_tiny_model
from tests.world.conditions import wait_for
from tests.world.ranks import run_ranks
from tests.world.toy_training import model_digest, toy_job, toy_stage, train_toy

pytestmark = pytest.mark.cluster


def train_until_step_three_and_stop(job: TrainJob) -> None:
    assert run_training(job, Host(report=lambda metrics: metrics["step"] >= 3)) is Ending.STOPPED


def train_and_look_at_the_reports(job: TrainJob) -> None:
    reports: list[dict[str, float]] = []

    def report(metrics: dict[str, float]) -> bool:
        reports.append(metrics)
        return False

    run_training(job, Host(report=report))
    assert len(reports) == (job.total_steps if dist.get_rank() == 0 else 0)
    for metrics in reports:
        assert metrics["tokens_per_s"] > 0 and metrics["peak_rss_rank"] in (0, 1)
        assert 0 <= metrics["data_wait_s"] < metrics["step_s"]
        # After the steps with a checkpoint (every second one) its wait is told.
        assert (metrics["save_wait_s"] > 0) == (metrics["step"] > 1 and metrics["step"] % 2 == 1)
        assert 0.1 < metrics["rss_gib"] <= metrics["peak_rss_gib"] * 1.001 < 4


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[str, list[dict[str, float]]]:
    """Digest of the weights and history of a run that nothing disturbed."""
    job = toy_job(Store(str(tmp_path_factory.mktemp("unbroken"))), tiny_model, toy_stage())
    assert run_ranks(2, train_toy, job) == [0, 0]
    return model_digest(job), job.output.read_json("history.json")


def test_the_loss_falls(unbroken: tuple[str, list[dict[str, float]]]) -> None:
    losses = [entry["loss"] for entry in unbroken[1]]
    assert losses[-1] < losses[0] - 0.3
    assert [entry["step"] for entry in unbroken[1]] == [1, 2, 3, 4, 5, 6]


def test_speed_and_memory_of_every_step_are_reported(tmp_path: Path, tiny_model: Path) -> None:
    job = toy_job(Store(str(tmp_path)), tiny_model, toy_stage())
    assert run_ranks(2, train_and_look_at_the_reports, job) == [0, 0]


@pytest.mark.parametrize(
    "kill_at",
    [
        "after_optimizer_step_before_checkpoint:1",
        "after_optimizer_step_before_checkpoint:4",
        "inside_upload:1",
        "inside_upload:2",
        "during_pruning:1",
        "after_optimizer_step_before_checkpoint:6",
    ],
)
def test_killed_and_resumed_is_bit_equal(
    tmp_path: Path, tiny_model: Path, unbroken: tuple[str, list[dict[str, float]]], kill_at: str
) -> None:
    store = Store(str(tmp_path))
    killed = run_ranks(
        2, train_toy, toy_job(store, tiny_model, toy_stage()), environment={"ACCLIMATE_KILL_AT": kill_at}
    )
    assert -9 in killed
    job = toy_job(store, tiny_model, toy_stage(), attempt=2)
    assert run_ranks(2, train_toy, job) == [0, 0]
    assert (model_digest(job), job.output.read_json("history.json")) == unbroken


def test_a_stop_checkpoints_and_the_next_attempt_goes_on(
    tmp_path: Path, tiny_model: Path, unbroken: tuple[str, list[dict[str, float]]]
) -> None:
    store = Store(str(tmp_path))
    stage = toy_stage(every_steps=100)
    job = toy_job(store, tiny_model, stage)
    assert run_ranks(2, train_until_step_three_and_stop, job) == [0, 0]
    # The wish is heard after step 3 and agreed upon inside step 4.
    assert [checkpoint.step for checkpoint in find_checkpoints(job.artifact)] == [4]
    job = toy_job(store, tiny_model, stage, attempt=2)
    assert run_ranks(2, train_toy, job) == [0, 0]
    assert model_digest(job) == unbroken[0]


def test_other_ranks_go_on_from_the_same_state(
    tmp_path: Path, tiny_model: Path, unbroken: tuple[str, list[dict[str, float]]]
) -> None:
    kill = {"ACCLIMATE_KILL_AT": "after_optimizer_step_before_checkpoint:5"}
    killed = toy_job(Store(str(tmp_path / "killed")), tiny_model, toy_stage())
    assert -9 in run_ranks(2, train_toy, killed, environment=kill)
    saved = find_checkpoints(killed.artifact)[-1].step
    assert saved in (2, 4)  # step 5 does not wait for the save of step 4
    for world_size in (1, 3):
        shutil.copytree(tmp_path / "killed", tmp_path / str(world_size))  # what one of them prunes, the other needs
        job = toy_job(Store(str(tmp_path / str(world_size))), tiny_model, toy_stage(ranks=world_size), attempt=2)
        assert run_ranks(world_size, train_toy, job) == [0] * world_size
        history = job.output.read_json("history.json")
        assert history[:saved] == unbroken[1][:saved]
        for mine, theirs in zip(history, unbroken[1], strict=True):
            assert mine["tokens"] == theirs["tokens"]
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def resume_expecting(job: TrainJob, error: type[Exception], message: str) -> None:
    try:
        run_training(job, Host())
    except error as raised:
        assert re.search(message, str(raised)), raised
        return
    raise AssertionError(f"{error.__name__} expected")


def test_a_writer_that_was_taken_for_dead_stops_before_its_next_commit(tmp_path: Path, tiny_model: Path) -> None:
    store = Store(str(tmp_path))
    old = toy_job(store, tiny_model, toy_stage(), attempt=1)
    toy_job(store, tiny_model, toy_stage(), attempt=2)  # somebody took over
    assert run_ranks(1, resume_expecting, old, LeaseLost, "attempt 1 was taken for dead, attempt 2 writes now") == [0]
    assert find_checkpoints(old.artifact) == []
    assert not old.output.exists("model")


def train_slowly_until_the_lease_is_lost(job: TrainJob) -> None:
    def slowly(metrics: dict[str, float]) -> bool:
        time.sleep(1)  # between steps: this writer is to be overtaken, not to be waited for
        return False

    with pytest.raises(LeaseLost, match="attempt 1 was taken for dead, attempt 2 writes now"):
        run_training(job, Host(report=slowly))


def test_two_writers_at_once_and_the_bits_are_those_of_one(tmp_path: Path, tiny_model: Path) -> None:
    """A lease ran out under a writer that was only slow: it trains and saves while the next attempt goes on from its steps."""
    stage = toy_stage(steps=8, ranks=1, every_steps=1)
    alone = toy_job(Store(str(tmp_path / "alone")), tiny_model, stage)
    assert run_ranks(1, train_toy, alone) == [0]
    store = Store(str(tmp_path / "both"))
    old = toy_job(store, tiny_model, stage)
    with ThreadPoolExecutor(1) as pool:
        overtaken = pool.submit(run_ranks, 1, train_slowly_until_the_lease_is_lost, old)
        wait_for("two steps of the first", lambda: [c for c in find_checkpoints(old.artifact) if c.step >= 2], 120)
        new = toy_job(store, tiny_model, stage, attempt=2)
        assert run_ranks(1, train_toy, new) == [0]
        assert overtaken.result() == [0]
    assert model_digest(new) == model_digest(alone)
    assert not old.output.exists("model")


def test_a_damaged_checkpoint_is_named(tmp_path: Path, tiny_model: Path) -> None:
    store = Store(str(tmp_path))
    job = toy_job(store, tiny_model, toy_stage(every_steps=100))
    assert run_ranks(1, train_until_step_three_and_stop, job) == [0]
    newest = find_checkpoints(job.artifact)[-1]
    name = next(iter(newest.record["ranks"]))
    data = bytearray(newest.directory.read(name))
    data[len(data) // 2] ^= 1
    newest.directory.write(name, bytes(data))
    again = toy_job(store, tiny_model, toy_stage(every_steps=100), attempt=2)
    assert run_ranks(1, resume_expecting, again, CheckpointDamaged, "step-000004/rank-00000.* is damaged") == [0]


def test_a_cut_off_record_and_a_changed_history_are_named(tmp_path: Path, tiny_model: Path) -> None:
    store = Store(str(tmp_path))
    job = toy_job(store, tiny_model, toy_stage(every_steps=100))
    assert run_ranks(1, train_until_step_three_and_stop, job) == [0]
    directory = find_checkpoints(job.artifact)[-1].directory
    again = toy_job(store, tiny_model, toy_stage(every_steps=100), attempt=2)
    for name in ("history.json", "checkpoint.json"):
        whole = directory.read(name)
        for cut in (whole[:40], b""):
            directory.write(name, cut)
            expected = (resume_expecting, again, CheckpointDamaged, f"step-000004/{name} is damaged.*remove ")
            assert run_ranks(1, *expected) == [0]
        directory.write(name, whole)


def test_a_foreign_checkpoint_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    """Copied from another run by hand: that of another artifact, or of another model under the same name."""
    jobs = {
        name: toy_job(Store(str(tmp_path / name)), model, toy_stage(every_steps=100))
        for name, model in (("own", tiny_model), ("other", save_tiny_model(tmp_path / "qwen3", "qwen3")))
    }
    assert run_ranks(1, train_until_step_three_and_stop, jobs["other"]) == [0]
    foreign = find_checkpoints(jobs["other"].artifact)[-1].directory
    copied = jobs["own"].artifact.below("attempts", "000001", "checkpoints", "step-000004")
    for info in foreign.files():
        copied.write(info.name, foreign.read(info.name))
    message = "step-000004 is of another model: it has .* this one"
    assert run_ranks(1, resume_expecting, jobs["own"], CheckpointDamaged, message) == [0]
    record = copied.read_json("checkpoint.json")
    copied.write_json("checkpoint.json", {**record, "artifact": "cpt-0123456789abcdef"})
    message = "step-000004 is a checkpoint of cpt-0123456789abcdef, not of this run"
    assert run_ranks(1, resume_expecting, jobs["own"], CheckpointDamaged, message) == [0]


def test_what_a_larger_group_never_committed_is_not_read(tmp_path: Path, tiny_model: Path) -> None:
    """Files of three ranks beside the record of two: a rank was lost while the three saved."""
    store = Store(str(tmp_path))
    job = toy_job(store, tiny_model, toy_stage(every_steps=100))
    assert run_ranks(2, train_until_step_three_and_stop, job) == [0, 0]
    directory = find_checkpoints(job.artifact)[-1].directory
    directory.write("rank-00000-of-00003.safetensors", directory.read("rank-00000-of-00002.safetensors"))
    assert run_ranks(2, train_toy, toy_job(store, tiny_model, toy_stage(every_steps=100), attempt=2)) == [0, 0]


def test_replicas_resume_and_keep_their_best_step(tmp_path: Path, tiny_model: Path) -> None:
    """Replicas hold the same rows: they are saved once, and any number of ranks goes on from them."""
    replicated = toy_stage().model_copy(update={"resources": Resources(ranks=2, replicas=2)})
    unbroken = toy_job(Store(str(tmp_path / "unbroken")), tiny_model, replicated)
    assert run_ranks(2, train_toy, unbroken) == [0, 0]
    store = Store(str(tmp_path / "killed"))
    kill = {"ACCLIMATE_KILL_AT": "after_optimizer_step_before_checkpoint:5"}
    job = toy_job(store, tiny_model, replicated)
    assert -9 in run_ranks(2, train_toy, job, environment=kill)
    assert {len(found.record["ranks"]) for found in find_checkpoints(job.artifact)} == {1}
    again = toy_job(store, tiny_model, replicated, attempt=2)
    assert run_ranks(2, train_toy, again) == [0, 0]
    assert model_digest(again) == model_digest(unbroken)


def test_a_damaged_shard_is_named(tmp_path: Path, tiny_model: Path) -> None:
    job = toy_job(Store(str(tmp_path)), tiny_model, toy_stage())
    data = bytearray(job.shards.read("train/shard-00001.parquet"))
    data[100] ^= 1
    job.shards.write("train/shard-00001.parquet", bytes(data))
    assert run_ranks(1, resume_expecting, job, ShardError, "shard-00001.parquet is damaged") == [0]
