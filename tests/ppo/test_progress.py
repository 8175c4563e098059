"""Where a run goes on: at a step that policy and critic both have, and nothing of one alone stays in the way."""

import hashlib
import json
from pathlib import Path

import pytest

from cluster.lease import LeaseLost
from cluster.storage import Store
from configs.schema.ppo_stage import PpoStage
from jobs.ppo.job import PpoJob
from jobs.ppo.progress import COEFFICIENT, SCALE, resume
from jobs.train.checkpoint import RECORD, find_checkpoints
from tests.world.toy_ppo import toy_ppo_stage


def job_of(artifact: Store, attempt: int = 2) -> PpoJob:
    stage = PpoStage.model_validate(toy_ppo_stage())
    return PpoJob("toy", stage, 3, artifact, None, None, {}, None, artifact, (0,), 64, 3, artifact, attempt, artifact)


def write_checkpoint(artifact: Store, attempt: int, role: str, step: int) -> None:
    """As its learner commits it; the KL coefficient tells who wrote it."""
    directory = artifact.below("attempts", f"{attempt:06d}", "checkpoints", role, f"step-{step:06d}")
    directory.write("rank-00000-of-00001.safetensors", b"weights")
    entry = {"step": float(step), COEFFICIENT: step + attempt / 10, f"{SCALE}count": 12.0 * step}
    history = json.dumps([entry, {"step": float(step), "heldout/score": 1.0}]).encode()
    directory.write("history.json", history)
    written = {"name": "history.json", "size": len(history), "sha256": hashlib.sha256(history).hexdigest()}
    whose = {"step": step, "attempt": attempt, "artifact": Path(artifact.root).name}
    directory.write_json(RECORD, {**whose, "ranks": {}, "history": written})


def steps_on_disk(artifact: Store, role: str) -> list[tuple[int, int]]:
    return [(found.record["attempt"], found.step) for found in find_checkpoints(artifact, role)]


@pytest.fixture
def artifact(tmp_path: Path) -> Store:
    store = Store(str(tmp_path))
    store.write_json("lease/000001.json", {})
    store.write_json("lease/000002.json", {})
    return store


def test_nothing_committed_is_the_beginning(artifact: Store) -> None:
    progress = resume(job_of(artifact))
    assert (progress.step, progress.kl.coefficient, progress.history) == (0, 0.05, ())


def test_a_step_of_one_learner_alone_is_forgotten(artifact: Store) -> None:
    """The policy was quicker to commit step 3 than the critic to die; step 3 is done again, with other answers perhaps."""
    for role, steps in {"policy": (2, 3), "critic": (1, 2)}.items():
        for step in steps:
            write_checkpoint(artifact, 1, role, step)
    progress = resume(job_of(artifact))
    assert (progress.step, progress.kl.coefficient, progress.scale.count) == (2, 2.1, 24.0)
    assert len(progress.history) == 2
    assert steps_on_disk(artifact, "policy") == [(1, 2)] and steps_on_disk(artifact, "critic") == [(1, 1), (1, 2)]
    write_checkpoint(artifact, 2, "critic", 3)  # and dies again before the policy has
    assert resume(job_of(artifact)).step == 2


def test_a_step_whose_learners_tell_different_histories_is_forgotten(artifact: Store) -> None:
    """An ended life has committed its critic late, and the next one its policy: they did not learn from the same answers."""
    for attempt, role, steps in ((1, "policy", (2,)), (1, "critic", (2, 3)), (2, "policy", (3,))):
        for step in steps:
            write_checkpoint(artifact, attempt, role, step)
    assert resume(job_of(artifact)).step == 2
    assert steps_on_disk(artifact, "policy") == steps_on_disk(artifact, "critic") == [(1, 2)]


def test_answers_of_a_policy_that_is_no_more_are_forgotten(artifact: Store) -> None:
    """Two steps were done after the last checkpoint; the newest samples are those of the policy that is left."""
    for name in ("step-000002", "step-000003", "step-000004", "heldout-000002", "heldout-000004", "mine"):
        artifact.write(f"samples/{name}.parquet", b"rows")
    for role in ("policy", "critic"):
        write_checkpoint(artifact, 1, role, 2)
    assert resume(job_of(artifact)).step == 2
    assert artifact.names("samples") == ["heldout-000002.parquet", "mine.parquet", "step-000002.parquet"]


def test_without_a_common_step_all_begin_again(artifact: Store) -> None:
    write_checkpoint(artifact, 1, "policy", 1)
    assert resume(job_of(artifact)).step == 0
    assert steps_on_disk(artifact, "policy") == []


def test_who_was_taken_for_dead_removes_nothing(artifact: Store) -> None:
    write_checkpoint(artifact, 2, "policy", 1)
    with pytest.raises(LeaseLost, match="attempt 1 was taken for dead, attempt 2 writes now"):
        resume(job_of(artifact, attempt=1))
    assert steps_on_disk(artifact, "policy") == [(2, 1)]
