"""Whole runs of PPO from the command line, every role a process of its own: once, killed at bad moments, and without a critic."""

import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from cluster.storage import Store
from tests.world.command import acclimate
from tests.world.conditions import wait_for
from tests.world.toy_ppo import REWARD, toy_ppo_stage, write_toy_ppo
from tests.world.toy_run import ToyRun, tree_digest

pytestmark = [pytest.mark.cluster, pytest.mark.vllm, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    directory = tmp_path_factory.mktemp("ppo")
    run = write_toy_ppo(directory, str(directory / "store"), heldout={"every_steps": 2, "prompts": 4, "gold": REWARD})
    code, output = run.finish(timeout_s=540)
    assert code == 0, output
    return run


def before_ppo(unbroken: ToyRun, tmp_path: Path, **changes: Any) -> ToyRun:
    """The same run in a store of its own, where everything but the ppo stage is done; `changes` go into that stage."""
    store = tmp_path / "store"
    tmp_path.mkdir(exist_ok=True)
    shutil.copytree(unbroken.store.root, store)
    for made in (store / "artifacts").glob("ppo-*"):
        shutil.rmtree(made)
    values = yaml.safe_load(unbroken.config.read_text())
    if changes:
        values["stages"]["ppo"] = toy_ppo_stage(**changes)
    config = tmp_path / "ppo.yaml"
    config.write_text(yaml.safe_dump({**values, "store": str(store)}, sort_keys=False))
    return ToyRun(config, Store(str(store)))


def weights_of(run: ToyRun) -> str:
    return tree_digest(run.artifact("ppo").content.below("model"))


def steps_of(run: ToyRun) -> list[dict[str, float]]:
    return [entry for entry in run.artifact("ppo").content.read_json("history.json") if "reward/score" in entry]


def samples_of(run: ToyRun) -> dict[str, list[dict[str, Any]]]:
    """By file."""
    samples = Store(run.artifact("ppo").content.root.partition("/attempts/")[0])
    return {
        name: pq.read_table(io.BytesIO(samples.read("samples", name))).to_pylist() for name in samples.names("samples")
    }


def test_every_role_takes_part_and_every_answer_is_kept(unbroken: ToyRun) -> None:
    steps = steps_of(unbroken)
    assert [entry["step"] for entry in steps] == [1, 2, 3]
    # The policy begins at its reference, and its sampler computes what it computes.
    assert steps[0]["kl/per_answer"] == 0 and steps[1]["kl/per_answer"] != 0
    for entry in steps:
        assert entry["mismatch/max_delta"] < 1e-4  # nats of a token, fp32
        assert entry["sync/mismatch"] < 1e-3 and entry["sync/position"] == pytest.approx(1, abs=0.01)
        assert entry["value/explained_variance"] < 1 and entry["grad_norm"] > 0
    samples = samples_of(unbroken)
    assert sorted(samples) == [
        "heldout-000000.parquet", "heldout-000002.parquet", "heldout-000003.parquet",
        "step-000001.parquet", "step-000002.parquet", "step-000003.parquet",
    ]  # fmt: skip
    for step in (1, 2, 3):
        rows = samples[f"step-{step:06d}.parquet"]
        assert [(row["prompt"], row["sample"]) for row in rows] == [(p, s) for p in range(6) for s in range(2)]
        assert {row["version"] for row in rows} == {step - 1}  # synchronous: each batch is of the newest weights
        mean = sum(row["score"] for row in rows) / len(rows)
        assert steps[step - 1]["reward/score"] == pytest.approx(mean)
    for rows in (samples["heldout-000000.parquet"], samples["heldout-000003.parquet"]):
        assert len(rows) == 8 and all(row["gold"] == row["score"] for row in rows)  # one model is both here
    assert unbroken.artifact("ppo").record["licences"] == ["Apache-2.0", "CC0-1.0"]


def test_samples_shows_the_best_and_the_worst_answers_of_a_step(unbroken: ToyRun) -> None:
    kept = samples_of(unbroken)
    for flags, name in (
        ((), "step-000003.parquet"),
        (("--step", "1"), "step-000001.parquet"),
        (("--heldout",), "heldout-000003.parquet"),
    ):
        shown = acclimate("samples", "toyppo", *flags, "--store", unbroken.store.root, "--json")
        assert shown.code == 0, shown.stderr
        listed = json.loads(shown.stdout)["samples"]
        assert [row["score"] for row in listed] == sorted((row["score"] for row in kept[name]), reverse=True)
    table = acclimate("samples", "ppo", "--rows", "2", "--store", unbroken.store.root)
    assert table.code == 0 and "12 answers, best and worst" in table.stdout and "cut off" in table.stdout
    missing = acclimate("samples", "toyppo", "--step", "9", "--store", unbroken.store.root)
    assert missing.code == 2 and "there are steps 1 to 3" in missing.stderr


@pytest.mark.parametrize("point", ["ppo_sampled:2", "ppo_updated:2"])
def test_a_killed_driver_goes_on_to_the_same_bits(unbroken: ToyRun, tmp_path: Path, point: str) -> None:
    run = before_ppo(unbroken, tmp_path)
    code, output = run.finish(environment={"ACCLIMATE_KILL_AT": point}, timeout_s=300)
    assert code == -signal.SIGKILL, output
    code, output = run.finish(timeout_s=300)
    assert code == 0, output
    assert "resuming" in output
    assert weights_of(run) == weights_of(unbroken)
    assert samples_of(run) == samples_of(unbroken)


@pytest.mark.parametrize("role", ["Policy", "Sampler", "Scorer"])
def test_a_killed_actor_is_replaced_and_the_bits_are_the_same(unbroken: ToyRun, tmp_path: Path, role: str) -> None:
    run = before_ppo(unbroken, tmp_path)
    process = run.start()
    run.wait_for_step(1, timeout_s=540)
    os.kill(wait_for(f"an actor {role}", lambda: actor_of(process.pid, role), 30), signal.SIGKILL)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert weights_of(run) == weights_of(unbroken)
    assert samples_of(run) == samples_of(unbroken)


def actor_of(driver: int, role: str) -> int | None:
    """The process of an actor class below a driver."""
    for child in psutil.Process(driver).children(recursive=True):
        try:
            if child.name().startswith("ray::") and f"ray::{role}" in " ".join(child.cmdline()):
                return child.pid
        except psutil.NoSuchProcess:
            continue
    return None


def test_a_function_as_reward_needs_no_other_model(unbroken: ToyRun, tmp_path: Path) -> None:
    function = {"function": "jobs.ppo.example_rewards:brevity"}
    algorithm = {"estimator": "grpo", "kl": {"where": "none"}, "rewards": {"missing_end_penalty": 0}}
    run = before_ppo(unbroken, tmp_path, rewards=[function], critic=None, algorithm=algorithm, staleness=1)
    process = run.start()
    seen: set[str] = set()
    while process.poll() is None:
        seen |= {
            role for role in ("Policy", "Critic", "Scorer", "FunctionScorer", "Sampler") if actor_of(process.pid, role)
        }
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert seen == {"Policy", "FunctionScorer", "Sampler"}
    # One step behind: the second batch was sampled while the first was learnt from.
    assert {row["version"] for row in samples_of(run)["step-000002.parquet"]} == {0}
    assert {row["version"] for row in samples_of(run)["step-000003.parquet"]} == {1}
    assert all("value/loss" not in entry and entry["kl/per_answer"] == 0 for entry in steps_of(run))


def test_a_policy_with_adapters_can_be_its_own_reference(unbroken: ToyRun, tmp_path: Path) -> None:
    runs: list[ToyRun] = []
    for name, is_base in (("loaded", False), ("own", True)):
        run = before_ppo(unbroken, tmp_path / name, lora={"rank": 4}, reference_is_base=is_base, critic=None)
        code, output = run.finish(timeout_s=300)
        assert code == 0, output
        runs.append(run)
    loaded, own = (run.artifact("ppo").content for run in runs)
    assert own.read("adapter", "adapter_model.safetensors") == loaded.read("adapter", "adapter_model.safetensors")
    assert samples_of(runs[1]) == samples_of(runs[0])
    assert steps_of(runs[1])[-1]["kl/per_answer"] != 0  # the adapters have learnt, and were off for the reference
