"""Where a run ends and which weights it exports: held-out loss decides, and a kill in between changes nothing."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from cluster.storage import Store
from configs.schema.objectives import Lora
from configs.schema.training import HeldoutEvaluation, LanguageModelStage, Optimizer
from jobs.train import loop
from jobs.train.loop import Ending, Host, TrainJob, run_training
from tests.world.toy_training import model_digest, toy_job, toy_stage

pytestmark = pytest.mark.usefixtures("one_rank")


def stage_of(rate: float, steps: int, lora: Lora | None = None, **evaluation: object) -> LanguageModelStage:
    """Measured every second step; checkpoints only where the loop needs one."""
    heldout = HeldoutEvaluation.model_validate({"every_steps": 2, "rows": 8, **evaluation})
    changes = {"optimizer": Optimizer(learning_rate=rate), "heldout": heldout, "lora": lora}
    return toy_stage(steps, ranks=1, every_steps=100).model_copy(update=changes)


def losses(job: TrainJob) -> dict[int, float]:
    """Held-out loss by step."""
    history = job.output.read_json("history.json")
    return {entry["step"]: entry["heldout/loss"] for entry in history if "heldout/loss" in entry}


def train_and_die_before_the_export(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(run: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_export", die)
        run_training(job, Host())


@pytest.mark.parametrize(("rate", "lora"), [(1.0, None), (0.5, Lora(rank=2, train_whole=["embed_tokens"]))])
def test_the_weights_of_the_start_are_exported_where_no_step_is_better(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, rate: float, lora: Lora | None
) -> None:
    """Also by the attempt after a kill, which has not measured the start itself."""
    stage = stage_of(rate, 4, lora, export="best")
    jobs = [toy_job(Store(str(tmp_path / name)), tiny_model, stage) for name in ("unbroken", "killed")]
    assert run_training(jobs[0], Host()) is Ending.FINISHED
    train_and_die_before_the_export(jobs[1], monkeypatch)
    jobs[1] = toy_job(Store(str(tmp_path / "killed")), tiny_model, stage, attempt=2)
    assert run_training(jobs[1], Host()) is Ending.FINISHED
    base = AutoModelForCausalLM.from_pretrained(tiny_model).state_dict()
    for job in jobs:
        assert min(losses(job), key=losses(job).__getitem__) == 0 and len(losses(job)) == 3
        exported = AutoModelForCausalLM.from_pretrained(job.output.below("model").root).state_dict()
        assert all(torch.equal(exported[name], values) for name, values in base.items())


def test_a_run_that_was_killed_after_its_early_stop_does_not_go_on(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stage_of(1.0, 12, patience=1)
    unbroken = toy_job(Store(str(tmp_path / "unbroken")), tiny_model, stage)
    assert run_training(unbroken, Host()) is Ending.FINISHED
    assert 0 < max(losses(unbroken)) < 12, losses(unbroken)
    train_and_die_before_the_export(toy_job(Store(str(tmp_path / "killed")), tiny_model, stage), monkeypatch)
    resumed = toy_job(Store(str(tmp_path / "killed")), tiny_model, stage, attempt=2)
    assert run_training(resumed, Host()) is Ending.FINISHED
    assert model_digest(resumed) == model_digest(unbroken)
    assert resumed.output.read_json("history.json") == unbroken.output.read_json("history.json")


def test_dropout_is_for_training_only(tmp_path: Path, tiny_model: Path) -> None:
    """The last held-out loss is that of the exported model, whose adapters are merged and drop nothing."""
    dropping = Lora(rank=8, alpha=64, dropout=0.5)
    job = toy_job(Store(str(tmp_path / "adapters")), tiny_model, stage_of(2e-2, 6, dropping))
    run_training(job, Host())
    without = toy_job(Store(str(tmp_path / "none")), tiny_model, stage_of(2e-2, 6, Lora(rank=8, alpha=64)))
    run_training(without, Host())
    assert model_digest(job) != model_digest(without)  # it does drop while it trains
    exported = Path(job.output.below("model").root)
    again = toy_job(Store(str(tmp_path / "again")), exported, stage_of(1e-9, 2))
    run_training(again, Host())
    assert losses(job)[6] == pytest.approx(losses(again)[0], rel=1e-5)
