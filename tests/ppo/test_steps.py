"""The loop of the driver with made-up actors: in which order it asks them, and whose work it counts for which step."""

import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from configs.schema.ppo_stage import PpoStage
from jobs.ppo import driver
from jobs.ppo.driver import Listener
from jobs.ppo.job import Asked
from jobs.ppo.kl import KlState
from jobs.ppo.learners import Updated
from jobs.ppo.offer import Synced
from jobs.ppo.progress import Progress
from jobs.ppo.rewards import RunningScale
from tests.world.toy_ppo import toy_ppo_stage

STEPS, TOKENS = 3, 50.0
SEEN = {
    "answers/tokens": 9.0,
    "answers/end_rate": 1.0,
    "reward/score": 1.0,
    "reward/score_deviation": 1.0,
    "reward/clip_fraction": 0.0,
}


class MadeUpCast:
    """Actors that work a thousandth of a second whatever they are asked, and an hour for an evaluation."""

    def __init__(self) -> None:
        self.samplers, self.policy = object(), SimpleNamespace(all=lambda call: [])
        self.sampled: list[Asked] = []
        self._busy: dict[str, dict[str, float]] = {}

    def work(self, role: str, doing: str, seconds: float) -> None:
        of_role = self._busy.setdefault(role, {})
        of_role[doing] = of_role.get(doing, 0.0) + seconds

    def sample(self, table: object, asked: Asked) -> SimpleNamespace:
        self.sampled.append(asked)
        self.work("rollout", "sample", 3600.0 if asked.split == "heldout" else 0.001)
        return SimpleNamespace(samplers=self.samplers, streams=[])

    def busy_s(self) -> dict[str, dict[str, float]]:
        taken, self._busy = self._busy, {}
        return taken


SAVE_S = 0.05


def run(monkeypatch: pytest.MonkeyPatch, cast: MadeUpCast, **changes: Any) -> tuple[list[dict[str, float]], list[str]]:
    """What a run of STEPS steps told: metrics and sentences."""

    def update(*arguments: object) -> Updated:
        cast.work("policy", "update", 0.001)
        return Updated(SEEN, RunningScale(), 0.0, TOKENS, 6)

    def evaluate(job: object, of: object, judged: object, progress: Progress) -> Progress:
        cast.work("policy", "heldout", 3600.0)
        return progress.with_entry({"step": float(progress.step), "heldout/score": 1.0})

    def sync(*arguments: object) -> Synced:
        cast.work("policy", "sync", 0.001)
        return Synced(math.nan, math.nan)

    replaced: dict[str, Any] = {
        "read_prompts": lambda shards, split: range(3), "_judged": lambda *arguments: None, "_update": update, "_synced": sync,
        "evaluate": evaluate, "_save": lambda *arguments: time.sleep(SAVE_S), "_settle": lambda *arguments: None,
        "gather": lambda *arguments: None,
    }  # fmt: skip
    for name, value in replaced.items():
        monkeypatch.setattr(driver, name, value)
    output = SimpleNamespace(write_json=lambda name, value: None)
    stage = PpoStage.model_validate(toy_ppo_stage(**changes))
    job: Any = SimpleNamespace(stage=stage, total_steps=STEPS, shards=None, output=output)
    told: list[dict[str, float]] = []
    said: list[str] = []
    made_up: Any = cast
    driver._steps(
        job, made_up, Progress(0, KlState(0.1), RunningScale(), ()), Listener(told.append, said.append, lambda: False)
    )
    return [metrics for metrics in told if "reward/score" in metrics], said


@pytest.mark.parametrize("staleness", [0, 1])
def test_an_evaluation_is_no_work_of_the_step_after_it(staleness: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cast = MadeUpCast()
    steps, _ = run(monkeypatch, cast, staleness=staleness, heldout={"every_steps": 1, "prompts": 3})
    assert [asked.step for asked in cast.sampled if asked.split == "heldout"] == [0, 1, 2, 3]
    assert [asked.step for asked in cast.sampled if asked.split == "train"] == [0, 1, 2]
    for metrics in steps:
        assert "busy/policy/heldout_s" not in metrics
        assert metrics.get("busy/rollout/sample_s", 0.0) < 1


def test_every_step_tells_the_work_and_the_speed_of_its_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    cast = MadeUpCast()
    steps, said = run(monkeypatch, cast, heldout={"every_steps": 2, "prompts": 3})
    assert len(steps) == STEPS and said == []
    for metrics in steps:
        assert metrics["busy/rollout/sample_s"] == metrics["busy/policy/update_s"] == 0.001
        assert metrics["tokens_per_s/rollout/sample"] == metrics["tokens_per_s/policy/update"] == pytest.approx(50_000)
        assert "tokens_per_s/policy/sync" not in metrics


def test_what_a_save_takes_is_part_of_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose answers are sampled meanwhile."""
    steps, _ = run(monkeypatch, MadeUpCast(), checkpoints={"every_steps": 2})
    assert ["time/save_s" in metrics for metrics in steps] == [False, False, True]
    assert steps[2]["time/step_s"] >= steps[2]["time/save_s"] >= SAVE_S


def test_fewer_heldout_prompts_than_were_asked_for_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _, said = run(monkeypatch, MadeUpCast(), heldout={"every_steps": 2, "prompts": 4})
    assert said == ["heldout.prompts asks for 4, the data hold 3 out: all of them are answered"]
