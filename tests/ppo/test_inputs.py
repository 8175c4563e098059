"""What artifacts must be before a PPO stage reads them, and how many steps their prompts are."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.artifacts import Artifact
from cluster.storage import Store
from configs.schema.ppo_stage import PpoStage
from jobs.corpus.schema import DataError
from jobs.corpus.segments import read_tokenizer_files
from jobs.ppo import inputs
from jobs.ppo.inputs import steps_of
from jobs.train.reader import ShardError
from tests.test_same_tokens import made
from tests.world.tiny_model import write_tiny_model
from tests.world.toy_ppo import toy_ppo_stage


def test_a_judge_has_the_policys_tokens_whatever_the_bytes_of_its_files(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "require_purpose", lambda *sealed: None)
    store = Store(str(tmp_path / "store"))
    rewritten = Path(shutil.copytree(tiny_model, tmp_path / "rewritten"))
    tokenizer = rewritten / "tokenizer.json"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text()), indent=1))
    assert tokenizer.read_bytes() != (tiny_model / "tokenizer.json").read_bytes()
    (rewritten / "merges.txt").write_text("#version: 0.2\n")
    prompts = made(store, "shards", "prompts", tokenizer=read_tokenizer_files(Store(str(tiny_model))).sha256)
    manifest = {**prompts.content.read_json("manifest.json"), "rows": "prompts"}
    prompts.content.write_json("manifest.json", manifest)
    stage = PpoStage.model_validate(toy_ppo_stage())

    def job_with(judge: Path, key: str) -> None:
        read: dict[str, Artifact] = {
            "model": made(store, "model", f"base{key}", tiny_model), "shards": prompts,
            "rewards.0": made(store, "reward", key, judge),
        }  # fmt: skip
        attempt: Any = None
        inputs.ppo_job("ppo", stage, 0, read, attempt, trust_remote_code=False)

    with pytest.raises(ShardError, match="index.parquet"):  # which comes after the vocabularies
        job_with(rewritten, "rewritten")
    with pytest.raises(DataError, match=r"stages.ppo.rewards.0: larger has another vocabulary than baselarger"):
        job_with(write_tiny_model(tmp_path / "larger", vocabulary=520), "larger")


def stage_of(epochs: float, warmup: int) -> PpoStage:
    return PpoStage.model_validate(toy_ppo_stage(steps=None, epochs=epochs, algorithm={"critic_warmup_steps": warmup}))


def test_epochs_are_steps_of_six_prompts_each() -> None:
    assert [steps_of("ppo", stage_of(epochs, 0), 13) for epochs in (0.1, 1.0, 2.0)] == [1, 3, 5]
    assert steps_of("ppo", stage_of(1.0, 2), 13) == 3


def test_a_policy_that_would_never_learn_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"critic_warmup_steps \(3\): 1 epochs over 13 prompts are 3 steps, none is left"
    ):
        steps_of("ppo", stage_of(1.0, 3), 13)
